//! The locks of an in-process store: who holds what, and who waits in which order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kv_core::{FencingToken, LockHolder, LockLoss};

use crate::clock::Timestamp;
use crate::handle::HandleId;
use crate::hold::HoldState;
use crate::lock_feed::{HolderFeed, LockWatchers};
use crate::ttl::TtlQueue;
use crate::wakes::Wakes;

/// What a lock is asked for with.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// The lock's native name.
    pub name: Arc<str>,
    /// What others see as the holder.
    pub owner: Bytes,
    /// The handle that asks.
    pub handle: HandleId,
    /// The longest time it may be held.
    pub max_hold: Option<Duration>,
}

/// A lock that was given.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The number of the acquisition.
    pub token: FencingToken,
    /// What its holder is told; ended by the table.
    pub hold: Arc<HoldState>,
}

/// A place in the queue of a lock.
///
/// Whoever has one must bring it to an end: by a poll that is ready, or by
/// [`cancel`](LockTable::cancel).
#[derive(Debug)]
pub struct Ticket {
    name: Arc<str>,
    token: FencingToken,
}

#[derive(Debug)]
struct Lock {
    token: FencingToken,
    holder: LockRequest,
    hold: Arc<HoldState>,
    /// In the order of the tokens, which is the order of asking.
    queue: BTreeMap<FencingToken, LockRequest>,
}

/// How a request that is waited for stands.
#[derive(Debug)]
enum Claim {
    Waiting(Option<Waker>),
    Granted(Arc<HoldState>),
    Closed,
}

/// First come, first served locks. A plain value: it lives inside the store's own critical section,
/// together with the counter its tokens come from and the data its fences protect.
///
/// A lock passes to the next in the queue in the same step in which its holder loses it, so nobody
/// can come in between, and the loss is known before the next one holds it. Names are native: the
/// namespace included.
///
/// [`lock_in_table`](crate::lock_in_table) makes the waiting future and the guard.
#[derive(Debug, Default)]
pub struct LockTable {
    locks: BTreeMap<Arc<str>, Lock>,
    claims: HashMap<FencingToken, Claim>,
    /// When holds end that have a maximum.
    max_holds: TtlQueue<Arc<str>>,
    watchers: LockWatchers,
}

impl LockTable {
    /// A table without locks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nobody holds the lock; then nobody waits for it either.
    #[must_use]
    pub fn is_free(&self, name: &str) -> bool {
        !self.locks.contains_key(name)
    }

    /// Gives the lock if it is free. `token` is as for [`enqueue`](Self::enqueue).
    pub fn try_acquire(
        &mut self,
        request: LockRequest,
        token: FencingToken,
        now: Timestamp,
    ) -> (Option<Grant>, Wakes) {
        let mut wakes = Wakes::none();
        if !self.is_free(&request.name) {
            return (None, wakes);
        }
        let hold = self.grant(request, token, BTreeMap::new(), now, &mut wakes);
        (Some(Grant { token, hold }), wakes)
    }

    /// Asks for the lock: it is given at once if it is free, else when everybody who asked before
    /// has had it or has gone. [`poll`](Self::poll) tells.
    ///
    /// `token` is the number the acquisition will have: greater than every one given to this table
    /// before, so taken from the store's counter in the same critical section.
    pub fn enqueue(&mut self, request: LockRequest, token: FencingToken, now: Timestamp) -> (Ticket, Wakes) {
        let mut wakes = Wakes::none();
        let ticket = Ticket { name: Arc::clone(&request.name), token };
        let claim = match self.locks.get_mut(&request.name) {
            Some(lock) => {
                lock.queue.insert(token, request);
                Claim::Waiting(None)
            }
            None => Claim::Granted(self.grant(request, token, BTreeMap::new(), now, &mut wakes)),
        };
        self.claims.insert(token, claim);
        (ticket, wakes)
    }

    /// Looks whether the lock was given. `Err` when the handle was closed. Once ready, the ticket has
    /// ended.
    pub fn poll(&mut self, ticket: &Ticket, waker: &Waker) -> Poll<Result<Grant, LockLoss>> {
        if let Some(Claim::Waiting(registered)) = self.claims.get_mut(&ticket.token) {
            match registered {
                Some(registered) => registered.clone_from(waker),
                None => *registered = Some(waker.clone()),
            }
            return Poll::Pending;
        }
        Poll::Ready(match self.claims.remove(&ticket.token) {
            Some(Claim::Granted(hold)) => Ok(Grant { token: ticket.token, hold }),
            Some(Claim::Closed | Claim::Waiting(_)) | None => Err(LockLoss::Closed),
        })
    }

    /// Gives up a place in the queue, also one whose turn has just come: then the lock passes on. As
    /// if it had never been asked for.
    pub fn cancel(&mut self, ticket: &Ticket, now: Timestamp) -> Wakes {
        match self.claims.remove(&ticket.token) {
            Some(Claim::Waiting(_)) => {
                if let Some(lock) = self.locks.get_mut(&ticket.name) {
                    lock.queue.remove(&ticket.token);
                }
                Wakes::none()
            }
            Some(Claim::Granted(_)) => self.release(&ticket.name, ticket.token, now).1,
            Some(Claim::Closed) | None => Wakes::none(),
        }
    }

    /// Ends this acquisition and passes the lock on. Returns whether it was held until now.
    pub fn release(&mut self, name: &str, token: FencingToken, now: Timestamp) -> (bool, Wakes) {
        if !self.is_held(name, token) {
            return (false, Wakes::none());
        }
        self.end(name, LockLoss::Released, now)
    }

    /// Ends the hold with this token from outside: its holder sees `Removed`. Returns whether it was
    /// held until now.
    pub fn remove(&mut self, name: &str, token: FencingToken, now: Timestamp) -> (bool, Wakes) {
        if !self.is_held(name, token) {
            return (false, Wakes::none());
        }
        self.end(name, LockLoss::Removed, now)
    }

    /// The locks whose names begin with `prefix`, in the order of their names: the name, the holder,
    /// and who waits, the next one first. `prefix` is native: empty, or ending in a slash.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Vec<(Arc<str>, LockHolder, Vec<LockHolder>)> {
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let locks = self.locks.range::<str, _>(range).take_while(|(name, _)| name.starts_with(prefix));
        let seen = |owner: &Bytes, token| LockHolder::new(owner.clone(), token);
        locks
            .map(|(name, lock)| {
                let waiters = lock.queue.iter().map(|(token, waiter)| seen(&waiter.owner, *token)).collect();
                (Arc::clone(name), seen(&lock.holder.owner, lock.token), waiters)
            })
            .collect()
    }

    /// Follows the holders of a lock, the present one first.
    pub(crate) fn watch(&mut self, name: Arc<str>, handle: HandleId) -> Arc<HolderFeed> {
        let present = self.holder(&name);
        self.watchers.add(name, handle, present)
    }

    /// Ends a watch that nobody reads any more.
    pub(crate) fn unwatch(&mut self, name: &str, feed: &Arc<HolderFeed>) {
        self.watchers.remove(name, feed);
    }

    /// Who holds the lock.
    #[must_use]
    pub fn holder(&self, name: &str) -> Option<LockHolder> {
        let lock = self.locks.get(name)?;
        Some(LockHolder::new(lock.holder.owner.clone(), lock.token))
    }

    /// Whether this very acquisition holds the lock: what a fenced write asks, in the same critical
    /// section in which it writes, after [`expire`](Self::expire).
    #[must_use]
    pub fn is_held(&self, name: &str, token: FencingToken) -> bool {
        self.locks.get(name).is_some_and(|lock| lock.token == token)
    }

    /// Takes away the locks whose name begins with `prefix` or is `prefix` without its slash, which
    /// is what deleting the tree of records below `prefix` does. `prefix` is native: empty, or ending
    /// in a slash. Holders see `Removed`; whoever waits keeps the place.
    pub fn remove_tree(&mut self, prefix: &str, now: Timestamp) -> Wakes {
        let own = prefix.strip_suffix('/').filter(|own| self.locks.contains_key(*own)).map(Arc::from);
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let below = self.locks.range::<str, _>(range).map(|(name, _)| Arc::clone(name));
        let names: Vec<Arc<str>> = below.take_while(|name| name.starts_with(prefix)).chain(own).collect();
        self.end_all(names, LockLoss::Removed, now)
    }

    /// Ends everything of a handle that is closed: its holds see `Closed`, its waits end with it.
    pub fn close(&mut self, handle: HandleId, now: Timestamp) -> Wakes {
        let mut wakes = Wakes::none();
        let mut held = Vec::new();
        for (name, lock) in &mut self.locks {
            lock.queue.retain(|token, request| {
                if request.handle != handle {
                    return true;
                }
                if let Some(Claim::Waiting(Some(waker))) = self.claims.insert(*token, Claim::Closed) {
                    wakes.push(waker);
                }
                false
            });
            if lock.holder.handle == handle {
                held.push(Arc::clone(name));
                // Given and not yet claimed: the wait ends like the others.
                if let Some(claim) = self.claims.get_mut(&lock.token) {
                    *claim = Claim::Closed;
                }
            }
        }
        wakes.append(self.end_all(held, LockLoss::Closed, now));
        self.watchers.close(handle, &mut wakes);
        wakes
    }

    /// Ends the holds whose maximum is reached.
    pub fn expire(&mut self, now: Timestamp) -> Wakes {
        let mut wakes = Wakes::none();
        while let Some((_, name)) = self.max_holds.pop_due(now) {
            wakes.append(self.end(&name, LockLoss::HeldTooLong, now).1);
        }
        wakes
    }

    /// When [`expire`](Self::expire) next has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.max_holds.next()
    }

    /// How many locks are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.locks.len()
    }

    /// How many wait, for any lock.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.locks.values().map(|lock| lock.queue.len()).sum()
    }

    /// Whether nothing is held, waited for, watched or kept.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.locks.is_empty()
            && self.claims.is_empty()
            && self.max_holds.is_empty()
            && self.watchers.is_empty()
    }

    fn grant(
        &mut self,
        holder: LockRequest,
        token: FencingToken,
        queue: BTreeMap<FencingToken, LockRequest>,
        now: Timestamp,
        wakes: &mut Wakes,
    ) -> Arc<HoldState> {
        let name = Arc::clone(&holder.name);
        let hold = Arc::new(HoldState::new(holder.max_hold));
        if let Some(max_hold) = holder.max_hold {
            self.max_holds.set(Arc::clone(&name), now.after(max_hold));
        }
        let seen = || Some(LockHolder::new(holder.owner.clone(), token));
        self.watchers.tell(&name, seen, wakes);
        self.locks.insert(name, Lock { token, holder, hold: Arc::clone(&hold), queue });
        hold
    }

    fn end_all(&mut self, names: Vec<Arc<str>>, loss: LockLoss, now: Timestamp) -> Wakes {
        let mut wakes = Wakes::none();
        for name in names {
            wakes.append(self.end(&name, loss, now).1);
        }
        wakes
    }

    /// Ends the present hold of a lock and passes the lock on. Returns whether the holder still had
    /// it by its own account.
    fn end(&mut self, name: &str, loss: LockLoss, now: Timestamp) -> (bool, Wakes) {
        let mut wakes = Wakes::none();
        let Some(Lock { hold, mut queue, .. }) = self.locks.remove(name) else { return (false, wakes) };
        self.max_holds.remove(name);
        // The loss is known before the next one holds it.
        let was_held = hold.lose_quietly(loss);
        if hold.is_awaited() {
            wakes.push(Waker::from(hold));
        }
        if let Some((token, next)) = queue.pop_first() {
            let hold = self.grant(next, token, queue, now, &mut wakes);
            if let Some(Claim::Waiting(Some(waker))) = self.claims.insert(token, Claim::Granted(hold)) {
                wakes.push(waker);
            }
        } else {
            self.watchers.tell(name, || None, &mut wakes);
        }
        (was_held, wakes)
    }
}

#[cfg(test)]
mod watch_tests;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1000);

    /// A table with its counter.
    #[derive(Default)]
    struct Store {
        locks: LockTable,
        counter: u64,
    }

    impl Store {
        fn token(&mut self) -> FencingToken {
            self.counter += 1;
            FencingToken::new(self.counter)
        }

        fn enqueue(&mut self, name: &str, handle: HandleId) -> Ticket {
            let token = self.token();
            self.locks.enqueue(request(name, handle), token, NOW).0
        }

        fn granted(&mut self, ticket: &Ticket) -> Option<Grant> {
            match self.locks.poll(ticket, Waker::noop()) {
                Poll::Ready(grant) => Some(grant.unwrap()),
                Poll::Pending => None,
            }
        }

        fn is_empty(&self) -> bool {
            self.locks.is_idle()
        }
    }

    fn request(name: &str, handle: HandleId) -> LockRequest {
        LockRequest { name: name.into(), owner: Bytes::from_static(b"me"), handle, max_hold: None }
    }

    #[test]
    fn waiters_get_the_lock_in_the_order_they_asked() {
        let mut store = Store::default();
        let handle = HandleId::unique();
        let tickets: Vec<Ticket> = (0..4).map(|_| store.enqueue("a", handle)).collect();
        let mut tokens = Vec::new();
        for ticket in &tickets {
            let grant = store.granted(ticket).unwrap();
            assert_eq!(
                store.locks.holder("a").unwrap(),
                LockHolder::new(Bytes::from_static(b"me"), grant.token)
            );
            assert!(store.locks.is_held("a", grant.token));
            let (was_held, _) = store.locks.release("a", grant.token, NOW);
            assert!(was_held);
            assert_eq!(grant.hold.loss(), Some(LockLoss::Released));
            assert!(!store.locks.release("a", grant.token, NOW).0);
            tokens.push(grant.token);
        }
        assert!(tokens.is_sorted());
        assert!(store.is_empty());
    }

    #[test]
    fn try_acquire_never_waits_and_never_overtakes() {
        let mut store = Store::default();
        let handle = HandleId::unique();
        let token = store.token();
        let grant = store.locks.try_acquire(request("a", handle), token, NOW).0.unwrap();
        let ticket = store.enqueue("a", handle);
        let second = store.token();
        assert!(store.locks.try_acquire(request("a", handle), second, NOW).0.is_none());
        let (_, wakes) = store.locks.release("a", grant.token, NOW);
        assert!(wakes.is_empty(), "nobody had polled yet");
        assert!(store.locks.try_acquire(request("a", handle), second, NOW).0.is_none());
        assert!(store.granted(&ticket).is_some());
    }

    #[test]
    fn a_cancelled_wait_leaves_no_trace_also_when_its_turn_has_come() {
        let mut store = Store::default();
        let handle = HandleId::unique();
        let [first, second, third, fourth] = std::array::from_fn(|_| store.enqueue("a", handle));
        let grant = store.granted(&first).unwrap();
        assert!(store.granted(&fourth).is_none());
        store.locks.cancel(&second, NOW).wake();
        // The third is given the lock, does not know it yet and goes.
        store.locks.release("a", grant.token, NOW).1.wake();
        assert_eq!(store.locks.holder("a").unwrap().token, third.token);
        let wakes = store.locks.cancel(&third, NOW);
        assert_eq!(wakes.len(), 1);
        let grant = store.granted(&fourth).unwrap();
        store.locks.release("a", grant.token, NOW).1.wake();
        assert!(store.is_empty());
    }

    #[test]
    fn whoever_waits_for_a_loss_is_woken_outside_the_critical_section() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let mut store = Store::default();
        let ticket = store.enqueue("a", HandleId::unique());
        let grant = store.granted(&ticket).unwrap();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut lost = std::pin::pin!(grant.hold.lost());
        assert!(lost.as_mut().poll(&mut cx).is_pending());
        let wakes = store.locks.remove_tree("", NOW);
        assert_eq!(grant.hold.loss(), Some(LockLoss::Removed), "known at once");
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "no foreign waker runs in the critical section");
        wakes.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(lost.poll(&mut cx), Poll::Ready(LockLoss::Removed));
    }

    #[test]
    fn closing_a_handle_ends_its_holds_and_waits_and_no_others() {
        let mut store = Store::default();
        let (closing, staying) = (HandleId::unique(), HandleId::unique());
        let held = store.enqueue("a", closing);
        let held = store.granted(&held).unwrap();
        let waits = store.enqueue("a", closing);
        let next = store.enqueue("a", staying);
        let unclaimed = store.enqueue("b", closing);
        let elsewhere = store.enqueue("c", staying);
        let kept = store.granted(&elsewhere).unwrap();
        let waits_there = store.enqueue("c", closing);
        store.locks.close(closing, NOW).wake();
        assert_eq!(held.hold.loss(), Some(LockLoss::Closed));
        for ticket in [&waits, &unclaimed, &waits_there] {
            let polled = store.locks.poll(ticket, Waker::noop());
            assert_eq!(polled.map(|grant| grant.err()), Poll::Ready(Some(LockLoss::Closed)));
        }
        let grant = store.granted(&next).unwrap();
        assert!(store.locks.is_held("a", grant.token));
        assert!(store.locks.is_held("c", kept.token));
        assert!(store.locks.is_free("b"));
        assert_eq!((store.locks.held(), store.locks.waiting()), (2, 0));
    }

    #[test]
    fn removing_a_tree_takes_the_locks_named_so_and_below() {
        let mut store = Store::default();
        let handle = HandleId::unique();
        let grants: Vec<Grant> = ["a", "a-b", "a/b", "a/b/c", "ab", "b"]
            .into_iter()
            .map(|name| {
                let ticket = store.enqueue(name, handle);
                store.granted(&ticket).unwrap()
            })
            .collect();
        let next = store.enqueue("a/b", handle);
        store.locks.remove_tree("a/", NOW).wake();
        let lost: Vec<bool> = grants.iter().map(|grant| grant.hold.loss().is_some()).collect();
        assert_eq!(lost, [true, false, true, true, false, false]);
        assert_eq!(grants[0].hold.loss(), Some(LockLoss::Removed));
        assert!(store.granted(&next).is_some(), "who waits keeps the place");
        store.locks.remove_tree("", NOW).wake();
        assert_eq!(store.locks.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_hold_ends_by_the_clock_and_passes_on() {
        let mut store = Store::default();
        let handle = HandleId::unique();
        let second = Duration::from_secs(1);
        let with_maximum = LockRequest { max_hold: Some(second), ..request("a", handle) };
        let token = store.token();
        let grant = store.locks.try_acquire(with_maximum, token, NOW).0.unwrap();
        let next = store.enqueue("a", handle);
        assert_eq!(store.locks.next_deadline(), Some(NOW.after(second)));
        store.locks.expire(NOW).wake();
        assert!(store.granted(&next).is_none());
        tokio::time::advance(second).await;
        store.locks.expire(NOW.after(second)).wake();
        assert_eq!(grant.hold.loss(), Some(LockLoss::HeldTooLong));
        assert!(store.granted(&next).is_some());
        assert_eq!(store.locks.next_deadline(), None);
    }
}
