//! Who is served by which query, and what a query's new state means to each: the events, gaps and ends that
//! subscriptions are told.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::{Deletion, Error, Key, Result, WatchEvent, WatchFilter};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use crate::client::error::again;
use crate::client::scope::Scope;
use crate::client::wire::Kv;
use crate::env::Env;
use crate::env::names::{Names, to_entry};
use crate::watch::event_queue::EventQueue;
use crate::watch::index_diff::{Change, IndexDiff};

/// The subscriptions of one store handle and the queries that serve them.
#[derive(Debug)]
pub(crate) struct Members {
    env: Arc<Env>,
    state: Mutex<State>,
}

/// The queries, what each knows, and whom each serves.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) last_id: u64,
    pub(super) queries: HashMap<u64, Running>,
    pub(super) members: HashMap<u64, Member>,
    pub(super) closed: bool,
}

/// A query that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) scope: Scope,
    pub(super) known: IndexDiff,
    pub(super) members: BTreeSet<u64>,
    pub(super) wake: Arc<Notify>,
    pub(super) task: AbortHandle,
}

/// A subscription, as the queries see it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) scope: Scope,
    pub(super) query: u64,
    pub(super) wants: Wants,
    pub(super) queue: Arc<EventQueue>,
    /// `None` once it gets the query's changes.
    pub(super) joining: Option<Joining>,
}

/// What a subscription gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// The changes of entries.
    Events(WatchFilter),
    /// A hint that something changed, lock records included.
    Hints,
}

/// A subscription waits for a state read after it came, from which on it gets what the query gets.
#[derive(Debug)]
pub(super) struct Joining {
    /// What it has been told already; what differs is told when it joins. `None`: nothing is to be
    /// told of the time before.
    pub(super) base: Option<IndexDiff>,
    pub(super) joined: Option<oneshot::Sender<Result<()>>>,
}

impl Members {
    /// Without subscriptions and queries yet.
    pub(crate) fn new(env: &Arc<Env>) -> Self {
        Self { env: Arc::clone(env), state: Mutex::default() }
    }

    /// The subscriptions that wait for a state to be read.
    pub(crate) fn joining(&self, query: u64) -> Vec<u64> {
        let state = self.lock();
        let Some(running) = state.queries.get(&query) else { return Vec::new() };
        let waits = |id: &u64| state.members.get(id).is_some_and(|member| member.joining.is_some());
        running.members.iter().copied().filter(waits).collect()
    }

    /// A new state of a query begins to arrive, read for these subscriptions that join.
    pub(crate) fn state_begins(&self, query: u64, joining: &[u64]) {
        let mut state = self.lock();
        if let Some(running) = state.queries.get_mut(&query) {
            running.known.begin();
        }
        for id in joining {
            if let Some(Joining { base: Some(base), .. }) = state.joining(*id) {
                base.begin();
            }
        }
    }

    /// One key of the new state. True if it changed.
    pub(crate) fn state_has(&self, query: u64, joining: &[u64], kv: &Kv) -> Result<Seen> {
        let key = self.env.names.entry(&kv.key, kv.flags);
        let mut state = self.lock();
        let State { queries, members, .. } = &mut *state;
        let Some(running) = queries.get_mut(&query) else { return Ok(Seen::Same) };
        let change = running.known.see(&kv.key, kv.modify_index, key.is_some());
        if change == Change::Older {
            return Ok(Seen::Older);
        }
        let mut event = Event { key, kv, entry: None };
        let mut slow = Vec::new();
        for id in running.members.iter().copied() {
            let Some(member) = members.get_mut(&id) else { continue };
            if !member.scope.contains(&kv.key) {
                continue;
            }
            let change = match &mut member.joining {
                None => change,
                Some(Joining { base: Some(base), .. }) if joining.contains(&id) => {
                    base.see(&kv.key, kv.modify_index, event.key.is_some())
                }
                Some(_) => continue,
            };
            if !event.tell(&self.env.names, member, change)? {
                slow.push(id);
            }
        }
        slow.into_iter().for_each(|id| state.leave(id));
        Ok(if change == Change::None { Seen::Same } else { Seen::Changed })
    }

    /// The new state is whole: what it lacks is gone, and those that joined have joined. `newer` says
    /// whether anything was written since the last one. True if something changed.
    pub(crate) fn state_ends(&self, query: u64, joining: &[u64], newer: bool) -> bool {
        let mut state = self.lock();
        let State { queries, members, .. } = &mut *state;
        let Some(running) = queries.get_mut(&query) else { return false };
        let gone = running.known.finish();
        let mut slow = Vec::new();
        for id in running.members.iter().copied() {
            let Some(member) = members.get_mut(&id) else { continue };
            let mut told = true;
            match &mut member.joining {
                None => {
                    gone.iter()
                        .for_each(|(native, visible)| told &= member.gone(&self.env.names, native, *visible));
                    // A key that is absent as before may have been there in between, and whoever asks for
                    // hints may have seen it and wait for it to go.
                    if newer && member.wants == Wants::Hints && !running.known.has(member.scope.text()) {
                        member.queue.poke();
                    }
                }
                Some(_) if joining.contains(&id) => {
                    let Some(joined) = member.joining.take() else { continue };
                    let missed = joined.base.map(|mut base| base.finish()).unwrap_or_default();
                    missed
                        .iter()
                        .for_each(|(native, visible)| told &= member.gone(&self.env.names, native, *visible));
                    if let Some(joined) = joined.joined {
                        // Nobody waits any more if the watch call was dropped.
                        drop(joined.send(Ok(())));
                    }
                }
                Some(_) => {}
            }
            if !told {
                slow.push(id);
            }
        }
        slow.into_iter().for_each(|id| state.leave(id));
        !gone.is_empty()
    }

    /// The state could not be read: tells those that wait for it to begin.
    pub(crate) fn state_failed(&self, joining: &[u64], error: &Error) {
        let mut state = self.lock();
        for id in joining {
            let Some(waiting) = state.joining(*id).and_then(|joining| joining.joined.take()) else {
                continue;
            };
            drop(waiting.send(Err(again(error))));
            state.leave(*id);
        }
    }

    /// What the query knew is worth nothing any more: everybody begins anew.
    pub(crate) fn forget(&self, query: u64) {
        let mut state = self.lock();
        let State { queries, members, .. } = &mut *state;
        let Some(running) = queries.get_mut(&query) else { return };
        running.known = IndexDiff::default();
        let mut gaps = Vec::new();
        for id in running.members.iter().copied() {
            let Some(member) = members.get(&id) else { continue };
            match (&member.wants, &member.joining) {
                (_, Some(Joining { base: None, .. })) => {}
                (Wants::Hints, _) => member.queue.poke(),
                (Wants::Events(_), _) => {
                    member.queue.gap();
                    gaps.push(id);
                }
            }
        }
        gaps.into_iter().for_each(|id| state.leave(id));
    }

    /// The query cannot go on: ends its subscriptions with the reason.
    pub(crate) fn fail(&self, query: u64, error: &Error) {
        let mut state = self.lock();
        let Some(running) = state.queries.remove(&query) else { return };
        for member in running.members.iter().filter_map(|id| state.members.remove(id)) {
            member.fail(|| again(error));
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a key of a new state stands to what the query knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Same,
    Changed,
    /// The server has lost its state.
    Older,
}

/// One changed key, decoded once however many subscriptions there are.
struct Event<'a> {
    key: Option<Key>,
    kv: &'a Kv,
    entry: Option<kv_core::Entry>,
}

impl Event<'_> {
    /// Tells a subscription; false if it is too slow.
    fn tell(&mut self, names: &Names, member: &Member, change: Change) -> Result<bool> {
        let filter = match (member.wants, change) {
            (_, Change::None) => return Ok(true),
            (Wants::Hints, _) => {
                member.queue.poke();
                return Ok(true);
            }
            (Wants::Events(filter), _) => filter,
        };
        let event = match (change, &self.key) {
            (Change::Put, Some(_)) if filter == WatchFilter::Deletes => return Ok(true),
            (Change::Put, Some(key)) => {
                let entry = match &self.entry {
                    Some(entry) => entry.clone(),
                    None => self.entry.insert(to_entry(key.clone(), self.kv)?).clone(),
                };
                WatchEvent::Put(entry)
            }
            // What a joining subscription was told is older than what a server without its state has.
            (Change::Older, _) => {
                member.queue.gap();
                return Ok(false);
            }
            (Change::Vanished, _) => match names.entry(&self.kv.key, 0) {
                Some(key) => WatchEvent::Delete(Deletion::new(key)),
                None => return Ok(true),
            },
            _ => return Ok(true),
        };
        Ok(!filter.admits(&event) || member.queue.push(event))
    }
}

impl Member {
    /// Tells that a key is gone; false if it is too slow.
    fn gone(&self, names: &Names, native: &str, visible: bool) -> bool {
        if !self.scope.contains(native) {
            return true;
        }
        match self.wants {
            Wants::Hints => self.queue.poke(),
            Wants::Events(filter) => {
                if let (true, Some(key)) = (visible, names.entry(native, 0)) {
                    let event = WatchEvent::Delete(Deletion::new(key));
                    return !filter.admits(&event) || self.queue.push(event);
                }
            }
        }
        true
    }

    /// Tells it that nothing will follow.
    pub(super) fn fail(self, error: impl Fn() -> Error) {
        match self.joining.and_then(|joining| joining.joined) {
            Some(waiting) => drop(waiting.send(Err(error()))),
            None => self.queue.end(error()),
        }
    }
}

impl State {
    /// A new number, for a subscription or a query.
    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// What a subscription that joins has been told, and who waits for it to begin.
    fn joining(&mut self, id: u64) -> Option<&mut Joining> {
        self.members.get_mut(&id)?.joining.as_mut()
    }

    /// Removes a subscription, and its query if that was the last one.
    pub(super) fn leave(&mut self, id: u64) {
        drop(self.remove(id));
    }

    /// Removes a subscription as [`leave`](Self::leave) does, and returns it.
    pub(super) fn remove(&mut self, id: u64) -> Option<Member> {
        let member = self.members.remove(&id)?;
        if let Some(running) = self.queries.get_mut(&member.query) {
            running.members.remove(&id);
            if running.members.is_empty()
                && let Some(running) = self.queries.remove(&member.query)
            {
                running.task.abort();
            }
        }
        Some(member)
    }
}
