//! Following who holds a lock of a [`LockTable`](crate::LockTable).

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use futures_util::stream;
use kv_core::{Error, ErrorKind, LockChanges, LockHolder, LockListing, LockState, Operation, Prefix, Result};

use crate::handle::HandleId;
use crate::namespace::Namespace;
use crate::table_hold::LockAccess;
use crate::wakes::Wakes;

/// How many changes wait for a consumer before the oldest ones are merged.
const MAX_WAITING: usize = 64;

/// The changes one watch of a lock has not delivered yet.
#[derive(Debug, Default)]
pub(crate) struct HolderFeed {
    state: Mutex<FeedState>,
}

#[derive(Debug, Default)]
struct FeedState {
    changes: VecDeque<Option<LockHolder>>,
    closed: bool,
    waker: Option<Waker>,
}

impl HolderFeed {
    fn state(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, holder: Option<LockHolder>, wakes: &mut Wakes) {
        let mut state = self.state();
        if state.changes.len() >= MAX_WAITING {
            state.changes.pop_front();
        }
        state.changes.push_back(holder);
        wakes.extend(state.waker.take());
    }

    fn close(&self, wakes: &mut Wakes) {
        let mut state = self.state();
        state.closed = true;
        wakes.extend(state.waker.take());
    }

    /// The next change, or `Err` once the handle is closed.
    fn poll(&self, waker: &Waker) -> Poll<Result<Option<LockHolder>, ()>> {
        let mut state = self.state();
        if state.closed {
            return Poll::Ready(Err(()));
        }
        if let Some(holder) = state.changes.pop_front() {
            return Poll::Ready(Ok(holder));
        }
        state.waker = Some(waker.clone());
        Poll::Pending
    }
}

/// Which locks are watched, and by whom.
#[derive(Debug, Default)]
pub(crate) struct LockWatchers {
    by_name: HashMap<Arc<str>, Vec<Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    handle: HandleId,
    feed: Weak<HolderFeed>,
}

impl LockWatchers {
    pub(crate) fn add(
        &mut self,
        name: Arc<str>,
        handle: HandleId,
        present: Option<LockHolder>,
    ) -> Arc<HolderFeed> {
        let feed = Arc::new(HolderFeed::default());
        feed.state().changes.push_back(present);
        self.by_name.entry(name).or_default().push(Watcher { handle, feed: Arc::downgrade(&feed) });
        feed
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(crate) fn remove(&mut self, name: &str, feed: &Arc<HolderFeed>) {
        let Some(watchers) = self.by_name.get_mut(name) else { return };
        watchers.retain(|watcher| !std::ptr::eq(watcher.feed.as_ptr(), Arc::as_ptr(feed)));
        if watchers.is_empty() {
            self.by_name.remove(name);
        }
    }

    /// Tells a lock's watchers who holds it now; `holder` is asked only where there are watchers.
    pub(crate) fn tell(&self, name: &str, holder: impl Fn() -> Option<LockHolder>, wakes: &mut Wakes) {
        for watcher in self.by_name.get(name).into_iter().flatten() {
            if let Some(feed) = watcher.feed.upgrade() {
                feed.tell(holder(), wakes);
            }
        }
    }

    /// Ends the watches of a handle that is closed.
    pub(crate) fn close(&mut self, handle: HandleId, wakes: &mut Wakes) {
        self.by_name.retain(|_, watchers| {
            watchers.retain(|watcher| {
                if watcher.handle != handle {
                    return true;
                }
                if let Some(feed) = watcher.feed.upgrade() {
                    feed.close(wakes);
                }
                false
            });
            !watchers.is_empty()
        });
    }
}

/// Follows who holds a lock: the present holder first, then each change. A consumer that is too slow
/// gets the latest changes only.
///
/// `name` is native. The caller checks afterwards that the handle is still open: a watch that begins
/// after the handle was closed would never end.
pub fn watch_in_table<A: LockAccess>(access: &Arc<A>, handle: HandleId, name: Arc<str>) -> LockChanges {
    let feed = access.with_locks(|locks, _| locks.watch(Arc::clone(&name), handle));
    LockChanges::new(Holders { access: Arc::clone(access), name, feed, ended: false })
}

/// The locks below a prefix that are held or waited for.
pub fn list_table<A: LockAccess>(access: &Arc<A>, namespace: &Namespace, prefix: &Prefix) -> LockListing {
    let below = access.with_locks(|locks, _| locks.below(&namespace.native_prefix(prefix)));
    let states = below.into_iter().filter_map(|(name, holder, waiters)| {
        Some(Ok(LockState::new(namespace.key(&name)?, Some(holder)).with_waiters(waiters)))
    });
    LockListing::new(stream::iter(states.collect::<Vec<_>>()))
}

struct Holders<A: LockAccess> {
    access: Arc<A>,
    name: Arc<str>,
    feed: Arc<HolderFeed>,
    ended: bool,
}

impl<A: LockAccess> Stream for Holders<A> {
    type Item = Result<Option<LockHolder>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.feed.poll(cx.waker()).map(|change| {
            Some(change.map_err(|()| {
                self.ended = true;
                Error::new(ErrorKind::Closed).with_operation(Operation::WatchLock)
            }))
        })
    }
}

impl<A: LockAccess> Drop for Holders<A> {
    fn drop(&mut self) {
        self.access.with_locks(|locks, _| locks.unwatch(&self.name, &self.feed));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kv_core::FencingToken;

    use super::*;
    use crate::clock::Timestamp;
    use crate::lock_table::{LockRequest, LockTable};

    const NOW: Timestamp = Timestamp::from_millis(1000);

    fn acquire(table: &mut LockTable, token: u64) {
        let owner = Bytes::from_static(b"me");
        let request = LockRequest { name: "a".into(), owner, handle: HandleId::unique(), max_hold: None };
        table.try_acquire(request, FencingToken::new(token), NOW).1.wake();
    }

    fn tokens(feed: &HolderFeed) -> Vec<Option<u64>> {
        let mut tokens = Vec::new();
        while let Poll::Ready(change) = feed.poll(Waker::noop()) {
            tokens.push(change.unwrap().map(|holder| holder.token.get()));
        }
        tokens
    }

    #[test]
    fn holders_and_vacancies_are_told_in_their_order() {
        let mut table = LockTable::new();
        let feed = table.watch("a".into(), HandleId::unique());
        acquire(&mut table, 1);
        table.release("a", FencingToken::new(1), NOW).1.wake();
        acquire(&mut table, 2);
        assert_eq!(tokens(&feed), [None, Some(1), None, Some(2)]);
        assert!(!table.remove("a", FencingToken::new(1), NOW).0, "an old token must break nothing");
        assert!(table.remove("a", FencingToken::new(2), NOW).0);
        assert_eq!(tokens(&feed), [None]);
    }

    #[test]
    fn a_consumer_that_does_not_read_costs_bounded_memory_and_gets_the_last_state() {
        let mut table = LockTable::new();
        let feed = table.watch("a".into(), HandleId::unique());
        let last = 1000;
        for token in 1..=last {
            acquire(&mut table, token);
            table.release("a", FencingToken::new(token), NOW).1.wake();
        }
        let tokens = tokens(&feed);
        assert_eq!(tokens.len(), MAX_WAITING);
        assert_eq!(tokens[tokens.len() - 2..], [Some(last), None]);
    }

    #[test]
    fn a_watch_that_is_dropped_leaves_nothing_behind() {
        let mut table = LockTable::new();
        let [first, second] = [(), ()].map(|()| table.watch("a".into(), HandleId::unique()));
        table.unwatch("a", &first);
        acquire(&mut table, 1);
        assert_eq!(tokens(&second), [None, Some(1)]);
        table.unwatch("a", &second);
        table.release("a", FencingToken::new(1), NOW).1.wake();
        assert!(table.is_idle());
    }
}
