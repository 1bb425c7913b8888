//! Locks: in this process, as nobody else has the directory.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Clock, HandleId, LockAccess, LockTable, Namespace, Sleep, Timestamp, Wakes};
use kv_core::{Error, ErrorKind, Fence, FencingToken, LockHolder, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;

use crate::commit::Command;
use crate::counter::Counter;

/// The clock a store goes by: the one it was given, never behind the last change on disk.
#[derive(Clone, Debug)]
pub(crate) struct StoreClock {
    clock: Arc<dyn Clock>,
    ahead: Duration,
}

impl StoreClock {
    /// `written` is the store time of the last change.
    pub(crate) fn new(clock: Arc<dyn Clock>, written: Timestamp) -> Self {
        let ahead = written.since(clock.now());
        Self { clock, ahead }
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        self.clock.now().after(self.ahead)
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.clock.sleep_until(Timestamp::from_epoch(deadline.since_epoch().saturating_sub(self.ahead)))
    }
}

/// The locks of one database.
pub(crate) struct Locks {
    table: Mutex<Table>,
    counter: Arc<Counter>,
    clock: StoreClock,
    /// To the committer, which also ends what is held too long. Weak: guards outlive the database.
    committer: mpsc::WeakUnboundedSender<Command>,
    /// Tells the fences of this database, opened this once, from all others.
    id: u64,
}

#[derive(Debug, Default)]
struct Table {
    locks: LockTable,
    open: HashSet<HandleId>,
}

impl Table {
    fn is_open(&self, handle: u64) -> bool {
        self.open.iter().any(|open| open.get() == handle)
    }
}

/// The locks while nothing about them can change.
pub(crate) struct Frozen<'a> {
    table: MutexGuard<'a, Table>,
    /// Woken after the locks can change again.
    _wakes: Wakes,
}

impl Frozen<'_> {
    pub(crate) fn holds(&self, fence: &FenceRef) -> bool {
        self.table.locks.is_held(&fence.native, fence.token)
    }

    /// Whether the handle with this number is open.
    pub(crate) fn is_open(&self, handle: u64) -> bool {
        self.table.is_open(handle)
    }
}

impl Locks {
    pub(crate) fn new(
        counter: Arc<Counter>,
        clock: StoreClock,
        committer: mpsc::WeakUnboundedSender<Command>,
        id: u64,
    ) -> Self {
        Self { table: Mutex::default(), counter, clock, committer, id }
    }

    pub(crate) fn clock(&self) -> &StoreClock {
        &self.clock
    }

    pub(crate) fn open(&self, handle: HandleId) {
        self.table.lock().open.insert(handle);
    }

    /// Whether the handle with this number is open.
    pub(crate) fn is_open(&self, handle: u64) -> bool {
        self.table.lock().is_open(handle)
    }

    /// Ends what the handle holds and waits for.
    pub(crate) fn close(&self, handle: HandleId) {
        let wakes = {
            let mut table = self.table.lock();
            table.open.remove(&handle);
            table.locks.close(handle, self.clock.now())
        };
        wakes.wake();
    }

    /// Holds everything as it is: for a commit whose fences must hold until it is visible.
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        let mut table = self.table.lock();
        let wakes = table.locks.expire(self.clock.now());
        Frozen { table, _wakes: wakes }
    }

    /// Takes away the locks whose records lie below a native prefix.
    pub(crate) fn remove_tree(&self, prefix: &str) {
        let wakes = self.table.lock().locks.remove_tree(prefix, self.clock.now());
        wakes.wake();
    }

    /// Ends what is held too long, and tells when there is something to end again.
    pub(crate) fn expire(&self) -> Option<Timestamp> {
        let mut table = self.table.lock();
        let wakes = table.locks.expire(self.clock.now());
        let next = table.locks.next_deadline();
        drop(table);
        wakes.wake();
        next
    }

    pub(crate) fn holder(&self, native: &str) -> Option<LockHolder> {
        let mut table = self.table.lock();
        let wakes = table.locks.expire(self.clock.now());
        let holder = table.locks.holder(native);
        drop(table);
        wakes.wake();
        holder
    }

    fn wake_committer(&self) {
        if let Some(committer) = self.committer.upgrade() {
            // It is gone only when the database is being closed.
            drop(committer.send(Command::Wake));
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Table, Timestamp) -> T) -> T {
        let mut table = self.table.lock();
        let now = self.clock.now();
        let wakes = table.locks.expire(now);
        let before = table.locks.next_deadline();
        let result = work(&mut table, now);
        let next = table.locks.next_deadline();
        drop(table);
        wakes.wake();
        if next.is_some_and(|next| before.is_none_or(|before| next < before)) {
            self.wake_committer();
        }
        result
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("held", &self.table.lock().locks.held()).finish_non_exhaustive()
    }
}

/// The locks as the handles of one namespace see them.
#[derive(Debug)]
pub(crate) struct LockHandle {
    locks: Arc<Locks>,
    record: Arc<str>,
}

impl LockHandle {
    pub(crate) fn new(locks: Arc<Locks>, namespace: &Namespace) -> Self {
        let record = format!("{}:{}", locks.id, namespace.path()).into();
        Self { locks, record }
    }
}

impl LockAccess for LockHandle {
    fn with_locks<T>(&self, work: impl FnOnce(&mut LockTable, Timestamp) -> T) -> T {
        self.locks.with(|table, now| work(&mut table.locks, now))
    }

    fn with_new_token<T>(
        &self,
        handle: HandleId,
        work: impl FnOnce(&mut LockTable, FencingToken, Timestamp) -> T,
    ) -> Result<T> {
        let result = self.locks.with(|table, now| {
            if !table.open.contains(&handle) {
                return Err(Error::new(ErrorKind::Closed));
            }
            // Taken inside the critical section: the table needs them in order.
            let token = self.locks.counter.next_reserved().ok_or_else(|| {
                Error::new(ErrorKind::Overloaded)
                    .with_detail("fencing tokens are being reserved on disk: try again in a moment")
            })?;
            Ok(work(&mut table.locks, FencingToken::new(token), now))
        });
        if self.locks.counter.is_low() {
            self.locks.wake_committer();
        }
        result
    }

    fn clock(&self) -> &dyn Clock {
        &self.locks.clock
    }

    fn fence_record(&self) -> Arc<str> {
        Arc::clone(&self.record)
    }
}

/// A fence as the committer asks for it.
#[derive(Clone, Debug)]
pub(crate) struct FenceRef {
    native: String,
    token: FencingToken,
}

/// What a write must hold.
#[derive(Clone, Debug)]
pub(crate) enum Fences {
    None,
    One(FenceRef),
    /// A fence of another store, or of this one before it was opened again.
    Foreign,
}

impl Fences {
    pub(crate) fn of(locks: &Locks, fence: Option<&Fence>) -> Self {
        let Some(fence) = fence else { return Self::None };
        match fence.record().split_once(':') {
            Some((id, namespace)) if id == locks.id.to_string() => Self::One(FenceRef {
                native: [namespace, fence.key().as_str()].concat(),
                token: fence.token(),
            }),
            _ => Self::Foreign,
        }
    }
}
