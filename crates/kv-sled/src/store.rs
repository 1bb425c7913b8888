//! The store: one handle on a database, as the API has it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_backend::{Clock, Deadline, HandleId, LockRequest, Namespace, SessionCell, lock_in_table, within};
use kv_core::implement::{LockView, Transact};
use kv_core::{
    CallOptions, Capabilities, DeleteOptions, DeleteResult, DeleteTreeOptions, Entry, Error, ErrorKind,
    Expiry, ExpiryBound, GetOptions, Guarantee, History, Key, Limits, ListOptions, Listing, LockGuard,
    LockHolder, LockOptions, Operation, Power, Prefix, PutOptions, PutResult, Result, ServerInfo,
    SessionState, SessionStates, Store, Version, Watch, WatchOptions, WatchTarget,
};
use parking_lot::RwLock;

use crate::BACKEND;
use crate::config::SledConfig;
use crate::database::Database;
use crate::list;
use crate::lock::{Fences, LockHandle};
use crate::name::Name;
use crate::stage::NewExpiry;
use crate::txn::{Outcome, Write};
use crate::watch::Snapshots;

/// A handle on an embedded store in a directory.
///
/// Clones are one handle, with one session. Another handle on the same directory, from
/// [`open`](Self::open), shares the database and has a session of its own.
#[derive(Clone)]
pub struct SledStore {
    handle: Arc<Handle>,
}

struct Handle {
    id: HandleId,
    /// None when closed.
    database: RwLock<Option<Arc<Database>>>,
    namespace: Arc<Namespace>,
    locks: Arc<LockHandle>,
    session: SessionCell,
    timeout: Duration,
    lock_max_hold: Option<Duration>,
    capabilities: Capabilities,
    endpoint: String,
}

/// What was done since the directory was opened, by all handles of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries put, deleted and expired.
    pub changes: u64,
    /// Times the log was flushed: once for all writes waiting at a time.
    pub flushes: u64,
    /// Deleted subtrees of which something is still to be removed from the disk.
    pub removals: usize,
}

pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_value = 1 << 20;
    limits.max_txn_ops = 1024;
    limits.max_txn_bytes = 4 << 20;
    limits.ttl_bound = ExpiryBound::new(1, Duration::from_secs(1));
    // They are gone before another process can look.
    limits.session_bound = Duration::from_secs(1);
    limits
}

fn capabilities() -> Capabilities {
    // Stale reads included: one that would settle for less gets the newest state all the same.
    Capabilities::new(BACKEND)
        .with_powers(Power::ALL)
        // There is no server behind it, the engine tidies its files by itself, and whom to keep out is the
        // file system's.
        .without_power(Power::Cluster)
        .without_power(Power::Storage)
        .without_power(Power::Access)
        .with_guarantees(Guarantee::ALL)
        .with_limits(limits())
}

impl SledStore {
    /// Opens the store in a directory, making it if it is missing.
    ///
    /// # Errors
    ///
    /// `InUse` with the process id if another process has it; `Corrupt` if what is there is damaged;
    /// `NoSpace`; `InvalidConfig`, also if this process has it open with other settings.
    pub async fn open(config: SledConfig) -> Result<Self> {
        let endpoint = config.path.display().to_string();
        let decorate = |error: Error| {
            error.with_operation(Operation::Open).with_backend(BACKEND).with_endpoint(endpoint.clone())
        };
        config.check().map_err(decorate)?;
        let namespace = Arc::new(Namespace::new(&config.namespace).map_err(decorate)?);
        let (timeout, lock_max_hold) = (config.timeout, config.lock_max_hold);
        let database = Database::open(config).await.map_err(decorate)?;
        let id = HandleId::unique();
        database.hub().open(id);
        database.locks().open(id);
        let locks = Arc::new(LockHandle::new(Arc::clone(database.locks()), &namespace));
        let handle = Handle {
            id,
            database: RwLock::new(Some(database)),
            namespace,
            locks,
            session: SessionCell::new(),
            timeout,
            lock_max_hold,
            capabilities: capabilities(),
            endpoint,
        };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// What was done since the directory was opened.
    ///
    /// # Errors
    ///
    /// `Closed`.
    pub fn stats(&self) -> Result<Stats> {
        let open = self.open_handle(Operation::Server)?;
        let [changes, flushes] = open.database.counts().read();
        Ok(Stats { changes, flushes, removals: open.database.view().doomed().len() })
    }

    /// What calls need, while the handle is open.
    pub(crate) fn open_handle(&self, operation: Operation) -> Result<Open<'_>> {
        match &*self.handle.database.read() {
            Some(database) => Ok(Open { handle: &self.handle, database: Arc::clone(database) }),
            None => Err(self.decorate(Error::new(ErrorKind::Closed), operation, None)),
        }
    }

    pub(crate) fn id(&self) -> HandleId {
        self.handle.id
    }

    pub(crate) fn locks(&self) -> &Arc<LockHandle> {
        &self.handle.locks
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.handle.endpoint
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.handle.namespace
    }

    /// An error with all that is known here.
    pub(crate) fn decorate(&self, error: Error, operation: Operation, key: Option<&str>) -> Error {
        let error = error
            .with_operation(operation)
            .with_backend(BACKEND)
            .with_endpoint(self.handle.endpoint.as_str());
        match key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }
}

/// An open handle, for the time of a call.
pub(crate) struct Open<'a> {
    handle: &'a Handle,
    pub(crate) database: Arc<Database>,
}

impl Open<'_> {
    pub(crate) fn name(&self, key: &Key) -> Name {
        Name::new(&self.handle.namespace, key)
    }

    pub(crate) fn expiry(&self, expiry: Expiry) -> Result<NewExpiry> {
        match expiry {
            Expiry::Never => Ok(NewExpiry::Never),
            Expiry::Keep => Ok(NewExpiry::Keep),
            Expiry::Ttl(ttl) => Ok(NewExpiry::Ttl(self.handle.capabilities.limits.ttl.check(ttl)?)),
            Expiry::Session => {
                self.handle.session.held();
                Ok(NewExpiry::Session(self.handle.id.get()))
            }
            _ => Err(Error::unsupported("this kind of expiry")),
        }
    }

    pub(crate) fn timeout(&self, asked: Option<Duration>) -> Duration {
        asked.unwrap_or(self.handle.timeout)
    }

    pub(crate) fn fences(&self, fence: Option<&kv_core::Fence>) -> Fences {
        Fences::of(self.database.locks(), fence)
    }

    pub(crate) async fn write(
        &self,
        write: Write,
        fence: Fences,
        timeout: Option<Duration>,
    ) -> Result<Outcome> {
        let deadline = Deadline::after(self.timeout(timeout));
        self.database.write(write, fence, deadline).await
    }
}

/// An answer to another question: a defect.
pub(crate) fn unexpected(outcome: &Outcome) -> Error {
    Error::new(ErrorKind::Internal).with_detail(format!("the committer answered {outcome:?}"))
}

#[async_trait]
impl Store for SledStore {
    fn capabilities(&self) -> &Capabilities {
        &self.handle.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.handle.capabilities.admit_get(key, &options)?;
        let fail = |error: Error| self.decorate(error, Operation::Get, Some(key.as_str()));
        let open = self.open_handle(Operation::Get)?;
        // Inline: it is in memory, or one read away.
        let native = self.handle.namespace.native(key);
        let Some((record, value)) = open.database.view().get(&native).map_err(fail)? else { return Ok(None) };
        let clock = open.database.locks().clock();
        if record.is_over(|| clock.now()) {
            return Ok(None);
        }
        let entry =
            Entry::new(key.clone(), value, Version::new(record.version), Version::new(record.created));
        if options.expiry {
            return Ok(Some(entry.with_expiry(record.expiry.told_at(clock.now()))));
        }
        Ok(Some(entry))
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.handle.capabilities.admit_put(key, &value, &options)?;
        let fail = |error: Error| self.decorate(error, Operation::Put, Some(key.as_str()));
        let open = self.open_handle(Operation::Put)?;
        let write = Write::Put {
            name: open.name(key),
            value,
            precondition: options.precondition,
            expiry: open.expiry(options.expiry).map_err(fail)?,
        };
        let fence = open.fences(options.fence.as_ref());
        match open.write(write, fence, options.timeout).await.map_err(fail)? {
            Outcome::Put(result) => Ok(result),
            other => Err(fail(unexpected(&other))),
        }
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.handle.capabilities.admit_delete(key, &options)?;
        let fail = |error: Error| self.decorate(error, Operation::Delete, Some(key.as_str()));
        let open = self.open_handle(Operation::Delete)?;
        let write = Write::Delete {
            name: open.name(key),
            precondition: options.precondition,
            previous: options.previous,
        };
        let fence = open.fences(options.fence.as_ref());
        match open.write(write, fence, options.timeout).await.map_err(fail)? {
            Outcome::Delete(result) => Ok(result),
            other => Err(fail(unexpected(&other))),
        }
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.handle.capabilities.admit_list(prefix.as_str(), &options)?;
        let open = self.open_handle(Operation::List)?;
        let timeout = options.timeout.unwrap_or(self.handle.timeout);
        let handle = &self.handle;
        let now = open.database.locks().clock().now();
        let present = (open.database.view().snapshot(), now);
        Ok(list::listing(
            &open.database,
            present,
            &handle.namespace,
            prefix,
            &options,
            timeout,
            &handle.endpoint,
        ))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.handle.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        let fail = |error: Error| self.decorate(error, Operation::DeleteTree, Some(prefix.as_str()));
        let open = self.open_handle(Operation::DeleteTree)?;
        let write = Write::DeleteTree { prefix: self.handle.namespace.native_prefix(prefix) };
        match open.write(write, Fences::None, options.timeout).await.map_err(fail)? {
            Outcome::Count(count) => Ok(count),
            other => Err(fail(unexpected(&other))),
        }
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.handle.capabilities.admit_watch(&target, &options)?;
        let fail = |error: Error| self.decorate(error, Operation::Watch, Some(target.path()));
        let open = self.open_handle(Operation::Watch)?;
        let timeout = options.timeout.unwrap_or(self.handle.timeout);
        let state = Arc::new(Snapshots::new(&open.database, &self.handle.namespace));
        let watch =
            open.database.hub().watch(self.handle.id, &self.handle.namespace, state, target.clone(), options);
        within(timeout, watch).await.map_err(fail)
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.handle.capabilities.admit_lock(key, &options)?;
        let fail = |error: Error| self.decorate(error, Operation::Lock, Some(key.as_str()));
        let open = self.open_handle(Operation::Lock)?;
        let request = LockRequest {
            name: open.name(key).native,
            owner: options.owner,
            handle: self.handle.id,
            max_hold: options.max_hold.or(self.handle.lock_max_hold),
        };
        // Waiting does not keep the database open.
        drop(open);
        lock_in_table(&self.handle.locks, key, request, options.wait).await.map_err(fail)
    }

    async fn lock_holder_opts(&self, key: &Key, _: CallOptions) -> Result<Option<LockHolder>> {
        let open = self.open_handle(Operation::LockHolder)?;
        Ok(open.database.locks().holder(&open.name(key).native))
    }

    fn session(&self) -> SessionState {
        self.handle.session.state()
    }

    fn session_states(&self) -> SessionStates {
        self.handle.session.states()
    }

    async fn server_opts(&self, _: CallOptions) -> Result<ServerInfo> {
        self.open_handle(Operation::Server)?;
        Ok(ServerInfo::new("sled", "0.34.7"))
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        let fail = |error: Error| self.decorate(error, Operation::Close, None);
        let Some(database) = self.handle.take() else { return Ok(()) };
        let ended = database.end_session(self.handle.id);
        let mut closed = database.closed();
        let weak = Arc::downgrade(&database);
        drop(database);
        within(options.timeout.unwrap_or(self.handle.timeout), async {
            let ended = ended.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal)));
            if weak.strong_count() == 0 {
                // The last one out waits until the directory is free. An error says that it is.
                let closed = closed.wait_for(Option::is_some).await;
                if let Ok(Some(Err(failure))) = closed.as_deref() {
                    return Err(failure.at_close());
                }
            }
            ended.map(drop)
        })
        .await
        .map_err(fail)
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
}

impl Handle {
    /// Ends everything of this handle that is in memory. Returns the database the first time.
    fn take(&self) -> Option<Arc<Database>> {
        let database = self.database.write().take()?;
        self.session.close();
        database.hub().close(self.id).wake();
        database.locks().close(self.id);
        Some(database)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(database) = self.take() {
            // Goes on in the committer's thread; nobody waits for the answer.
            drop(database.end_session(self.id));
        }
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.handle.endpoint)
            .field("namespace", &self.handle.namespace)
            .field("open", &self.handle.database.read().is_some())
            .finish()
    }
}
