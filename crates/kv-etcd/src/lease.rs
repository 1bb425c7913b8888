//! Leases: granted under ids of our own choosing, renewed, and revoked once nothing uses them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Name};

/// Revocations in flight at a time.
const REVOKING: usize = 16;
/// The pauses between attempts at one, doubled at each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
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
}

/// A lease to revoke, which ends by itself then.
pub(crate) struct Unused {
    id: i64,
    ends: Instant,
    /// Whether it surely is there. If not, the server may get to its grant after its revocation.
    granted: bool,
}

/// Which lease a key lives by, as far as this handle knows.
struct Use {
    lease: i64,
    revision: i64,
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
        let leases = Self { client, timeout, revoke, counter: AtomicU64::new(0), book: Mutex::default() };
        (leases, revocations)
    }

    /// Grants a lease. Unless it is [kept](Granted::keep) or may be [in use](Granted::in_flight), it is
    /// revoked in the background, so that neither an error nor a dropped future leaves it behind: its
    /// id is known before it exists.
    pub(crate) async fn grant(&self, deadline: Deadline, ttl: Duration) -> Result<Granted<'_>> {
        let mut granted = Granted {
            leases: self,
            id: self.new_id(),
            ttl,
            sent_at: Instant::now(),
            granted: false,
            revokes: true,
        };
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // Nothing but a lease was asked for, and that one goes.
        let got = self.client.grant(deadline, granted.id, seconds).await.map_err(Error::not_applied)?;
        granted.ttl = Duration::from_secs(u64::try_from(got).unwrap_or(0));
        granted.granted = true;
        Ok(granted)
    }

    /// A number nobody has: 63 random bits, never 0.
    fn new_id(&self) -> i64 {
        let random = RandomState::new().hash_one(self.counter.fetch_add(1, Ordering::Relaxed));
        i64::try_from(random >> 1).unwrap_or(1).max(1)
    }

    /// Revokes a lease in the background, which was renewed for `ttl` at the latest now. Needs no
    /// runtime.
    pub(crate) fn revoke_later(&self, id: i64, ttl: Duration) {
        self.revoke_until(id, later(ttl));
    }

    fn revoke_until(&self, id: i64, ends: Instant) {
        // Without the task that revokes, the handle is closed and its connection gone.
        let _ = self.revoke.send(Unused { id, ends, granted: true });
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
            Some(used) if used.revision > revision => Some((lease, until)),
            _ => book.insert(name, Use { lease, revision, until }).map(|used| (used.lease, used.until)),
        };
        drop(book);
        unused.into_iter().for_each(|(lease, until)| self.revoke_until(lease, until));
    }

    /// Notes that `name` lives by no lease of its own since `revision`.
    pub(crate) fn detached(&self, name: &[u8], revision: i64) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.get(name).is_some_and(|used| used.revision < revision)
            && let Some(used) = book.remove(name)
        {
            drop(book);
            self.revoke_until(used.lease, used.until);
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
    /// What the server granted: what was asked for or more.
    pub(crate) ttl: Duration,
    /// When it was asked for: it lives at least `ttl` from then.
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
            let unused = Unused { id: self.id, ends: later(self.ttl), granted: self.granted };
            let _ = self.leases.revoke.send(unused);
        }
    }
}

/// This long from now, or as good as never.
fn later(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + Duration::from_secs(365 * 24 * 3600))
}

/// Revokes leases until `closing` is over, and returns how many then could not be revoked.
pub(crate) async fn revoker(
    client: Arc<Client>,
    timeout: Duration,
    mut unused: mpsc::UnboundedReceiver<Unused>,
    closing: impl Future<Output = ()>,
) -> usize {
    let mut closing = std::pin::pin!(closing);
    let ending = CancellationToken::new();
    let mut revoking = FuturesUnordered::new();
    let mut left = 0_usize;
    while !ending.is_cancelled() || !unused.is_empty() || !revoking.is_empty() {
        let open = !ending.is_cancelled();
        tokio::select! {
            // What was asked for before the closing is done before it.
            biased;
            Some(revoked) = revoking.next() => {
                let revoked: bool = revoked;
                left += usize::from(!open && !revoked);
            }
            lease = unused.recv(), if revoking.len() < REVOKING && (open || !unused.is_empty()) => match lease {
                Some(lease) => revoking.push(revoke(&client, timeout, lease, &ending)),
                None => ending.cancel(),
            },
            () = &mut closing, if open => {
                unused.close();
                ending.cancel();
            }
        }
    }
    left
}

/// Tries until it is revoked, or ends by itself, or the server refuses: a lock that nobody holds any
/// more must not outlast an outage by its whole time to live.
async fn revoke(client: &Client, timeout: Duration, lease: Unused, ending: &CancellationToken) -> bool {
    let (mut pause, mut last, mut looks) = (FIRST_PAUSE, 0, 0);
    loop {
        last += u32::from(ending.is_cancelled());
        match client.revoke(Deadline::after(timeout), lease.id).await {
            Ok(was_there) => {
                looks += 1;
                if was_there || lease.granted || last > 1 || looks >= LOOKS {
                    return true;
                }
            }
            Err(error) if !error.is_transient() || last >= LAST_ATTEMPTS || Instant::now() >= lease.ends => {
                tracing::debug!(%error, "a lease could not be revoked; it ends by itself");
                return false;
            }
            Err(_) => {}
        }
        if ending.is_cancelled() {
            tokio::time::sleep(FIRST_PAUSE).await;
        } else {
            // The closing waits for no pause.
            drop(tokio::time::timeout(pause, ending.cancelled()).await);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
