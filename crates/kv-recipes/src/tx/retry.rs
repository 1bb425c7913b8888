//! Running a transaction until it commits: bounded attempts, jitter, and a lock for those who keep losing.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Error, ErrorKind, Fence, Key, LockGuard, LockOptions, LockWait, Result, Store, StoreExt};
use tokio::time::{Instant, sleep};

use super::buffer::Tx;
use super::commit::Committed;

/// How [`transaction_with`] goes about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TxOptions {
    /// The most attempts. The default is 200.
    pub attempts: u32,
    /// The time after which no further attempt begins. The default is 10 s.
    pub deadline: Duration,
    /// The lock that is taken after this many attempts that lost. The default is none.
    pub escalation: Option<(Key, u32)>,
    /// The lock that must be held for the commit to be applied.
    pub fence: Option<Fence>,
    /// The deadline of each request, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl Default for TxOptions {
    fn default() -> Self {
        Self {
            attempts: 200,
            deadline: Duration::from_secs(10),
            escalation: None,
            fence: None,
            timeout: None,
        }
    }
}

impl TxOptions {
    /// The number of lost attempts after which a transaction takes the lock of
    /// [`with_escalation`](Self::with_escalation).
    pub const ESCALATE_AFTER: u32 = 20;

    /// Changes the most attempts; zero counts as one.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Changes the time after which no further attempt begins.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Takes the lock named `lock` after [`ESCALATE_AFTER`](Self::ESCALATE_AFTER) lost attempts, and goes
    /// on while holding it. Those who keep losing then queue, in place of disturbing each other. The lock
    /// makes a transaction come to its turn; what keeps the data right are the transaction's own checks, so
    /// others need not take it.
    #[must_use]
    pub fn with_escalation(mut self, lock: impl Into<Key>) -> Self {
        self.escalation = Some((lock.into(), Self::ESCALATE_AFTER));
        self
    }

    /// Applies the transaction only while this lock is held; else it is `NotHeld`. Needs
    /// [`Power::FencedWrites`](kv_core::Power::FencedWrites).
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Gives each request a deadline of its own, in place of the store's default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// What came of [`transaction_with`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transacted<T> {
    /// What the work returned in the attempt that was committed.
    pub value: T,
    /// What the commit did.
    pub committed: Committed,
    /// How many attempts it took, that one included.
    pub attempts: u32,
}

/// Runs `work` in a [`Tx`] and commits it; after a conflict both again, with the default [`TxOptions`].
///
/// `work` runs once for each attempt, so it must have no effects beside the transaction. It is a closure
/// like `async |tx| …`, or `|tx| async move { … }` where it has to own what it uses. It decides with
/// what it reads by [`Tx::get`], and an error that it returns ends the transaction without changes, unless
/// what it read was no state that ever was: then it runs again.
///
/// # Errors
///
/// What `work` returned; `PreconditionFailed` if others were faster until the attempts or the deadline were
/// over; what the store's calls fail with. A commit whose outcome is unknown
/// ([`applied`](kv_core::Error::applied)) is returned and never tried again.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use kv_recipes::kv_core::{ErrorKind, Result, Store, StoreExt};
/// use kv_recipes::transaction;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// store.put("accounts/ann", "100").await?;
/// let moved = transaction(&store, async |tx| {
///     let ann: u64 = tx.get_json("accounts/ann").await?.unwrap_or(0);
///     let bob: u64 = tx.get_json("accounts/bob").await?.unwrap_or(0);
///     let amount = ann.min(30);
///     tx.put_json("accounts/ann", &(ann - amount))?;
///     tx.put_json("accounts/bob", &(bob + amount))?;
///     Ok(amount)
/// });
/// assert_eq!(moved.await?, 30);
/// assert_eq!(store.get("accounts/ann").await?.unwrap().value, "70");
/// # Ok(()) }
/// ```
pub async fn transaction<T, W>(store: &Arc<dyn Store>, work: impl FnMut(Tx) -> W) -> Result<T>
where
    W: Future<Output = Result<T>>,
{
    Ok(transaction_with(store, TxOptions::default(), work).await?.value)
}

/// Runs `work` in a [`Tx`] and commits it, with these options; [`transaction`] says the rest.
///
/// Between attempts it waits for a random time, up to 2 ms at first and up to 64 ms later. A refused commit
/// brings back what it was refused for, so that most further attempts read nothing anew.
///
/// # Errors
///
/// As for [`transaction`].
pub async fn transaction_with<T, W>(
    store: &Arc<dyn Store>,
    options: TxOptions,
    mut work: impl FnMut(Tx) -> W,
) -> Result<Transacted<T>>
where
    W: Future<Output = Result<T>>,
{
    let begun = Instant::now();
    let mut fresh = std::collections::BTreeMap::new();
    let mut lock: Option<LockGuard> = None;
    let mut attempt = 0_u32;
    loop {
        attempt += 1;
        let tx = Tx::begin(store);
        {
            let mut state = tx.state.lock();
            state.timeout = options.timeout;
            state.fresh = std::mem::take(&mut fresh);
        }
        if let Some(fence) = &options.fence {
            tx.set_fence(fence.clone())?;
        }
        match work(tx.same()).await {
            Ok(value) => {
                if let Some(committed) = tx.try_commit().await? {
                    return Ok(Transacted { value, committed, attempts: attempt });
                }
            }
            Err(error) if is_of_one_state(&tx).await => return Err(error),
            Err(_) => {}
        }
        let spent = begun.elapsed();
        if attempt >= options.attempts || spent >= options.deadline {
            return Err(outrun(&tx, attempt, spent).await);
        }
        fresh = std::mem::take(&mut tx.state.lock().fresh);
        match &options.escalation {
            Some((key, after)) if attempt >= *after => {
                if lock.as_ref().is_none_or(|lock| !lock.is_held()) {
                    let left = options.deadline - spent;
                    lock = match escalate(store, key, left, options.timeout).await? {
                        Some(lock) => Some(lock),
                        None => return Err(outrun(&tx, attempt, begun.elapsed()).await),
                    };
                    // What was brought back is as old as the wait for the lock.
                    fresh.clear();
                }
            }
            _ => sleep(Duration::from_micros(fastrand::u64(0..1000 << attempt.min(6)))).await,
        }
    }
}

/// Whether what an attempt read was there at one moment, so that an error it came to is no artefact of
/// reading at several.
async fn is_of_one_state(tx: &Tx) -> bool {
    let is_one = {
        let state = tx.state.lock();
        if state.conflicted {
            return false;
        }
        state.moments.is_one()
    };
    // Where it cannot be told, the error stands.
    is_one || !matches!(tx.prepare().await, Err(error) if error.is_conflict())
}

/// The lock, or `None` if it did not come in time.
async fn escalate(
    store: &Arc<dyn Store>,
    key: &Key,
    wait: Duration,
    timeout: Option<Duration>,
) -> Result<Option<LockGuard>> {
    let mut options = LockOptions::default().with_owner("transaction").with_wait(LockWait::UpTo(wait));
    options.timeout = timeout;
    match store.lock_with(key, options).await {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if *error.kind() == ErrorKind::Locked => Ok(None),
        Err(error) => Err(error),
    }
}

/// Others were faster until the end.
async fn outrun(tx: &Tx, attempts: u32, spent: Duration) -> Error {
    let spent = Duration::from_millis(u64::try_from(spent.as_millis()).unwrap_or(u64::MAX));
    let spent = kv_core::text::duration(spent);
    tx.conflict().await.with_detail(format!("others were faster {attempts} times in {spent}"))
}
