//! The one log of a store's changes: bounded, and the history watches can begin in.

use std::collections::VecDeque;
use std::sync::Arc;

use kv_core::{DeleteCause, Deletion, Entry, Key, Version, WatchEvent};

use crate::namespace::Namespace;

/// One change, as the log keeps it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The namespace its keys are relative to.
    namespace: Arc<Namespace>,
    version: Version,
    event: WatchEvent,
    /// See [`replacing`](Self::replacing).
    replaced: usize,
}

impl Change {
    /// A put that left this entry, whose key is relative to `namespace`.
    #[must_use]
    pub fn put(namespace: Arc<Namespace>, entry: Entry) -> Self {
        Self { namespace, version: entry.version, event: WatchEvent::Put(entry), replaced: 0 }
    }

    /// The deletion of this entry, whose key is relative to `namespace`, at `version`.
    #[must_use]
    pub fn delete(namespace: Arc<Namespace>, previous: Entry, version: Version, cause: DeleteCause) -> Self {
        let deletion = Deletion::new(previous.key.clone())
            .with_version(version)
            .with_cause(cause)
            .with_previous(previous);
        Self { namespace, version, event: WatchEvent::Delete(deletion), replaced: 0 }
    }

    /// The deletion of an entry whose value is not told.
    #[must_use]
    pub fn delete_unseen(namespace: Arc<Namespace>, key: Key, version: Version, cause: DeleteCause) -> Self {
        let deletion = Deletion::new(key).with_version(version).with_cause(cause);
        Self { namespace, version, event: WatchEvent::Delete(deletion), replaced: 0 }
    }

    /// The same, counted as so many bytes more against the bound on history: what the store keeps of the
    /// value that a put took the place of, as long as the log has the change.
    #[must_use]
    pub fn replacing(mut self, bytes: usize) -> Self {
        self.replaced = bytes;
        self
    }

    /// The version the change was made with.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn event(&self) -> &WatchEvent {
        &self.event
    }

    /// Calls `see` with the native name of the key. It is made only where it differs from the key.
    pub(super) fn with_native<T>(&self, see: impl FnOnce(&str) -> T) -> T {
        let key = key_of(&self.event).map_or("", Key::as_str);
        if self.namespace.path().is_empty() { see(key) } else { see(&[self.namespace.path(), key].concat()) }
    }

    /// The event as a handle of `namespace` sees it; `None` where the key is none there.
    pub(super) fn seen_from(&self, namespace: &Namespace) -> Option<WatchEvent> {
        if self.namespace.path() == namespace.path() {
            return Some(self.event.clone());
        }
        let key = self.with_native(|native| namespace.key(native))?;
        let mut event = self.event.clone();
        match &mut event {
            WatchEvent::Put(entry) => entry.key = key,
            WatchEvent::Delete(deletion) => {
                if let Some(previous) = &mut deletion.previous {
                    previous.key = key.clone();
                }
                deletion.key = key;
            }
            _ => return None,
        }
        Some(event)
    }

    /// What it is counted as against the bound on bytes.
    pub(super) fn bytes(&self) -> usize {
        let entry = |entry: &Entry| entry.key.as_str().len() + entry.value.len();
        size_of::<Self>()
            + self.replaced
            + match &self.event {
                WatchEvent::Put(put) => entry(put),
                WatchEvent::Delete(deletion) => deletion.previous.as_ref().map_or(0, entry),
                _ => 0,
            }
    }
}

/// The key an event is about.
pub(super) fn key_of(event: &WatchEvent) -> Option<&Key> {
    match event {
        WatchEvent::Put(entry) => Some(&entry.key),
        WatchEvent::Delete(deletion) => Some(&deletion.key),
        _ => None,
    }
}

/// How much history a [`Hub`](super::Hub) keeps: the newest changes within both bounds, and the
/// newest one always.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HubOptions {
    /// The most changes.
    pub max_events: usize,
    /// The most bytes of keys, values and bookkeeping.
    pub max_bytes: usize,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { max_events: 10_000, max_bytes: 64 << 20 }
    }
}

impl HubOptions {
    /// The same with at most this many changes.
    #[must_use]
    pub fn with_max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
        self
    }

    /// The same with at most this many bytes.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }
}

#[derive(Debug)]
struct Logged {
    change: Arc<Change>,
    /// Whether some topic lists it, or did.
    listed: bool,
}

/// The changes, numbered without gaps by their place in the log.
#[derive(Debug)]
pub(super) struct Log {
    changes: VecDeque<Logged>,
    /// The place of the oldest change there is.
    first: u64,
    bytes: usize,
    options: HubOptions,
    /// Every change after this version is in the log.
    complete_after: Version,
    newest: Version,
}

impl Log {
    pub(super) fn new(options: HubOptions, complete_after: Version) -> Self {
        Self { changes: VecDeque::new(), first: 0, bytes: 0, options, complete_after, newest: complete_after }
    }

    /// The place the next change will have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    pub(super) fn complete_after(&self) -> Version {
        self.complete_after
    }

    /// Adds a change; `listed` tells whether some topic lists it.
    pub(super) fn push(&mut self, change: Arc<Change>, listed: bool) {
        debug_assert!(change.version >= self.newest, "changes come in the order of their versions");
        self.newest = change.version;
        self.bytes += change.bytes();
        self.changes.push_back(Logged { change, listed });
    }

    pub(super) fn newest(&self) -> Version {
        self.newest
    }

    /// Forgets every change. What comes next comes after `version`, and not at the place that would
    /// have been next: that one is lost.
    pub(super) fn clear(&mut self, version: Version) {
        self.first = self.next() + 1;
        self.changes.clear();
        self.bytes = 0;
        self.complete_after = self.newest.max(version);
        self.newest = self.complete_after;
    }

    /// Takes out the oldest changes while the log is over its bounds, and returns the first of them
    /// that some topic listed.
    pub(super) fn overflow(&mut self) -> Option<(u64, Arc<Change>)> {
        while self.changes.len() > 1
            && (self.changes.len() > self.options.max_events || self.bytes > self.options.max_bytes)
        {
            let Logged { change, listed } = self.changes.pop_front()?;
            self.bytes -= change.bytes();
            self.complete_after = change.version;
            let place = self.first;
            self.first += 1;
            if listed {
                return Some((place, change));
            }
        }
        None
    }

    /// Takes out the oldest changes up to `version`, as [`overflow`](Self::overflow) does.
    pub(super) fn compact(&mut self, version: Version) -> Option<(u64, Arc<Change>)> {
        while self.changes.front().is_some_and(|logged| logged.change.version <= version) {
            let Logged { change, listed } = self.changes.pop_front()?;
            self.bytes -= change.bytes();
            let place = self.first;
            self.first += 1;
            if listed {
                return Some((place, change));
            }
        }
        self.complete_after = self.complete_after.max(version);
        self.newest = self.newest.max(version);
        None
    }

    /// The changes in the log between two places that a topic is to list, with their places.
    pub(super) fn list(
        &mut self,
        from: u64,
        to: u64,
        is_wanted: impl Fn(&Change) -> bool,
    ) -> impl Iterator<Item = (u64, Arc<Change>)> {
        let at = |place: u64| usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let (from, to) = (at(from).min(self.changes.len()), at(to).min(self.changes.len()));
        let places = self.first + from as u64..;
        places.zip(self.changes.range_mut(from..to.max(from))).filter_map(move |(place, logged)| {
            is_wanted(&logged.change).then(|| {
                logged.listed = true;
                (place, Arc::clone(&logged.change))
            })
        })
    }

    /// The place of the first change after `version`; `Err` with the oldest version that can be asked
    /// for if some are gone.
    pub(super) fn after(&self, version: Version) -> Result<u64, Version> {
        if version < self.complete_after {
            return Err(self.complete_after);
        }
        Ok(self.first + self.changes.partition_point(|logged| logged.change.version <= version) as u64)
    }
}
