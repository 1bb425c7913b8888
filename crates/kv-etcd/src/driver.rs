//! How a URL opens a store.

use std::sync::Arc;

use kv_core::{Driver, Store, StoreUrl};

use crate::config::{EtcdConfig, TLS_SCHEME};
use crate::error::BACKEND;
use crate::store::EtcdStore;

/// How a URL with the scheme `etcd` or `etcd+tls` becomes a store.
pub const DRIVER: Driver = Driver::new(BACKEND, &["etcd", TLS_SCHEME], open);

fn open(url: StoreUrl) -> kv_core::implement::Opening {
    Box::pin(async move {
        let store = EtcdStore::connect(EtcdConfig::from_url(&url)?).await?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
}
