//! Following who holds a lock of a [`LockTable`](crate::LockTable), and listing all that are held.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use kv_core::{Error, ErrorKind, LockChanges, LockHolder, LockListing, LockState, Operation, Prefix, Result};

use crate::handle::HandleId;
use crate::lock_feed::HolderFeed;
use crate::namespace::Namespace;
use crate::table_hold::LockAccess;

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
