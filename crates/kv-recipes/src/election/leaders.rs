//! Following an election: who leads, vacancies, and what leaders proclaim.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use kv_core::{
    Error, ErrorKind, Key, LockChanges, LockHolder, Operation, Result, Store, StoreExt, Stream, Watch,
    WatchOptions, WatchState, WatchTarget,
};

use super::announcement::{Announcement, announced};
use super::leader::Leader;

/// The stream of leaders that [`Election::observe`](super::Election::observe) returns: the present one
/// first, then each change. `None` is a vacancy.
///
/// Terms never fall. Dropping it ends its watches.
#[must_use = "a watch that is dropped ends"]
pub struct Leaders {
    key: Key,
    holders: LockChanges,
    values: Watch,
    stored: WatchState,
    /// The last holder the lock watch told; `None` until it tells one.
    holder: Option<Option<LockHolder>>,
    announcement: Option<Announcement>,
    /// What was delivered last.
    told: Option<Option<Leader>>,
    has_ended: bool,
}

impl Leaders {
    pub(super) async fn watch(store: &Arc<dyn Store>, key: &Key) -> Result<Self> {
        let holders = store.watch_lock(key).await?;
        let options = WatchOptions::default().with_initial();
        let values = store.watch_with(WatchTarget::key(key), options).await?;
        Ok(Self {
            key: key.clone(),
            holders,
            values,
            stored: WatchState::new(),
            holder: None,
            announcement: None,
            told: None,
            has_ended: false,
        })
    }

    /// The next leader or vacancy, without needing a stream library. `None` only after an error.
    /// Cancel-safe: dropping the future loses no change.
    pub async fn next(&mut self) -> Option<Result<Option<Leader>>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The leader as it is known now, if that was not delivered yet.
    fn untold(&mut self) -> Option<Option<Leader>> {
        // Until the first state of both is known, a value that exists would be told as missing.
        if !self.stored.is_complete() && self.told.is_none() {
            return None;
        }
        let holder = self.holder.as_ref()?.clone();
        let leader = holder.map(|holder| Leader::new(holder, self.announcement.clone()));
        if self.told.as_ref() == Some(&leader) {
            return None;
        }
        self.told = Some(leader.clone());
        Some(leader)
    }

    /// Takes one change of the lock or the value, whichever is there.
    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Poll::Ready(holder) = Pin::new(&mut self.holders).poll_next(cx) {
            self.holder = Some(holder.unwrap_or_else(|| Err(self.ended_silently()))?);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(event) = Pin::new(&mut self.values).poll_next(cx) {
            self.stored.apply(event.unwrap_or_else(|| Err(self.ended_silently()))?);
            self.announcement = announced(self.stored.get(&self.key));
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn ended_silently(&self) -> Error {
        Error::new(ErrorKind::Internal)
            .with_operation(Operation::WatchLock)
            .with_key(self.key.as_str())
            .with_detail("a watch ended without an error")
    }
}

impl Stream for Leaders {
    type Item = Result<Option<Leader>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        loop {
            // After each single change, so that a short vacancy is not skipped.
            if let Some(leader) = this.untold() {
                return Poll::Ready(Some(Ok(leader)));
            }
            match std::task::ready!(this.poll_change(cx)) {
                Ok(()) => {}
                Err(error) => {
                    this.has_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("key", &self.key).field("told", &self.told).finish_non_exhaustive()
    }
}
