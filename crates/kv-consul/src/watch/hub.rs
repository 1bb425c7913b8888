//! The watch hub: however many subscriptions, at most [`MAX_QUERIES`] blocking queries.
//!
//! Each query covers a key or a tree. A subscription joins a query that covers it; a new query takes
//! over those it covers; and when there are too many, the two with the longest common path become one
//! query of that path. What a query knows moves along, so that its subscriptions lose nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use kv_core::{Error, ErrorKind, Result};
use tokio::sync::{Notify, oneshot};

use crate::client::scope::Scope;
use crate::env::Env;
use crate::watch::event_queue::{EventQueue, Item};
use crate::watch::feed::Feed;
use crate::watch::index_diff::IndexDiff;
use crate::watch::members::{Joining, Member, Members, Running, State, Wants};
use crate::watch::query_limit::QueryLimit;

/// The most blocking queries of one store handle.
pub(crate) const MAX_QUERIES: usize = 32;

/// Places subscriptions on queries, and starts and ends these.
#[derive(Debug)]
pub(crate) struct Hub {
    env: Arc<Env>,
    members: Arc<Members>,
    limit: Arc<QueryLimit>,
}

/// A place in the hub; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    id: Option<u64>,
    scope: Scope,
    wants: Wants,
    queue: Arc<EventQueue>,
}

impl Subscription {
    /// A subscription that is not in the hub yet.
    pub(crate) fn new(hub: &Arc<Hub>, scope: Scope, wants: Wants) -> Self {
        Self { hub: Arc::clone(hub), id: None, scope, wants, queue: Arc::default() }
    }

    /// Enters the hub and waits until it has begun: every later change is told.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        let (sender, joined) = oneshot::channel();
        self.enter(Joining { base: None, joined: Some(sender) });
        joined.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed)))
    }

    /// Enters the hub, having been told `base`: every change since is told.
    pub(crate) fn resume(&mut self, base: IndexDiff) {
        self.enter(Joining { base: Some(base), joined: None });
    }

    fn enter(&mut self, joining: Joining) {
        self.leave();
        let member = Member {
            scope: self.scope.clone(),
            query: 0,
            wants: self.wants,
            queue: Arc::clone(&self.queue),
            joining: Some(joining),
        };
        self.id = self.hub.enter(member);
    }

    /// The next item. After a gap it is not in the hub any more. Cancel-safe.
    pub(crate) async fn next(&self) -> Item {
        self.queue.next().await
    }

    /// Leaves the hub.
    pub(crate) fn leave(&mut self) {
        if let Some(id) = self.id.take() {
            let mut state = self.hub.members.lock();
            state.leave(id);
            self.hub.unmerge(&mut state);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Hub {
    /// The hub of a handle, without a query yet.
    pub(crate) fn new(env: &Arc<Env>) -> Self {
        Self { env: Arc::clone(env), members: Arc::new(Members::new(env)), limit: Arc::default() }
    }

    /// How many queries there are.
    pub(crate) fn queries(&self) -> usize {
        self.members.lock().queries.len()
    }

    /// Ends every subscription and query.
    pub(crate) fn close(&self) {
        let mut state = self.members.lock();
        state.closed = true;
        for member in std::mem::take(&mut state.members).into_values() {
            member.fail(|| Error::new(ErrorKind::Closed));
        }
        for query in std::mem::take(&mut state.queries).into_values() {
            query.task.abort();
        }
    }

    fn enter(&self, member: Member) -> Option<u64> {
        let mut state = self.members.lock();
        if state.closed {
            member.fail(|| Error::new(ErrorKind::Closed));
            return None;
        }
        let id = state.new_id();
        let scope = member.scope.clone();
        state.members.insert(id, member);
        self.place(&mut state, id, scope);
        Some(id)
    }

    /// Puts a subscription on a query that covers it.
    fn place(&self, state: &mut State, id: u64, scope: Scope) {
        let covering =
            state.queries.iter().find(|(_, running)| running.scope.covers(&scope)).map(|(id, _)| *id);
        let query = match covering {
            Some(query) => query,
            None => self.start(state, scope),
        };
        if let (Some(running), Some(member)) = (state.queries.get_mut(&query), state.members.get_mut(&id)) {
            member.query = query;
            running.members.insert(id);
            running.wake.notify_one();
        }
        while state.queries.len() > MAX_QUERIES {
            let Some(scope) = Self::closest(state) else { return };
            self.start(state, scope);
        }
    }

    /// Starts a query, which takes over those it covers.
    fn start(&self, state: &mut State, scope: Scope) -> u64 {
        let id = state.new_id();
        let covered: Vec<u64> = state
            .queries
            .iter()
            .filter(|(_, running)| scope.covers(&running.scope))
            .map(|(id, _)| *id)
            .collect();
        let mut known = IndexDiff::default();
        let mut members = BTreeSet::new();
        for old in covered.iter().filter_map(|old| state.queries.remove(old)) {
            old.task.abort();
            known.absorb(old.known);
            members.extend(old.members);
        }
        for member in &members {
            if let Some(member) = state.members.get_mut(member) {
                member.query = id;
            }
        }
        let wake = Arc::new(Notify::new());
        let feed = Feed::new(&self.env, &self.members, &self.limit, id, scope.clone());
        let task = self.env.spawn(feed.run(Arc::clone(&wake)));
        state.queries.insert(id, Running { scope, known, members, wake, task });
        id
    }

    /// Takes queries apart again that were merged for want of room, where there is room: a query of an
    /// ancestor reads more than its subscriptions need.
    fn unmerge(&self, state: &mut State) {
        let ids: Vec<u64> = state.queries.keys().copied().collect();
        for id in ids {
            // Half of the room, so that the next subscription does not merge them again.
            let room = (MAX_QUERIES / 2 + 1).saturating_sub(state.queries.len());
            let Some(scopes) = Self::needed(state, id, room) else { continue };
            let Some(mut merged) = state.queries.remove(&id) else { continue };
            merged.task.abort();
            for scope in scopes {
                let (members, others): (BTreeSet<u64>, _) = merged.members.iter().partition(|member| {
                    state.members.get(member).is_some_and(|member| scope.covers(&member.scope))
                });
                merged.members = others;
                let known = merged.known.part(|native| scope.contains(native));
                let query = self.start(state, scope);
                for member in &members {
                    if let Some(member) = state.members.get_mut(member) {
                        member.query = query;
                    }
                }
                if let Some(running) = state.queries.get_mut(&query) {
                    running.known = known;
                    running.members = members;
                }
            }
        }
    }

    /// The scopes the subscriptions of a query need, if that is not the query's own, and at most `room`.
    fn needed(state: &State, query: u64, room: usize) -> Option<Vec<Scope>> {
        let running = state.queries.get(&query)?;
        let mut needed: Vec<Scope> = Vec::new();
        for member in running.members.iter().filter_map(|id| state.members.get(id)) {
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
    fn closest(state: &State) -> Option<Scope> {
        let mut scopes: Vec<&Scope> = state.queries.values().map(|running| &running.scope).collect();
        // Neighbours in byte order have the longest common beginnings.
        scopes.sort_by(|a, b| a.text().cmp(b.text()));
        scopes.windows(2).map(|pair| pair[0].common(pair[1])).max_by_key(|scope| scope.text().len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use kv_core::Prefix;

    use super::*;
    use crate::client::api::Api;
    use crate::client::transport::{Body, Failure, Reply, Request, Transport};
    use crate::env::Times;
    use crate::env::names::{LockLayout, Names};

    /// A Consul without ACLs and without a key, where nothing ever changes.
    #[derive(Debug)]
    struct Empty;

    struct NoBody;

    #[async_trait]
    impl Body for NoBody {
        async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
            Ok(None)
        }
    }

    #[async_trait]
    impl Transport for Empty {
        fn endpoint(&self) -> &'static str {
            "http://consul.test:8500"
        }

        async fn exchange(&self, request: Request) -> Result<Reply, Failure> {
            if request.path.contains("index=") {
                std::future::pending::<()>().await;
            }
            let status = if request.path.starts_with("/v1/kv") { 404 } else { 401 };
            Ok(Reply { status, index: Some("5".to_owned()), body: Box::new(NoBody) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_subscriptions_share_few_queries_and_leave_none_behind() {
        let second = Duration::from_secs(1);
        let times =
            Times { timeout: second, session_ttl: second, lock_ttl: second, lock_delay: Duration::ZERO };
        let names = Names::new(&Prefix::root(), LockLayout::Record).unwrap();
        let env = Arc::new(Env::new(Api::new(vec![Arc::new(Empty)], None, 16), names, times));
        let hub = Arc::new(Hub::new(&env));
        let mut all = Vec::new();
        for at in 0..200 {
            let scope = Scope::Key(format!("dir/{}/{at}", at % 50));
            for _ in 0..2 {
                let mut subscription = Subscription::new(&hub, scope.clone(), Wants::Hints);
                subscription.begin().await.unwrap();
                all.push(subscription);
            }
            assert!(hub.queries() <= MAX_QUERIES.min(at + 1), "{} after {at}", hub.queries());
        }
        // Where there is room each has a query of its own again.
        all.truncate(20);
        assert_eq!(hub.queries(), 10);
        drop(all);
        assert_eq!(hub.queries(), 0);
        hub.close();
        let mut late = Subscription::new(&hub, Scope::Key("dir".to_owned()), Wants::Hints);
        assert_eq!(late.begin().await.unwrap_err().kind(), &ErrorKind::Closed);
    }
}
