//! The store: how each operation becomes a request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_backend::Deadline;
use kv_core::implement::{LockView, Transact};
use kv_core::{
    AccessControl, CallOptions, Capabilities, Cluster, Consistency, DeleteOptions, DeleteResult,
    DeleteTreeOptions, Entry, Error, Expiry, ExpiryBound, GetOptions, Guarantee, History, Key, Limits,
    ListOptions, Listing, LockGuard, LockHolder, LockOptions, Operation, Power, Prefix, PutOptions,
    PutResult, Result, ServerInfo, SessionState, SessionStates, Storage, Store, Txn, TxnResult, Watch,
    WatchOptions, WatchTarget,
};

use crate::client::{Check, Done, Range, Read, Record, Step, Tree};
use crate::config::{EtcdConfig, TTL};
use crate::error::{self, BACKEND};
use crate::expiry::PutLease;
use crate::handle::Handle;
use crate::pager::Pager;
use crate::write::{self, Guards};
use crate::{list, lock, record, ttl, txn, watch};

/// The largest value: below etcd's limit of 1.5 MiB per request by what keys and framing take, and
/// small values it is compared with.
const MAX_VALUE: usize = (3 << 19) - (16 << 10);
/// The most a value and the one it is compared with may take.
const MAX_VALUES: usize = (3 << 19) - (6 << 10);
/// How many keys a delete_tree looks at in its one request, to tell entries from records of locks.
const MAX_LOOKED_AT: i64 = 40_000;
/// Up to this size a value is sent for a key that exists and for one that does not, in one request.
const SENT_TWICE: usize = 32 << 10;
/// How often a put whose lease ended before it was used takes another.
const LEASE_ATTEMPTS: usize = 3;

/// A store on etcd v3. Clones are one handle; dropping the last one closes it in the background.
#[derive(Clone)]
pub struct EtcdStore {
    pub(crate) core: Arc<Handle>,
    _last: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Handle>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
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
        let capabilities = capabilities(&config);
        let core = Handle::connect(config, capabilities)
            .await
            .map_err(|error| error.with_operation(Operation::Open).with_backend(BACKEND))?;
        Ok(Self { _last: Arc::new(CloseOnDrop(Arc::clone(&core))), core })
    }

    pub(crate) fn core(&self) -> &Arc<Handle> {
        &self.core
    }

    /// How many requests this handle has sent so far: what its operations cost in round trips.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.core.client.requests()
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("namespace", &self.core.namespace.path()).finish_non_exhaustive()
    }
}

fn capabilities(config: &EtcdConfig) -> Capabilities {
    // The server looks for leases that are over twice a second, and we count whole seconds.
    let slack = Duration::from_secs(2);
    let mut limits = Limits::default();
    limits.max_value = MAX_VALUE;
    limits.max_txn_ops = txn::MAX_OPS;
    limits.max_txn_bytes = txn::MAX_TXN_BYTES;
    limits.ttl = TTL;
    limits.ttl_bound = ExpiryBound::new(1, slack);
    limits.session_bound = config.session_ttl.max(config.lock_ttl) + slack;
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
            Power::WatchHistory,
            Power::StaleReads,
            Power::ListExpiry,
            Power::LockView,
            Power::History,
            Power::Cluster,
            Power::Storage,
            Power::Access,
        ])
        .with_guarantees(&[
            Guarantee::LinearizableReads,
            Guarantee::ListSnapshot,
            Guarantee::ListPaged,
            Guarantee::DeleteTreeAtomic,
            Guarantee::WatchComplete,
            Guarantee::WatchPrevious,
            Guarantee::CasDetectsRecreate,
            Guarantee::LockFifo,
        ])
        .with_limits(limits)
}

impl EtcdStore {
    async fn get(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        let core = &self.core;
        core.capabilities.admit_get(key, &options)?;
        core.check_open()?;
        let deadline = core.deadline(options.timeout);
        let mut read = Read::new(Range::one(core.namespace.native(key)));
        read.stale = options.consistency == Consistency::Stale;
        loop {
            let page = core.client.read(deadline, &read).await?;
            let Some(record) = page.records.into_iter().next() else { return Ok(None) };
            let lease = record.lease;
            let Some(entry) = record::entry(&core.namespace, record) else { return Ok(None) };
            if !options.expiry {
                return Ok(Some(entry));
            }
            match ttl::of_lease(&core.client, deadline, lease).await? {
                Some(expiry) => return Ok(Some(entry.with_expiry(expiry))),
                None => ttl::expiring(deadline).await?,
            }
        }
    }

    async fn put(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        let core = &self.core;
        core.capabilities.admit_put(key, &value, &options)?;
        core.check_open()?;
        write::check_size(key, &value, &options.precondition, MAX_VALUES)?;
        let deadline = core.deadline(options.timeout);
        let name = core.namespace.native(key);
        let guards = Guards::new([name.as_str()], options.fence.as_ref())?;
        let mut when = guards.checks();
        when.extend(write::precondition(&name, &options.precondition)?);
        let mut exists = write::presence(&options.precondition);
        // A large value is not sent for both cases. It is sent as if the key existed, and that is checked.
        let guesses = options.expiry == Expiry::Keep && exists.is_none() && value.len() > SENT_TWICE;
        if guesses {
            exists = Some(true);
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut lease = PutLease::new(core, deadline, options.expiry, exists).await?;
            lease.in_flight();
            let mut when = when.clone();
            if guesses {
                when.push(if exists == Some(true) { Check::exists(&*name) } else { Check::absent(&*name) });
            }
            let step = lease.step(&*name, value.clone());
            match self.write(deadline, &name, &guards, when, step).await {
                Ok(Written::Done(done, revision)) => {
                    let granted = lease.used(core, &name, revision, &done);
                    let result = PutResult::new(record::version(revision));
                    return Ok(granted.map_or(result, |ttl| result.with_granted_ttl(ttl)));
                }
                Ok(Written::Refused(found)) => {
                    lease.unused();
                    if !guesses {
                        return Err(write::refusal(&options.precondition, found.as_ref()));
                    }
                    // Others may create and delete it all the time.
                    deadline.remaining().map_err(Error::not_applied)?;
                    exists = Some(found.is_some());
                }
                Err(error) => {
                    let again = error::lease_gone(&error) && attempt < LEASE_ATTEMPTS;
                    lease.failed(core, &error);
                    if !again {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        let core = &self.core;
        core.capabilities.admit_delete(key, &options)?;
        core.check_open()?;
        let name = core.namespace.native(key);
        let guards = Guards::new([name.as_str()], options.fence.as_ref())?;
        let mut when = guards.checks();
        when.extend(write::precondition(&name, &options.precondition)?);
        let delete = Step::Delete { range: Range::one(name.clone()), previous: options.previous };
        match self.write(core.deadline(options.timeout), &name, &guards, when, delete).await? {
            Written::Done(Done::Delete { deleted, previous }, revision) => {
                if deleted == 0 {
                    return Ok(DeleteResult::absent());
                }
                core.leases.detached(name.as_bytes(), revision);
                let previous = previous.into_iter().next();
                Ok(DeleteResult::deleted(previous.and_then(|record| record::entry(&core.namespace, record))))
            }
            Written::Done(..) => Err(error::nonsense("another answer than that of a delete")),
            Written::Refused(found) => Err(write::refusal(&options.precondition, found.as_ref())),
        }
    }

    /// Makes one write under its checks.
    async fn write(
        &self,
        deadline: Deadline,
        name: &str,
        guards: &Guards,
        when: Vec<Check>,
        step: Step,
    ) -> Result<Written> {
        let or_else = if when.is_empty() {
            Vec::new()
        } else {
            let mut reads = vec![Step::Read(Read::new(Range::one(name)).keys_only())];
            reads.extend(guards.reads());
            reads
        };
        let client = &self.core.client;
        let mut done = match when.is_empty() {
            true => client.alone(deadline, step).await?,
            false => client.commit(deadline, Tree { when, then: vec![step], or_else }).await?,
        };
        if done.steps.is_empty() {
            return Err(error::nonsense("a transaction without its answers"));
        }
        if done.succeeded {
            return Ok(Written::Done(done.steps.remove(0), done.revision));
        }
        guards.refusal(&done.steps[1..])?;
        let found = write::first_page(done.steps)?.records.into_iter().next();
        Ok(Written::Refused(found))
    }

    async fn delete_tree(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        let core = &self.core;
        core.check_open()?;
        let range = Range::below(&core.namespace.native_prefix(prefix));
        // One transaction: what is looked at is what is deleted.
        let look = Read::new(range.clone()).keys_only().limit(MAX_LOOKED_AT);
        let delete = Step::Delete { range: range.clone(), previous: false };
        let timeout = options.timeout.unwrap_or(core.timeout);
        let tree = Tree::always(vec![Step::Read(look), delete]);
        let done = core.client.commit(Deadline::after(timeout), tree).await?;
        let (Some(Done::Read(page)), Some(Done::Delete { deleted, .. })) =
            (done.steps.first(), done.steps.get(1))
        else {
            return Err(error::nonsense("another answer than that of a delete"));
        };
        let mut others = self.gone(&page.records, done.revision);
        if let (true, Some(last)) = (page.more, page.records.last()) {
            // The state before still tells of the rest.
            let mut rest = Read::new(Range { start: [&last.name[..], &[0]].concat(), ..range }).keys_only();
            rest.revision = done.revision.saturating_sub(1);
            let mut pager = Pager::new(Arc::clone(&core.client), rest, timeout);
            loop {
                match pager.next(usize::MAX).await {
                    Ok(page) => {
                        others += self.gone(&page.records, done.revision);
                        if !page.more {
                            break;
                        }
                    }
                    Err(error) => {
                        // It is deleted all the same: as of a compaction right behind it.
                        tracing::debug!(%error, "what a delete_tree took is counted roughly");
                        break;
                    }
                }
            }
        }
        Ok(u64::try_from(*deleted).unwrap_or(0).saturating_sub(others))
    }

    /// Lets go of the leases of records that were deleted, and counts those that were no entries.
    fn gone(&self, records: &[Record], revision: i64) -> u64 {
        let core = &self.core;
        for record in records.iter().filter(|record| record.lease != 0) {
            core.leases.detached(&record.name, revision);
        }
        let others = records
            .iter()
            .filter(|record| record::is_lock(record) || record::key(&core.namespace, &record.name).is_none());
        u64::try_from(others.count()).unwrap_or(0)
    }
}

/// What came of a write.
enum Written {
    Done(Done, i64),
    /// The caller's own condition does not hold: what was found.
    Refused(Option<Record>),
}

/// Says what an error is about.
pub(crate) fn about(operation: Operation, path: &str) -> impl FnOnce(Error) -> Error {
    move |error| error.with_operation(operation).with_backend(BACKEND).with_key(path)
}

#[async_trait]
impl Store for EtcdStore {
    fn capabilities(&self) -> &Capabilities {
        &self.core.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.get(key, options).await.map_err(about(Operation::Get, key.as_str()))
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.put(key, value, options).await.map_err(about(Operation::Put, key.as_str()))
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.delete(key, options).await.map_err(about(Operation::Delete, key.as_str()))
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.core.capabilities.admit_list(prefix.as_str(), &options)?;
        let listed = match self.core.check_open() {
            Ok(()) => list::list(&self.core, prefix, options, 0).await,
            Err(error) => Err(error),
        };
        listed.map_err(about(Operation::List, prefix.as_str()))
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.core.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        self.delete_tree(prefix, options).await.map_err(about(Operation::DeleteTree, prefix.as_str()))
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.core.capabilities.admit_watch(&target, &options)?;
        let path = target.path().to_owned();
        let watched = match self.core.check_open() {
            Ok(()) => watch::watch(&self.core, target, options).await,
            Err(error) => Err(error),
        };
        watched.map_err(about(Operation::Watch, &path))
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.core.capabilities.admit_lock(key, &options)?;
        lock::lock(&self.core, key, options).await.map_err(about(Operation::Lock, key.as_str()))
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        lock::holder(&self.core, key, options.timeout)
            .await
            .map_err(about(Operation::LockHolder, key.as_str()))
    }

    fn session(&self) -> SessionState {
        self.core.session.cell.state()
    }

    fn session_states(&self) -> SessionStates {
        self.core.session.cell.states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        let version = match self.core.check_open() {
            Ok(()) => self.core.client.version(self.core.deadline(options.timeout)).await,
            Err(error) => Err(error),
        };
        let version =
            version.map_err(|error| error.with_operation(Operation::Server).with_backend(BACKEND))?;
        Ok(ServerInfo::new(BACKEND, version))
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        self.core.close();
        let closed = self.core.closed(options.timeout).await;
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
        txn::transact(&self.core, txn)
            .await
            .map_err(|error| error.with_operation(Operation::Transact).with_backend(BACKEND))
    }
}
