//! What readers see: the last committed state, and older ones for lists that are being read.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kv_backend::Namespace;
use kv_core::{Entry, Error, ErrorKind, Key, KeyVersion, Result, Version};
use parking_lot::{Mutex, RwLock};

use crate::cache::EntryCache;
use crate::client::Client;
use crate::name::NameRange;
use crate::pages::{Listed, Page, PageCache};
use crate::record::{self, Event, Left, Meta, Record, Stamp, Value, corrupt, space, unseal};
use crate::tree::{Doomed, is_dead};

/// How many entries of a deleted subtree are passed over at a time: commits wait meanwhile.
const MAX_SKIPPED: usize = 4096;

/// A page ends when its values are so large.
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// How many changes behind a list may fall before it is given up.
pub(crate) const MAX_BEHIND: u64 = 50_000;

/// The committed state of the database.
///
/// sled shows a batch to readers when it is applied, which is before it is durable. A reader must
/// not act on what a crash can take back, so between the two the old entries of the batch are kept
/// here and shown instead.
#[derive(Debug)]
pub(crate) struct View {
    state: RwLock<State>,
    pins: Arc<Pins>,
}

#[derive(Debug)]
struct State {
    /// None while it is being opened again.
    client: Option<Arc<Client>>,
    /// The version readers see.
    committed: u64,
    /// The oldest version that can be seen.
    oldest: u64,
    /// Subtrees that were deleted and may not all be removed.
    doomed: Vec<Doomed>,
    /// What entries of the batch being committed were before it.
    inflight: BTreeMap<String, Option<Record>>,
    /// Only what is committed and alive.
    cache: EntryCache,
    /// Only what is committed.
    pages: PageCache,
}

/// The versions that lists are being read at: their history is kept.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<u64, usize>>);

impl Pins {
    /// The oldest version a list is being read at.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.0.lock().keys().next().copied()
    }
}

/// One version to be read page by page.
#[derive(Debug)]
pub(crate) struct Snapshot {
    version: u64,
    /// Changes up to this one are known in `changed`.
    seen: u64,
    /// Names changed since, with the first change after the version.
    changed: BTreeMap<String, u64>,
    pins: Arc<Pins>,
}

impl Snapshot {
    pub(crate) fn version(&self) -> Version {
        Version::new(self.version)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.version);
            }
        }
    }
}

/// Some entries in order, with their native names.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) entries: Vec<(String, Record)>,
    /// The name up to which it was read; none if there is nothing behind.
    pub(crate) read_to: Option<String>,
}

impl State {
    fn client(&self) -> Result<&Client> {
        self.client.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable)
                .with_detail("a write failed before, and the database could not be opened again yet")
        })
    }

    /// Whether this snapshot can still be read.
    fn check(&self, snapshot: &Snapshot) -> Result<()> {
        if self.oldest > snapshot.version { Err(behind()) } else { Ok(()) }
    }

    fn get(&self, native: &str) -> Result<Option<(Record, Bytes)>> {
        let client = self.client()?;
        let with_value = |record: Record| read_value(client, &record).map(|value| (record, value));
        if let Some(old) = self.inflight.get(native) {
            return old.clone().map(with_value).transpose();
        }
        if let Some(known) = self.cache.get(native) {
            return Ok(Some(known));
        }
        let record = read_record(client, native)?.map(|(record, _)| record);
        let alive = record.filter(|record| !is_dead(&self.doomed, native, record.version));
        let entry = alive.map(with_value).transpose()?;
        if let Some(entry) = &entry {
            self.cache.keep(native, entry);
        }
        Ok(entry)
    }
}

impl View {
    /// `cache` is how many bytes of entries are kept in memory, and how many of pages of lists.
    pub(crate) fn new(client: Client, meta: &Meta, doomed: Vec<Doomed>, cache: usize) -> Self {
        let state = State {
            client: Some(Arc::new(client)),
            committed: meta.version,
            oldest: meta.oldest(),
            doomed,
            inflight: BTreeMap::new(),
            cache: EntryCache::new(cache),
            pages: PageCache::new(cache),
        };
        Self { state: RwLock::new(state), pins: Arc::default() }
    }

    /// The database itself, committed or not: for the committer.
    pub(crate) fn client(&self) -> Result<Arc<Client>> {
        let state = self.state.read();
        state.client()?;
        state.client.clone().ok_or_else(|| ErrorKind::Unavailable.into())
    }

    pub(crate) fn doomed(&self) -> Vec<Doomed> {
        self.state.read().doomed.clone()
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The version readers see.
    pub(crate) fn committed(&self) -> u64 {
        self.state.read().committed
    }

    /// To be called before a batch is applied, with what its entries were before, and up to which version
    /// it lets go of history: from then on nobody begins to read an older state.
    pub(crate) fn hide(&self, inflight: BTreeMap<String, Option<Record>>, floor: u64) {
        let mut state = self.state.write();
        state.inflight = inflight;
        state.oldest = state.oldest.max(floor);
    }

    /// To be called when the batch is as durable as promised.
    pub(crate) fn show(&self, meta: &Meta, doomed: Option<Vec<Doomed>>) {
        let shown = {
            let mut state = self.state.write();
            state.committed = meta.version;
            state.oldest = meta.oldest();
            match doomed {
                // What they cover is dead, and nobody has named it one by one.
                Some(doomed) => {
                    state.doomed = doomed;
                    state.cache.forget_all();
                    state.pages.forget_all();
                }
                None => state.inflight.keys().for_each(|native| {
                    state.cache.forget(native);
                    state.pages.forget(native);
                }),
            }
            std::mem::take(&mut state.inflight)
        };
        drop(shown);
    }

    /// Takes the database away, to close it. Readers that use it now have done when this returns.
    pub(crate) fn detach(&self) -> Option<Arc<Client>> {
        self.state.write().client.take()
    }

    /// Gives it back, opened again, in a state not older than the one readers saw.
    pub(crate) fn attach(&self, client: Client, meta: &Meta, doomed: Vec<Doomed>) {
        self.state.write().client = Some(Arc::new(client));
        self.show(meta, Some(doomed));
    }

    /// The entry under a native name, and its value.
    pub(crate) fn get(&self, native: &str) -> Result<Option<(Record, Bytes)>> {
        // Held to the end: no chunk of the value can go meanwhile.
        self.state.read().get(native)
    }

    /// The committed state, to be read in pages.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.read();
        let version = state.committed;
        *self.pins.0.lock().entry(version).or_default() += 1;
        Snapshot { version, seen: version, changed: BTreeMap::new(), pins: Arc::clone(&self.pins) }
    }

    /// The state at an older version, to be read in pages.
    ///
    /// # Errors
    ///
    /// `Compacted` with the oldest version if its history is gone; `InvalidArgument` if it is yet to come.
    pub(crate) fn snapshot_at(&self, at: Version) -> Result<Snapshot> {
        let state = self.state.read();
        let version = at.get();
        if version > state.committed {
            let newest = state.committed;
            let reason = format!("the version {version} is yet to come: the newest is {newest}");
            return Err(Error::invalid_argument(reason));
        }
        if version < state.oldest {
            return Err(ErrorKind::Compacted { oldest: Some(Version::new(state.oldest)) }.into());
        }
        *self.pins.0.lock().entry(version).or_default() += 1;
        Ok(Snapshot { version, seen: version, changed: BTreeMap::new(), pins: Arc::clone(&self.pins) })
    }

    /// The versions of the key with a native name that history has, the oldest first: at most the newest
    /// `limit` of them.
    pub(crate) fn versions(&self, native: &str, key: &Key, limit: usize) -> Result<Vec<KeyVersion>> {
        // Held to the end: no chunk of a value can go meanwhile.
        let state = self.state.read();
        let client = state.client()?;
        let mut first = None;
        let mut left = Vec::new();
        scan_events(client, state.oldest, state.committed, |version, event, _| {
            if event.name == native {
                if first.is_none() {
                    first = Some(event.before);
                }
                left.push((version, event.left));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let kept = |record: Record| -> Result<KeyVersion> {
            let value = read_value(client, &record)?;
            let (version, created) = (Version::new(record.version), Version::new(record.created));
            Ok(KeyVersion::put(Entry::new(key.clone(), value, version, created)))
        };
        let oldest = match first {
            Some(before) => before,
            // Nothing was changed since the oldest version.
            None => state.get(native)?.map(|(record, _)| record),
        };
        let mut versions = Vec::new();
        let skipped = (usize::from(oldest.is_some()) + left.len()).saturating_sub(limit);
        let all = oldest.map(|record| (record.version, Left::Entry(record))).into_iter().chain(left);
        for (version, left) in all.skip(skipped) {
            versions.push(match left {
                Left::Entry(record) => kept(record)?,
                Left::Nothing(_) => KeyVersion::deleted(Version::new(version)),
            });
        }
        Ok(versions)
    }

    /// The first entries of a snapshot within `range`, about `max` of them; there is no more if there
    /// are none.
    ///
    /// # Errors
    ///
    /// `Compacted` if more was changed since than is kept.
    pub(crate) fn page(&self, snapshot: &mut Snapshot, range: &NameRange, max: usize) -> Result<Found> {
        if range.is_empty() {
            return Ok(Found { entries: Vec::new(), read_to: None });
        }
        let mut range = range.clone();
        loop {
            // Most of what was changed since is read before the view is held.
            catch_up(&*self.client()?, snapshot, &range, self.committed())?;
            let state = self.state.read();
            let client = state.client()?;
            catch_up(client, snapshot, &range, state.committed)?;
            state.check(snapshot)?;
            let found = page_of(client, &state, snapshot, &range, max)?;
            client.reclaim();
            match found.read_to {
                // Everything there is newer than the snapshot, or dead. Others come first.
                Some(read_to) if found.entries.is_empty() => range.from = Bound::Excluded(read_to),
                _ => return Ok(found),
            }
        }
    }

    /// The page that a snapshot's range begins with, if it is in memory.
    ///
    /// # Errors
    ///
    /// As for a page.
    pub(crate) fn known_page(
        &self,
        snapshot: &Snapshot,
        range: &NameRange,
        namespace: &Namespace,
    ) -> Result<Option<Arc<Page>>> {
        let state = self.state.read();
        state.client()?;
        state.check(snapshot)?;
        // Kept is the committed state: the snapshot's own if nothing in its range was changed since.
        let is_own = snapshot.seen == state.committed && snapshot.changed.is_empty();
        Ok(state.pages.get(namespace, &range.from).filter(|_| is_own))
    }

    /// Reads the page that a snapshot's range begins with, of about `max` entries, and keeps it while
    /// `kept`, which counts the bytes, is not too much for one list.
    ///
    /// # Errors
    ///
    /// As for a page.
    pub(crate) fn read_page(
        &self,
        snapshot: &mut Snapshot,
        range: &NameRange,
        max: usize,
        namespace: &Namespace,
        kept: &mut usize,
    ) -> Result<Arc<Page>> {
        let (mut rest, mut is_own, mut first) = (range.clone(), true, None);
        loop {
            catch_up(&*self.client()?, snapshot, &rest, self.committed())?;
            let state = self.state.read();
            let client = state.client()?;
            catch_up(client, snapshot, &rest, state.committed)?;
            state.check(snapshot)?;
            // Of what is passed over too: the page speaks for it. A change that is shown between two
            // rounds can be in the part that was passed over, and has forgotten pages already.
            is_own &= snapshot.changed.is_empty() && *first.get_or_insert(state.committed) == state.committed;
            let found = page_of(client, &state, snapshot, &rest, max)?;
            client.reclaim();
            if let Some(read_to) = found.read_to.as_ref().filter(|_| found.entries.is_empty()) {
                rest.from = Bound::Excluded(read_to.clone());
                continue;
            }
            let page = Arc::new(page_for(client, found, range, namespace)?);
            if is_own && *kept < state.pages.share() {
                *kept += page.bytes();
                state.pages.keep(namespace, &page);
            }
            return Ok(page);
        }
    }

    /// The entry of a record that [`page`](Self::page) found; none for a name that is no key as seen from
    /// this namespace.
    ///
    /// # Errors
    ///
    /// As for a page.
    pub(crate) fn entry(
        &self,
        snapshot: &Snapshot,
        namespace: &Namespace,
        native: &str,
        record: &Record,
    ) -> Result<Option<Entry>> {
        let state = self.state.read();
        state.check(snapshot)?;
        entry_of(state.client()?, namespace, native, record)
    }
}

/// The entry of a record as seen from a namespace; none for a name that is no key there.
fn entry_of(client: &Client, namespace: &Namespace, native: &str, record: &Record) -> Result<Option<Entry>> {
    let Some(key) = namespace.key(native) else { return Ok(None) };
    let value = read_value(client, record).map_err(|error| error.with_key(key.as_str()))?;
    Ok(Some(Entry::new(key, value, Version::new(record.version), Version::new(record.created))))
}

/// A page of what was found at the beginning of a range, as far as its values are not too large.
fn page_for(client: &Client, found: Found, range: &NameRange, namespace: &Namespace) -> Result<Page> {
    let mut to = found.read_to.map_or_else(|| range.to.clone(), Bound::Included);
    let mut entries = Vec::with_capacity(found.entries.len());
    let mut bytes = 0;
    for (native, record) in found.entries {
        // Too long for a key as seen from here, though not from further down.
        let Some(entry) = entry_of(client, namespace, &native, &record)? else { continue };
        bytes += entry.value.len();
        entries.push(Listed { entry, expiry: record.expiry });
        if bytes >= PAGE_BYTES {
            to = Bound::Included(native);
            break;
        }
    }
    Ok(Page { range: NameRange { from: range.from.clone(), to }, entries })
}

/// A page of what is there now, with what was changed since put back.
fn page_of(
    client: &Client,
    state: &State,
    snapshot: &Snapshot,
    range: &NameRange,
    max: usize,
) -> Result<Found> {
    let mut last = None;
    let mut skipped = 0;
    let mut found = Vec::with_capacity(max);
    client.scan(range.data_keys(), |key, bytes| {
        let name = native_name(key)?;
        let (content, _) = unseal(key, bytes).map_err(|error| error.with_key(name))?;
        let record = Record::decode(content)?;
        if is_dead(&state.doomed, name, record.version) {
            skipped += 1;
        } else {
            found.push((name.to_owned(), record));
        }
        if found.len() >= max || skipped >= MAX_SKIPPED {
            last = Some(name.to_owned());
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let to = last.clone().map_or_else(|| range.to.clone(), Bound::Included);
    let bounds = (range.from.as_ref(), to.as_ref());
    let mut hidden = state.inflight.range::<String, _>(bounds).peekable();
    let mut changed = snapshot.changed.range::<String, _>(bounds).peekable();
    if hidden.peek().is_none() && changed.peek().is_none() {
        return Ok(Found { entries: found, read_to: last });
    }
    let mut all: BTreeMap<String, Option<Record>> =
        found.into_iter().map(|(name, record)| (name, Some(record))).collect();
    for (name, old) in hidden {
        all.insert(name.clone(), old.clone());
    }
    for (name, version) in changed {
        all.insert(name.clone(), read_event(client, *version)?.before);
    }
    let entries = all.into_iter().filter_map(|(name, record)| Some((name, record?))).collect();
    Ok(Found { entries, read_to: last })
}

/// Notes what was changed up to `committed` in the range that is still to be read.
fn catch_up(client: &Client, snapshot: &mut Snapshot, range: &NameRange, committed: u64) -> Result<()> {
    if snapshot.seen >= committed {
        return Ok(());
    }
    let bounds = (range.from.as_ref(), range.to.as_ref());
    scan_events(client, snapshot.seen, committed, |version, event, _| {
        if std::ops::RangeBounds::<String>::contains(&bounds, &event.name) {
            snapshot.changed.entry(event.name).or_insert(version);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    snapshot.seen = committed;
    // What lies behind the reader is not needed any more.
    snapshot.changed.retain(|name, _| std::ops::RangeBounds::<String>::contains(&bounds, name));
    if snapshot.changed.len() as u64 > MAX_BEHIND {
        return Err(behind());
    }
    Ok(())
}

fn behind() -> Error {
    Error::new(ErrorKind::Compacted { oldest: None }).with_detail(
        "so much was written while this list was read that its version is gone: \
         read it faster, in parts, or keep more with ?history=",
    )
}

/// The native name in the key of an entry.
pub(crate) fn native_name(key: &[u8]) -> Result<&str> {
    std::str::from_utf8(key.get(1..).unwrap_or_default())
        .map_err(|_| corrupt("the name of an entry is not text"))
}

/// The entry under a native name, with its stamp, committed or not.
pub(crate) fn read_record(client: &Client, native: &str) -> Result<Option<(Record, Stamp)>> {
    let key = record::data_key(native);
    let Some(bytes) = client.get(&key)? else { return Ok(None) };
    let (content, stamp) = unseal(&key, bytes.as_ref())?;
    Ok(Some((Record::decode(content)?, stamp)))
}

/// The value of a record.
pub(crate) fn read_value(client: &Client, record: &Record) -> Result<Bytes> {
    let (len, digest) = match &record.value {
        Value::Inline(bytes) => return Ok(bytes.clone()),
        Value::Chunked { len, digest } => (*len, *digest),
    };
    let mut value = BytesMut::with_capacity(record.value.len());
    let mut sum = 0u64;
    let first = record::pair_key(space::CHUNK, record.version, 0);
    let last = record::pair_key(space::CHUNK, record.version, u64::MAX);
    client.scan((Bound::Included(first), Bound::Included(last)), |key, bytes| {
        let (content, stamp) = unseal(key, bytes)?;
        value.extend_from_slice(content);
        sum = sum.wrapping_add(stamp.seal);
        Ok(ControlFlow::Continue(()))
    })?;
    if value.len() as u64 != len || sum != digest {
        return Err(corrupt("a part of the value is missing"));
    }
    Ok(value.freeze())
}

/// The change made with a version.
pub(crate) fn read_event(client: &Client, version: u64) -> Result<Event> {
    let key = record::number_key(space::HISTORY, version);
    let bytes = client.get(&key)?.ok_or_else(|| corrupt(format!("the change {version} is missing")))?;
    Event::decode(unseal(&key, bytes.as_ref())?.0)
}

/// Shows the changes after one version up to another, with their stamps.
pub(crate) fn scan_events(
    client: &Client,
    after: u64,
    up_to: u64,
    mut visit: impl FnMut(u64, Event, Stamp) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let from = Bound::Excluded(record::number_key(space::HISTORY, after));
    let to = Bound::Included(record::number_key(space::HISTORY, up_to));
    client.scan((from, to), |key, bytes| {
        let version = record::number_in(key, 0).ok_or_else(|| corrupt("a change has no version"))?;
        let (content, stamp) = unseal(key, bytes)?;
        visit(version, Event::decode(content)?, stamp)
    })
}
