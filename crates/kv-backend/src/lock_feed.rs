//! Who watches a [`LockTable`](crate::LockTable), and the changes that wait to be read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use kv_core::LockHolder;

use crate::handle::HandleId;
use crate::wakes::Wakes;

/// How many changes wait for a consumer before the oldest ones are merged.
pub(crate) const MAX_WAITING: usize = 64;

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
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<Option<LockHolder>, ()>> {
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
