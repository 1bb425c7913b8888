//! One handle on a memory store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kv_backend::{
    HandleId, LockAccess, LockRequest, Namespace, SessionCell, State, check_precondition, lock_in_table,
};
use kv_core::implement::{LockView, Transact};
use kv_core::{
    Bytes, CallOptions, Capabilities, DeleteCause, DeleteOptions, DeleteResult, DeleteTreeOptions, Driver,
    Entry, Error, ErrorKind, ExpiryBound, GetOptions, Guarantee, History, Key, Limits, ListOptions, Listing,
    LockGuard, LockHolder, LockOptions, Operation, Power, Precondition, Prefix, PutOptions, PutResult,
    Result, ServerInfo, SessionState, SessionStates, Store, Version, Watch, WatchOptions, WatchTarget,
};

use tokio::task::consume_budget;

use crate::config::MemConfig;
use crate::list::Items;
use crate::lock::LockHandle;
use crate::name::native;
use crate::names;
use crate::record::Record;
use crate::state::{Database, Granted, Put};
use crate::watch::StateBelow;

/// The name of this backend.
pub(crate) const BACKEND: &str = "mem";

/// Opens `mem:` and `mem:NAME`.
pub const DRIVER: Driver = Driver::new(BACKEND, &["mem"], |url| {
    Box::pin(async move {
        let store = MemStore::open(MemConfig::from_url(&url)?)?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
});

/// A handle on a store in this process's memory, with a session of its own. Share it in an `Arc`.
///
/// Dropping it closes it at once: its session keys go, its watches and locks end. No call waits for
/// anything but a lock, so options' timeouts never pass.
pub struct MemStore {
    id: HandleId,
    database: Arc<Database>,
    namespace: Arc<Namespace>,
    /// What the handle's watches read the state from.
    state: Arc<dyn State>,
    locks: Arc<LockHandle>,
    capabilities: Capabilities,
    session: SessionCell,
    /// The name to give back.
    name: Option<String>,
    closed: AtomicBool,
}

impl MemStore {
    /// Opens a store. Needs no runtime.
    ///
    /// # Errors
    ///
    /// `InvalidKey` for a namespace that is too long; `InvalidConfig` if the name is open with
    /// another history or clock.
    pub fn open(config: MemConfig) -> Result<Self> {
        let opening = |error: Error| error.with_operation(Operation::Open).with_backend(BACKEND);
        let namespace = config.namespace().map_err(opening)?;
        let database = names::acquire(&config).map_err(opening)?;
        Ok(Self::on(database, namespace, config.name))
    }

    /// Opens a store of its own that begins with these entries, permanent, each at the version it has. Its
    /// next version comes after `newest`, and watches can begin there and no earlier.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a configuration with a name, as another could have it open; `InvalidKey` for a
    /// namespace that is too long; `TooLarge` for a value; `InvalidArgument` for two entries of one key and
    /// for a version after `newest`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kv_mem::kv_core::{Result, StoreExt, Version};
    /// use kv_mem::{MemConfig, MemStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let old = MemStore::open(MemConfig::new())?;
    /// let version = old.put("a", "1").await?;
    /// let new = MemStore::restore(MemConfig::new(), old.entries("").await?, Version::new(100))?;
    /// assert_eq!(new.get("a").await?.unwrap().version, version);
    /// assert_eq!(new.put("a", "2").await?, Version::new(101));
    /// # Ok(()) }
    /// ```
    pub fn restore(
        config: MemConfig,
        entries: impl IntoIterator<Item = Entry>,
        newest: Version,
    ) -> Result<Self> {
        let opening = |error: Error| error.with_operation(Operation::Open).with_backend(BACKEND);
        if config.name.is_some() {
            return Err(opening(Error::invalid_config("a store with a name cannot begin with entries")));
        }
        let namespace = config.namespace().map_err(opening)?;
        let limits = capabilities().limits;
        let mut by_key = BTreeMap::new();
        for mut entry in entries {
            limits.check_value(&entry.key, &entry.value).map_err(opening)?;
            entry.expiry = None;
            let key = entry.key.clone();
            let refusal = if entry.version.max(entry.created) > newest {
                "its version comes after the newest"
            } else if by_key.insert(key.clone(), entry).is_some() {
                "there are two entries of this key"
            } else {
                continue;
            };
            return Err(opening(Error::invalid_argument(refusal).with_key(key.as_str())));
        }
        let database = names::fresh(&config, newest);
        database.fill(&namespace, by_key.into_values());
        Ok(Self::on(database, namespace, None))
    }

    /// A handle of its own on this database, under the name that is to be given back.
    fn on(database: Arc<Database>, namespace: Arc<Namespace>, name: Option<String>) -> Self {
        let id = HandleId::unique();
        database.open(id);
        let state = StateBelow { database: Arc::downgrade(&database), namespace: Arc::clone(&namespace) };
        Self {
            id,
            locks: Arc::new(LockHandle::new(&database, &namespace)),
            database,
            namespace,
            state: Arc::new(state),
            capabilities: capabilities(),
            session: SessionCell::new(),
            name,
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> HandleId {
        self.id
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    pub(crate) fn locks(&self) -> &Arc<LockHandle> {
        &self.locks
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.capabilities.limits
    }

    /// For calls that change nothing; those that do look again in the step that changes it.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    fn close_now(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.database.close(self.id);
        self.session.close();
        if let Some(name) = &self.name {
            names::release(name);
        }
    }

    fn get_now(&self, key: &Key, options: &GetOptions) -> Result<Option<Entry>> {
        self.check_open()?;
        let name = native(&self.namespace, key);
        Ok(self.database.get(&name, |record| {
            let entry = record.seen_from(&self.namespace)?;
            Some(if options.expiry { entry.with_expiry(record.expiry(&*self.database.clock)) } else { entry })
        }))
    }

    fn put_now(&self, key: &Key, value: Bytes, options: &PutOptions) -> Result<PutResult> {
        let expiry = Granted::new(options.expiry, self.limits())?;
        self.database.write(|writer| {
            writer.check_open(self.id)?;
            writer.check_fence(&self.database, options.fence.as_ref())?;
            if options.precondition != Precondition::Any {
                let stored = writer.record(&native(&self.namespace, key)).map(Record::entry);
                check_precondition(&options.precondition, stored.as_ref())?;
            }
            self.note_session(expiry);
            let version = writer.version();
            let put = Put { handle: self.id, namespace: &self.namespace, key, value, expiry };
            Ok(writer.put(put, version))
        })
    }

    /// Tells that there is a session, once something lives by it.
    pub(crate) fn note_session(&self, expiry: Granted) {
        if matches!(expiry, Granted::Session) && self.session.state() == SessionState::Idle {
            self.session.held();
        }
    }

    fn delete_now(&self, key: &Key, options: &DeleteOptions) -> Result<DeleteResult> {
        let name = native(&self.namespace, key);
        self.database.write(|writer| {
            writer.check_open(self.id)?;
            writer.check_fence(&self.database, options.fence.as_ref())?;
            let stored = writer.record(&name).map(Record::entry);
            check_precondition(&options.precondition, stored.as_ref())?;
            if stored.is_none() {
                return Ok(DeleteResult::absent());
            }
            let version = writer.version();
            let removed = writer.remove(&name, version, DeleteCause::Deleted);
            let previous = removed.filter(|_| options.previous);
            Ok(DeleteResult::deleted(previous.and_then(|record| record.seen_from(&self.namespace))))
        })
    }

    fn delete_tree_now(&self, prefix: &Prefix) -> Result<u64> {
        let below = self.namespace.native_prefix(prefix);
        self.database.write(|writer| {
            writer.check_open(self.id)?;
            let names = writer.names_below(&below);
            if !names.is_empty() {
                let version = writer.version();
                for name in &names {
                    writer.remove(name.as_str(), version, DeleteCause::Deleted);
                }
            }
            writer.remove_locks(&below);
            Ok(names.len() as u64)
        })
    }
}

#[async_trait]
impl Store for MemStore {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    // No call has to wait for anything: each gives way by itself, or a busy task would keep the others
    // of its thread from ever running.

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.capabilities.admit_get(key, &options)?;
        consume_budget().await;
        self.get_now(key, &options).map_err(|error| about(error, Operation::Get, key.as_str()))
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.capabilities.admit_put(key, &value, &options)?;
        consume_budget().await;
        self.put_now(key, value, &options).map_err(|error| about(error, Operation::Put, key.as_str()))
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.capabilities.admit_delete(key, &options)?;
        consume_budget().await;
        self.delete_now(key, &options).map_err(|error| about(error, Operation::Delete, key.as_str()))
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.capabilities.admit_list(prefix.as_str(), &options)?;
        consume_budget().await;
        self.check_open().map_err(|error| about(error, Operation::List, prefix.as_str()))?;
        let (snapshot, as_of) = self.database.snapshot();
        let items = Items::new(snapshot, &self.namespace, prefix, &options, &self.database.clock);
        Ok(Listing::new(Some(as_of), items))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        consume_budget().await;
        self.delete_tree_now(prefix).map_err(|error| about(error, Operation::DeleteTree, prefix.as_str()))
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.capabilities.admit_watch(&target, &options)?;
        self.database.keep_sweeping();
        let state = Arc::clone(&self.state);
        self.database.hub.watch(self.id, &self.namespace, state, target, options).await
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.capabilities.admit_lock(key, &options)?;
        let locking = async {
            consume_budget().await;
            // A holder in this process dies with the store: the time to live was only checked.
            let request = LockRequest {
                name: native(&self.namespace, key).into(),
                owner: options.owner,
                handle: self.id,
                max_hold: options.max_hold,
            };
            lock_in_table(&self.locks, key, request, options.wait).await
        };
        locking.await.map_err(|error| about(error, Operation::Lock, key.as_str()))
    }

    async fn lock_holder_opts(&self, key: &Key, _: CallOptions) -> Result<Option<LockHolder>> {
        self.check_open().map_err(|error| about(error, Operation::LockHolder, key.as_str()))?;
        Ok(self.locks.with_locks(|locks, _| locks.holder(&native(&self.namespace, key))))
    }

    fn session(&self) -> SessionState {
        self.session.state()
    }

    fn session_states(&self) -> SessionStates {
        self.session.states()
    }

    async fn server_opts(&self, _: CallOptions) -> Result<ServerInfo> {
        self.check_open().map_err(|error| error.with_operation(Operation::Server).with_backend(BACKEND))?;
        Ok(ServerInfo::new("kv-mem", env!("CARGO_PKG_VERSION")))
    }

    async fn close_opts(&self, _: CallOptions) -> Result<()> {
        self.close_now();
        Ok(())
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

impl Drop for MemStore {
    fn drop(&mut self) {
        self.close_now();
    }
}

impl fmt::Debug for MemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemStore")
            .field("name", &self.name)
            .field("namespace", &self.namespace.path())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

pub(crate) fn about(error: Error, operation: Operation, key: &str) -> Error {
    error.with_operation(operation).with_backend(BACKEND).with_key(key)
}

fn capabilities() -> Capabilities {
    let mut limits = Limits::default();
    limits.max_txn_ops = 1024;
    limits.max_txn_bytes = 16 << 20;
    limits.ttl_bound = ExpiryBound::new(1, Duration::from_secs(1));
    limits.session_bound = Duration::ZERO;
    Capabilities::new(BACKEND)
        .with_powers(Power::ALL)
        // There is no server behind it, no disk, and nobody to keep out.
        .without_power(Power::Cluster)
        .without_power(Power::Storage)
        .without_power(Power::Access)
        .with_guarantees(Guarantee::ALL)
        .with_limits(limits)
}
