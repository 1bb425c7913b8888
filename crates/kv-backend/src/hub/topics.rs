//! Who watches what: the index that leads a change to the watches it matches, and to no other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use kv_core::WatchFilter;
use slab::Slab;

use super::log::{Change, Log};
use crate::handle::HandleId;
use crate::wakes::Wakes;

pub(super) type TopicId = usize;

/// One watch. Never used again, unlike a [`TopicId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WatchId(pub(super) u64);

/// How many changes of its own a topic keeps for members that have not read them, and how many bytes
/// of them, when the log has let them go: what others write must not make a watch late.
const KEPT_EVENTS: usize = 1024;
const KEPT_BYTES: usize = 256 << 10;

/// What a topic is about, as native names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A key's name; or a prefix with its slash (empty for everything), and then all that begins so. The
    /// two never meet.
    Path(String),
    /// A key's name and everything below it.
    Tree(String),
}

impl Scope {
    fn contains(&self, native: &str) -> bool {
        match self {
            Self::Path(path) if path.is_empty() || path.ends_with('/') => native.starts_with(path),
            Self::Path(path) => native == path,
            Self::Tree(path) => native
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// All watches of one target with one filter. They share the list of the changes that match, so a
/// watch costs the same however many changes it has not read.
#[derive(Debug)]
pub(super) struct Topic {
    scope: Scope,
    filter: WatchFilter,
    /// The changes that match and that somebody may not have read, with their places in the log:
    /// all of them from `known_from` on.
    matching: VecDeque<(u64, Arc<Change>)>,
    known_from: u64,
    /// How many of them the log has let go, and their bytes.
    kept_events: usize,
    kept_bytes: usize,
    /// Matching changes before this place are gone.
    lost_before: u64,
    members: HashMap<WatchId, HandleId>,
    /// The members that have read everything, and whom to wake.
    parked: HashMap<WatchId, Waker>,
}

impl Topic {
    /// Whether a watch that has read up to `position` has missed a matching change.
    pub(super) fn has_lost(&self, position: u64) -> bool {
        position < self.lost_before
    }

    /// The first matching change at or behind `position`, and its place.
    pub(super) fn next_match(&self, position: u64) -> Option<(u64, Arc<Change>)> {
        let at = match self.matching.back() {
            // Who has read everything is the usual case.
            None => return None,
            Some((last, _)) if *last < position => return None,
            Some(_) => self.matching.partition_point(|(place, _)| *place < position),
        };
        self.matching.get(at).cloned()
    }

    /// Notes a member that has read everything, and whom to wake when there is more. `next` is the
    /// place the next change will have.
    pub(super) fn park(&mut self, watch: WatchId, waker: &Waker, next: u64) {
        self.parked
            .entry(watch)
            .and_modify(|parked| parked.clone_from(waker))
            .or_insert_with(|| waker.clone());
        if self.parked.len() == self.members.len() && !self.matching.is_empty() {
            self.matching.clear();
            (self.kept_events, self.kept_bytes) = (0, 0);
            self.known_from = next;
        }
    }

    /// Notes that the log lets a matching change go. It is kept here within bounds.
    fn keep(&mut self, place: u64, change: &Change) {
        // What everybody has read is not listed any more.
        if self.matching.get(self.kept_events).is_none_or(|(listed, _)| *listed != place) {
            return;
        }
        self.kept_events += 1;
        self.kept_bytes += change.bytes();
        while self.kept_events > KEPT_EVENTS || self.kept_bytes > KEPT_BYTES {
            let Some((place, lost)) = self.matching.pop_front() else { return };
            self.kept_events -= 1;
            self.kept_bytes -= lost.bytes();
            self.lost_before = place + 1;
            self.known_from = self.known_from.max(place + 1);
        }
    }

    pub(super) fn has_member(&self, watch: WatchId) -> bool {
        self.members.contains_key(&watch)
    }
}

/// Topics by the text of their scope.
#[derive(Debug, Default)]
struct Index {
    by_text: HashMap<Box<str>, Vec<TopicId>>,
    /// How many of the texts have each length. A change is looked up only under the lengths there
    /// are: most of the ways to lie below something are ruled out without hashing.
    lengths: Vec<usize>,
}

impl Index {
    /// The topics whose text is the first `length` bytes of a name.
    fn get(&self, native: &str, length: usize) -> &[TopicId] {
        if self.lengths.get(length).is_none_or(|texts| *texts == 0) {
            return &[];
        }
        self.by_text.get(&native[..length]).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, text: &str, id: TopicId) {
        let ids = self.by_text.entry(text.into()).or_default();
        if ids.is_empty() {
            if self.lengths.len() <= text.len() {
                self.lengths.resize(text.len() + 1, 0);
            }
            self.lengths[text.len()] += 1;
        }
        ids.push(id);
    }

    fn remove(&mut self, text: &str, id: TopicId) {
        let Some(ids) = self.by_text.get_mut(text) else { return };
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_text.remove(text);
            self.lengths[text.len()] -= 1;
        }
    }
}

/// The topics, found by the names that changes have.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: Slab<Topic>,
    paths: Index,
    trees: Index,
}

impl Topics {
    pub(super) fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.topics.get_mut(id)
    }

    pub(super) fn watches(&self) -> usize {
        self.topics.iter().map(|(_, topic)| topic.members.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.paths.by_text.is_empty() && self.trees.by_text.is_empty()
    }

    /// How many changes all topics together list.
    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.topics.iter().map(|(_, topic)| topic.matching.len()).sum()
    }

    /// Adds a watch that reads the log from `from` on.
    pub(super) fn join(
        &mut self,
        scope: &Scope,
        filter: WatchFilter,
        watch: WatchId,
        handle: HandleId,
        log: &mut Log,
        from: u64,
    ) -> TopicId {
        let same = |id: &TopicId| self.topics.get(*id).is_some_and(|topic| topic.filter == filter);
        let (index, text) = match scope {
            Scope::Path(path) => (&mut self.paths, path),
            Scope::Tree(path) => (&mut self.trees, path),
        };
        let found = index.get(text, text.len()).iter().copied().find(same);
        let id = found.unwrap_or_else(|| {
            let id = self.topics.insert(Topic {
                scope: scope.clone(),
                filter,
                matching: VecDeque::new(),
                known_from: log.next(),
                kept_events: 0,
                kept_bytes: 0,
                lost_before: 0,
                members: HashMap::new(),
                parked: HashMap::new(),
            });
            index.add(text, id);
            id
        });
        if let Some(topic) = self.topics.get_mut(id) {
            if from < topic.known_from {
                let earlier = log.list(from, topic.known_from, |change| topic.matches(change));
                let mut matching: VecDeque<_> = earlier.collect();
                matching.append(&mut topic.matching);
                topic.matching = matching;
                topic.known_from = from;
            }
            topic.members.insert(watch, handle);
        }
        id
    }

    /// Takes a watch out, and its topic with the last one.
    pub(super) fn leave(&mut self, id: TopicId, watch: WatchId) {
        let Some(topic) = self.topics.get_mut(id) else { return };
        // The topic of a watch that was closed may be gone and its number another's.
        if topic.members.remove(&watch).is_none() {
            return;
        }
        topic.parked.remove(&watch);
        self.remove_if_empty(id);
    }

    /// Takes all watches of a handle out.
    pub(super) fn close(&mut self, handle: HandleId) -> Wakes {
        let mut wakes = Wakes::none();
        let mut empty = Vec::new();
        for (id, topic) in &mut self.topics {
            let Topic { members, parked, .. } = topic;
            members.retain(|watch, owner| {
                let stays = *owner != handle;
                if !stays && let Some(waker) = parked.remove(watch) {
                    wakes.push(waker);
                }
                stays
            });
            if topic.members.is_empty() {
                empty.push(id);
            }
        }
        for id in empty {
            self.remove_if_empty(id);
        }
        wakes
    }

    /// Notes the change at `place` with the watches it matches. Returns whether there are any.
    pub(super) fn publish(&mut self, place: u64, change: &Arc<Change>, wakes: &mut Wakes) -> bool {
        let mut is_listed = false;
        self.for_each_match(change, |topic| {
            is_listed = true;
            topic.matching.push_back((place, Arc::clone(change)));
            for (_, waker) in topic.parked.drain() {
                wakes.push(waker);
            }
        });
        is_listed
    }

    /// Notes that every change before the place `next` is gone, read or not.
    pub(super) fn lose_all(&mut self, next: u64) -> Wakes {
        let mut wakes = Wakes::none();
        for (_, topic) in &mut self.topics {
            topic.matching.clear();
            (topic.kept_events, topic.kept_bytes) = (0, 0);
            (topic.known_from, topic.lost_before) = (next, next);
            for (_, waker) in topic.parked.drain() {
                wakes.push(waker);
            }
        }
        wakes
    }

    /// Notes that the log lets the change at `place` go.
    pub(super) fn forget(&mut self, place: u64, change: &Change) {
        self.for_each_match(change, |topic| topic.keep(place, change));
    }

    /// One look-up for the key and one for each prefix above it, of each index, however many topics there
    /// are.
    fn for_each_match(&mut self, change: &Change, mut matched: impl FnMut(&mut Topic)) {
        if self.topics.is_empty() {
            return;
        }
        let Self { topics, paths, trees } = self;
        change.with_native(|native| {
            let mut tell = |ids: &[TopicId]| {
                for id in ids {
                    if let Some(topic) =
                        topics.get_mut(*id).filter(|topic| topic.filter.admits(change.event()))
                    {
                        matched(topic);
                    }
                }
            };
            tell(paths.get(native, 0));
            for (at, _) in native.bytes().enumerate().filter(|(_, byte)| *byte == b'/') {
                tell(trees.get(native, at));
                tell(paths.get(native, at + 1));
            }
            tell(trees.get(native, native.len()));
            tell(paths.get(native, native.len()));
        });
    }

    fn remove_if_empty(&mut self, id: TopicId) {
        if self.topics.get(id).is_none_or(|topic| !topic.members.is_empty()) {
            return;
        }
        let topic = self.topics.remove(id);
        match &topic.scope {
            Scope::Path(path) => self.paths.remove(path, id),
            Scope::Tree(path) => self.trees.remove(path, id),
        }
    }
}

impl Topic {
    fn matches(&self, change: &Change) -> bool {
        self.filter.admits(change.event()) && change.with_native(|native| self.scope.contains(native))
    }
}
