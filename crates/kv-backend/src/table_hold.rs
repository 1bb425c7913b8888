//! Locking in a [`LockTable`]: the future that waits and the guard that holds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{Either, select};
use kv_core::implement::Hold;
use kv_core::{Error, ErrorKind, Fence, FencingToken, Key, LockGuard, LockLoss, LockWait, Operation, Result};

use crate::clock::{Clock, Timestamp};
use crate::handle::HandleId;
use crate::hold::HoldState;
use crate::lock_table::{Grant, LockRequest, LockTable, Ticket};
use crate::wakes::Wakes;

/// Where a [`LockTable`] lives: how the waiting future and the guard get at it.
///
/// Both methods work inside the store's critical section, after what is due at the time they are
/// given was let go ([`LockTable::expire`]); they arm the sweeper if a deadline came nearer.
pub trait LockAccess: Send + Sync + 'static {
    /// Runs `work` on the table.
    fn with_locks<T>(&self, work: impl FnOnce(&mut LockTable, Timestamp) -> T) -> T;

    /// Runs `work` on the table with a new number from the store's counter, greater than all before.
    ///
    /// # Errors
    ///
    /// `Closed` if this handle is closed; whatever the counter can fail with.
    fn with_new_token<T>(
        &self,
        handle: HandleId,
        work: impl FnOnce(&mut LockTable, FencingToken, Timestamp) -> T,
    ) -> Result<T>;

    /// The clock that waits go by.
    fn clock(&self) -> &dyn Clock;

    /// What the fences of this store carry as their record, so that a fence of another store is told
    /// apart; see [`Fence::new`].
    fn fence_record(&self) -> Arc<str>;
}

/// Waits for a lock in first come, first served order and returns its guard. Dropping the future
/// leaves no trace.
///
/// `key` is the lock's name as the handle knows it; `request` carries its native name.
///
/// # Errors
///
/// `Locked` when the wait is over; `Closed` when the handle is closed meanwhile.
pub async fn lock_in_table<A: LockAccess>(
    access: &Arc<A>,
    key: &Key,
    request: LockRequest,
    wait: LockWait,
) -> Result<LockGuard> {
    let name = Arc::clone(&request.name);
    let grant = match wait {
        LockWait::Try => try_lock(&**access, request)?,
        LockWait::Forever => Some(Waiting::begin(&**access, request)?.await?),
        LockWait::UpTo(time) => {
            let deadline = access.clock().now().after(time);
            let waiting = Waiting::begin(&**access, request)?;
            // The lock is looked at before the clock: one that comes in time is never refused.
            match select(waiting, access.clock().sleep_until(deadline)).await {
                Either::Left((grant, _)) => Some(grant?),
                Either::Right(((), _)) => None,
            }
        }
        _ => return Err(Error::unsupported("this way to wait for a lock").with_operation(Operation::Lock)),
    };
    let Some(Grant { token, hold }) = grant else {
        let error = Error::new(ErrorKind::Locked).with_operation(Operation::Lock).with_key(key.as_str());
        return Err(match access.with_locks(|locks, _| locks.holder(&name)) {
            Some(holder) => error.with_detail(format!("its holder has the fencing token {}", holder.token)),
            None => error,
        });
    };
    let fence = Fence::new(key.clone(), token, access.fence_record());
    Ok(LockGuard::new(TableHold { access: Arc::clone(access), name, fence, hold }))
}

fn try_lock(access: &impl LockAccess, request: LockRequest) -> Result<Option<Grant>> {
    // A number is taken only when it is likely to be used.
    if !access.with_locks(|locks, _| locks.is_free(&request.name)) {
        return Ok(None);
    }
    let handle = request.handle;
    let (grant, wakes) =
        access.with_new_token(handle, |locks, token, now| locks.try_acquire(request, token, now))?;
    wakes.wake();
    Ok(grant)
}

/// A wait that gives up its place when it is dropped.
struct Waiting<'a, A: LockAccess> {
    access: &'a A,
    ticket: Option<Ticket>,
}

impl<'a, A: LockAccess> Waiting<'a, A> {
    fn begin(access: &'a A, request: LockRequest) -> Result<Self> {
        let handle = request.handle;
        let (ticket, wakes) =
            access.with_new_token(handle, |locks, token, now| locks.enqueue(request, token, now))?;
        wakes.wake();
        Ok(Self { access, ticket: Some(ticket) })
    }
}

impl<A: LockAccess> Future for Waiting<'_, A> {
    type Output = Result<Grant>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ticket) = &self.ticket else { return Poll::Pending };
        let polled = self.access.with_locks(|locks, _| locks.poll(ticket, cx.waker()));
        polled.map(|grant| {
            self.ticket = None;
            grant.map_err(|_| Error::new(ErrorKind::Closed).with_operation(Operation::Lock))
        })
    }
}

impl<A: LockAccess> Drop for Waiting<'_, A> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.access.with_locks(|locks, now| locks.cancel(&ticket, now)).wake();
        }
    }
}

/// A lock held in a table, as its guard drives it.
struct TableHold<A> {
    access: Arc<A>,
    name: Arc<str>,
    fence: Fence,
    hold: Arc<HoldState>,
}

impl<A: LockAccess> TableHold<A> {
    /// Returns whether it was held until now.
    fn end(&self) -> (bool, Wakes) {
        self.access.with_locks(|locks, now| locks.release(&self.name, self.fence.token(), now))
    }
}

#[async_trait]
impl<A: LockAccess> Hold for TableHold<A> {
    fn fence(&self) -> Fence {
        self.fence.clone()
    }

    fn loss(&self) -> Option<LockLoss> {
        self.hold.loss()
    }

    async fn lost(&self) -> LockLoss {
        self.hold.lost().await
    }

    fn grace(&self) -> Duration {
        self.hold.margin()
    }

    async fn unlock(&self) -> Result<()> {
        let (was_held, wakes) = self.end();
        wakes.wake();
        if was_held {
            return Ok(());
        }
        Err(Error::not_held(self.hold.loss())
            .with_operation(Operation::Unlock)
            .with_key(self.fence.key().as_str()))
    }

    fn release(&self) {
        self.end().1.wake();
    }
}
