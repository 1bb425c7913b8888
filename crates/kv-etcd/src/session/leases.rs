//! Leases: granted under ids of our own choosing, renewed, and let go once nothing uses them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Applied, Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::id::{self, Purpose};
use super::pool::{Lease, Pool};
use super::waiting::Unused;
use crate::client::Name;
use crate::client::error;
use crate::env::Env;

/// What a lease's clock may differ by between us and the server, and what scheduling may cost.
pub(crate) fn margin(ttl: Duration) -> Duration {
    (ttl / 10).min(Duration::from_secs(1))
}

/// The leases of one handle.
pub(crate) struct Leases {
    env: Arc<Env>,
    revoke: mpsc::UnboundedSender<Unused>,
    counter: AtomicU64,
    book: Mutex<HashMap<Name, Use>>,
    pool: Mutex<Pool>,
}

/// Which lease a key lives by, as far as this handle knows.
struct Use {
    lease: i64,
    revision: i64,
    /// When it has ended by itself.
    until: Instant,
}

/// Why a lease is not renewed any more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// There is none any more.
    Gone,
    /// The server refuses to renew it.
    Refused(Error),
}

impl Leases {
    /// Also returns the leases to revoke, for [`revoker`](super::revoker()).
    pub(crate) fn new(env: Arc<Env>) -> (Self, mpsc::UnboundedReceiver<Unused>) {
        let (revoke, revocations) = mpsc::unbounded_channel();
        let leases =
            Self { env, revoke, counter: AtomicU64::new(0), book: Mutex::default(), pool: Mutex::default() };
        (leases, revocations)
    }

    /// Grants a lease. Unless it is [kept](Granted::keep) or may be [in use](Granted::in_flight), it is
    /// revoked in the background, so that neither an error nor a dropped future leaves it behind: its
    /// id is known before it exists.
    pub(crate) async fn grant(
        &self,
        deadline: Deadline,
        purpose: Purpose,
        ttl: Duration,
    ) -> Result<Granted<'_>> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        loop {
            let mut granted = Granted {
                leases: self,
                id: id::new(purpose, self.random()),
                asked: ttl,
                ttl,
                sent_at: Instant::now(),
                granted: false,
                revokes: true,
            };
            match self.env.client.grant(deadline, granted.id, seconds).await {
                Ok(got) => {
                    granted.ttl = Duration::from_secs(u64::try_from(got).unwrap_or(0));
                    granted.granted = true;
                    return Ok(granted);
                }
                // Somebody else's, which must not be revoked here.
                Err(error) if error::lease_exists(&error) => {
                    granted.keep();
                }
                Err(error) => {
                    // An outage must not leave a pile of what was never there.
                    if error.applied() == Applied::No {
                        granted.keep();
                    }
                    // Nothing but a lease was asked for, and that one goes.
                    return Err(error.not_applied());
                }
            }
        }
    }

    fn random(&self) -> u64 {
        RandomState::new().hash_one(self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Revokes a lease in the background. Needs no runtime.
    pub(crate) fn revoke_later(&self, id: i64) {
        // Without the task that revokes, the handle is closed and its connection gone.
        let _ = self.revoke.send(Unused::new(id, true));
    }

    /// Notes that `name` lives by this lease of its own since `revision`, and revokes the one it lived
    /// by before. Revisions say which of two writes whose answers crossed was the later one.
    pub(crate) fn attached(&self, name: Name, lease: i64, ttl: Duration, revision: i64) {
        let until = later(ttl.saturating_add(Duration::from_secs(5)));
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.len() >= 1024 && book.len().is_power_of_two() {
            let now = Instant::now();
            book.retain(|_, used| used.until > now);
        }
        let unused = match book.get(&name) {
            Some(used) if used.revision > revision => Some(lease),
            _ => book.insert(name, Use { lease, revision, until }).map(|used| used.lease),
        };
        drop(book);
        unused.into_iter().for_each(|lease| self.revoke_later(lease));
    }

    /// Notes that `name` lives by no lease of its own since `revision`.
    pub(crate) fn detached(&self, name: &[u8], revision: i64) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.get(name).is_some_and(|used| used.revision < revision)
            && let Some(used) = book.remove(name)
        {
            drop(book);
            self.revoke_later(used.lease);
        }
    }

    /// Renews a lease at `next` and then three times in its time to live, until it is gone or the
    /// server refuses.
    ///
    /// `acked` gets the moment each acknowledged renewal was sent, `failed` each failure.
    pub(crate) async fn keep(
        &self,
        id: i64,
        ttl: Duration,
        mut next: Instant,
        acked: impl Fn(Instant) + Send,
        failed: impl Fn(&Error) + Send,
    ) -> Ended {
        let third = ttl / 3;
        loop {
            tokio::time::sleep_until(next).await;
            let sent_at = Instant::now();
            let deadline = Deadline::after(third.min(self.env.timeout));
            match self.env.client.renew(deadline, id).await {
                Ok(true) => {
                    acked(sent_at);
                    next = sent_at + third;
                }
                Ok(false) => return Ended::Gone,
                Err(error)
                    if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
                {
                    return Ended::Refused(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "a lease could not be renewed; trying again");
                    failed(&error);
                    next = Instant::now() + (ttl / 20).min(Duration::from_secs(1));
                }
            }
        }
    }
}

impl Leases {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease of an earlier lock, of which two thirds of its time to live are left at least.
    pub(crate) fn idle(&self, asked: Duration) -> Option<Granted<'_>> {
        let (lease, sent_at) = self.pool().take(asked)?;
        let Lease { id, asked, ttl } = lease;
        Some(Granted { leases: self, id, asked, ttl, sent_at, granted: true, revokes: true })
    }

    /// Keeps a lease whose lock was released, by an acknowledged request: nothing lives by it.
    pub(crate) fn reuse(self: &Arc<Self>, lease: Lease, acked: Instant) {
        let Some(is_tended) = self.pool().keep(lease, acked) else { return self.revoke_later(lease.id) };
        if !is_tended {
            let leases = Arc::clone(self);
            self.env.tasks.spawn(async move {
                let closing = &leases.env.closing;
                while let Some(next) = leases.give_back(closing.is_cancelled()) {
                    tokio::select! {
                        () = tokio::time::sleep_until(next) => {}
                        () = closing.cancelled() => {}
                    }
                }
            });
        }
    }

    /// Revokes what is idle for too long, or everything, and says when the next one will be.
    fn give_back(&self, all: bool) -> Option<Instant> {
        let (over, next) = self.pool().give_back(all);
        over.into_iter().for_each(|lease| self.revoke_later(lease.id));
        next
    }
}

/// A lease that was granted, or was asked for and may have been.
pub(crate) struct Granted<'a> {
    leases: &'a Leases,
    pub(crate) id: i64,
    asked: Duration,
    /// What the server granted: what was asked for or more.
    pub(crate) ttl: Duration,
    /// When it was asked for, or last renewed: it lives at least `ttl` from then.
    pub(crate) sent_at: Instant,
    granted: bool,
    revokes: bool,
}

impl Granted<'_> {
    /// Leaves it to the caller to revoke it.
    pub(crate) fn keep(mut self) -> i64 {
        self.revokes = false;
        self.id
    }

    /// Leaves it to the lock that lives by it to revoke it, or to keep it for the next.
    pub(crate) fn keep_for_lock(mut self) -> Lease {
        self.revokes = false;
        Lease { id: self.id, asked: self.asked, ttl: self.ttl }
    }

    /// A write that attaches a key to it is about to be sent. It may be made although its future is
    /// dropped, and a revocation then would take the key and with it the value before. So only
    /// [`unused`](Self::unused) revokes it from now on.
    pub(crate) fn in_flight(&mut self) {
        self.revokes = false;
    }

    /// Nothing lives by it and nothing will.
    pub(crate) fn unused(mut self) {
        self.revokes = true;
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if self.revokes {
            let _ = self.leases.revoke.send(Unused::new(self.id, self.granted));
        }
    }
}

/// This long from now, or as good as never.
fn later(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + Duration::from_secs(365 * 24 * 3600))
}
