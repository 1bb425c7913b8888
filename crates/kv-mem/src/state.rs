//! The data itself: one lock around everything that changes together.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use imbl::OrdMap;
use kv_backend::{
    Change, Clock, HandleId, Hub, HubOptions, LockTable, Namespace, Sweep, Sweeper, Timestamp, TtlQueue,
    Wakes,
};
use kv_core::{Bytes, DeleteCause, Entry, Error, ErrorKind, Expiry, Key, PutResult, Result, Version};
use parking_lot::RwLock;

use crate::name::{ByName, Name};
use crate::past::Past;
use crate::record::{Lease, Record};

/// Entries in the order of their native names. A clone is a snapshot and costs nothing.
pub(crate) type Ordered = OrdMap<Name, Arc<Record>>;

/// Everything behind one store, shared by its handles.
pub(crate) struct Database {
    data: RwLock<Data>,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<dyn Clock>,
    sweeper: Sweeper,
    /// Tells the fences of this store from those of others.
    pub(crate) fence_record: Arc<str>,
    this: Weak<Self>,
}

pub(crate) struct Data {
    /// The records by native name, for gets: a tree compares keys all over the memory.
    by_name: HashSet<ByName>,
    /// The same records, for everything that asks for an order or a snapshot.
    ordered: Ordered,
    newest: u64,
    /// What the changes that the hub still has took the place of.
    pub(crate) past: Past,
    ttl: TtlQueue<Name>,
    /// The open handles and the names of their session keys.
    handles: HashMap<HandleId, HashSet<Name>>,
    pub(crate) locks: LockTable,
    /// What the sweeper sleeps until.
    armed: Option<Timestamp>,
}

impl Database {
    /// An empty store whose next version comes after `newest`.
    pub(crate) fn new(history: usize, clock: Arc<dyn Clock>, newest: Version) -> Arc<Self> {
        static STORES: AtomicU64 = AtomicU64::new(1);
        let number = STORES.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|this| Self {
            data: RwLock::new(Data {
                by_name: HashSet::new(),
                ordered: Ordered::new(),
                newest: newest.get(),
                past: Past::default(),
                ttl: TtlQueue::new(),
                handles: HashMap::new(),
                locks: LockTable::new(),
                armed: None,
            }),
            hub: Hub::new("mem", HubOptions::default().with_max_events(history), newest),
            sweeper: Sweeper::new(Arc::clone(&clock)),
            clock,
            fence_record: format!("mem-{number}").into(),
            this: this.clone(),
        })
    }

    /// Puts permanent entries in, at the versions they have, before anybody can watch.
    pub(crate) fn fill(&self, namespace: &Arc<Namespace>, entries: impl IntoIterator<Item = Entry>) {
        let mut data = self.data.write();
        for entry in entries {
            let name = Name::new(namespace, &entry.key);
            data.insert(Arc::new(Record::new(name, Arc::clone(namespace), entry, None)));
        }
    }

    pub(crate) fn open(&self, handle: HandleId) {
        self.data.write().handles.insert(handle, HashSet::new());
        self.hub.open(handle);
    }

    /// Ends everything of a handle, in one step for everybody else.
    pub(crate) fn close(&self, handle: HandleId) {
        let mut wakes = self.write(|writer| {
            let names = writer.data.handles.remove(&handle).unwrap_or_default();
            if !names.is_empty() {
                let version = writer.version();
                for name in names {
                    writer.remove(name.as_str(), version, DeleteCause::Expired);
                }
            }
            writer.data.locks.close(handle, writer.now)
        });
        wakes.append(self.hub.close(handle));
        wakes.wake();
    }

    /// What `read` makes of the record under a native name, unless it has expired.
    pub(crate) fn get<T>(&self, native: &str, read: impl FnOnce(&Record) -> Option<T>) -> Option<T> {
        let data = self.data.read();
        let record = data.by_name.get(native)?;
        if record.0.is_expired(&*self.clock) { None } else { read(&record.0) }
    }

    /// Everything there is, with nothing expired in it, and its version.
    pub(crate) fn snapshot(&self) -> (Ordered, Version) {
        {
            let data = self.data.read();
            if data.next_deadline().is_none_or(|deadline| deadline > self.clock.now()) {
                return data.snapshot();
            }
        }
        self.write(|writer| writer.data.snapshot())
    }

    /// One step for everybody else: what is due is let go, then `work` sees and changes the data, and
    /// watches see what changed. Nobody is woken before the lock is free again.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&mut Writer<'_>) -> T) -> T {
        let mut data = self.data.write();
        let mut writer =
            Writer { now: self.clock.now(), data: &mut data, changes: Vec::new(), wakes: Wakes::none() };
        writer.retire_due();
        let done = work(&mut writer);
        let Writer { changes, mut wakes, .. } = writer;
        if !changes.is_empty() {
            wakes.append(self.hub.publish(changes));
            data.past.forget_up_to(self.hub.oldest());
        }
        let must_arm = data.arm() || (data.armed.is_some() && !self.sweeper.is_running());
        drop(data);
        if must_arm {
            self.arm_sweeper();
        }
        wakes.wake();
        done
    }

    /// Makes sure that what is due goes by itself, for those who only wait: the task may have ended
    /// with the runtime it ran on.
    pub(crate) fn keep_sweeping(&self) {
        if !self.sweeper.is_running() && self.data.read().next_deadline().is_some() {
            self.arm_sweeper();
        }
    }

    /// Reads the data as they stand, with everything that is due let go, so that nothing changes meanwhile.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Data) -> T) -> T {
        self.write(|writer| read(writer.data))
    }

    fn arm_sweeper(&self) {
        let this = self.this.clone();
        self.sweeper.arm(move || std::future::ready(this.upgrade().map_or(Sweep::Stop, |this| this.sweep())));
    }

    fn sweep(&self) -> Sweep {
        // What is due has been let go when the work of a step begins.
        self.write(|writer| {
            writer.data.armed = writer.data.next_deadline();
            writer.data.armed.map_or(Sweep::Idle, Sweep::Until)
        })
    }
}

impl Data {
    pub(crate) fn snapshot(&self) -> (Ordered, Version) {
        (self.ordered.clone(), self.newest())
    }

    pub(crate) fn record(&self, native: &str) -> Option<&Record> {
        self.by_name.get(native).map(|record| &*record.0)
    }

    pub(crate) fn newest(&self) -> Version {
        Version::new(self.newest)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        [self.ttl.next(), self.locks.next_deadline()].into_iter().flatten().min()
    }

    /// Notes the next deadline as what the sweeper sleeps until, and tells whether it came nearer.
    fn arm(&mut self) -> bool {
        let Some(next) = self.next_deadline() else { return false };
        let is_nearer = self.armed.is_none_or(|armed| next < armed);
        if is_nearer {
            self.armed = Some(next);
        }
        is_nearer
    }

    /// Puts a record in place, and returns the one it took the place of.
    fn insert(&mut self, record: Arc<Record>) -> Option<Arc<Record>> {
        match self.ordered.get_mut(record.native()) {
            Some(stored) => *stored = Arc::clone(&record),
            None => drop(self.ordered.insert(record.name(), Arc::clone(&record))),
        }
        self.by_name.replace(ByName(record)).map(|ByName(old)| old)
    }

    /// Takes back what the record under a native name lives by, before it is replaced or removed.
    fn end_lease(&mut self, native: &str) -> Option<&Record> {
        let Self { by_name, ttl, handles, .. } = self;
        let ByName(record) = by_name.get(native)?;
        match record.lease() {
            None => {}
            Some(Lease::Ttl { .. }) => {
                ttl.remove(native);
            }
            Some(Lease::Session(handle)) => {
                if let Some(names) = handles.get_mut(&handle) {
                    names.remove(native);
                }
            }
        }
        Some(record)
    }
}

/// The data, and the moment, in one step of [`Database::write`].
pub(crate) struct Writer<'a> {
    pub(crate) data: &'a mut Data,
    pub(crate) now: Timestamp,
    changes: Vec<Change>,
    pub(crate) wakes: Wakes,
}

impl Writer<'_> {
    /// The next number of the store's one counter.
    pub(crate) fn version(&mut self) -> Version {
        self.data.newest += 1;
        Version::new(self.data.newest)
    }

    /// Refuses what a closed handle asks for.
    pub(crate) fn check_open(&self, handle: HandleId) -> Result<()> {
        if self.data.handles.contains_key(&handle) { Ok(()) } else { Err(ErrorKind::Closed.into()) }
    }

    pub(crate) fn record(&self, native: &str) -> Option<&Record> {
        self.data.record(native)
    }

    /// The native names below a native prefix.
    pub(crate) fn names_below(&self, prefix: &str) -> Vec<Name> {
        let names = self
            .data
            .ordered
            .range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(name, _)| name);
        names.take_while(|name| name.as_str().starts_with(prefix)).cloned().collect()
    }

    /// Puts an entry. Everything that could be refused has been checked.
    pub(crate) fn put(&mut self, put: Put<'_>, version: Version) -> PutResult {
        let Put { handle, namespace, key, value, expiry } = put;
        let name = Name::new(namespace, key);
        let old = self.data.end_lease(name.as_str());
        let (created, kept) = old.map_or((version, None), |old| (old.created(), old.lease()));
        let mut result = PutResult::new(version);
        let lease = match expiry {
            Granted::Never => None,
            Granted::Keep => {
                match kept {
                    None => {}
                    Some(Lease::Ttl { deadline, .. }) => {
                        self.data.ttl.set(name.clone(), deadline);
                    }
                    Some(Lease::Session(owner)) => {
                        self.data.handles.entry(owner).or_default().insert(name.clone());
                    }
                }
                kept
            }
            Granted::Session => {
                self.data.handles.entry(handle).or_default().insert(name.clone());
                Some(Lease::Session(handle))
            }
            Granted::Ttl(granted) => {
                let deadline = self.now.after(granted);
                self.data.ttl.set(name.clone(), deadline);
                result = result.with_granted_ttl(granted);
                Some(Lease::Ttl { granted, deadline })
            }
        };
        let entry = Entry::new(key.clone(), value, version, created);
        let record = Record::new(name.clone(), Arc::clone(namespace), entry.clone(), lease);
        let before = self.data.insert(Arc::new(record));
        let replaced = before.as_ref().map_or(0, |record| record.size());
        self.data.past.note(version, name, before);
        self.changes.push(Change::put(Arc::clone(namespace), entry).replacing(replaced));
        result
    }

    /// Deletes an entry and returns it, with its key as it was put.
    pub(crate) fn remove(
        &mut self,
        native: &str,
        version: Version,
        cause: DeleteCause,
    ) -> Option<Arc<Record>> {
        self.data.end_lease(native);
        let ByName(record) = self.data.by_name.take(native)?;
        self.data.ordered.remove(native);
        self.data.past.note(version, record.name(), Some(Arc::clone(&record)));
        let namespace = Arc::clone(record.namespace());
        self.changes.push(Change::delete(namespace, record.entry(), version, cause));
        Some(record)
    }

    fn retire_due(&mut self) {
        while let Some((_, name)) = self.data.ttl.pop_due(self.now) {
            let version = self.version();
            self.remove(name.as_str(), version, DeleteCause::Expired);
        }
        if self.data.locks.next_deadline().is_some() {
            self.wakes.append(self.data.locks.expire(self.now));
        }
    }
}

/// What a put is to store.
pub(crate) struct Put<'a> {
    pub(crate) handle: HandleId,
    pub(crate) namespace: &'a Arc<Namespace>,
    pub(crate) key: &'a Key,
    pub(crate) value: Bytes,
    pub(crate) expiry: Granted,
}

/// An expiry that was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Granted {
    Never,
    /// That of the entry it takes the place of.
    Keep,
    Ttl(Duration),
    Session,
}

impl Granted {
    pub(crate) fn new(expiry: Expiry, limits: &kv_core::Limits) -> Result<Self> {
        Ok(match expiry {
            Expiry::Never => Self::Never,
            Expiry::Keep => Self::Keep,
            Expiry::Ttl(ttl) => Self::Ttl(limits.ttl.check(ttl)?),
            Expiry::Session => Self::Session,
            _ => return Err(Error::unsupported("this expiry")),
        })
    }
}
