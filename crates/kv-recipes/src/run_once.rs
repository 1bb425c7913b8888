//! Work that one instance does for each firing of a schedule.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kv_core::{Error, Key, Operation, Result, Store};

use crate::kept::{EntryLoss, Held, Lifetime, OnDrop};

/// Many instances have the same schedule, and one of them does the work of each firing.
///
/// A firing has a name that is the same for all instances, such as the time it was scheduled for. The first
/// one to claim it runs it; the claim is an entry below the key, with the name of the firing.
///
/// # What it promises
///
/// - At most one instance runs a firing. The claim is renewed while the work runs, and stays for the minimum
///   hold after it has ended, or after its process died: an instance whose clock or machine is late by less
///   than that does not run the firing again.
/// - When the claim is lost, as in an outage longer than the minimum hold, the work is dropped and
///   [`run`](Self::run) tells `NotHeld`.
///
/// # What it does not promise
///
/// That each firing is run: an instance can die in the middle of one. Use [`Firing::release`] to let another
/// instance try again. An instance that stood still may go on for a moment after its claim was lost: give
/// what it writes a precondition where that matters.
///
/// # Costs
///
/// A write to claim a firing, and for the one that runs it a watch on the key, a write for each third of the
/// minimum hold, and one at the end.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use kv_recipes::kv_core::{Result, Store};
/// use kv_recipes::RunOnce;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let nightly = RunOnce::new(store, "jobs/nightly", Duration::from_secs(600))?;
/// let report = nightly.run("2026-11-30T03:00Z", async { "done" }).await?;
/// assert_eq!(report, Some("done"));
/// // Here or on any other instance:
/// assert_eq!(nightly.run("2026-11-30T03:00Z", async { "again" }).await?, None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RunOnce {
    store: Arc<dyn Store>,
    key: Key,
    min_hold: Duration,
}

impl RunOnce {
    /// Firings below this key, each claimed for `min_hold` after its end: longer than any instance can be
    /// late.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; `Unsupported` if the store lacks [`Power::Ttl`](kv_core::Power::Ttl) or
    /// [`Power::ExpiryChange`](kv_core::Power::ExpiryChange): there, let an
    /// [`Election`](crate::Election)'s leader run the schedule. `TtlOutOfRange` for a minimum hold that the
    /// store cannot keep.
    pub fn new<K>(store: Arc<dyn Store>, key: K, min_hold: Duration) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let refuse = |error: Error| error.with_operation(Operation::Put);
        let key = key.try_into().map_err(|error| refuse(error.into()))?;
        Lifetime::Ttl(min_hold)
            .admit(store.capabilities())
            .map_err(|error| refuse(error).with_key(key.as_str()))?;
        Ok(Self { store, key, min_hold })
    }

    /// Claims a firing; `None` if an instance has claimed it before. Must be called within a tokio runtime.
    ///
    /// Dropping the future claims nothing. A claim whose answer was lost is looked into before it is told.
    ///
    /// # Errors
    ///
    /// `InvalidKey` for a name that is no key; else as for a put.
    pub async fn claim(&self, firing: &str) -> Result<Option<Firing>> {
        let key = self.key.join(firing).map_err(|error| error.with_operation(Operation::Put))?;
        let value = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
        let lifetime = Lifetime::Ttl(self.min_hold);
        let held = Held::claim(&self.store, &key, value.into(), lifetime, OnDrop::Leave).await?;
        Ok(held.map(|held| Firing { key, held }))
    }

    /// Claims a firing and does its work; `None` if an instance has claimed it before.
    ///
    /// Work that is done stays done: that the last renewal was not confirmed is logged and not an error, and
    /// the claim then stays for two thirds of the minimum hold. Dropping the future drops the work and leaves
    /// the claim until it expires.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the claim was lost: then the work was dropped. Else as for [`claim`](Self::claim).
    pub async fn run<T>(&self, firing: &str, work: impl Future<Output = T>) -> Result<Option<T>> {
        let Some(firing) = self.claim(firing).await? else { return Ok(None) };
        let mut lost = pin!(firing.lost());
        let done = tokio::select! {
            // The loss is looked at first: work must not go on after it.
            biased;
            _ = &mut lost => return Err(firing.held.not_held(Operation::Put)),
            done = work => done,
        };
        let key = firing.key.clone();
        if let Err(error) = firing.done().await {
            tracing::warn!(key = key.as_str(), %error, "the end of a firing is not confirmed");
        }
        Ok(Some(done))
    }
}

/// A firing that this instance has claimed. Dropping it leaves the claim until it expires, so that no other
/// instance runs the firing.
#[derive(Debug)]
#[must_use = "a firing that is claimed is run by nobody else"]
pub struct Firing {
    key: Key,
    held: Held,
}

impl Firing {
    /// The key of the claim.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether the claim holds, as far as this process can know now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.loss().is_none()
    }

    /// Resolves once the claim is lost. Cancel-safe, and independent of this value's lifetime.
    pub fn lost(&self) -> impl Future<Output = EntryLoss> + Send + 'static {
        self.held.lost()
    }

    /// The work has ended: from now on the claim stays for the minimum hold.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the claim was lost. Any other error: it was not renewed, and stays as long as its last
    /// renewal vouches for.
    pub async fn done(self) -> Result<()> {
        self.held.leave().await
    }

    /// Gives the claim up, so that any instance can run the firing, and waits until that is confirmed.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the claim was lost. Any other error: it goes on in the background.
    pub async fn release(self) -> Result<()> {
        self.held.release().await
    }
}
