//! The store: each operation is admitted, made by the room that knows it, and its errors say what they are
//! about.

mod capabilities;
mod lock_view;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::implement::{LockView, Transact};
use kv_core::{
    AccessControl, CallOptions, Capabilities, Cluster, DeleteOptions, DeleteResult, DeleteTreeOptions, Entry,
    Error, GetOptions, History, Key, ListOptions, Listing, LockGuard, LockHolder, LockOptions, Operation,
    Prefix, PutOptions, PutResult, Result, ServerInfo, SessionState, SessionStates, Storage, Store, Txn,
    TxnResult, Watch, WatchOptions, WatchTarget,
};

use crate::client::error::BACKEND;
use crate::env::Env;
use crate::handle::Handle;
use crate::{lock, ops, watch};
pub(crate) use capabilities::capabilities;

/// A store on etcd v3. Clones are one handle; dropping the last one closes it in the background.
#[derive(Clone)]
pub struct EtcdStore {
    handle: Arc<Handle>,
    _last: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Handle>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl EtcdStore {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Self { _last: Arc::new(CloseOnDrop(Arc::clone(&handle))), handle }
    }

    pub(crate) fn env(&self) -> &Arc<Env> {
        &self.handle.env
    }

    /// How many requests this handle has sent so far: what its operations cost in round trips.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.handle.env.client.requests()
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.handle.env.namespace.path();
        f.debug_struct("EtcdStore").field("namespace", &namespace).finish_non_exhaustive()
    }
}

/// Says what an error is about.
pub(crate) fn about(operation: Operation, path: &str) -> impl FnOnce(Error) -> Error {
    move |error| error.with_operation(operation).with_backend(BACKEND).with_key(path)
}

#[async_trait]
impl Store for EtcdStore {
    fn capabilities(&self) -> &Capabilities {
        &self.handle.env.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        ops::get(&self.handle.env, key, options).await.map_err(about(Operation::Get, key.as_str()))
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        ops::put(&self.handle, key, value, options).await.map_err(about(Operation::Put, key.as_str()))
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        ops::delete(&self.handle, key, options).await.map_err(about(Operation::Delete, key.as_str()))
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.handle.env.capabilities.admit_list(prefix.as_str(), &options)?;
        let listed = ops::list(&self.handle.env, prefix, options, 0).await;
        listed.map_err(about(Operation::List, prefix.as_str()))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.handle.env.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        ops::delete_tree(&self.handle, prefix, options)
            .await
            .map_err(about(Operation::DeleteTree, prefix.as_str()))
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.handle.env.capabilities.admit_watch(&target, &options)?;
        let path = target.path().to_owned();
        let watched = watch::watch(&self.handle.env, &self.handle.hub, target, options).await;
        watched.map_err(about(Operation::Watch, &path))
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.handle.env.capabilities.admit_lock(key, &options)?;
        lock::lock(&self.handle.locks, key, options).await.map_err(about(Operation::Lock, key.as_str()))
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        lock::holder(&self.handle.locks, key, options.timeout)
            .await
            .map_err(about(Operation::LockHolder, key.as_str()))
    }

    fn session(&self) -> SessionState {
        self.handle.session.cell.state()
    }

    fn session_states(&self) -> SessionStates {
        self.handle.session.cell.states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        let version = match self.handle.env.check_open() {
            Ok(()) => self.handle.env.client.version(self.handle.env.deadline(options.timeout)).await,
            Err(error) => Err(error),
        };
        let version =
            version.map_err(|error| error.with_operation(Operation::Server).with_backend(BACKEND))?;
        Ok(ServerInfo::new(BACKEND, version))
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        self.handle.close();
        let closed = self.handle.closed(options.timeout).await;
        closed.map_err(|error| error.with_operation(Operation::Close).with_backend(BACKEND))
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        Some(self)
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        Some(self)
    }

    fn as_history(&self) -> Option<&dyn History> {
        Some(self)
    }

    fn as_cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    fn as_storage(&self) -> Option<&dyn Storage> {
        Some(self)
    }

    fn as_access(&self) -> Option<&dyn AccessControl> {
        Some(self)
    }
}

#[async_trait]
impl Transact for EtcdStore {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        ops::transact(&self.handle, txn)
            .await
            .map_err(|error| error.with_operation(Operation::Transact).with_backend(BACKEND))
    }
}
