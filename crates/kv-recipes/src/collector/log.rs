//! The bounded log of a collector.

use std::collections::BTreeMap;

use kv_core::{Entry, Key, KeyChange, Version, WatchEvent, WatchState};

/// A change that a collector recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// What changed of which key.
    pub change: KeyChange,
    /// The version of the change, where the store tells; always for puts.
    pub version: Option<Version>,
    /// Whether it can stand for several changes of its key: it was found by comparing states after a gap of
    /// the watch, or the log was over its bound.
    pub merged: bool,
}

/// What is recorded, and the state that it leads to.
pub(super) struct Log {
    state: WatchState,
    changes: Vec<Recorded>,
    bytes: usize,
    bounds: Bounds,
    /// The number of changes at which the log is made smaller again.
    shrink_at: usize,
    shrink_at_bytes: usize,
    /// Whether each single change is in the log.
    pub(super) complete: bool,
    /// The keys that went, with the greatest version that was known of each.
    gone: BTreeMap<Key, Version>,
    /// The greatest version of those that went and are not in `gone` any more, as they were too many.
    forgotten: Option<Version>,
}

#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) changes: usize,
    pub(super) bytes: usize,
}

impl Log {
    /// An empty log on top of these entries.
    pub(super) fn new(entries: &[Entry], bounds: Bounds, complete: bool) -> Self {
        Self {
            state: WatchState::of(entries.iter().cloned()),
            changes: Vec::new(),
            bytes: 0,
            bounds,
            shrink_at: bounds.changes,
            shrink_at_bytes: bounds.bytes,
            complete,
            gone: BTreeMap::new(),
            forgotten: None,
        }
    }

    pub(super) fn state(&self) -> &WatchState {
        &self.state
    }

    pub(super) fn into_changes(self) -> Vec<Recorded> {
        self.changes
    }

    pub(super) fn apply(&mut self, event: WatchEvent) {
        let told = event.version();
        // What comes of a gap is what the states before and after it differ in.
        let merged = event == WatchEvent::Synced;
        if event == WatchEvent::Resync {
            self.complete = false;
        }
        for change in self.state.apply(event) {
            let version = change.new.as_ref().map(|entry| entry.version).or(told);
            self.record(Recorded { change, version, merged });
        }
    }

    /// Whether this entry, or something newer, was told.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let known = self.state.get(&entry.key).map(|known| known.version);
        let went = self.gone.get(&entry.key).copied().max(self.forgotten);
        known.max(went) >= Some(entry.version)
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    fn record(&mut self, recorded: Recorded) {
        if let (Some(old), None) = (&recorded.change.old, &recorded.change.new) {
            self.gone.insert(old.key.clone(), old.version);
            if self.gone.len() > self.bounds.changes {
                self.forgotten = self.forgotten.max(self.gone.values().max().copied());
                self.gone.clear();
            }
        }
        self.bytes += size(&recorded);
        self.changes.push(recorded);
        if self.changes.len() > self.shrink_at || self.bytes > self.shrink_at_bytes {
            self.shrink();
        }
    }

    /// Keeps the last change of each key only. What is left then is the least there is to know, so the log
    /// may double before it is tried again.
    fn shrink(&mut self) {
        self.complete = false;
        let mut last: BTreeMap<Key, (usize, Recorded)> = BTreeMap::new();
        for (at, next) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            let key = next.change.key.clone();
            let folded = match last.remove(&key) {
                None => next,
                Some((_, mut first)) => {
                    first.change.new = next.change.new;
                    first.change.cause = next.change.cause;
                    Recorded { version: next.version, merged: true, ..first }
                }
            };
            last.insert(key, (at, folded));
        }
        let mut left: Vec<(usize, Recorded)> = last.into_values().collect();
        // What came and went again has left nothing.
        left.retain(|(_, recorded)| recorded.change.old.is_some() || recorded.change.new.is_some());
        left.sort_unstable_by_key(|(at, _)| *at);
        self.changes = left.into_iter().map(|(_, recorded)| recorded).collect();
        self.bytes = self.changes.iter().map(size).sum();
        self.shrink_at = self.bounds.changes.max(2 * self.changes.len());
        self.shrink_at_bytes = self.bounds.bytes.max(2 * self.bytes);
    }
}

/// What a change holds that nothing else does: the state shares the newest value.
fn size(recorded: &Recorded) -> usize {
    let value = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len());
    recorded.change.key.as_str().len() + value(&recorded.change.old) + value(&recorded.change.new)
}
