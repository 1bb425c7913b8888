//! The store: one handle on one namespace of one Consul cluster. Each method admits, calls and reports.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::implement::{LockView, Transact};
use kv_core::{
    BreakLockOptions, CallOptions, Capabilities, DeleteOptions, DeleteResult, DeleteTreeOptions, Entry,
    ExpiryBound, FencingToken, GetOptions, Guarantee, Key, Limits, ListOptions, Listing, LockChanges,
    LockGuard, LockHolder, LockListing, LockOptions, LockTtl, LockWatchOptions, LocksOptions, Operation,
    Power, Prefix, PutOptions, PutResult, Result, ServerInfo, SessionState, SessionStates, Store, Txn,
    TxnResult, Watch, WatchOptions, WatchTarget,
};

use crate::client::api::Api;
use crate::client::error::BACKEND;
use crate::env::names::Names;
use crate::env::{Env, Times};
use crate::lock::locks::Locks;
use crate::lock::{acquire, view};
use crate::ops::{delete, delete_tree, list, put, read, txn};
use crate::session::create::TTL;
use crate::session::sessions::Sessions;
use crate::watch::hub::Hub;
use crate::watch::stream;

/// The largest value: with the longest key and namespace, in base64, it fits into what Consul takes.
const MAX_VALUE: usize = 375 * 1024;

/// How late Consul's timers and the agreement on what they did may be.
const SLACK: Duration = Duration::from_secs(5);

/// One store handle: what its clones, streams and guards have in common.
#[derive(Clone, Debug)]
struct Handle {
    env: Arc<Env>,
    sessions: Arc<Sessions>,
    hub: Arc<Hub>,
    locks: Arc<Locks>,
}

/// A store on Consul. Made by [`connect`](Self::connect) or by the crate's [`DRIVER`](crate::DRIVER).
///
/// Dropping it closes it in the background.
pub struct ConsulStore {
    handle: Handle,
    capabilities: Capabilities,
}

impl ConsulStore {
    /// How many requests this handle has sent so far, those of its tasks included: what its operations
    /// cost in round trips.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.handle.env.api.sent()
    }

    /// How many blocking queries serve the watches and lock waits of this handle now: at most 32,
    /// however many those are.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.handle.hub.queries()
    }

    /// A store over these calls.
    pub(crate) fn over(api: Api, names: Names, times: &Times) -> Self {
        let env = Arc::new(Env::new(api, names, *times));
        let sessions = Arc::new(Sessions::new(&env));
        let hub = Arc::new(Hub::new(&env));
        let locks = Arc::new(Locks::new(&hub, &sessions));
        Self { handle: Handle { env, sessions, hub, locks }, capabilities: capabilities(times) }
    }

    pub(crate) fn api(&self) -> &Api {
        &self.handle.env.api
    }

    #[cfg(test)]
    pub(crate) fn locks(&self) -> &Arc<Locks> {
        &self.handle.locks
    }

    /// Completes an error.
    pub(crate) fn report<T>(&self, operation: Operation, about: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let error = error.with_operation(operation).with_backend(BACKEND);
            if about.is_empty() { error } else { error.with_key(about) }
        })
    }

    async fn shut_down(handle: Handle, timeout: Option<Duration>) -> Result<()> {
        let Handle { env, sessions, hub, locks } = handle;
        env.closing.cancel();
        hub.close();
        env.tasks.close();
        let deadline = env.deadline(timeout);
        let session = sessions.handle.close(&env.api, &deadline).await;
        deadline
            .run(async {
                env.tasks.wait().await;
                Ok(())
            })
            .await?;
        session?;
        match locks.failed_release.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn capabilities(times: &Times) -> Capabilities {
    let mut limits = Limits::default();
    limits.max_value = MAX_VALUE;
    limits.max_txn_ops = txn::MAX_OPS;
    limits.max_txn_bytes = txn::MAX_BYTES;
    limits.ttl = TTL;
    limits.ttl_bound = ExpiryBound::new(2, SLACK);
    limits.session_bound = (times.session_ttl * 2).max(times.lock_ttl * 2 + times.lock_delay) + SLACK;
    limits.lock_ttl = TTL;
    Capabilities::new(BACKEND)
        .with_powers(&[
            Power::Transactions,
            Power::Ttl,
            Power::SessionKeys,
            Power::ExpiryChange,
            Power::KeepExpiry,
            Power::ExpiryWithChildren,
            Power::FencedWrites,
            Power::StaleReads,
            Power::LockView,
            Power::ListExpiry,
        ])
        .with_guarantees(&[
            Guarantee::LinearizableReads,
            Guarantee::ListSnapshot,
            Guarantee::ListPaged,
            Guarantee::DeleteTreeAtomic,
            Guarantee::CasDetectsRecreate,
        ])
        .with_lock_ttl(LockTtl::PerLock)
        .with_limits(limits)
}

#[async_trait]
impl Store for ConsulStore {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.capabilities.admit_get(key, &options)?;
        let result = async {
            self.handle.env.check_open()?;
            read::get(&self.handle.sessions, key, options).await
        };
        self.report(Operation::Get, key.as_str(), result.await)
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.capabilities.admit_put(key, &value, &options)?;
        let result = async {
            self.handle.env.check_open()?;
            put::put(&self.handle.sessions, key, value, options).await
        };
        self.report(Operation::Put, key.as_str(), result.await)
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.capabilities.admit_delete(key, &options)?;
        let result = async {
            self.handle.env.check_open()?;
            delete::delete(&self.handle.sessions, key, options).await
        };
        self.report(Operation::Delete, key.as_str(), result.await)
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.capabilities.admit_list(prefix.as_str(), &options)?;
        let result = async {
            self.handle.env.check_open()?;
            list::list(&self.handle.sessions, prefix, options).await
        };
        self.report(Operation::List, prefix.as_str(), result.await)
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        let result = async {
            self.handle.env.check_open()?;
            delete_tree::delete_tree(&self.handle.sessions, prefix, options).await
        };
        self.report(Operation::DeleteTree, prefix.as_str(), result.await)
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.capabilities.admit_watch(&target, &options)?;
        let path = target.path().to_owned();
        let result = async {
            self.handle.env.check_open()?;
            stream::watch(&self.handle.env, &self.handle.hub, target, options).await
        };
        self.report(Operation::Watch, &path, result.await)
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.capabilities.admit_lock(key, &options)?;
        let result = async {
            self.handle.env.check_open()?;
            acquire::lock(&self.handle.locks, key, options).await
        };
        self.report(Operation::Lock, key.as_str(), result.await)
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        let result = async {
            self.handle.env.check_open()?;
            acquire::holder(&self.handle.locks, key, options.timeout).await
        };
        self.report(Operation::LockHolder, key.as_str(), result.await)
    }

    fn session(&self) -> SessionState {
        self.handle.sessions.handle.cell.state()
    }

    fn session_states(&self) -> SessionStates {
        self.handle.sessions.handle.cell.states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        let result = async {
            self.handle.env.check_open()?;
            let version = self.handle.env.api.version(&self.handle.env.deadline(options.timeout)).await?;
            Ok(ServerInfo::new("Consul", version.unwrap_or_else(|| "unknown".to_owned())))
        };
        self.report(Operation::Server, "", result.await)
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        if self.handle.env.closing.is_cancelled() {
            return Ok(());
        }
        self.report(Operation::Close, "", Self::shut_down(self.handle.clone(), options.timeout).await)
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        Some(self)
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        Some(self)
    }
}

#[async_trait]
impl Transact for ConsulStore {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        self.capabilities.admit_transact(&txn)?;
        let result = async {
            self.handle.env.check_open()?;
            txn::transact(&self.handle.sessions, txn).await
        };
        self.report(Operation::Transact, "", result.await)
    }
}

#[async_trait]
impl LockView for ConsulStore {
    async fn watch_lock_with(&self, key: &Key, options: LockWatchOptions) -> Result<LockChanges> {
        let result = async {
            self.handle.env.check_open()?;
            view::watch_lock(&self.handle.locks, key, options).await
        };
        self.report(Operation::WatchLock, key.as_str(), result.await)
    }

    async fn locks_with(&self, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
        let result = async {
            self.handle.env.check_open()?;
            view::list(&self.handle.locks, prefix, options).await
        };
        self.report(Operation::Locks, prefix.as_str(), result.await)
    }

    async fn break_lock_with(
        &self,
        key: &Key,
        token: FencingToken,
        options: BreakLockOptions,
    ) -> Result<bool> {
        let result = async {
            self.handle.env.check_open()?;
            view::break_lock(&self.handle.locks, key, token, options).await
        };
        self.report(Operation::BreakLock, key.as_str(), result.await)
    }
}

impl Drop for ConsulStore {
    fn drop(&mut self) {
        if self.handle.env.closing.is_cancelled() {
            return;
        }
        self.handle.env.closing.cancel();
        let handle = self.handle.clone();
        self.handle.env.runtime.spawn(async move {
            if let Err(error) = Self::shut_down(handle, None).await {
                tracing::debug!(%error, "a store that was dropped could not be closed in order");
            }
        });
    }
}

impl fmt::Debug for ConsulStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulStore").field("names", &self.handle.env.names).finish_non_exhaustive()
    }
}
