//! A lock that is held: renewed and watched by a task of its own until it is released or lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_backend::HoldState;
use kv_core::implement::Hold;
use kv_core::text::escape;
use kv_core::{Error, ErrorKind, Fence, LockLoss, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::fate::{self, Fate, PAUSE, Place};
use super::locks::Locks;
use crate::client::error::closed;
use crate::client::{Range, Step, Tree};
use crate::session::{Ended, Lease, margin};

/// What a guard drives.
pub(crate) struct Held {
    fence: Fence,
    state: Arc<HoldState>,
    unlocks: mpsc::UnboundedSender<oneshot::Sender<Result<()>>>,
}

impl Held {
    /// Starts the task that keeps the lock. Its lease was last acknowledged for `acked`.
    pub(crate) fn start(
        locks: &Arc<Locks>,
        fence: Fence,
        place: Place,
        lease: Lease,
        acked: Instant,
        state: HoldState,
    ) -> Self {
        let state = Arc::new(state);
        let (unlocks, requests) = mpsc::unbounded_channel();
        let task = Task { locks: Arc::clone(locks), state: Arc::clone(&state), place, lease };
        locks.env.tasks.spawn(task.run(acked + lease.ttl / 3, requests));
        Self { fence, state, unlocks }
    }
}

#[async_trait]
impl Hold for Held {
    fn fence(&self) -> Fence {
        self.fence.clone()
    }

    fn loss(&self) -> Option<LockLoss> {
        self.state.loss().inspect(|_| self.state.reported())
    }

    async fn lost(&self) -> LockLoss {
        let loss = self.state.lost().await;
        self.state.reported();
        loss
    }

    fn grace(&self) -> Duration {
        self.state.margin()
    }

    async fn unlock(&self) -> Result<()> {
        let named = |error: Error| {
            let error = error.with_operation(kv_core::Operation::Unlock);
            error.with_backend(crate::client::error::BACKEND).with_key(self.fence.key().as_str())
        };
        if let Some(loss) = self.state.loss() {
            self.state.let_go();
            return Err(named(Error::not_held(loss)));
        }
        let (reply, replied) = oneshot::channel();
        // The task ends with the hold or with the handle.
        let ended = || self.state.loss().map_or_else(closed, Error::not_held);
        self.unlocks.send(reply).map_err(|_| named(ended()))?;
        replied.await.unwrap_or_else(|_| Err(ended())).map_err(named)
    }

    fn release(&self) {
        self.state.lose(LockLoss::Released);
        self.state.let_go();
    }
}

struct Task {
    locks: Arc<Locks>,
    state: Arc<HoldState>,
    place: Place,
    lease: Lease,
}

impl Task {
    async fn run(self, first: Instant, mut unlocks: mpsc::UnboundedReceiver<oneshot::Sender<Result<()>>>) {
        // That the hold stands no more is seen below.
        let Lease { id, ttl, .. } = self.lease;
        let acked = Mutex::new(first - ttl / 3);
        let last_acked = || acked.lock().unwrap_or_else(PoisonError::into_inner);
        let acks = |sent_at| {
            *last_acked() = sent_at;
            self.state.renewed(sent_at, ttl, margin(ttl));
        };
        let kept = self.locks.leases.keep(id, ttl, first, acks, |_| {});
        let mut is_free = false;
        let loss = tokio::select! {
            biased;
            Some(reply) = unlocks.recv() => {
                let unlocked = if self.state.lose(LockLoss::Released) {
                    self.unlock().await
                } else {
                    Err(Error::not_held(self.state.loss().unwrap_or(LockLoss::Released)))
                };
                is_free = unlocked.is_ok();
                if is_free {
                    // Before the holder is told, who may lock again at once.
                    self.locks.leases.reuse(self.lease, *last_acked());
                }
                // Whoever asked may not wait any more.
                let _ = reply.send(unlocked);
                LockLoss::Released
            }
            loss = self.state.lost() => loss,
            () = self.locks.env.closing.cancelled() => LockLoss::Closed,
            ended = kept => match ended {
                Ended::Gone => LockLoss::Removed,
                Ended::Refused(_) => LockLoss::PermissionDenied,
            },
            loss = self.removed() => loss,
        };
        self.state.lose(loss);
        let loss = self.state.loss().unwrap_or(loss);
        if !matches!(loss, LockLoss::Released | LockLoss::Closed) {
            let name = String::from_utf8_lossy(&self.place.name);
            tracing::warn!(name = %escape(&name), %loss, "a lock was lost");
        }
        if loss == LockLoss::Expired {
            self.linger().await;
        }
        if !is_free {
            // The record goes with its lease, and only this lock lives by it.
            self.locks.leases.revoke_later(id);
        }
    }

    /// Leaves the lock on the server for as long as the holder was promised to have for stopping, unless
    /// it says that it has stopped. The lease may have been renewed although no answer came, or may last
    /// a little longer than we take it to: to end it now would let the next holder in at once.
    async fn linger(&self) {
        tokio::select! {
            () = self.state.grace_over() => {}
            () = self.locks.env.closing.cancelled() => {}
        }
    }

    /// Deletes the record, if it is still ours.
    async fn unlock(&self) -> Result<()> {
        let tree = Tree {
            when: self.place.stands(),
            then: vec![Step::Delete { range: Range::one(self.place.name.clone()), previous: false }],
            or_else: Vec::new(),
        };
        let done = self.locks.env.client.commit(self.locks.env.deadline(None), tree).await?;
        if done.succeeded {
            return Ok(());
        }
        fate::clear(&self.locks, self.place.clone());
        Err(Error::not_held(LockLoss::Removed))
    }

    /// Resolves once the record was removed from outside, or written over, which removes its lease.
    async fn removed(&self) -> LockLoss {
        let mut since = Some(self.place.created.saturating_add(1));
        loop {
            match fate::fate(&self.locks, &self.place, since).await {
                Ok(Fate::Deleted) => return LockLoss::Removed,
                Ok(Fate::Overwritten) => {
                    fate::clear(&self.locks, self.place.clone());
                    return LockLoss::Removed;
                }
                Err(error) if *error.kind() == ErrorKind::PermissionDenied => {
                    return LockLoss::PermissionDenied;
                }
                Err(error) => {
                    // The lease is still renewed, and the clock tells when that fails.
                    tracing::warn!(%error, "a lock's record cannot be watched; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            since = None;
        }
    }
}
