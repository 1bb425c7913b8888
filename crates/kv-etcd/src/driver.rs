//! How a store is opened: by URL, or with a configuration.

use std::sync::Arc;

use kv_backend::Namespace;
use kv_core::{Driver, Operation, Result, Store, StoreUrl};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::client::error::BACKEND;
use crate::config::{EtcdConfig, TLS_SCHEME};
use crate::env::Env;
use crate::handle::Handle;
use crate::store::{EtcdStore, capabilities};

/// How a URL with the scheme `etcd` or `etcd+tls` becomes a store.
pub const DRIVER: Driver = Driver::new(BACKEND, &["etcd", TLS_SCHEME], open);

fn open(url: StoreUrl) -> kv_core::implement::Opening {
    Box::pin(async move {
        let store = EtcdStore::connect(EtcdConfig::from_url(&url)?).await?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
}

impl EtcdStore {
    /// Opens a store: connects to one of the members and signs in.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a configuration that cannot work, a server that does not speak TLS as
    /// configured and certificates that are refused; `Unauthenticated`; `Unavailable` or `Timeout`
    /// if no member answers, naming them.
    pub async fn connect(config: EtcdConfig) -> Result<Self> {
        let handle = connect(config).await;
        let handle = handle.map_err(|error| error.with_operation(Operation::Open).with_backend(BACKEND))?;
        Ok(Self::new(handle))
    }
}

async fn connect(config: EtcdConfig) -> Result<Arc<Handle>> {
    config.check()?;
    let namespace = Namespace::new(&config.namespace)?;
    let client = Arc::new(Client::new(config.settings())?);
    client.probe(config.connect_timeout).await?;
    let env = Env {
        client,
        namespace,
        capabilities: capabilities(config.session_ttl, config.lock_ttl),
        timeout: config.timeout,
        closing: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    Ok(Handle::start(env, config.session_ttl, config.lock_ttl))
}
