//! The store: one handle on one namespace of one Consul cluster.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_backend::Deadline;
use kv_core::{
    BreakLockOptions, Capabilities, Consistency, DeleteOptions, DeleteResult, DeleteTreeOptions, Entry,
    EntryExpiry, Error, ErrorKind, ExpiryBound, FencingToken, GetOptions, Guarantee, Key, Limits,
    ListOptions, Listing, LockChanges, LockGuard, LockHolder, LockListing, LockOptions, LockTtl, LockView,
    LockWatchOptions, LocksOptions, Operation, Power, Prefix, PutOptions, PutResult, Result, ServerInfo,
    SessionState, SessionStates, Store, Transact, Version, Watch, WatchOptions, WatchTarget,
};

use crate::api::Api;
use crate::config::{Client, ConsulConfig, invalid};
use crate::ephemeral::{Seen, hidden_session, look_at};
use crate::error::BACKEND;
use crate::names::Names;
use crate::session::{TTL, expiry_of};
use crate::shared::{Backoff, Shared};
use crate::transport::Transport;
use crate::wire::Kv;
use crate::{client, list, lock, lock_view, txn, watch, write};

/// The largest value: with the longest key and namespace, in base64, it fits into what Consul takes.
const MAX_VALUE: usize = 375 * 1024;

/// How late Consul's timers and the agreement on what they did may be.
const SLACK: Duration = Duration::from_secs(5);

/// How often a get looks for the expiry of a key whose session ends while it looks.
const MAX_LOOKS: usize = 8;

/// A store on Consul. Made by [`connect`](Self::connect) or by the crate's [`DRIVER`](crate::DRIVER).
///
/// Dropping it closes it in the background.
pub struct ConsulStore {
    shared: Arc<Shared>,
}

impl ConsulStore {
    /// Opens the store and makes sure that a Consul answers.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a configuration that cannot work; `Unavailable`, naming the endpoint, if
    /// nothing answers within the connect timeout; `Unauthenticated` for a token Consul does not know.
    pub async fn connect(config: ConsulConfig) -> Result<Self> {
        if config.hosts.is_empty() {
            return Err(invalid("Consul needs at least one host").with_backend(BACKEND));
        }
        let has_token = config.token.is_some();
        let transports = match config.client {
            Client::Reqwest => client::transports,
            #[cfg(feature = "consulrs")]
            Client::Consulrs => crate::consulrs::transports,
        };
        Self::open(config, has_token, transports).await
    }

    /// Opens a store over these transports and makes sure that a Consul answers, which knows the token.
    pub(crate) async fn open(
        config: ConsulConfig,
        has_token: bool,
        transports: impl FnOnce(&ConsulConfig) -> Result<Vec<Arc<dyn Transport>>>,
    ) -> Result<Self> {
        let opened = async {
            config.check()?;
            let store = Self::over(transports(&config)?, &config)?;
            if let Some(tls) = &config.tls {
                tls.warn_if_unverified(BACKEND, &config.hosts.join(","));
            }
            let limit = config.timeout.min(config.connect_timeout);
            store.shared.api.probe(&Deadline::after(limit)).await?;
            if has_token {
                store.shared.api.check_token(&Deadline::after(config.timeout)).await?;
            }
            Ok(store)
        };
        let opened: Result<Self> = opened.await;
        opened.map_err(|error| error.with_operation(Operation::Open).with_backend(BACKEND))
    }

    /// How many requests this handle has sent so far, those of its tasks included: what its operations
    /// cost in round trips.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.api.sent()
    }

    /// How many blocking queries serve the watches and lock waits of this handle now: at most 32,
    /// however many those are.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.shared.hub.queries()
    }

    fn over(transports: Vec<Arc<dyn Transport>>, config: &ConsulConfig) -> Result<Self> {
        let shared = Shared::new(
            Api::new(transports, config.datacenter.clone(), config.max_calls),
            Names::new(&config.namespace, config.lock_layout)?,
            capabilities(config),
            config.timeout,
            config.lock_ttl,
            config.lock_delay,
            config.session_ttl,
        );
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Completes an error.
    pub(crate) fn report<T>(&self, operation: Operation, about: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let error = error.with_operation(operation).with_backend(BACKEND);
            if about.is_empty() { error } else { error.with_key(about) }
        })
    }

    async fn get_entry(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        let shared = &self.shared;
        shared.check_open()?;
        let deadline = shared.deadline(options.timeout);
        let native = shared.names.native(key);
        let mut consistency = options.consistency;
        let mut pauses = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        for _ in 0..MAX_LOOKS {
            let Some(kv) = shared.read_in(&native, consistency, &deadline).await? else { return Ok(None) };
            let Some(key) = shared.names.entry(&kv.key, kv.flags) else { return Ok(None) };
            let entry = to_entry(key, &kv)?;
            if !options.expiry {
                return Ok(Some(entry));
            }
            let Some(session) = kv.session() else { return Ok(Some(entry.with_expiry(EntryExpiry::Never))) };
            let info = match look_at(shared, &native, session, &deadline).await? {
                Seen::Session(info) => info,
                Seen::Hidden => return Err(hidden_session()),
                Seen::Over => {
                    // The key is another now than was read. A server that lags behind may show the old one
                    // for long.
                    consistency = Consistency::Linearizable;
                    let pause = async {
                        tokio::time::sleep(shared.jitter(pauses.pause())).await;
                        Ok(())
                    };
                    deadline.run(pause).await?;
                    continue;
                }
            };
            return Ok(Some(entry.with_expiry(expiry_of(&info)?)));
        }
        Err(Error::new(ErrorKind::Unavailable)
            .not_applied()
            .with_detail(format!("the session that has the key ended at each of {MAX_LOOKS} looks at it")))
    }

    async fn shut_down(shared: Arc<Shared>) -> Result<()> {
        shared.closing.cancel();
        shared.hub.close();
        shared.tasks.close();
        let deadline = Deadline::after(shared.timeout);
        let session = shared.session.close(&shared.api, &deadline).await;
        deadline
            .run(async {
                shared.tasks.wait().await;
                Ok(())
            })
            .await?;
        session?;
        match shared.failed_release.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn capabilities(config: &ConsulConfig) -> Capabilities {
    let mut limits = Limits::default();
    limits.max_value = MAX_VALUE;
    limits.max_txn_ops = txn::MAX_OPS;
    limits.max_txn_bytes = txn::MAX_BYTES;
    limits.ttl = TTL;
    limits.ttl_bound = ExpiryBound::new(2, SLACK);
    limits.session_bound = (config.session_ttl * 2).max(config.lock_ttl * 2 + config.lock_delay) + SLACK;
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

/// What Consul shows of a key, as an entry.
pub(crate) fn to_entry(key: Key, kv: &Kv) -> Result<Entry> {
    let value = kv.bytes().map_err(|error| error.with_key(key.as_str()))?;
    Ok(Entry::new(key, value, Version::new(kv.modify_index), Version::new(kv.create_index)))
}

#[async_trait]
impl Store for ConsulStore {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    async fn get_with(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.shared.capabilities.admit_get(key, &options)?;
        self.report(Operation::Get, key.as_str(), self.get_entry(key, options).await)
    }

    async fn put_with(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.shared.capabilities.admit_put(key, &value, &options)?;
        let result = async {
            self.shared.check_open()?;
            write::put(&self.shared, key, value, options).await
        };
        self.report(Operation::Put, key.as_str(), result.await)
    }

    async fn delete_with(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.shared.capabilities.admit_delete(key, &options)?;
        let result = async {
            self.shared.check_open()?;
            write::delete(&self.shared, key, options).await
        };
        self.report(Operation::Delete, key.as_str(), result.await)
    }

    async fn list_with(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.shared.capabilities.admit_list(prefix.as_str(), &options)?;
        let result = async {
            self.shared.check_open()?;
            list::list(&self.shared, prefix, options).await
        };
        self.report(Operation::List, prefix.as_str(), result.await)
    }

    async fn delete_tree_with(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.shared.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        let result = async {
            self.shared.check_open()?;
            list::delete_tree(&self.shared, prefix, options).await
        };
        self.report(Operation::DeleteTree, prefix.as_str(), result.await)
    }

    async fn watch_with(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.shared.capabilities.admit_watch(&target, &options)?;
        let path = target.path().to_owned();
        let result = async {
            self.shared.check_open()?;
            watch::watch(&self.shared, target, options).await
        };
        self.report(Operation::Watch, &path, result.await)
    }

    async fn lock_with(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.shared.capabilities.admit_lock(key, &options)?;
        let result = async {
            self.shared.check_open()?;
            lock::lock(&self.shared, key, options).await
        };
        self.report(Operation::Lock, key.as_str(), result.await)
    }

    async fn lock_holder(&self, key: &Key) -> Result<Option<LockHolder>> {
        let result = async {
            self.shared.check_open()?;
            lock::holder(&self.shared, key).await
        };
        self.report(Operation::LockHolder, key.as_str(), result.await)
    }

    fn session(&self) -> SessionState {
        self.shared.session.cell.state()
    }

    fn session_states(&self) -> SessionStates {
        self.shared.session.cell.states()
    }

    async fn server(&self) -> Result<ServerInfo> {
        let result = async {
            self.shared.check_open()?;
            let version = self.shared.api.version(&self.shared.deadline(None)).await?;
            Ok(ServerInfo::new("Consul", version.unwrap_or_else(|| "unknown".to_owned())))
        };
        self.report(Operation::Server, "", result.await)
    }

    async fn close(&self) -> Result<()> {
        if self.shared.closing.is_cancelled() {
            return Ok(());
        }
        self.report(Operation::Close, "", Self::shut_down(Arc::clone(&self.shared)).await)
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        Some(self)
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        Some(self)
    }
}

#[async_trait]
impl LockView for ConsulStore {
    async fn watch_lock_with(&self, key: &Key, options: LockWatchOptions) -> Result<LockChanges> {
        let result = async {
            self.shared.check_open()?;
            lock_view::watch_lock(&self.shared, key, options).await
        };
        self.report(Operation::WatchLock, key.as_str(), result.await)
    }

    async fn locks_with(&self, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
        let result = async {
            self.shared.check_open()?;
            lock_view::locks(&self.shared, prefix, options).await
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
            self.shared.check_open()?;
            lock_view::break_lock(&self.shared, key, token, options).await
        };
        self.report(Operation::BreakLock, key.as_str(), result.await)
    }
}

impl Drop for ConsulStore {
    fn drop(&mut self) {
        if self.shared.closing.is_cancelled() {
            return;
        }
        self.shared.closing.cancel();
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            if let Err(error) = Self::shut_down(shared).await {
                tracing::debug!(%error, "a store that was dropped could not be closed in order");
            }
        });
    }
}

impl fmt::Debug for ConsulStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulStore").field("names", &self.shared.names).finish_non_exhaustive()
    }
}
