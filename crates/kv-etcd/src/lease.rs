//! Leases: granted under ids of our own choosing, renewed, and revoked once nothing uses them.

mod id;
mod pool;
mod waiting;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kv_backend::Deadline;
use kv_core::{Applied, Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Name};
use crate::error;
pub(crate) use id::{Purpose, is_session};
use pool::Pool;
pub(crate) use pool::{Lease, reuse};
use waiting::Waiting;

/// Revocations in flight at a time.
const REVOKING: usize = 16;
/// The pause between attempts while the server cannot be reached; then there is one at a time.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts at one while the handle is being closed; after them the lease's own end does it.
const LAST_ATTEMPTS: u32 = 3;
/// How often is looked for one that is not there, where the answer to its grant was not waited for.
const LOOKS: u32 = 4;

/// What a lease's clock may differ by between us and the server, and what scheduling may cost.
pub(crate) fn margin(ttl: Duration) -> Duration {
    (ttl / 10).min(Duration::from_secs(1))
}

/// The leases of one handle.
pub(crate) struct Leases {
    client: Arc<Client>,
    timeout: Duration,
    revoke: mpsc::UnboundedSender<Unused>,
    counter: AtomicU64,
    book: Mutex<HashMap<Name, Use>>,
    pool: Mutex<Pool>,
}

/// A lease to revoke.
pub(crate) struct Unused {
    id: i64,
    /// Whether it surely is there. If not, the server may get to its grant after its revocation.
    granted: bool,
    /// How often it was revoked and not found.
    looks: u32,
    /// Attempts that failed since the handle is being closed.
    failures: u32,
}

impl Unused {
    fn new(id: i64, granted: bool) -> Self {
        Self { id, granted, looks: 0, failures: 0 }
    }
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
    /// Also returns the leases to revoke, for [`revoker`].
    pub(crate) fn new(client: Arc<Client>, timeout: Duration) -> (Self, mpsc::UnboundedReceiver<Unused>) {
        let (revoke, revocations) = mpsc::unbounded_channel();
        let leases = Self {
            client,
            timeout,
            revoke,
            counter: AtomicU64::new(0),
            book: Mutex::default(),
            pool: Mutex::default(),
        };
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
            match self.client.grant(deadline, granted.id, seconds).await {
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
            let deadline = Deadline::after(third.min(self.timeout));
            match self.client.renew(deadline, id).await {
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

/// Revokes leases until `closing` is over, and returns how many then could not be revoked.
///
/// An attempt that fails is repeated for as long as the handle is open: without a leader no lease ends,
/// and a new leader counts each from its start again, so that an outage outlasts every time to live. Until
/// one succeeds there is one attempt at a time.
pub(crate) async fn revoker(
    client: Arc<Client>,
    timeout: Duration,
    mut unused: mpsc::UnboundedReceiver<Unused>,
    closing: impl Future<Output = ()>,
) -> usize {
    let mut closing = std::pin::pin!(closing);
    let ending = CancellationToken::new();
    let (mut revoking, mut pausing) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut waiting = Waiting::default();
    let (mut left, mut reached) = (0_usize, true);
    loop {
        let open = !ending.is_cancelled();
        while let Ok(lease) = unused.try_recv() {
            waiting.push(lease);
        }
        let has_room = revoking.len() < if reached || !open { REVOKING } else { 1 };
        if has_room && let Some(lease) = waiting.pop() {
            let failed = if open { !reached } else { lease.failures > 0 };
            let pause = if failed { PAUSE } else { Duration::ZERO };
            revoking.push(revoke(&client, timeout, lease, pause, &ending));
            continue;
        }
        if !open && unused.is_empty() && waiting.is_empty() && revoking.is_empty() && pausing.is_empty() {
            return left;
        }
        tokio::select! {
            // What was asked for before the closing is done before it.
            biased;
            Some((lease, tried)) = revoking.next() => {
                let mut lease: Unused = lease;
                let tried: Tried = tried;
                reached = !matches!(&tried, Tried::Failed(error) if error.is_transient());
                match tried {
                    Tried::Revoked => {}
                    // Nobody knows whether it was ever granted, so it is looked for again.
                    Tried::NotFound if lease.granted || lease.looks + 1 >= LOOKS => {}
                    Tried::NotFound if !open && lease.looks > 0 => {}
                    Tried::NotFound => {
                        let time = PAUSE * (1 << lease.looks);
                        lease.looks += 1;
                        let ending = &ending;
                        pausing.push(async move {
                            pause(time, ending).await;
                            lease
                        });
                    }
                    Tried::Failed(error) if !error.is_transient() || lease.failures >= LAST_ATTEMPTS => {
                        tracing::debug!(%error, "a lease could not be revoked; it ends by itself");
                        left += usize::from(!open);
                    }
                    Tried::Failed(_) => {
                        lease.failures += u32::from(!open);
                        waiting.push(lease);
                    }
                }
            }
            Some(lease) = pausing.next() => waiting.push(lease),
            lease = unused.recv(), if open || !unused.is_empty() => match lease {
                Some(lease) => waiting.push(lease),
                None => ending.cancel(),
            },
            () = &mut closing, if open => {
                unused.close();
                ending.cancel();
            }
        }
    }
}

/// What came of one attempt to revoke.
enum Tried {
    Revoked,
    NotFound,
    Failed(Error),
}

/// One attempt, after a pause.
async fn revoke(
    client: &Client,
    timeout: Duration,
    lease: Unused,
    time: Duration,
    ending: &CancellationToken,
) -> (Unused, Tried) {
    pause(time, ending).await;
    let tried = match client.revoke(Deadline::after(timeout), lease.id).await {
        Ok(true) => Tried::Revoked,
        Ok(false) => Tried::NotFound,
        Err(error) => Tried::Failed(error),
    };
    (lease, tried)
}

/// The closing waits for no pause but its own.
async fn pause(time: Duration, ending: &CancellationToken) {
    if time.is_zero() {
        return;
    }
    if ending.is_cancelled() {
        tokio::time::sleep(time).await;
    } else {
        drop(tokio::time::timeout(time, ending.cancelled()).await);
    }
}
