//! The events of a watch, folded into the state they tell of.

use std::collections::BTreeMap;

use crate::entry::Entry;
use crate::key::Key;
use crate::watch::{DeleteCause, WatchEvent};

/// The state a watch tells of, kept by its events.
///
/// Give it each event of one watch, in order. It does what the events ask for: after a `Resync` it
/// collects the state that follows and compares it with what it had, so that keys that went in the gap
/// are told as deletions. Until the `Synced` that ends it the state is the last complete one.
///
/// It holds every entry of the watch in memory, and twice as many during a `Resync`.
///
/// ```
/// use kv_core::{Bytes, Entry, Version, WatchEvent, WatchState};
///
/// let entry = |at| Entry::new("a".parse().unwrap(), Bytes::new(), Version::new(at), Version::new(1));
/// let mut state = WatchState::new();
/// assert!(state.apply(WatchEvent::Put(entry(1))).is_empty(), "not complete yet");
/// let changes = state.apply(WatchEvent::Synced);
/// assert!(changes[0].old.is_none() && changes[0].new == Some(entry(1)));
/// let changes = state.apply(WatchEvent::Put(entry(2)));
/// assert_eq!(changes[0].old, Some(entry(1)));
/// ```
#[derive(Clone, Debug)]
pub struct WatchState {
    entries: BTreeMap<Key, Entry>,
    /// What was told since the start or the last `Resync`, until `Synced`.
    collecting: Option<BTreeMap<Key, Entry>>,
}

/// What an event changed of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyChange {
    /// The key.
    pub key: Key,
    /// What was there before; `None`: nothing.
    pub old: Option<Entry>,
    /// What is there now; `None`: nothing.
    pub new: Option<Entry>,
    /// Why it went, of a deletion that the watch told. `None` for puts, and for a deletion that was found
    /// by comparing the states before and after a gap.
    pub cause: Option<DeleteCause>,
}

impl WatchState {
    /// For a watch that begins with the entries there are
    /// ([`WatchOptions::with_initial`](crate::WatchOptions::with_initial)).
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), collecting: Some(BTreeMap::new()) }
    }

    /// For a watch that begins where a list ended: these are the entries of the list.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self { entries: by_key(entries), collecting: None }
    }

    /// Whether the state is complete and up to date with the last event.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.collecting.is_none()
    }

    /// The entry under `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries, in key order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.values()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes the next event and tells what it changed, in key order.
    ///
    /// An event that is no newer than what is known of its key changes nothing.
    pub fn apply(&mut self, event: WatchEvent) -> Vec<KeyChange> {
        match event {
            WatchEvent::Put(entry) => match &mut self.collecting {
                Some(collecting) => {
                    collecting.insert(entry.key.clone(), entry);
                    Vec::new()
                }
                None => self.put(entry).into_iter().collect(),
            },
            WatchEvent::Delete(deletion) => {
                if let Some(collecting) = &mut self.collecting {
                    collecting.remove(&deletion.key);
                    return Vec::new();
                }
                let known = self.entries.get(&deletion.key).map(|entry| entry.version);
                if deletion.version.is_some_and(|at| known.is_some_and(|known| known > at)) {
                    return Vec::new();
                }
                let old = self.entries.remove(&deletion.key);
                let change = |old| KeyChange {
                    key: deletion.key,
                    old: Some(old),
                    new: None,
                    cause: Some(deletion.cause),
                };
                old.map(change).into_iter().collect()
            }
            WatchEvent::Resync => {
                self.collecting = Some(BTreeMap::new());
                Vec::new()
            }
            WatchEvent::Synced => {
                let Some(now) = self.collecting.take() else { return Vec::new() };
                let before = std::mem::replace(&mut self.entries, now);
                self.since(before)
            }
        }
    }

    fn put(&mut self, entry: Entry) -> Option<KeyChange> {
        if self.entries.get(&entry.key).is_some_and(|known| known.version >= entry.version) {
            return None;
        }
        let old = self.entries.insert(entry.key.clone(), entry.clone());
        Some(KeyChange { key: entry.key.clone(), old, new: Some(entry), cause: None })
    }

    /// What is different from the state before a gap.
    fn since(&self, mut before: BTreeMap<Key, Entry>) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        for (key, entry) in &self.entries {
            let old = before.remove(key);
            if old.as_ref().is_none_or(|old| old.version != entry.version) {
                changes.push(KeyChange { key: key.clone(), old, new: Some(entry.clone()), cause: None });
            }
        }
        let gone =
            before.into_iter().map(|(key, old)| KeyChange { key, old: Some(old), new: None, cause: None });
        changes.extend(gone);
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }
}

impl Default for WatchState {
    fn default() -> Self {
        Self::new()
    }
}

fn by_key(entries: impl IntoIterator<Item = Entry>) -> BTreeMap<Key, Entry> {
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;
    use crate::watch::Deletion;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn entry(text: &str, version: u64) -> Entry {
        Entry::new(key(text), bytes::Bytes::new(), Version::new(version), Version::new(1))
    }

    fn put(text: &str, version: u64) -> WatchEvent {
        WatchEvent::Put(entry(text, version))
    }

    fn delete(text: &str, version: u64) -> WatchEvent {
        WatchEvent::Delete(
            Deletion::new(key(text)).with_version(Version::new(version)).with_cause(DeleteCause::Deleted),
        )
    }

    #[test]
    fn a_gap_is_told_as_what_it_changed() {
        let mut state = WatchState::of([entry("a", 1), entry("b", 2), entry("c", 3)]);
        assert!(state.apply(WatchEvent::Resync).is_empty());
        assert!(!state.is_complete());
        for event in [put("a", 1), put("c", 9), put("d", 8)] {
            assert!(state.apply(event).is_empty());
        }
        assert_eq!(state.len(), 3, "the last complete state");
        let changes = state.apply(WatchEvent::Synced);
        let told: Vec<_> = changes
            .iter()
            .map(|change| {
                let version = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.version.get());
                (change.key.as_str(), version(&change.old), version(&change.new), change.cause)
            })
            .collect();
        assert_eq!(
            told,
            [("b", Some(2), None, None), ("c", Some(3), Some(9), None), ("d", None, Some(8), None)]
        );
        assert!(state.is_complete());
    }

    #[test]
    fn what_is_not_newer_changes_nothing() {
        let mut state = WatchState::of([entry("a", 5)]);
        for event in [put("a", 5), put("a", 4), delete("a", 4), delete("b", 9), WatchEvent::Synced] {
            assert!(state.apply(event).is_empty());
        }
        let changes = state.apply(delete("a", 6));
        assert_eq!((changes[0].cause, changes[0].new.as_ref()), (Some(DeleteCause::Deleted), None));
        assert!(state.is_empty());
    }
}
