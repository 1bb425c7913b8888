//! The store: one handle on one namespace of an ensemble.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::implement::{LockView, Transact};
use kv_core::{
    BreakLockOptions, CallOptions, Capabilities, DeleteOptions, DeleteResult, DeleteTreeOptions, Entry,
    Error, ErrorKind, ExpiryBound, FencingToken, GetOptions, Guarantee, Key, Limits, ListOptions, Listing,
    LockChanges, LockGuard, LockHolder, LockListing, LockOptions, LockTtl, LockWatchOptions, LocksOptions,
    Operation, Power, Prefix, PutOptions, PutResult, Result, ServerInfo, SessionState, SessionStates, Store,
    TtlRange, Txn, TxnResult, Watch, WatchOptions, WatchTarget,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::Mode;
use crate::config::ZkConfig;
use crate::env::acl::Access;
use crate::env::write_queue::WriteQueue;
use crate::env::{Core, KnownNodes, OwnSessions};
use crate::lock::view as lock_view;
use crate::names::Layout;
use crate::session::Client;
use crate::watch::hub::HubHandle;
use crate::watch::stream;

/// The largest value. The server drops a connection whose request is above 1,048,575 bytes, and all
/// requests on it fail.
const MAX_VALUE: usize = 1_000_000;

/// The longest time to live: five bytes of milliseconds.
const MAX_TTL: Duration = Duration::from_millis((1 << 40) - 1);

/// On top of the servers' sweep: it takes at most this many expired nodes at once, and its clock is
/// not ours.
const SWEEP_SLACK: Duration = Duration::from_secs(5);

/// A store on a ZooKeeper ensemble. Clones are one handle.
#[derive(Clone)]
pub struct ZkStore {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    hub: HubHandle,
    servers: Vec<String>,
    tls: bool,
}

impl ZkStore {
    /// Opens a store: gets a session with one of the servers.
    ///
    /// Must be called within a tokio runtime, which the store uses as long as it lives.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`; `Unavailable` if no server gives a session within the connect timeout, saying
    /// why; `Unauthenticated`.
    pub async fn connect(config: ZkConfig) -> Result<Self> {
        let opening = async {
            config.check()?;
            let layout = Layout::new(&config.namespace)?;
            let client = Client::connect(config.clone()).await?;
            // A certificate is a credential too.
            let named =
                config.credentials().is_some() || config.tls().is_some_and(|tls| tls.identity.is_some());
            let access = if named { Access::Creator } else { Access::Anyone };
            let deadline = kv_backend::Deadline::after(config.connect_timeout);
            let ttl = has_ttl(&client, access, deadline).await;
            let timeout = client.up(deadline).await?.session.timeout();
            let ttl = match ttl {
                Ok(ttl) => ttl,
                Err(error) => {
                    let _ = client.close().await;
                    return Err(error.with_endpoint(config.servers().join(",")));
                }
            };
            let core = Arc::new(Core {
                capabilities: capabilities(&config, client.is_full(), ttl, timeout),
                client,
                layout,
                access,
                timeout: config.timeout,
                lock_layout: config.lock_layout,
                barrier_reads: config.barrier_reads,
                known: KnownNodes::default(),
                queue: WriteQueue::default(),
                own_sessions: OwnSessions::default(),
                runtime: tokio::runtime::Handle::current(),
                lists: AtomicUsize::new(0),
                said_foreign: AtomicBool::new(false),
            });
            let hub = HubHandle::start(Arc::clone(&core));
            let (servers, tls) = (config.servers(), config.tls().is_some());
            Ok(Self { inner: Arc::new(Inner { core, hub, servers, tls }) })
        };
        opening.await.map_err(|error: Error| error.with_operation(Operation::Open).with_backend(BACKEND))
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// How many requests this handle has sent so far, those of its tasks included but for heartbeats.
    #[doc(hidden)]
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.core().client.requests()
    }

    /// How many times its operations on keys have waited for answers so far: some requests travel
    /// together.
    #[doc(hidden)]
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.core().client.round_trips()
    }
}

/// Whether the servers keep nodes with a time to live. Changes nothing: the node to make lies below
/// one that is not there, and a server without them refuses before it looks.
async fn has_ttl(client: &Client, access: Access, deadline: kv_backend::Deadline) -> Result<bool> {
    let acl = access.acl();
    let acl = &acl;
    let reply = client
        .read(deadline, |session| async move {
            let mode = Mode::Ttl(Duration::from_secs(60));
            session.create("/zookeeper/kv.absent/ttl", &Bytes::new(), mode, acl).await
        })
        .await?;
    match reply {
        Err(Fault::Unimplemented) => Ok(false),
        Ok(_) | Err(Fault::NoNode | Fault::NoAuth) => Ok(true),
        Err(fault) => Err(fault.into_error()),
    }
}

fn capabilities(config: &ZkConfig, full: bool, ttl: bool, session: Duration) -> Capabilities {
    let millisecond = Duration::from_millis(1);
    let mut limits = Limits::default();
    limits.max_value = MAX_VALUE;
    limits.max_txn_ops = 128;
    limits.max_txn_bytes = 800_000;
    limits.ttl = TtlRange::new(millisecond, MAX_TTL, millisecond);
    limits.ttl_bound = ExpiryBound::new(1, config.ttl_sweep + SWEEP_SLACK);
    // The server rounds up to its tick, which is at most half of the timeout.
    limits.session_bound = session * 3 / 2 + Duration::from_secs(1);
    limits.lock_ttl = TtlRange::new(session, session, millisecond);
    let mut capabilities = Capabilities::new(BACKEND)
        .with_powers(&[
            Power::KeepExpiry,
            Power::ListExpiry,
            Power::LockView,
            Power::SessionKeys,
            Power::StaleReads,
        ])
        .with_advice(Power::Ttl, "the servers were started without zookeeper.extendedTypesEnabled=true")
        .with_guarantees(&[Guarantee::LockFifo])
        .with_lock_ttl(LockTtl::PerSession)
        .with_limits(limits);
    if ttl {
        capabilities = capabilities.with_powers(&[Power::Ttl]);
    }
    if full {
        capabilities =
            capabilities.with_powers(&[Power::Transactions, Power::FencedWrites, Power::ExpiryChange]);
    }
    if full || config.barrier_reads {
        capabilities = capabilities.with_guarantees(&[Guarantee::LinearizableReads]);
    }
    capabilities
}

impl fmt::Debug for ZkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkStore")
            .field("servers", &self.inner.servers)
            .field("namespace", &self.core().layout.root())
            .field("session", &self.core().client.state())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let client = Arc::clone(&self.core.client);
        if !client.is_closed() {
            // Where the runtime is gone the session ends by its timeout.
            self.core.runtime.spawn(async move {
                if let Err(error) = client.close().await {
                    tracing::debug!(%error, "a store that was dropped could not be closed in order");
                }
            });
        }
    }
}

/// Names the operation, the backend and the key in an error.
fn name(operation: Operation, key: &str) -> impl FnOnce(Error) -> Error {
    move |error| error.with_operation(operation).with_backend(BACKEND).with_key(key)
}

#[async_trait]
impl Store for ZkStore {
    fn capabilities(&self) -> &Capabilities {
        &self.core().capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.core().capabilities.admit_get(key, &options)?;
        let core = self.core();
        let getting = async {
            core.client.check_open()?;
            if !core.layout.is_readable(key) {
                return Ok(None);
            }
            let deadline = core.deadline(options.timeout);
            let path = core.layout.path(key);
            let read = core.read(&path, options.consistency, deadline).await?;
            core.entry(key, &path, read, options.expiry, deadline).await
        };
        getting.await.map_err(name(Operation::Get, key.as_str()))
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.core().capabilities.admit_put(key, &value, &options)?;
        self.core().put(key, value, options).await.map_err(name(Operation::Put, key.as_str()))
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.core().capabilities.admit_delete(key, &options)?;
        self.core().delete(key, options).await.map_err(name(Operation::Delete, key.as_str()))
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.core().capabilities.admit_list(prefix.as_str(), &options)?;
        self.core().list(prefix, options).await.map_err(name(Operation::List, prefix.as_str()))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.core().capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        let core = self.core();
        core.delete_tree(prefix, options).await.map_err(name(Operation::DeleteTree, prefix.as_str()))
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.core().capabilities.admit_watch(&target, &options)?;
        let path = target.path().to_owned();
        stream::watch(self.core(), &self.inner.hub, target, options)
            .await
            .map_err(name(Operation::Watch, &path))
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.core().capabilities.admit_lock(key, &options)?;
        self.core().lock(key, options).await.map_err(name(Operation::Lock, key.as_str()))
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        self.core().holder(key, options.timeout).await.map_err(name(Operation::LockHolder, key.as_str()))
    }

    fn session(&self) -> SessionState {
        self.core().client.state()
    }

    fn session_states(&self) -> SessionStates {
        self.core().client.states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        let core = self.core();
        let asking = async {
            core.client.check_open()?;
            core.client.up(core.deadline(options.timeout)).await?;
            let version = if self.inner.tls {
                None
            } else {
                let most = options.timeout.unwrap_or(core.timeout);
                let asked = tokio::time::timeout(most, server_version(&self.inner.servers)).await;
                asked.map_err(|_| Error::new(ErrorKind::Timeout))?
            };
            Ok(ServerInfo::new("ZooKeeper", version.unwrap_or_else(|| "unknown".to_owned())))
        };
        asking.await.map_err(|error: Error| error.with_operation(Operation::Server).with_backend(BACKEND))
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        let closing = self.core().client.close();
        let closed = match options.timeout {
            Some(timeout) => kv_backend::within(timeout, closing).await,
            // It is bounded by itself.
            None => closing.await,
        };
        closed.map_err(|error| error.with_operation(Operation::Close).with_backend(BACKEND))
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        self.core().capabilities.has(Power::Transactions).then_some(self as &dyn Transact)
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        Some(self)
    }
}

#[async_trait]
impl LockView for ZkStore {
    async fn watch_lock_with(&self, key: &Key, options: LockWatchOptions) -> Result<LockChanges> {
        let watching = lock_view::watch_lock(self.core(), key, options.timeout);
        watching.await.map_err(name(Operation::WatchLock, key.as_str()))
    }

    async fn locks_with(&self, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
        let listing = lock_view::locks(self.core(), prefix, options.timeout);
        listing.await.map_err(name(Operation::Locks, prefix.as_str()))
    }

    async fn break_lock_with(
        &self,
        key: &Key,
        token: FencingToken,
        options: BreakLockOptions,
    ) -> Result<bool> {
        let breaking = lock_view::break_lock(self.core(), key, token, options.timeout);
        breaking.await.map_err(name(Operation::BreakLock, key.as_str()))
    }
}

#[async_trait]
impl Transact for ZkStore {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        self.core().capabilities.admit_transact(&txn)?;
        let transacting = self.core().transact(txn).await;
        transacting.map_err(|error| error.with_operation(Operation::Transact).with_backend(BACKEND))
    }
}

/// The version a server tells, by the one of its plain-text commands that is always on.
async fn server_version(servers: &[String]) -> Option<String> {
    for server in servers {
        let Ok(mut stream) = tokio::net::TcpStream::connect(server).await else { continue };
        if stream.write_all(b"srvr").await.is_err() {
            continue;
        }
        let mut answer = Vec::new();
        if stream.take(4096).read_to_end(&mut answer).await.is_err() {
            continue;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let version = answer.lines().find_map(|line| line.strip_prefix("Zookeeper version: "));
        if let Some(version) = version {
            return Some(version.split(['-', ',']).next().unwrap_or(version).to_owned());
        }
    }
    None
}
