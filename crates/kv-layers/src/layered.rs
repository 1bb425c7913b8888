//! A store with a policy around each of its calls.

mod admin;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::implement::{LockView, Transact};
use kv_core::{
    AccessControl, BreakLockOptions, CallOptions, Capabilities, Cluster, DeleteOptions, DeleteResult,
    DeleteTreeOptions, Entry, Error, FencingToken, GetOptions, History, Key, ListOptions, Listing,
    LockChanges, LockGuard, LockHolder, LockListing, LockOptions, LockWatchOptions, LocksOptions, Operation,
    Power, Prefix, PutOptions, PutResult, Result, ServerInfo, SessionState, SessionStates, Storage, Store,
    Txn, TxnResult, Watch, WatchOptions, WatchTarget,
};

use crate::policy::{Call, Policy, Target};

/// A store with a policy around each of its calls. It has the powers of the store below, unless the
/// policy takes one away.
pub struct Layered<P, S> {
    policy: P,
    inner: S,
    capabilities: Capabilities,
}

impl<P: Policy, S: Store> Layered<P, S> {
    /// Puts `policy` around `inner`.
    pub fn new(policy: P, inner: S) -> Self {
        let capabilities = policy.capabilities(inner.capabilities());
        Self { policy, inner, capabilities }
    }

    /// The policy.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    fn call<'a>(&self, operation: Operation, target: Target<'a>) -> Call<'a> {
        Call::new(operation, target, self.capabilities.backend)
    }
}

/// Puts layers around a store, the last one outermost.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kv_layers::kv_core::{ErrorKind, Result, StoreExt};
/// use kv_layers::{LayerExt, ReadOnly, Retry, Timeout, Trace};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?
///     .layered(Timeout::new(Duration::from_secs(2))) // each attempt
///     .layered(Retry::default())
///     .layered(Trace::default()) // all attempts of a call as one
///     .layered(ReadOnly::default());
/// assert_eq!(store.get("a").await?, None);
/// let refused = store.put("a", "x").await.unwrap_err();
/// assert_eq!(*refused.kind(), ErrorKind::PermissionDenied);
/// # Ok(()) }
/// ```
pub trait LayerExt: Store + Sized {
    /// This store with `policy` around each call.
    fn layered<P: Policy>(self, policy: P) -> Layered<P, Self> {
        Layered::new(policy, self)
    }
}

impl<S: Store> LayerExt for S {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: Policy, S: Store> Store for Layered<P, S> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        let next = || self.inner.get_opts(key, options.clone());
        self.policy.around(self.call(Operation::Get, Target::Key(key)), &next).await
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        let next = || self.inner.put_opts(key, value.clone(), options.clone());
        self.policy.around(self.call(Operation::Put, Target::Key(key)), &next).await
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        let next = || self.inner.delete_opts(key, options.clone());
        self.policy.around(self.call(Operation::Delete, Target::Key(key)), &next).await
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        let next = || self.inner.list_opts(prefix, options.clone());
        let call = self.call(Operation::List, Target::Prefix(prefix));
        Ok(self.policy.listing(self.policy.around(call, &next).await?))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        let next = || self.inner.delete_tree_opts(prefix, options.clone());
        self.policy.around(self.call(Operation::DeleteTree, Target::Prefix(prefix)), &next).await
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        let next = || self.inner.watch_opts(target.clone(), options.clone());
        let call = self.call(Operation::Watch, Target::Watch(&target));
        Ok(self.policy.watch(self.policy.around(call, &next).await?))
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        let next = || self.inner.lock_opts(key, options.clone());
        let call = self.call(Operation::Lock, Target::Key(key));
        Ok(self.policy.guard(self.policy.around(call, &next).await?))
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        let next = || self.inner.lock_holder_opts(key, options.clone());
        self.policy.around(self.call(Operation::LockHolder, Target::Key(key)), &next).await
    }

    fn session(&self) -> SessionState {
        self.inner.session()
    }

    fn session_states(&self) -> SessionStates {
        self.inner.session_states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        let next = || self.inner.server_opts(options.clone());
        self.policy.around(self.call(Operation::Server, Target::Store), &next).await
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        let next = || self.inner.close_opts(options.clone());
        self.policy.around(self.call(Operation::Close, Target::Store), &next).await
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        let has = self.capabilities.has(Power::Transactions) && self.inner.as_transact().is_some();
        has.then_some(self as &dyn Transact)
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        let has = self.capabilities.has(Power::LockView) && self.inner.as_lock_view().is_some();
        has.then_some(self as &dyn LockView)
    }

    fn as_history(&self) -> Option<&dyn History> {
        let has = self.capabilities.has(Power::History) && self.inner.as_history().is_some();
        has.then_some(self as &dyn History)
    }

    fn as_cluster(&self) -> Option<&dyn Cluster> {
        let has = self.capabilities.has(Power::Cluster) && self.inner.as_cluster().is_some();
        has.then_some(self as &dyn Cluster)
    }

    fn as_storage(&self) -> Option<&dyn Storage> {
        let has = self.capabilities.has(Power::Storage) && self.inner.as_storage().is_some();
        has.then_some(self as &dyn Storage)
    }

    fn as_access(&self) -> Option<&dyn AccessControl> {
        let has = self.capabilities.has(Power::Access) && self.inner.as_access().is_some();
        has.then_some(self as &dyn AccessControl)
    }
}

#[async_trait]
impl<P: Policy, S: Store> Transact for Layered<P, S> {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        let inner = self.inner.as_transact().ok_or_else(|| absent(Power::Transactions))?;
        let next = || inner.transact_with(txn.clone());
        self.policy.around(self.call(Operation::Transact, Target::Txn(&txn)), &next).await
    }
}

#[async_trait]
impl<P: Policy, S: Store> LockView for Layered<P, S> {
    async fn watch_lock_with(&self, key: &Key, options: LockWatchOptions) -> Result<LockChanges> {
        let inner = self.inner.as_lock_view().ok_or_else(|| absent(Power::LockView))?;
        let next = || inner.watch_lock_with(key, options.clone());
        self.policy.around(self.call(Operation::WatchLock, Target::Key(key)), &next).await
    }

    async fn locks_with(&self, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
        let inner = self.inner.as_lock_view().ok_or_else(|| absent(Power::LockView))?;
        let next = || inner.locks_with(prefix, options.clone());
        self.policy.around(self.call(Operation::Locks, Target::Prefix(prefix)), &next).await
    }

    async fn break_lock_with(
        &self,
        key: &Key,
        token: FencingToken,
        options: BreakLockOptions,
    ) -> Result<bool> {
        let inner = self.inner.as_lock_view().ok_or_else(|| absent(Power::LockView))?;
        let next = || inner.break_lock_with(key, token, options.clone());
        self.policy.around(self.call(Operation::BreakLock, Target::Key(key)), &next).await
    }
}

fn absent(power: Power) -> Error {
    Error::lacks(power)
}

impl<P: Policy, S: Store> fmt::Debug for Layered<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").field("policy", &self.policy).field("inner", &self.inner).finish()
    }
}
