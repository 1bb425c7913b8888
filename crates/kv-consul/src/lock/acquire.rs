//! Locks: a key bound to a session of its own, in the layout `consul lock` uses.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{
    Error, ErrorKind, FencingToken, Key, LockGuard, LockHolder, LockOptions, LockWait, Result, Version,
};
use tokio::time::Instant;

use crate::client::api::{Txn, written};
use crate::client::refusal::Refusal;
use crate::client::scope::Scope;
use crate::client::wire::{Content, Kv, Op};
use crate::env::backoff::{Backoff, LOCK_DELAY_POLL};
use crate::env::names::{LOCK_FLAG, SEMAPHORE_FLAG};
use crate::lock::hold::{LockSession, hold};
use crate::lock::holder::present;
use crate::lock::locks::Locks;
use crate::session::create::TTL;
use crate::session::holding::{Holding, holding};
use crate::session::renewed::Renewed;
use crate::watch::event_queue::Item;
use crate::watch::hub::Subscription;
use crate::watch::members::Wants;

/// Waits for a lock.
pub(crate) async fn lock(locks: &Arc<Locks>, key: &Key, options: LockOptions) -> Result<LockGuard> {
    locks.env.names.check_writable(key)?;
    let ttl = TTL.check(options.ttl.unwrap_or(locks.env.times.lock_ttl))?;
    let give_up = match options.wait {
        LockWait::UpTo(wait) => Instant::now().checked_add(wait),
        _ => None,
    };
    let attempt = Attempt {
        record: locks.env.names.lock_record(key),
        content: Content::new(&options.owner, LOCK_FLAG),
        locks: Arc::clone(locks),
        key: key.clone(),
        ttl,
        timeout: options.timeout.unwrap_or(locks.env.times.timeout),
        max_hold: options.max_hold,
        only_try: options.wait == LockWait::Try,
        session: None,
        waiting: None,
    };
    let closing = locks.env.closing.clone();
    tokio::select! {
        biased;
        () = closing.cancelled() => Err(Error::new(ErrorKind::Closed)),
        guard = attempt.run(give_up) => guard,
    }
}

/// Who holds a lock.
pub(crate) async fn holder(
    locks: &Arc<Locks>,
    key: &Key,
    timeout: Option<Duration>,
) -> Result<Option<LockHolder>> {
    let held = present(locks, &locks.env.names.lock_record(key), &locks.env.deadline(timeout)).await?;
    held.map(|held| held.holder(None)).transpose()
}

/// One call of `lock`.
struct Attempt {
    locks: Arc<Locks>,
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
        let locks = Arc::clone(&self.locks);
        let turn = locks.queue.take(&self.record);
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
            let attempt = async {
                let next = match self.once().await? {
                    Ok(guard) => return Ok(Some(guard)),
                    Err(next) => next,
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
                            tokio::time::sleep(self.locks.env.jitter(LOCK_DELAY_POLL)).await;
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
                Ok(None)
            };
            let error: Error = match attempt.await {
                Ok(Some(guard)) => return Ok(guard),
                Ok(None) => continue,
                Err(error) => error,
            };
            // A wait that has begun outlives an outage. Whether an attempt worked whose answer was lost,
            // the next look tells.
            if self.waiting.is_none() || !error.is_transient() {
                return Err(error);
            }
            tracing::debug!(%error, "waiting for a lock goes on");
            let pause = self.locks.env.jitter(failures.pause());
            let now = Instant::now();
            match give_up.map(|at| at.saturating_duration_since(now)) {
                Some(left) if left <= pause => return Err(error),
                _ => tokio::time::sleep(pause).await,
            }
        }
    }

    /// Looks at the record and takes it if it is free.
    async fn once(&mut self) -> Result<Result<LockGuard, Next>> {
        let deadline = Deadline::after(self.timeout);
        let state = self.locks.sessions.read(&self.record, &deadline).await.map_err(Error::not_applied)?;
        if let Some(kv) = &state {
            if let Some(holder) = kv.session() {
                // Ours is one whose answer was lost.
                if let Some(session) = self.session.take_if(|session| session.renewed.id == holder) {
                    if session.is_alive() {
                        let token = self.locks.first_tokens.token(kv, holder);
                        return Ok(Ok(self.guard(session, token)));
                    }
                    // Nothing vouches for it any more, but renewals may get through again: kept, this task
                    // would wait for itself. Dropping it releases the record in the background.
                    drop(session);
                }
                return self.held(kv, holder, &deadline).await.map(Err);
            }
            // One that was locked since it was written is what is left of a lock by a program that gives
            // it no flags.
            let left = kv.flags == 0 && kv.lock_index > 0;
            if kv.flags != LOCK_FLAG && !left {
                return Err(self.no_lock(kv, "a semaphore or an entry"));
            }
        }
        let session = self.session(&deadline).await?.renewed.id.clone();
        let check = match &state {
            Some(kv) => Op::check_index(&self.record, kv.modify_index),
            None => Op::check_not_exists(&self.record),
        };
        let ops = [check, Op::lock(&self.record, &self.content, &session)];
        match self
            .locks
            .env
            .api
            .txn(&ops, None, &deadline)
            .await
            .map_err(|error| error.with_operation(kv_core::Operation::Lock))?
        {
            Txn::Done(limit) => {
                let token = self.locks.first_tokens.token(written(&limit, &self.record)?, &session);
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

    /// What to do while a session has the record that is not ours, or was until it was given up.
    async fn held(&self, kv: &Kv, session: &str, deadline: &Deadline) -> Result<Next> {
        if kv.flags == SEMAPHORE_FLAG {
            return Err(self.no_lock(kv, "a semaphore"));
        }
        if !self.locks.env.names.locks_keys() {
            return Ok(Next::Change);
        }
        match holding(&self.locks.sessions, kv, session, None, deadline).await.map_err(Error::not_applied)? {
            // Whatever it is, Consul lets nobody else have it.
            Holding::Lock | Holding::Hidden => Ok(Next::Change),
            Holding::Entry => Err(self.no_lock(kv, "an entry that expires")),
            Holding::Over => Ok(Next::Again),
        }
    }

    fn no_lock(&self, kv: &Kv, what: &str) -> Error {
        let current = Some(Version::new(kv.modify_index));
        Error::new(ErrorKind::PreconditionFailed { current })
            .with_detail(format!("{:?} in Consul is no lock but {what}", self.record))
    }

    /// The session to take it with; a new one if there is none that lives.
    async fn session(&mut self, deadline: &Deadline) -> Result<&LockSession> {
        if self.session.as_ref().is_some_and(|session| !session.is_alive()) {
            self.session = None;
        }
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let renewed = Renewed::for_lock(&self.locks.env, self.ttl, deadline).await;
                let renewed = renewed.map_err(Error::not_applied)?;
                Ok(none.insert(LockSession::new(&self.locks, renewed, &self.record, &self.content)))
            }
        }
    }

    /// Waits until the record may have changed.
    async fn changed(&mut self) -> Result<()> {
        let Some(waiting) = &self.waiting else {
            let scope = Scope::Key(self.record.clone());
            let mut subscription = Subscription::new(&self.locks.hub, scope, Wants::Hints);
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
        hold(session, self.key.clone(), token, self.max_hold, self.timeout)
    }
}
