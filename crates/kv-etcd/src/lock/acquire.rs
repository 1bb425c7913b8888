//! Acquiring a lock: a place in the queue, and the wait for those before it to go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_backend::{Deadline, HoldState};
use kv_core::{Error, ErrorKind, Fence, Key, LockGuard, LockLoss, LockOptions, LockWait, Result};
use tokio::time::Instant;

use super::fate::{self, PAUSE, Place};
use super::hold::Held;
use super::locks::Locks;
use super::records::{CANDIDATES, candidate, nearest, reads, suspects, token_of};
use crate::client::error::{self, closed};
use crate::client::{Attach, Check, Name, Order, Record, Step, Tree};
use crate::session::{Ended, Granted, Purpose, margin};

/// How often a place in the queue whose lease ended before it was used is asked for anew.
const LEASE_ATTEMPTS: usize = 3;

/// See [`kv_core::Store::lock_opts`].
pub(crate) async fn lock(locks: &Arc<Locks>, key: &Key, options: LockOptions) -> Result<LockGuard> {
    locks.env.check_open()?;
    let ttl = locks.env.capabilities.limits.lock_ttl.check(options.ttl.unwrap_or(locks.ttl))?;
    // The closing waits for what a wait that it ends leaves behind.
    let _token = locks.env.tasks.token();
    let until = match options.wait {
        LockWait::UpTo(wait) => Instant::now().checked_add(wait),
        _ => None,
    };
    let first = Deadline::after(options.timeout.unwrap_or(locks.env.timeout));
    let candidate = Candidate { locks, key, options: &options, ttl, first, until };
    tokio::select! {
        locked = candidate.lock() => locked,
        () = locks.env.closing.cancelled() => Err(closed()),
    }
}

/// One who wants the lock.
struct Candidate<'a> {
    locks: &'a Arc<Locks>,
    key: &'a Key,
    options: &'a LockOptions,
    ttl: Duration,
    /// Until when it must have had its first place in the queue.
    first: Deadline,
    /// When the wait is over; `None`: never.
    until: Option<Instant>,
}

impl Candidate<'_> {
    async fn lock(&self) -> Result<LockGuard> {
        let (mut was_queued, mut leases_gone) = (false, 0);
        loop {
            // Where one lease of an earlier lock is gone, the others may be too.
            let idle = if leases_gone == 0 { self.locks.leases.idle(self.ttl) } else { None };
            match self.queue(idle, &mut was_queued).await {
                Ok(Some(guard)) => return Ok(guard),
                // The place in the queue was lost with its lease, or another program took it away.
                Ok(None) => {
                    leases_gone = 0;
                    tracing::debug!(key = %self.key, "queueing for a lock anew");
                }
                Err(error) if error::lease_gone(&error) && leases_gone < LEASE_ATTEMPTS => leases_gone += 1,
                // A wait that stood in the queue outlives outages.
                Err(error) if was_queued && error.is_transient() && !self.is_over() => {
                    tracing::debug!(%error, key = %self.key, "queueing for a lock anew failed; trying again");
                    tokio::time::sleep(PAUSE.min(self.left())).await;
                }
                Err(error) if was_queued && error.is_transient() => return Err(locked()),
                Err(error) => return Err(error),
            }
            if was_queued && self.is_over() {
                return Err(locked());
            }
        }
    }

    fn timeout(&self) -> Duration {
        self.options.timeout.unwrap_or(self.locks.env.timeout)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout())
    }

    fn left(&self) -> Duration {
        self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()))
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Queues and waits for its turn; `None` if the place was lost.
    async fn queue(&self, idle: Option<Granted<'_>>, was_queued: &mut bool) -> Result<Option<LockGuard>> {
        let locks = self.locks;
        // Up to its place in the queue it takes as long as one request. Only the first place may take
        // longer than the wait, because a lock that is free is acquired however short that is.
        let deadline =
            if *was_queued { Deadline::after(self.timeout().min(self.left())) } else { self.first };
        let granted = match idle {
            Some(granted) => granted,
            None => locks.leases.grant(deadline, Purpose::Own, self.ttl).await?,
        };
        let record = format!("{}/{:x}", locks.env.namespace.native(self.key), granted.id);
        let name: Name = record.clone().into();
        let mut then = vec![Step::Put {
            name: name.clone(),
            value: self.options.owner.clone(),
            lease: Attach::To(granted.id),
        }];
        then.extend(reads(locks, self.key, Order::NewestFirst, 0, CANDIDATES));
        let tree = Tree { when: vec![Check::absent(name.clone())], then, or_else: Vec::new() };
        let done = locks.env.client.commit(deadline, tree).await?;
        if !done.succeeded || done.steps.is_empty() {
            return Err(error::nonsense("that a record exists which only we could make"));
        }
        fate::clear_left(locks, suspects(locks, self.key, &done.steps[1..]));
        // One that does not wait has nothing to outlive.
        *was_queued = self.options.wait != LockWait::Try;
        let place = Place { name, created: done.revision };
        let before = match nearest(locks, self.key, Order::NewestFirst, &place.name, &done.steps[1..])? {
            Some(found) => found,
            None => candidate(locks, deadline, self.key, Order::NewestFirst, place.created).await?,
        };
        if before.is_some() && self.options.wait == LockWait::Try {
            return self.leave(granted, deadline).await;
        }
        let acked = Mutex::new(granted.sent_at);
        let last_acked = || acked.lock().unwrap_or_else(PoisonError::into_inner);
        let first = granted.sent_at + granted.ttl / 3;
        let acks = |sent_at| *last_acked() = sent_at;
        let kept = locks.leases.keep(granted.id, granted.ttl, first, acks, |_| {});
        let over = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A lock that is free is acquired, however short the wait.
            biased;
            turn = self.turn(&place, before) => if !turn? {
                fate::clear(locks, place);
                return Ok(None);
            },
            ended = kept => return match ended {
                Ended::Gone => Ok(None),
                Ended::Refused(error) => Err(error),
            },
            () = over => return self.leave(granted, self.deadline()).await,
        }
        let state = HoldState::new(self.options.max_hold);
        let (ttl, acked) = (granted.ttl, *last_acked());
        state.renewed(acked, ttl, margin(ttl));
        // This process was stopped for longer than its place lasts: another may hold the lock by now.
        if state.loss() == Some(LockLoss::Expired) {
            return Ok(None);
        }
        let fence = Fence::new(self.key.clone(), token_of(place.created), record);
        let held = Held::start(locks, fence, place, granted.keep_for_lock(), acked, state);
        Ok(Some(LockGuard::new(held)))
    }

    /// Gives up, leaving no trace.
    async fn leave(&self, granted: Granted<'_>, deadline: Deadline) -> Result<Option<LockGuard>> {
        // If this fails it is tried again in the background, and the lease ends by itself at last.
        if self.locks.env.client.revoke(deadline, granted.id).await.is_ok() {
            granted.keep();
        }
        Err(locked())
    }

    /// Waits until nobody is before us; `false` if our own record is gone.
    async fn turn(&self, own: &Place, before: Option<Record>) -> Result<bool> {
        let Some(before) = before else { return Ok(true) };
        tokio::select! {
            turn = self.turn_behind(own, before) => turn,
            ended = fate::fate(self.locks, own, Some(own.created.saturating_add(1))) => ended.map(|_| false),
        }
    }

    async fn turn_behind(&self, own: &Place, mut before: Record) -> Result<bool> {
        let locks = self.locks;
        loop {
            let rival = Place::of(&before);
            if fate::fate(locks, &rival, None).await? == fate::Fate::Overwritten {
                fate::clear(locks, rival);
            }
            // The next one may be the rival of a rival that gave up.
            let found = loop {
                match self.look(own).await {
                    Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                    other => break other?,
                }
            };
            match found {
                None => return Ok(false),
                Some(None) => return Ok(true),
                Some(Some(next)) => before = next,
            }
        }
    }

    /// Who is before us now; `None` if our own record is gone.
    async fn look(&self, own: &Place) -> Result<Option<Option<Record>>> {
        let locks = self.locks;
        let tree = Tree {
            when: own.stands(),
            then: reads(locks, self.key, Order::NewestFirst, own.created, CANDIDATES),
            or_else: Vec::new(),
        };
        let done = locks.env.client.commit(self.deadline(), tree).await?;
        if !done.succeeded {
            return Ok(None);
        }
        let found = match nearest(locks, self.key, Order::NewestFirst, &own.name, &done.steps)? {
            Some(found) => found,
            None => candidate(locks, self.deadline(), self.key, Order::NewestFirst, own.created).await?,
        };
        Ok(Some(found))
    }
}

fn locked() -> Error {
    Error::new(ErrorKind::Locked)
}
