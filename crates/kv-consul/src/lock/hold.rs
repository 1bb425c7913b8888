//! One hold of a lock: its session and record, what keeps and watches over them, and what a guard drives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_backend::{Deadline, HoldState};
use kv_core::implement::Hold;
use kv_core::{Consistency, Error, ErrorKind, Fence, FencingToken, Key, LockGuard, LockLoss, Result};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::client::api::Lane;
use crate::client::error::again;
use crate::client::scope::Scope;
use crate::client::wire::{Content, Kv};
use crate::env::backoff::Backoff;
use crate::lock::fence::fence_record;
use crate::lock::locks::Locks;
use crate::lock::release::{GiveUp, release};
use crate::session::renewed::Renewed;
use crate::watch::event_queue::Item;
use crate::watch::hub::Subscription;
use crate::watch::members::Wants;

/// The guard of a lock that was acquired with this session.
pub(crate) fn hold(
    session: LockSession,
    key: Key,
    token: FencingToken,
    max_hold: Option<Duration>,
    timeout: Duration,
) -> LockGuard {
    session.on_close.abort();
    let state = Arc::new(HoldState::new(max_hold));
    session.vouch(&state);
    let record = fence_record(&session.renewed.id, &session.record);
    let (done, released) = oneshot::channel();
    let locks = Arc::clone(&session.locks);
    let keeper = Keeper { state: Arc::clone(&state), session, timeout };
    locks.env.spawn(keeper.run(done));
    LockGuard::new(ConsulHold {
        state,
        fence: Fence::new(key, token, record),
        released: Mutex::new(Some(released)),
    })
}

/// The session of one acquisition. Dropping it gives up what it holds.
pub(crate) struct LockSession {
    locks: Arc<Locks>,
    pub(crate) renewed: Renewed,
    record: String,
    content: Content,
    /// Gives it up when the handle is closed and whoever waits does not run.
    on_close: AbortHandle,
    given_up: bool,
}

/// How long whoever waits for a lock has, when the handle is closed, to give it up himself.
const POLITE: Duration = Duration::from_millis(50);

impl LockSession {
    pub(crate) fn new(locks: &Arc<Locks>, renewed: Renewed, record: &str, content: &Content) -> Self {
        let (locks, record, content) = (Arc::clone(locks), record.to_owned(), content.clone());
        let given_up = GiveUp::new(&locks, &renewed, &record, &content);
        let closing = locks.env.closing.clone();
        let on_close = locks.env.spawn(async move {
            closing.cancelled().await;
            tokio::time::sleep(POLITE).await;
            given_up.run().await;
        });
        Self { locks, renewed, record, content, on_close, given_up: false }
    }

    /// Whether its last renewal still vouches for it.
    pub(crate) fn is_alive(&self) -> bool {
        let renewal = *self.renewed.renewal.borrow();
        renewal.end.is_none() && renewal.sent_at + self.renewed.ttl - self.renewed.margin() > Instant::now()
    }

    /// Tells a hold what the last renewal vouches for.
    fn vouch(&self, state: &HoldState) {
        let renewal = *self.renewed.renewal.borrow();
        match renewal.end {
            Some(loss) => drop(state.lose(loss)),
            None => drop(state.renewed(renewal.sent_at, self.renewed.ttl, self.renewed.margin())),
        }
    }

    /// Whether the record is still bound to it; if not, how it was lost.
    async fn loss(&self, deadline: &Deadline) -> Result<Option<LockLoss>> {
        let fresh = Consistency::Linearizable;
        let record = self.locks.env.api.get(Lane::Vital, &self.record, fresh, deadline).await?;
        Ok(match record.as_ref().map(Kv::session) {
            Some(Some(holder)) if holder == self.renewed.id => None,
            None => Some(LockLoss::Removed),
            // Somebody else's, or free. A session that ends leaves the record; one that lives had it taken away.
            Some(_) if self.locks.env.api.renew_session(&self.renewed.id, deadline).await? => {
                Some(LockLoss::Removed)
            }
            Some(_) => Some(LockLoss::SessionLost),
        })
    }

    /// Frees the record, and removes it where it exists for the lock only; then ends the session.
    async fn release(&mut self, deadline: &Deadline) -> Result<()> {
        self.given_up = true;
        self.renewed.stop();
        release(&self.locks, &self.renewed.id, &self.record, &self.content, deadline).await
    }
}

impl Drop for LockSession {
    fn drop(&mut self) {
        self.on_close.abort();
        if self.given_up {
            return;
        }
        self.locks.env.spawn(GiveUp::new(&self.locks, &self.renewed, &self.record, &self.content).run());
    }
}

/// Keeps one hold: takes note of renewals and of losses, and releases it at its end.
struct Keeper {
    state: Arc<HoldState>,
    session: LockSession,
    timeout: Duration,
}

impl Keeper {
    async fn run(mut self, done: oneshot::Sender<Result<()>>) {
        let loss = self.watch_over().await;
        self.session.renewed.stop();
        if loss == LockLoss::Expired {
            self.linger().await;
        }
        let locks = Arc::clone(&self.session.locks);
        let released = self.session.release(&Deadline::after(self.timeout)).await;
        let key = &self.session.record;
        if let (Err(error), true) = (&released, loss == LockLoss::Closed)
            && !matches!(error.kind(), ErrorKind::NotHeld { .. })
        {
            let mut first = locks.failed_release.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| again(error).with_key(key.as_str()));
        }
        let undone = matches!(&released, Err(error) if error.is_transient());
        // Nobody waits for it unless `unlock` was called.
        drop(done.send(released));
        if undone && !locks.env.closing.is_cancelled() {
            let LockSession { renewed, record, content, .. } = &self.session;
            GiveUp::new(&locks, renewed, record, content).run().await;
        }
    }

    /// Leaves the lock on Consul for as long as the holder has for stopping, unless it says that it has
    /// stopped: Consul may have renewed the session although no answer came, and lets the next holder in at
    /// once where a lock is released and not lost.
    async fn linger(&self) {
        tokio::select! {
            () = self.state.grace_over() => {}
            () = self.session.locks.env.closing.cancelled() => {}
        }
    }

    /// Waits for the end of the hold.
    async fn watch_over(&mut self) -> LockLoss {
        let locks = Arc::clone(&self.session.locks);
        let mut renewal = self.session.renewed.renewal.clone();
        let state = Arc::clone(&self.state);
        let renewals = async {
            while renewal.changed().await.is_ok() {
                self.session.vouch(&state);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            loss = self.state.lost() => loss,
            () = locks.env.closing.cancelled() => {
                self.state.lose(LockLoss::Closed);
                LockLoss::Closed
            }
            () = renewals => LockLoss::SessionLost,
            loss = self.monitor() => {
                self.state.lose(loss);
                loss
            }
        }
    }

    /// Watches the record; resolves when it is not ours any more.
    async fn monitor(&self) -> LockLoss {
        let locks = &self.session.locks;
        let mut backoff = Backoff::reconnect();
        loop {
            let scope = Scope::Key(self.session.record.clone());
            let mut subscription = Subscription::new(&locks.hub, scope, Wants::Hints);
            let watched = async {
                subscription.begin().await?;
                loop {
                    if let Some(loss) = self.session.loss(&Deadline::after(self.timeout)).await? {
                        return Ok(loss);
                    }
                    if let Item::End(error) = subscription.next().await {
                        return Err(error);
                    }
                }
            };
            let error: Error = match watched.await {
                Ok(loss) => return loss,
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => {
                    return LockLoss::PermissionDenied;
                }
                ErrorKind::Closed => return LockLoss::Closed,
                _ => tracing::debug!(%error, "a lock's record cannot be watched"),
            }
            tokio::time::sleep(locks.env.jitter(backoff.pause())).await;
        }
    }
}

struct ConsulHold {
    state: Arc<HoldState>,
    fence: Fence,
    released: Mutex<Option<oneshot::Receiver<Result<()>>>>,
}

#[async_trait]
impl Hold for ConsulHold {
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
        let key = self.fence.key();
        let about = |error: Error| {
            error
                .with_operation(kv_core::Operation::Unlock)
                .with_backend(crate::client::error::BACKEND)
                .with_key(key.as_str())
        };
        self.state.let_go();
        if !self.state.lose(LockLoss::Released) {
            let loss = self.state.loss().unwrap_or(LockLoss::Released);
            return Err(about(Error::not_held(loss)));
        }
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner).take();
        match released {
            Some(released) => released
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Closed).with_detail("the release was broken off"))
                })
                .map_err(about),
            None => Err(about(Error::not_held(None))),
        }
    }

    fn release(&self) {
        self.state.lose(LockLoss::Released);
        self.state.let_go();
    }
}
