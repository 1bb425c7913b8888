//! Opening a store by URL.

use std::sync::Arc;

use kv_core::implement::Opening;
use kv_core::{Driver, Store, StoreUrl};

use crate::client::error::BACKEND;
use crate::config::{TLS_SCHEME, ZkConfig};
use crate::store::ZkStore;

/// How a URL with the scheme `zk` or `zk+tls` becomes a store.
pub const DRIVER: Driver = Driver::new(BACKEND, &["zk", TLS_SCHEME], open);

fn open(url: StoreUrl) -> Opening {
    Box::pin(async move {
        let store = ZkStore::connect(ZkConfig::from_url(&url)?).await?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
}
