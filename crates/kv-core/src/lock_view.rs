//! Seeing locks from outside: who holds one and who waits, how that changes, and how to end a hold.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;

use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::lock::LockHolder;
use crate::timeout::timeout_setter;
use crate::version::FencingToken;

/// The power to see locks: reached by [`Store::as_lock_view`](crate::Store::as_lock_view).
///
/// Applications call [`StoreExt::watch_lock`](crate::StoreExt::watch_lock),
/// [`locks`](crate::StoreExt::locks) and [`break_lock`](crate::StoreExt::break_lock), which report a
/// store without this power as `Unsupported`.
///
/// Holders that use a native tool (`etcdctl lock`, `consul lock`, Curator, kazoo) are seen like our
/// own: their value is the owner, and what else the server knows of them is in
/// [`LockHolder::native`].
#[async_trait]
pub trait LockView: Send + Sync {
    /// Follows who holds the lock `key`: the present holder first, or `None` while nobody holds it;
    /// then each change.
    ///
    /// Tokens never fall. Where the store declares
    /// [`WatchComplete`](crate::Guarantee::WatchComplete) every change is delivered to a consumer
    /// that keeps up; elsewhere, and for a consumer that is too slow, changes are merged, and the
    /// last one delivered equals the final state. Outages are waited out.
    ///
    /// # Errors
    ///
    /// As for a get. The stream ends after an error, and only so.
    async fn watch_lock_with(&self, key: &Key, options: LockWatchOptions) -> Result<LockChanges>;

    /// Lists the locks named strictly below `prefix` that are held or waited for, in byte order of
    /// their names. It costs as much as a list of what is below `prefix`.
    ///
    /// # Errors
    ///
    /// As for a list. The stream ends after an error.
    async fn locks_with(&self, prefix: &Prefix, options: LocksOptions) -> Result<LockListing>;

    /// Ends the hold with this token, and nothing else, by removing its record: its holder sees
    /// [`LockLoss::Removed`](crate::LockLoss::Removed) and the next waiter acquires the lock.
    ///
    /// Returns false, with nothing changed, if this acquisition does not hold the lock any more. The
    /// holder may still be at work: only a fenced write protects what the lock protects.
    ///
    /// # Errors
    ///
    /// As for a delete.
    async fn break_lock_with(
        &self,
        key: &Key,
        token: FencingToken,
        options: BreakLockOptions,
    ) -> Result<bool>;
}

/// Options of [`LockView::watch_lock_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LockWatchOptions {
    /// The deadline of each request the watch makes, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl LockWatchOptions {
    timeout_setter!();
}

/// Options of [`LockView::locks_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LocksOptions {
    /// The deadline of each request the list makes, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl LocksOptions {
    timeout_setter!();
}

/// Options of [`LockView::break_lock_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BreakLockOptions {
    /// The deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl BreakLockOptions {
    timeout_setter!();
}

/// A lock as it stands: who holds it and who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockState {
    /// The lock's name.
    pub key: Key,
    /// The holder. `None` while nobody holds it, which is seen only between a loss and the next
    /// acquisition.
    pub holder: Option<LockHolder>,
    /// Who waits, the next one first, where the server keeps the waiters; `None` on Consul, which
    /// does not.
    pub waiters: Option<Vec<LockHolder>>,
}

impl LockState {
    /// A lock with this holder, of whose waiters nothing is known.
    #[must_use]
    pub fn new(key: Key, holder: Option<LockHolder>) -> Self {
        Self { key, holder, waiters: None }
    }

    /// The same with those who wait, the next one first.
    #[must_use]
    pub fn with_waiters(mut self, waiters: Vec<LockHolder>) -> Self {
        self.waiters = Some(waiters);
        self
    }
}

/// The stream of a lock's holders: the present one first, then each change. `None` is a vacancy.
///
/// Dropping it ends the watch and releases everything.
#[must_use = "a watch that is dropped ends"]
pub struct LockChanges {
    changes: Pin<Box<dyn Stream<Item = Result<Option<LockHolder>>> + Send>>,
}

impl LockChanges {
    /// For store authors: a watch that delivers these holders.
    pub fn new(changes: impl Stream<Item = Result<Option<LockHolder>>> + Send + 'static) -> Self {
        Self { changes: Box::pin(changes) }
    }

    /// The next holder, without needing a stream library. `None` only after an error. Cancel-safe:
    /// dropping the future loses no change.
    pub async fn next(&mut self) -> Option<Result<Option<LockHolder>>> {
        std::future::poll_fn(|cx| self.changes.as_mut().poll_next(cx)).await
    }
}

impl Stream for LockChanges {
    type Item = Result<Option<LockHolder>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.changes.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for LockChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockChanges").finish_non_exhaustive()
    }
}

/// The stream of locks that [`LockView::locks_with`] returns, in byte order of their names.
#[must_use = "a listing fetches only as it is read"]
pub struct LockListing {
    locks: Pin<Box<dyn Stream<Item = Result<LockState>> + Send>>,
}

impl LockListing {
    /// For store authors: a listing of these locks.
    pub fn new(locks: impl Stream<Item = Result<LockState>> + Send + 'static) -> Self {
        Self { locks: Box::pin(locks) }
    }

    /// The next lock, without needing a stream library. `None` at the end, or after an error.
    pub async fn next(&mut self) -> Option<Result<LockState>> {
        std::future::poll_fn(|cx| self.locks.as_mut().poll_next(cx)).await
    }
}

impl Stream for LockListing {
    type Item = Result<LockState>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.locks.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for LockListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockListing").finish_non_exhaustive()
    }
}

const _: fn(&dyn LockView) = |_| {};
