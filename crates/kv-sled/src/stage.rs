//! Changes on their way: a group of writes prepared on top of the database, to be applied as one batch.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_backend::{Change, Timestamp};
use kv_core::{DeleteCause, Entry, Error, ErrorKind, Result, Version};

use crate::client::{Batch, Client};
use crate::counter::Counter;
use crate::name::{Name, Namespaces};
use crate::record::{
    self, CHUNK, Event, INLINE_MAX, Left, META, Meta, Record, Stamp, StoredExpiry, Value, corrupt, space,
};
use crate::space::Room;
use crate::tree::{Doomed, is_dead};
use crate::view::{read_record, read_value, scan_events};

/// How an entry is to expire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewExpiry {
    Never,
    /// That of the entry it takes the place of.
    Keep,
    Ttl(Duration),
    Session(u64),
}

/// An entry as the writes of the group so far left it.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) record: Record,
    stamp: Stamp,
    /// Known where the group itself wrote it: then it cannot be read yet.
    value: Option<Bytes>,
}

/// A group of writes. Nothing in the database changes before it is applied.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    client: &'a Client,
    counter: &'a Counter,
    namespaces: &'a mut Namespaces,
    doomed: Vec<Doomed>,
    doomed_changed: bool,
    /// Up to which version history is forgotten by the group.
    compacted: Option<Version>,
    /// The version before the group.
    committed: u64,
    meta: Meta,
    now: Timestamp,
    room: Room,
    small_tree: u64,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Entries the group wrote.
    live: HashMap<Arc<str>, Option<Live>>,
    /// What they were before the group.
    before: BTreeMap<String, Option<Record>>,
    changes: Vec<Change>,
    bytes: usize,
    /// How many bytes of values that are deleted are held for those who watch.
    loaded: usize,
}

/// How many bytes of deleted values a group holds before it is full.
const MAX_LOADED: usize = 8 << 20;

/// How many bytes of deleted values one transaction may make a group hold. What goes beyond is told
/// without its previous value.
const MAX_PREVIOUS: usize = 64 << 20;

/// How much history there is, or may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryBounds {
    pub(crate) events: u64,
    pub(crate) weight: u64,
}

/// A group ready to be applied.
pub(crate) struct Prepared {
    pub(crate) batch: Batch,
    pub(crate) meta: Meta,
    pub(crate) before: BTreeMap<String, Option<Record>>,
    pub(crate) changes: Vec<Change>,
    /// The subtrees that are deleted and not all removed after it, if that changes.
    pub(crate) doomed: Option<Vec<Doomed>>,
    /// Up to which version history is forgotten.
    pub(crate) compacted: Option<Version>,
}

impl<'a> Stage<'a> {
    #[expect(clippy::too_many_arguments, reason = "what the committer has, once")]
    pub(crate) fn new(
        client: &'a Client,
        counter: &'a Counter,
        namespaces: &'a mut Namespaces,
        doomed: Vec<Doomed>,
        meta: Meta,
        now: Timestamp,
        room: Room,
        small_tree: u64,
    ) -> Self {
        Self {
            client,
            counter,
            namespaces,
            doomed,
            doomed_changed: false,
            compacted: None,
            committed: meta.version,
            meta,
            now,
            room,
            small_tree,
            writes: BTreeMap::new(),
            live: HashMap::new(),
            before: BTreeMap::new(),
            changes: Vec::new(),
            bytes: 0,
            loaded: 0,
        }
    }

    pub(crate) fn client(&self) -> &'a Client {
        self.client
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.compacted.is_none()
    }

    /// How many changes it makes.
    pub(crate) fn changes(&self) -> usize {
        self.changes.len()
    }

    /// How many bytes it writes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it holds so much of what it deletes that it should be committed.
    pub(crate) fn is_heavy(&self) -> bool {
        self.loaded >= MAX_LOADED
    }

    /// The entry under a name. One that has expired goes now, if its turn has not come yet.
    pub(crate) fn get(&mut self, name: &Name) -> Result<Option<Live>> {
        let live = self.read(&name.native).map_err(|error| error.with_key(name.key.as_str()))?;
        match live {
            Some(live) if live.record.is_over(|| self.now) => {
                self.delete(name, live, DeleteCause::Expired)?;
                Ok(None)
            }
            live => Ok(live),
        }
    }

    fn read(&mut self, native: &Arc<str>) -> Result<Option<Live>> {
        if let Some(live) = self.live.get(native) {
            return Ok(live.clone());
        }
        let Some((record, stamp)) = read_record(self.client, native)? else { return Ok(None) };
        if is_dead(&self.doomed, native, record.version) {
            self.purge(native, &record, stamp);
            return Ok(None);
        }
        Ok(Some(Live { record, stamp, value: None }))
    }

    /// Removes a dead entry. Nobody sees it any more, so nobody notices.
    pub(crate) fn purge(&mut self, native: &str, record: &Record, stamp: Stamp) {
        if self.live.contains_key(native) {
            // The group came upon it before.
            return;
        }
        self.remove(record::data_key(native), stamp);
        self.unindex(record, native);
        self.drop_value(record);
        self.live.insert(native.into(), None);
    }

    /// Marks everything below a native prefix as deleted. Nothing else may be on the stage.
    pub(crate) fn doom(&mut self, prefix: &str, count: u64) {
        let last = self.counter.next_many(count);
        let doomed = Doomed { prefix: prefix.to_owned(), up_to: last - count, last };
        self.insert(doomed.key(), doomed.encode());
        self.meta.version = doomed.last;
        // So many deletions are more than history holds.
        self.meta.horizon = doomed.last;
        self.doomed.push(doomed);
        self.doomed_changed = true;
    }

    /// Forgets every state before a version, and returns the oldest one that is left. What history holds
    /// of them is let go bit by bit.
    pub(crate) fn compact(&mut self, up_to: u64) -> Result<Version> {
        if up_to > self.committed {
            let newest = self.committed;
            let reason = format!("the version {up_to} is yet to come: the newest is {newest}");
            return Err(Error::invalid_argument(reason));
        }
        if up_to > self.meta.oldest() {
            self.meta.horizon = up_to;
            self.compacted = Some(Version::new(up_to));
        }
        Ok(Version::new(self.meta.oldest()))
    }

    /// Forgets a deleted subtree of which nothing is left.
    pub(crate) fn undoom(&mut self, doomed: &Doomed) {
        let stamp = Stamp::of(&doomed.key(), &doomed.encode());
        self.remove(doomed.key(), stamp);
        self.doomed.retain(|other| other != doomed);
        self.doomed_changed = true;
    }

    pub(crate) fn doomed(&self) -> &[Doomed] {
        &self.doomed
    }

    /// The value of an entry.
    pub(crate) fn value(&self, live: &Live) -> Result<Bytes> {
        match &live.value {
            Some(value) => Ok(value.clone()),
            None => read_value(self.client, &live.record),
        }
    }

    /// An entry as callers see it.
    pub(crate) fn entry(&self, name: &Name, live: &Live) -> Result<Entry> {
        let mut entry = self.entry_without_value(name, live);
        entry.value = self.value(live)?;
        Ok(entry)
    }

    /// An entry as callers see it, but for its value, which is empty.
    pub(crate) fn entry_without_value(&self, name: &Name, live: &Live) -> Entry {
        let Record { version, created, .. } = live.record;
        Entry::new(name.key.clone(), Bytes::new(), Version::new(version), Version::new(created))
    }

    /// What of the disk is left for this group; to be taken before anything is staged.
    pub(crate) fn room(&mut self) -> &mut Room {
        &mut self.room
    }

    /// Puts a value in place of what is there, and returns its version.
    pub(crate) fn put(&mut self, name: &Name, old: Option<Live>, value: Bytes, expiry: NewExpiry) -> Version {
        let version = self.counter.next();
        let stored = if value.len() <= INLINE_MAX {
            Value::Inline(value.clone())
        } else {
            let mut digest = 0u64;
            for (number, chunk) in (0u64..).zip(value.chunks(CHUNK)) {
                let stamp = self.insert(record::pair_key(space::CHUNK, version, number), chunk.to_vec());
                digest = digest.wrapping_add(stamp.seal);
            }
            Value::Chunked { len: value.len() as u64, digest }
        };
        let record = Record {
            namespace: name.namespace_len(),
            version,
            created: old.as_ref().map_or(version, |old| old.record.created),
            expiry: match expiry {
                NewExpiry::Never => StoredExpiry::Never,
                NewExpiry::Keep => old.as_ref().map_or(StoredExpiry::Never, |old| old.record.expiry),
                NewExpiry::Ttl(granted) => StoredExpiry::Ttl {
                    deadline: self.now.after(granted).as_millis_ceil(),
                    granted: u64::try_from(granted.as_millis()).unwrap_or(u64::MAX),
                },
                NewExpiry::Session(session) => StoredExpiry::Session(session),
            },
            value: stored,
        };
        if let Some(old) = &old {
            self.remove(record::data_key(&name.native), old.stamp);
            self.unindex(&old.record, &name.native);
        }
        let stamp = self.insert(record::data_key(&name.native), record.encode());
        if let Some(key) = index_key(&record) {
            self.insert(key, name.native.as_bytes().to_vec());
        }
        let entry =
            Entry::new(name.key.clone(), value.clone(), Version::new(version), Version::new(record.created));
        self.changes.push(Change::put(Arc::clone(&name.namespace), entry));
        let live = Live { record: record.clone(), stamp, value: Some(value) };
        self.changed(name, version, old, Some(live), Left::Entry(record));
        Version::new(version)
    }

    /// Deletes what is there.
    pub(crate) fn delete(&mut self, name: &Name, old: Live, cause: DeleteCause) -> Result<()> {
        let namespace = Arc::clone(&name.namespace);
        let len = old.record.value.len();
        let previous = if self.loaded + len <= MAX_PREVIOUS { Some(self.entry(name, &old)?) } else { None };
        let version = self.counter.next();
        self.changes.push(match previous {
            Some(previous) => {
                self.loaded += len;
                Change::delete(namespace, previous, Version::new(version), cause)
            }
            None => Change::delete_unseen(namespace, name.key.clone(), Version::new(version), cause),
        });
        self.remove(record::data_key(&name.native), old.stamp);
        self.unindex(&old.record, &name.native);
        self.changed(name, version, Some(old), None, Left::Nothing(cause));
        Ok(())
    }

    /// The entry an index found, if it is still the one that was indexed.
    pub(crate) fn indexed(&mut self, found: Indexed) -> Result<Option<(Name, Live)>> {
        let native: Arc<str> = found.native.into();
        let Some(live) = self.read(&native)?.filter(|live| live.record.version == found.version) else {
            return Ok(None);
        };
        Ok(Some((self.namespaces.name(&native, live.record.namespace)?, live)))
    }

    /// Every entry whose native name begins with `prefix`.
    pub(crate) fn below(&mut self, prefix: &str) -> Result<Vec<(Name, Live)>> {
        let range = crate::name::NameRange::below(prefix);
        let mut names: Vec<(String, u16)> = Vec::new();
        self.client.scan(range.data_keys(), |key, bytes| {
            let native = crate::view::native_name(key)?;
            let (content, _) = record::unseal(key, bytes)?;
            names.push((native.to_owned(), Record::decode(content)?.namespace));
            Ok(ControlFlow::Continue(()))
        })?;
        let staged = self.live.iter().filter(|(native, _)| native.starts_with(prefix));
        names.extend(
            staged.filter_map(|(native, live)| Some((native.to_string(), live.as_ref()?.record.namespace))),
        );
        names.sort_unstable();
        names.dedup();
        let mut doomed = Vec::with_capacity(names.len());
        for (native, namespace) in names {
            let name = self.namespaces.name(&native, namespace)?;
            if let Some(live) = self.get(&name)? {
                doomed.push((name, live));
            }
        }
        Ok(doomed)
    }

    /// Lets go the oldest changes in history while it is over a bound: at most `max` of them and none
    /// after `up_to`.
    pub(crate) fn trim(&mut self, bounds: HistoryBounds, max: usize, up_to: u64) -> Result<()> {
        let mut gone = Vec::new();
        let Meta { mut events, mut weight, horizon, .. } = self.meta;
        scan_events(self.client, self.meta.floor, up_to, |version, event, stamp| {
            let within = events <= bounds.events && weight <= bounds.weight;
            if gone.len() >= max || (within && version > horizon) {
                return Ok(ControlFlow::Break(()));
            }
            events = events.saturating_sub(1);
            weight = weight.saturating_sub(event.weight());
            gone.push((version, event, stamp));
            Ok(ControlFlow::Continue(()))
        })?;
        if gone.len() < max {
            // What is left is within the bounds, or needed for now: nothing up to the horizon is.
            self.meta.floor = self.meta.floor.max(horizon.min(up_to));
        }
        for (version, event, stamp) in gone {
            self.remove(record::number_key(space::HISTORY, version), stamp);
            self.meta.floor = self.meta.floor.max(version);
            self.meta.events = self.meta.events.saturating_sub(1);
            self.meta.weight = self.meta.weight.saturating_sub(event.weight());
            if let Some(before) = event.before {
                self.drop_value(&before);
            }
        }
        Ok(())
    }

    /// Up to how many entries a subtree is deleted one by one.
    pub(crate) fn small_tree(&self) -> u64 {
        self.small_tree
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Everything as one batch, with the state of the store after it.
    pub(crate) fn prepare(mut self) -> Prepared {
        self.meta.ceiling = self.counter.next_ceiling();
        self.meta.time = self.meta.time.max(self.now.as_millis_ceil());
        let mut batch = Batch::default();
        for (key, write) in self.writes {
            match write {
                Some(bytes) => batch.insert(&key, bytes),
                None => batch.remove(&key),
            }
        }
        batch.insert(META, self.meta.encode());
        let doomed = self.doomed_changed.then_some(self.doomed);
        Prepared {
            batch,
            meta: self.meta,
            before: self.before,
            changes: self.changes,
            doomed,
            compacted: self.compacted,
        }
    }

    /// Books a change of an entry.
    fn changed(&mut self, name: &Name, version: u64, old: Option<Live>, new: Option<Live>, left: Left) {
        let before = old.map(|old| old.record);
        self.before.entry(name.native.to_string()).or_insert_with(|| before.clone());
        self.live.insert(Arc::clone(&name.native), new);
        let event = Event { name: name.native.to_string(), before, left };
        self.meta.version = version;
        self.meta.events += 1;
        self.meta.weight += event.weight();
        self.insert(record::number_key(space::HISTORY, version), event.encode());
    }

    fn insert(&mut self, key: Vec<u8>, content: Vec<u8>) -> Stamp {
        let stamp = Stamp::of(&key, &content);
        self.meta.digest = self.meta.digest.wrapping_add(stamp.seal);
        self.meta.bytes += stamp.len;
        self.meta.records += 1;
        self.bytes += key.len() + content.len();
        self.writes.insert(key, Some(record::sealed(content, stamp)));
        stamp
    }

    fn remove(&mut self, key: Vec<u8>, stamp: Stamp) {
        self.meta.digest = self.meta.digest.wrapping_sub(stamp.seal);
        self.meta.bytes = self.meta.bytes.saturating_sub(stamp.len);
        self.meta.records = self.meta.records.saturating_sub(1);
        self.bytes += key.len();
        self.writes.insert(key, None);
    }

    fn unindex(&mut self, record: &Record, native: &str) {
        if let Some(key) = index_key(record) {
            let stamp = Stamp::of(&key, native.as_bytes());
            self.remove(key, stamp);
        }
    }

    fn drop_value(&mut self, record: &Record) {
        let Value::Chunked { len, digest } = record.value else { return };
        let chunks = record.value.chunks();
        for number in 0..chunks {
            self.writes.insert(record::pair_key(space::CHUNK, record.version, number), None);
        }
        self.meta.records = self.meta.records.saturating_sub(chunks);
        self.meta.bytes = self.meta.bytes.saturating_sub(len);
        self.meta.digest = self.meta.digest.wrapping_sub(digest);
    }
}

/// Where the entry is found when it is to expire.
fn index_key(record: &Record) -> Option<Vec<u8>> {
    match record.expiry {
        StoredExpiry::Never => None,
        StoredExpiry::Ttl { deadline, .. } => Some(record::pair_key(space::EXPIRY, deadline, record.version)),
        StoredExpiry::Session(session) => Some(record::pair_key(space::SESSION, session, record.version)),
    }
}

/// An entry found in an index.
pub(crate) struct Indexed {
    pub(crate) version: u64,
    pub(crate) native: String,
}

/// Entries in an index whose first number is within `from..=to`, at most `max`.
pub(crate) fn look_up(client: &Client, space: u8, from: u64, to: u64, max: usize) -> Result<Vec<Indexed>> {
    let mut found = Vec::new();
    let from = Bound::Included(record::pair_key(space, from, 0));
    let to = Bound::Included(record::pair_key(space, to, u64::MAX));
    client.scan((from, to), |key, bytes| {
        let version = record::number_in(key, 1).ok_or_else(|| corrupt("an index entry has no version"))?;
        let (name, _) = record::unseal(key, bytes)?;
        let native = String::from_utf8(name.to_vec()).map_err(|_| corrupt("an index entry names no key"))?;
        found.push(Indexed { version, native });
        Ok(if found.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

/// The refusal of a write for want of space on disk.
pub(crate) fn no_space(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::NoSpace).not_applied().with_detail(detail)
}
