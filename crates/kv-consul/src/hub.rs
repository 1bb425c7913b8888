//! The watch hub: however many subscriptions, at most [`MAX_QUERIES`] blocking queries.
//!
//! Each query covers a key or a tree. A subscription joins a query that covers it; a new query takes
//! over those it covers; and when there are too many, the two with the longest common path become one
//! query of that path. What a query knows moves along, so that its subscriptions lose nothing.

mod hidden;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::{Deletion, Error, ErrorKind, Key, Result, WatchEvent, WatchFilter};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use crate::error::again;
use crate::known::{Change, Known};
use crate::names::Scope;
use crate::query;
use crate::shared::Shared;
use crate::sink::{Item, Sink};
use crate::store::to_entry;
use crate::wire::Kv;

/// The most blocking queries of one store handle.
pub(crate) const MAX_QUERIES: usize = 32;

#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    queries: HashMap<u64, Running>,
    members: HashMap<u64, Member>,
    closed: bool,
}

#[derive(Debug)]
struct Running {
    scope: Scope,
    known: Known,
    members: BTreeSet<u64>,
    wake: Arc<Notify>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Member {
    scope: Scope,
    query: u64,
    wants: Wants,
    sink: Arc<Sink>,
    /// `None` once it gets the query's changes.
    joining: Option<Joining>,
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
struct Joining {
    /// What it has been told already; what differs is told when it joins. `None`: nothing is to be
    /// told of the time before.
    base: Option<Known>,
    joined: Option<oneshot::Sender<Result<()>>>,
}

/// A place in the hub; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    id: Option<u64>,
    scope: Scope,
    wants: Wants,
    sink: Arc<Sink>,
}

impl Subscription {
    /// A subscription that is not in the hub yet.
    pub(crate) fn new(shared: &Arc<Shared>, scope: Scope, wants: Wants) -> Self {
        Self { shared: Arc::clone(shared), id: None, scope, wants, sink: Arc::default() }
    }

    /// Enters the hub and waits until it has begun: every later change is told.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        let (sender, joined) = oneshot::channel();
        self.enter(Joining { base: None, joined: Some(sender) });
        joined.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed)))
    }

    /// Enters the hub, having been told `base`: every change since is told.
    pub(crate) fn resume(&mut self, base: Known) {
        self.enter(Joining { base: Some(base), joined: None });
    }

    fn enter(&mut self, joining: Joining) {
        self.leave();
        let member = Member {
            scope: self.scope.clone(),
            query: 0,
            wants: self.wants,
            sink: Arc::clone(&self.sink),
            joining: Some(joining),
        };
        self.id = self.shared.hub.enter(&self.shared, member);
    }

    /// The next item. After a gap it is not in the hub any more. Cancel-safe.
    pub(crate) async fn next(&self) -> Item {
        self.sink.next().await
    }

    /// Leaves the hub.
    pub(crate) fn leave(&mut self) {
        if let Some(id) = self.id.take() {
            let mut state = self.shared.hub.lock();
            state.leave(id);
            state.unmerge(&self.shared);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default() }
    }

    /// Ends every subscription and query.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for member in std::mem::take(&mut state.members).into_values() {
            member.fail(|| Error::new(ErrorKind::Closed));
        }
        for query in std::mem::take(&mut state.queries).into_values() {
            query.task.abort();
        }
    }

    fn enter(&self, shared: &Arc<Shared>, member: Member) -> Option<u64> {
        let mut state = self.lock();
        if state.closed {
            member.fail(|| Error::new(ErrorKind::Closed));
            return None;
        }
        let id = state.new_id();
        let scope = member.scope.clone();
        state.members.insert(id, member);
        state.place(shared, id, scope);
        Some(id)
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
    pub(crate) fn state_has(&self, shared: &Shared, query: u64, joining: &[u64], kv: &Kv) -> Result<Seen> {
        let key = shared.names.entry(&kv.key, kv.flags);
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
            if !event.tell(shared, member, change)? {
                slow.push(id);
            }
        }
        slow.into_iter().for_each(|id| state.leave(id));
        Ok(if change == Change::None { Seen::Same } else { Seen::Changed })
    }

    /// The new state is whole: what it lacks is gone, and those that joined have joined. `newer` says
    /// whether anything was written since the last one. True if something changed.
    pub(crate) fn state_ends(&self, shared: &Shared, query: u64, joining: &[u64], newer: bool) -> bool {
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
                    gone.iter().for_each(|(native, visible)| told &= member.gone(shared, native, *visible));
                    // A key that is absent as before may have been there in between, and whoever asks for
                    // hints may have seen it and wait for it to go.
                    if newer && member.wants == Wants::Hints && !running.known.has(member.scope.text()) {
                        member.sink.poke();
                    }
                }
                Some(_) if joining.contains(&id) => {
                    let Some(joined) = member.joining.take() else { continue };
                    let missed = joined.base.map(|mut base| base.finish()).unwrap_or_default();
                    missed.iter().for_each(|(native, visible)| told &= member.gone(shared, native, *visible));
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
        running.known = Known::default();
        let mut gaps = Vec::new();
        for id in running.members.iter().copied() {
            let Some(member) = members.get(&id) else { continue };
            match (&member.wants, &member.joining) {
                (_, Some(Joining { base: None, .. })) => {}
                (Wants::Hints, _) => member.sink.poke(),
                (Wants::Events(_), _) => {
                    member.sink.gap();
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many queries there are.
    pub(crate) fn queries(&self) -> usize {
        self.lock().queries.len()
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
    fn tell(&mut self, shared: &Shared, member: &Member, change: Change) -> Result<bool> {
        let filter = match (member.wants, change) {
            (_, Change::None) => return Ok(true),
            (Wants::Hints, _) => {
                member.sink.poke();
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
                member.sink.gap();
                return Ok(false);
            }
            (Change::Vanished, _) => match shared.names.entry(&self.kv.key, 0) {
                Some(key) => WatchEvent::Delete(Deletion::new(key)),
                None => return Ok(true),
            },
            _ => return Ok(true),
        };
        Ok(!filter.admits(&event) || member.sink.push(event))
    }
}

impl Member {
    /// Tells that a key is gone; false if it is too slow.
    fn gone(&self, shared: &Shared, native: &str, visible: bool) -> bool {
        if !self.scope.contains(native) {
            return true;
        }
        match self.wants {
            Wants::Hints => self.sink.poke(),
            Wants::Events(filter) => {
                if let (true, Some(key)) = (visible, shared.names.entry(native, 0)) {
                    let event = WatchEvent::Delete(Deletion::new(key));
                    return !filter.admits(&event) || self.sink.push(event);
                }
            }
        }
        true
    }

    fn fail(self, error: impl Fn() -> Error) {
        match self.joining.and_then(|joining| joining.joined) {
            Some(waiting) => drop(waiting.send(Err(error()))),
            None => self.sink.end(error()),
        }
    }
}

impl State {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn joining(&mut self, id: u64) -> Option<&mut Joining> {
        self.members.get_mut(&id)?.joining.as_mut()
    }

    /// Puts a subscription on a query that covers it.
    fn place(&mut self, shared: &Arc<Shared>, id: u64, scope: Scope) {
        let covering =
            self.queries.iter().find(|(_, running)| running.scope.covers(&scope)).map(|(id, _)| *id);
        let query = match covering {
            Some(query) => query,
            None => self.start(shared, scope),
        };
        if let (Some(running), Some(member)) = (self.queries.get_mut(&query), self.members.get_mut(&id)) {
            member.query = query;
            running.members.insert(id);
            running.wake.notify_one();
        }
        while self.queries.len() > MAX_QUERIES {
            let Some(scope) = self.closest() else { return };
            self.start(shared, scope);
        }
    }

    /// Starts a query, which takes over those it covers.
    fn start(&mut self, shared: &Arc<Shared>, scope: Scope) -> u64 {
        let id = self.new_id();
        let covered: Vec<u64> = self
            .queries
            .iter()
            .filter(|(_, running)| scope.covers(&running.scope))
            .map(|(id, _)| *id)
            .collect();
        let mut known = Known::default();
        let mut members = BTreeSet::new();
        for old in covered.iter().filter_map(|old| self.queries.remove(old)) {
            old.task.abort();
            known.absorb(old.known);
            members.extend(old.members);
        }
        for member in &members {
            if let Some(member) = self.members.get_mut(member) {
                member.query = id;
            }
        }
        let wake = Arc::new(Notify::new());
        let task = shared.spawn(query::run(Arc::clone(shared), id, scope.clone(), Arc::clone(&wake)));
        self.queries.insert(id, Running { scope, known, members, wake, task });
        id
    }

    /// Takes queries apart again that were merged for want of room, where there is room: a query of an
    /// ancestor reads more than its subscriptions need.
    fn unmerge(&mut self, shared: &Arc<Shared>) {
        let ids: Vec<u64> = self.queries.keys().copied().collect();
        for id in ids {
            // Half of the room, so that the next subscription does not merge them again.
            let room = (MAX_QUERIES / 2 + 1).saturating_sub(self.queries.len());
            let Some(scopes) = self.needed(id, room) else { continue };
            let Some(mut merged) = self.queries.remove(&id) else { continue };
            merged.task.abort();
            for scope in scopes {
                let (members, others): (BTreeSet<u64>, _) = merged.members.iter().partition(|member| {
                    self.members.get(member).is_some_and(|member| scope.covers(&member.scope))
                });
                merged.members = others;
                let known = merged.known.part(|native| scope.contains(native));
                let query = self.start(shared, scope);
                for member in &members {
                    if let Some(member) = self.members.get_mut(member) {
                        member.query = query;
                    }
                }
                if let Some(running) = self.queries.get_mut(&query) {
                    running.known = known;
                    running.members = members;
                }
            }
        }
    }

    /// The scopes the subscriptions of a query need, if that is not the query's own, and at most `room`.
    fn needed(&self, query: u64, room: usize) -> Option<Vec<Scope>> {
        let running = self.queries.get(&query)?;
        let mut needed: Vec<Scope> = Vec::new();
        for member in running.members.iter().filter_map(|id| self.members.get(id)) {
            if member.scope == running.scope {
                return None;
            }
            if !needed.iter().any(|scope| scope.covers(&member.scope)) {
                needed.retain(|scope| !member.scope.covers(scope));
                needed.push(member.scope.clone());
            }
            if needed.len() > room {
                return None;
            }
        }
        Some(needed)
    }

    /// The longest path that two queries have in common.
    fn closest(&self) -> Option<Scope> {
        let mut scopes: Vec<&Scope> = self.queries.values().map(|running| &running.scope).collect();
        // Neighbours in byte order have the longest common beginnings.
        scopes.sort_by(|a, b| a.text().cmp(b.text()));
        scopes.windows(2).map(|pair| pair[0].common(pair[1])).max_by_key(|scope| scope.text().len())
    }

    /// Removes a subscription, and its query if that was the last one.
    fn leave(&mut self, id: u64) {
        drop(self.remove(id));
    }

    fn remove(&mut self, id: u64) -> Option<Member> {
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
