//! A store with one fault: everything is the memory store's but what the fault takes over.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kv_conformance::{Factory, Line, UrlFactory};
use kv_core::implement::{LockView, Transact};
use kv_core::{
    AccessControl, AdminExt, BreakLockOptions, Bytes, CallOptions, Capabilities, Cluster, DeleteOptions,
    DeleteResult, DeleteTreeOptions, Entry, ErrorKind, FencingToken, GetOptions, History, Key, KeyVersion,
    ListOptions, Listing, LockChanges, LockGuard, LockHolder, LockListing, LockOptions, LockWatchOptions,
    LocksOptions, Prefix, PutOptions, PutResult, Result, ServerInfo, SessionState, SessionStates, Storage,
    Store, StoreExt, Txn, TxnResult, Version, VersionsOptions, Watch, WatchOptions, WatchTarget,
};

use super::{Fault, histories};

/// Opens memory stores with a fault, all on the same data.
pub(crate) struct FaultyFactory {
    pub(crate) fault: Arc<Fault>,
    mem: UrlFactory,
}

impl FaultyFactory {
    pub(crate) fn new(fault: Fault) -> Self {
        let url = format!("mem:{}", fault.name);
        Self { fault: Arc::new(fault), mem: UrlFactory::new(kv_mem::DRIVER, url) }
    }

    async fn open_behind(&self, namespace: &Prefix, line: Option<Line>) -> Result<Arc<dyn Store>> {
        let namespace = match &self.fault.namespace {
            Some(change) => change(namespace.clone()),
            None => namespace.clone(),
        };
        let inner = self.mem.open(&namespace).await?;
        let capabilities = match &self.fault.capabilities {
            Some(change) => change(inner.capabilities().clone()),
            None => inner.capabilities().clone(),
        };
        Ok(Arc::new(Faulty { inner, fault: Arc::clone(&self.fault), capabilities, line }))
    }
}

#[async_trait]
impl Factory for FaultyFactory {
    fn label(&self) -> String {
        self.fault.name.to_owned()
    }

    async fn open(&self, namespace: &Prefix) -> Result<Arc<dyn Store>> {
        self.open_behind(namespace, None).await
    }

    async fn open_on_a_line(&self, namespace: &Prefix) -> Result<Option<(Arc<dyn Store>, Line)>> {
        let line = Line::new();
        Ok(Some((self.open_behind(namespace, Some(line.clone())).await?, line)))
    }
}

struct Faulty {
    inner: Arc<dyn Store>,
    fault: Arc<Fault>,
    capabilities: Capabilities,
    /// What lies between this handle and its data.
    line: Option<Line>,
}

impl Faulty {
    fn reach(&self) -> Result<()> {
        match &self.line {
            Some(line) if line.is_cut() => Err(ErrorKind::Unavailable.into()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&self.fault.name).finish()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some(hook) = &self.fault.drop {
            hook(Arc::clone(&self.inner));
        }
    }
}

/// The fault's version of a call, or the memory store's.
macro_rules! hooked {
    ($self:ident, $hook:ident($($arg:expr),*), $inner:expr) => {{
        $self.reach()?;
        match &$self.fault.$hook {
            Some(hook) => hook(Arc::clone(&$self.inner), $($arg),*).await,
            None => $inner.await,
        }
    }};
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Faulty {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        hooked!(self, get(key.clone(), options), self.inner.get_opts(key, options))
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        hooked!(self, put(key.clone(), value, options), self.inner.put_opts(key, value, options))
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        hooked!(self, delete(key.clone(), options), self.inner.delete_opts(key, options))
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        hooked!(self, list(prefix.clone(), options), self.inner.list_opts(prefix, options))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        hooked!(self, delete_tree(prefix.clone(), options), self.inner.delete_tree_opts(prefix, options))
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        hooked!(self, watch(target, options), self.inner.watch_opts(target, options))
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        let locking = async {
            match &self.fault.lock {
                Some(hook) => hook(Arc::clone(&self.inner), key.clone(), options).await,
                None => self.inner.lock_opts(key, options).await,
            }
        };
        match &self.line {
            Some(line) => self.fault.outage.lock(line, locking).await,
            None => locking.await,
        }
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        hooked!(self, lock_holder(key.clone()), self.inner.lock_holder_opts(key, options))
    }

    fn session(&self) -> SessionState {
        self.fault.session.unwrap_or_else(|| self.inner.session())
    }

    fn session_states(&self) -> SessionStates {
        match &self.fault.session_states {
            Some(change) => change(self.inner.session_states()),
            None => self.inner.session_states(),
        }
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        hooked!(self, server(), self.inner.server_opts(options))
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        hooked!(self, close(), self.inner.close_opts(options))
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        (!self.fault.no_transact).then_some(self as &dyn Transact)
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        (!self.fault.no_lock_view).then_some(self as &dyn LockView)
    }

    fn as_history(&self) -> Option<&dyn History> {
        (!self.fault.no_history).then_some(self as &dyn History)
    }

    // Of the other administrative powers the memory store has none: what a fault makes of them is its own.

    fn as_cluster(&self) -> Option<&dyn Cluster> {
        self.fault.servers.as_ref().map(|servers| servers as &dyn Cluster)
    }

    fn as_storage(&self) -> Option<&dyn Storage> {
        self.fault.servers.as_ref().map(|servers| servers as &dyn Storage)
    }

    fn as_access(&self) -> Option<&dyn AccessControl> {
        self.fault.servers.as_ref().map(|servers| servers as &dyn AccessControl)
    }
}

#[async_trait]
impl Transact for Faulty {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        self.reach()?;
        match (&self.fault.transact, self.inner.as_transact()) {
            (Some(hook), _) => hook(Arc::clone(&self.inner), txn).await,
            (None, Some(inner)) => inner.transact_with(txn).await,
            (None, None) => panic!("the memory store has transactions"),
        }
    }
}

#[async_trait]
impl LockView for Faulty {
    async fn watch_lock_with(&self, key: &Key, _: LockWatchOptions) -> Result<LockChanges> {
        hooked!(self, watch_lock(key.clone()), self.inner.watch_lock(key))
    }

    async fn locks_with(&self, prefix: &Prefix, _: LocksOptions) -> Result<LockListing> {
        hooked!(self, locks(prefix.clone()), self.inner.locks(prefix))
    }

    async fn break_lock_with(&self, key: &Key, token: FencingToken, _: BreakLockOptions) -> Result<bool> {
        hooked!(self, break_lock(key.clone(), token), self.inner.break_lock(key, token))
    }
}

#[async_trait]
impl History for Faulty {
    async fn get_at_with(&self, key: &Key, at: Version, _: CallOptions) -> Result<Option<Entry>> {
        hooked!(self, get_at(key.clone(), at), self.inner.get_at(key, at))
    }

    async fn list_at_with(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing> {
        hooked!(
            self,
            list_at(prefix.clone(), at, options),
            histories::list_at(&self.inner, prefix, at, options)
        )
    }

    async fn versions_with(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>> {
        hooked!(self, versions(key.clone(), options), histories::versions(&self.inner, key, options))
    }

    async fn compact_with(&self, up_to: Version, _: CallOptions) -> Result<Version> {
        hooked!(self, compact(up_to), self.inner.compact(up_to))
    }
}
