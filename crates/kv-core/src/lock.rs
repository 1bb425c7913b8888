//! Locks: what is asked for, the guard that is returned, and the fence that protects writes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::fence::Fence;
use crate::key::Key;
use crate::lock_loss::LockLoss;
use crate::timeout::timeout_setter;
use crate::version::FencingToken;

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockWait {
    /// Until it is had, the store is closed or the backend refuses.
    #[default]
    Forever,
    /// Not at all: `Locked` if somebody else holds it.
    Try,
    /// This long, then `Locked`.
    UpTo(Duration),
}

/// Options of a lock.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LockOptions {
    /// What others see as the holder; any bytes, not interpreted.
    pub owner: Bytes,
    /// How long the lock outlives a holder that died. The default is the store's. Renewal while the
    /// holder lives is automatic. Stores whose locks live by the session
    /// ([`LockTtl::PerSession`](crate::LockTtl)) refuse another value than the session's.
    pub ttl: Option<Duration>,
    /// How long to wait.
    pub wait: LockWait,
    /// The longest time it may be held: then the hold ends, reported as
    /// [`LockLoss::HeldTooLong`].
    pub max_hold: Option<Duration>,
    /// Deadline of each request, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl LockOptions {
    /// The same with this owner value.
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<Bytes>) -> Self {
        self.owner = owner.into();
        self
    }

    /// The same with this time to live.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The same with this wait.
    #[must_use]
    pub fn with_wait(mut self, wait: LockWait) -> Self {
        self.wait = wait;
        self
    }

    /// The same with this maximum hold.
    #[must_use]
    pub fn with_max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    timeout_setter!();
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// The owner value it was locked with.
    pub owner: Bytes,
    /// The number of the acquisition.
    pub token: FencingToken,
    /// What else the server knows of the holder, as its own tools print it: the lease on etcd, the
    /// session and its name on Consul, the node's name on ZooKeeper. For people; not to be parsed.
    pub native: Option<String>,
}

impl LockHolder {
    /// A holder with this owner value and fencing token.
    #[must_use]
    pub fn new(owner: Bytes, token: FencingToken) -> Self {
        Self { owner, token, native: None }
    }

    /// The same with what the server's own tools know of the holder.
    #[must_use]
    pub fn with_native(mut self, native: impl Into<String>) -> Self {
        self.native = Some(native.into());
        self
    }
}

/// For store authors: one hold, as a [`LockGuard`] drives it.
#[async_trait]
pub trait Hold: Send + Sync + 'static {
    /// The fence of this acquisition.
    fn fence(&self) -> Fence;

    /// Why it is not held any more, or `None` while it is. Must look at the clock: after a stopped
    /// process goes on, the first call tells the truth.
    fn loss(&self) -> Option<LockLoss>;

    /// Resolves once it is lost, at once if it already is. Cancel-safe.
    async fn lost(&self) -> LockLoss;

    /// How long after a loss by expiry was told the server still keeps others away, at least.
    fn grace(&self) -> Duration;

    /// Releases it and waits until the backend has confirmed; `NotHeld` if it was lost before.
    async fn unlock(&self) -> Result<()>;

    /// Releases it without waiting; called when the guard is dropped. Must not panic without a
    /// runtime.
    fn release(&self);
}

/// A guard is a hold too, so that a layer can put its own around one. Dropping the guard releases it.
#[async_trait]
impl Hold for LockGuard {
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
        self.hold.grace()
    }

    async fn unlock(&self) -> Result<()> {
        self.hold.unlock().await
    }

    fn release(&self) {
        self.hold.release();
    }
}

/// A lock that is held. Dropping it releases the lock in the background.
///
/// A guard that nobody keeps is a warning of the compiler, as the lock is free again at once:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// async fn work(store: &dyn kv_core::Store) -> kv_core::Result<()> {
///     kv_core::StoreExt::lock(store, "jobs/nightly").await?;
///     // … not protected at all.
///     Ok(())
/// }
/// ```
///
/// The guard tells what this process knows, which another process cannot wait for: see
/// [`fence`](Self::fence) for what protects a resource.
#[must_use = "dropping a guard releases the lock"]
pub struct LockGuard {
    hold: Arc<dyn Hold>,
    fence: Fence,
}

impl LockGuard {
    /// For store authors: a guard of this hold.
    pub fn new(hold: impl Hold) -> Self {
        let hold: Arc<dyn Hold> = Arc::new(hold);
        Self { fence: hold.fence(), hold }
    }

    /// The lock's key.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.fence.key()
    }

    /// The number of this acquisition: greater than that of every earlier one of the same lock.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.fence.token()
    }

    /// Whether it is held, as far as this process can know now. It turns false before the server can
    /// give an expired lock to another.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold.loss().is_none()
    }

    /// Why it is not held any more; `None` while it is.
    #[must_use]
    pub fn loss(&self) -> Option<LockLoss> {
        self.hold.loss()
    }

    /// Resolves once it is lost or released. Cancel-safe, and independent of the guard's lifetime.
    pub fn lost(&self) -> impl Future<Output = LockLoss> + Send + 'static {
        let hold = Arc::clone(&self.hold);
        async move { hold.lost().await }
    }

    /// The time there is to stop what depends on this lock: an expiry is told at least this long
    /// before the server can give the lock to another. Zero for in-process stores, and for every
    /// other way to lose a lock.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.hold.grace()
    }

    /// What to give to writes that must happen only while this lock is held.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Releases it and waits until the backend has confirmed. When it returns, another can have it.
    ///
    /// If this future is dropped, the release goes on in the background.
    ///
    /// # Errors
    ///
    /// `NotHeld` if it was lost before: then nothing was touched, and least of all the next
    /// holder's lock. Any other error: the release was not confirmed, and the lock ends with its
    /// time to live at the latest.
    pub async fn unlock(self) -> Result<()> {
        self.hold.unlock().await
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.hold.release();
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", self.key())
            .field("token", &self.token())
            .field("loss", &self.loss())
            .finish_non_exhaustive()
    }
}
