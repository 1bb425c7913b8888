//! Locks: a key bound to a session of its own, in the layout `consul lock` uses.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_backend::{Deadline, HoldState};
use kv_core::{
    Consistency, Error, ErrorKind, Fence, FencingToken, Hold, Key, LockGuard, LockHolder, LockLoss,
    LockOptions, LockWait, Result, Version,
};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::{Lane, Txn};
use crate::error::{Refusal, again};
use crate::hub::{Subscription, Wants};
use crate::names::{LOCK_FLAG, Scope};
use crate::release::{GiveUp, release};
use crate::session::Renewed;
use crate::shared::{Backoff, Shared};
use crate::sink::Item;
use crate::wire::{Content, Kv, Op};
use crate::write::{LOCK_DELAY_POLL, fence_record, version_of};

/// Waits for a lock.
pub(crate) async fn lock(shared: &Arc<Shared>, key: &Key, options: LockOptions) -> Result<LockGuard> {
    shared.names.check_writable(key)?;
    shared.capabilities.limits.check_value(key, &options.owner)?;
    let ttl = shared.capabilities.limits.lock_ttl.check(options.ttl.unwrap_or(shared.lock_ttl))?;
    let give_up = match options.wait {
        LockWait::UpTo(wait) => Instant::now().checked_add(wait),
        _ => None,
    };
    let attempt = Attempt {
        record: shared.names.lock_record(key),
        content: Content::new(&options.owner, LOCK_FLAG),
        shared: Arc::clone(shared),
        key: key.clone(),
        ttl,
        timeout: options.timeout.unwrap_or(shared.timeout),
        max_hold: options.max_hold,
        only_try: options.wait == LockWait::Try,
        session: None,
        waiting: None,
    };
    let closing = shared.closing.clone();
    tokio::select! {
        biased;
        () = closing.cancelled() => Err(Error::new(ErrorKind::Closed)),
        guard = attempt.run(give_up) => guard,
    }
}

/// Who holds a lock.
pub(crate) async fn holder(shared: &Arc<Shared>, key: &Key) -> Result<Option<LockHolder>> {
    let record = shared.read(&shared.names.lock_record(key), &shared.deadline(None)).await?;
    record
        .filter(|kv| kv.session().is_some() && kv.flags == LOCK_FLAG)
        .map(|kv| Ok(LockHolder::new(kv.bytes()?, FencingToken::new(kv.modify_index))))
        .transpose()
}

/// One call of `lock`.
struct Attempt {
    shared: Arc<Shared>,
    key: Key,
    record: String,
    content: Content,
    ttl: Duration,
    timeout: Duration,
    max_hold: Option<Duration>,
    only_try: bool,
    session: Option<LockSession>,
    waiting: Option<Subscription>,
}

/// What to do after an attempt that did not get the lock.
enum Next {
    /// Look again at once.
    Again,
    /// Look again when the record changes.
    Change,
    /// Consul keeps everybody away for a while after a lost hold; nothing tells when that is over.
    Pause,
}

impl Attempt {
    async fn run(mut self, give_up: Option<Instant>) -> Result<LockGuard> {
        let shared = Arc::clone(&self.shared);
        let turn = shared.turns.take(&self.record);
        let _turn = match give_up {
            // A task that does not wait does not stand in line either.
            _ if self.only_try => None,
            None => Some(turn.await),
            Some(at) => match tokio::time::timeout_at(at, turn).await {
                Ok(turn) => Some(turn),
                Err(_) => return Err(Error::new(ErrorKind::Locked)),
            },
        };
        let mut failures = Backoff::reconnect();
        loop {
            let next = match self.once().await {
                Ok(Ok(guard)) => return Ok(guard),
                Ok(Err(next)) => next,
                // A wait that has begun outlives an outage. Whether an attempt worked whose answer was
                // lost, the next look tells.
                Err(error) if self.waiting.is_some() && error.is_transient() => {
                    tracing::debug!(%error, "waiting for a lock goes on");
                    tokio::time::sleep(self.shared.jitter(failures.pause())).await;
                    if give_up.is_some_and(|at| Instant::now() >= at) {
                        return Err(error);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            failures.reset();
            if self.only_try && !matches!(next, Next::Again) {
                return Err(Error::new(ErrorKind::Locked));
            }
            let wait = async {
                match next {
                    Next::Again => Ok(()),
                    Next::Change => self.changed().await,
                    Next::Pause => {
                        tokio::time::sleep(self.shared.jitter(LOCK_DELAY_POLL)).await;
                        Ok(())
                    }
                }
            };
            match give_up {
                None => wait.await?,
                Some(at) => tokio::time::timeout_at(at, wait)
                    .await
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Locked)))?,
            }
        }
    }

    /// Looks at the record and takes it if it is free.
    async fn once(&mut self) -> Result<Result<LockGuard, Next>> {
        let deadline = Deadline::after(self.timeout);
        let state = self.shared.read(&self.record, &deadline).await.map_err(Error::not_applied)?;
        if let Some(kv) = &state {
            if kv.flags != LOCK_FLAG {
                let current = Some(Version::new(kv.modify_index));
                return Err(Error::new(ErrorKind::PreconditionFailed { current }).with_detail(format!(
                    "{:?} in Consul holds something else than a lock: a semaphore or an entry",
                    self.record
                )));
            }
            if let Some(holder) = kv.session() {
                // Ours is one whose answer was lost.
                return match self
                    .session
                    .take_if(|session| session.renewed.id == holder && session.is_alive())
                {
                    Some(session) => Ok(Ok(self.guard(session, FencingToken::new(kv.modify_index)))),
                    None => Ok(Err(Next::Change)),
                };
            }
        }
        let session = self.session(&deadline).await?.renewed.id.clone();
        let check = match &state {
            Some(kv) => Op::check_index(&self.record, kv.modify_index),
            None => Op::check_not_exists(&self.record),
        };
        let ops = [check, Op::lock(&self.record, &self.content, &session)];
        match self
            .shared
            .api
            .txn(&ops, None, &deadline)
            .await
            .map_err(|error| error.with_operation(kv_core::Operation::Lock))?
        {
            Txn::Done(slots) => {
                let token = FencingToken::new(version_of(&slots, &self.record)?.get());
                let Some(session) = self.session.take() else { return Err(Error::new(ErrorKind::Internal)) };
                Ok(Ok(self.guard(session, token)))
            }
            Txn::Refused(refused) if refused.iter().any(|(_, why)| *why == Refusal::LockDelay) => {
                Ok(Err(Next::Pause))
            }
            Txn::Refused(refused) => {
                if refused.iter().any(|(_, why)| *why == Refusal::NoSession) {
                    self.session = None;
                }
                Ok(Err(Next::Again))
            }
        }
    }

    /// The session to take it with; a new one if there is none that lives.
    async fn session(&mut self, deadline: &Deadline) -> Result<&LockSession> {
        if self.session.as_ref().is_some_and(|session| !session.is_alive()) {
            self.session = None;
        }
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let renewed = Renewed::for_lock(&self.shared, self.ttl, deadline).await;
                let renewed = renewed.map_err(Error::not_applied)?;
                Ok(none.insert(LockSession::new(&self.shared, renewed, &self.record, &self.content)))
            }
        }
    }

    /// Waits until the record may have changed.
    async fn changed(&mut self) -> Result<()> {
        let Some(waiting) = &self.waiting else {
            let scope = Scope::Key(self.record.clone());
            let mut subscription = Subscription::new(&self.shared, scope, Wants::Hints);
            kv_backend::within(self.timeout, subscription.begin()).await.map_err(Error::not_applied)?;
            self.waiting = Some(subscription);
            // Made now, so that it need not be when the lock is free.
            self.session(&Deadline::after(self.timeout)).await?;
            // It may have changed before the subscription began.
            return Ok(());
        };
        match waiting.next().await {
            Item::End(error) => Err(error.not_applied()),
            _ => Ok(()),
        }
    }

    fn guard(&self, session: LockSession, token: FencingToken) -> LockGuard {
        session.on_close.abort();
        let state = Arc::new(HoldState::new(self.max_hold));
        session.vouch(&state);
        let record = fence_record(&session.renewed.id, &self.record);
        let (done, released) = oneshot::channel();
        let keeper = Keeper { state: Arc::clone(&state), session, timeout: self.timeout };
        self.shared.spawn(keeper.run(done));
        LockGuard::new(ConsulHold {
            state,
            fence: Fence::new(self.key.clone(), token, record),
            released: Mutex::new(Some(released)),
        })
    }
}

/// The session of one acquisition. Dropping it gives up what it holds.
struct LockSession {
    shared: Arc<Shared>,
    renewed: Renewed,
    record: String,
    content: Content,
    /// Gives it up when the handle is closed and whoever waits does not run.
    on_close: AbortHandle,
    given_up: bool,
}

/// How long whoever waits for a lock has, when the handle is closed, to give it up himself.
const POLITE: Duration = Duration::from_millis(50);

impl LockSession {
    fn new(shared: &Arc<Shared>, renewed: Renewed, record: &str, content: &Content) -> Self {
        let (shared, record, content) = (Arc::clone(shared), record.to_owned(), content.clone());
        let given_up = GiveUp::new(&shared, &renewed, &record, &content);
        let closing = shared.closing.clone();
        let on_close = shared.spawn(async move {
            closing.cancelled().await;
            tokio::time::sleep(POLITE).await;
            given_up.run().await;
        });
        Self { shared, renewed, record, content, on_close, given_up: false }
    }

    fn is_alive(&self) -> bool {
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
        let record = self.shared.api.get(Lane::Vital, &self.record, fresh, deadline).await?;
        Ok(match record.as_ref().map(Kv::session) {
            Some(Some(holder)) if holder == self.renewed.id => None,
            None => Some(LockLoss::Removed),
            Some(_) => Some(LockLoss::SessionLost),
        })
    }

    /// Frees the record, and removes it where it exists for the lock only; then ends the session.
    async fn release(&mut self, deadline: &Deadline) -> Result<()> {
        self.given_up = true;
        self.renewed.stop();
        release(&self.shared, &self.renewed.id, &self.record, &self.content, deadline).await
    }
}

impl Drop for LockSession {
    fn drop(&mut self) {
        self.on_close.abort();
        if self.given_up {
            return;
        }
        self.shared.spawn(GiveUp::new(&self.shared, &self.renewed, &self.record, &self.content).run());
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
        let shared = Arc::clone(&self.session.shared);
        let released = self.session.release(&Deadline::after(self.timeout)).await;
        let key = &self.session.record;
        if let (Err(error), true) = (&released, loss == LockLoss::Closed)
            && *error.kind() != ErrorKind::NotHeld
        {
            let mut first = shared.failed_release.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| again(error).with_key(key.as_str()));
        }
        let undone = matches!(&released, Err(error) if error.is_transient());
        // Nobody waits for it unless `unlock` was called.
        drop(done.send(released));
        if undone && !shared.closing.is_cancelled() {
            let LockSession { renewed, record, content, .. } = &self.session;
            GiveUp::new(&shared, renewed, record, content).run().await;
        }
    }

    /// Waits for the end of the hold.
    async fn watch_over(&mut self) -> LockLoss {
        let shared = Arc::clone(&self.session.shared);
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
            () = shared.closing.cancelled() => {
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
        let shared = &self.session.shared;
        let mut backoff = Backoff::reconnect();
        loop {
            let scope = Scope::Key(self.session.record.clone());
            let mut subscription = Subscription::new(shared, scope, Wants::Hints);
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
            tokio::time::sleep(shared.jitter(backoff.pause())).await;
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
        self.state.loss()
    }

    async fn lost(&self) -> LockLoss {
        self.state.lost().await
    }

    fn grace(&self) -> Duration {
        self.state.margin()
    }

    async fn unlock(&self) -> Result<()> {
        let key = self.fence.key();
        let about = |error: Error| {
            error
                .with_operation(kv_core::Operation::Unlock)
                .with_backend(crate::error::BACKEND)
                .with_key(key.as_str())
        };
        if !self.state.lose(LockLoss::Released) {
            let loss = self.state.loss().unwrap_or(LockLoss::Released);
            return Err(about(Error::new(ErrorKind::NotHeld).with_detail(loss.to_string())));
        }
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner).take();
        match released {
            Some(released) => released
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Closed).with_detail("the release was broken off"))
                })
                .map_err(about),
            None => Err(about(Error::new(ErrorKind::NotHeld))),
        }
    }

    fn release(&self) {
        self.state.lose(LockLoss::Released);
    }
}
