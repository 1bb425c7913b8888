//! A job that is claimed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::{
    DeleteOptions, Error, Expiry, Key, Precondition, Prefix, PutOptions, Result, Store, StoreExt, Version,
};
use tokio::time::Instant;

use super::dead;
use super::record::{Claim, Head, encode};

/// A job that this worker has claimed. Dropping it leaves it claimed until its visibility timeout is over.
///
/// Every call that changes it is applied only while nobody else has claimed it since, by the store's
/// account. If that is no longer so, it is `NotHeld` and nothing was changed.
#[must_use = "a job that is not acknowledged comes again"]
pub struct Job {
    pub(super) store: Arc<dyn Store>,
    pub(super) key: Key,
    pub(super) payload: Bytes,
    pub(super) attempts: u32,
    /// The version of the claim.
    pub(super) version: Version,
    pub(super) worker: Arc<str>,
    pub(super) visibility: Duration,
    /// When the claim, or its last extension, was sent.
    pub(super) sent: Instant,
    pub(super) dead: Prefix,
}

impl Job {
    /// The name of the job, unique in its queue.
    #[must_use]
    pub fn id(&self) -> &str {
        self.key.name()
    }

    /// What was pushed.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The number of this claim of the job: 1 for the first. A greater one tells that an earlier worker
    /// took it and did not acknowledge it.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempts
    }

    /// Until when nobody else claims the job, if this process's clock and those of the others run equally
    /// fast: the visibility timeout after the claim was sent.
    #[must_use]
    pub fn claimed_until(&self) -> Instant {
        self.sent.checked_add(self.visibility).unwrap_or(self.sent)
    }

    /// Acknowledges the job: it is done and goes.
    ///
    /// # Errors
    ///
    /// `NotHeld` if another has claimed it since, or it was acknowledged already. With
    /// [`applied`](Error::applied) `Unknown` it is done, or comes again after its visibility timeout; the
    /// call can be repeated.
    pub async fn acknowledge(&self) -> Result<()> {
        let options = DeleteOptions::default().with_precondition(Precondition::At(self.version));
        self.store.delete_with(&self.key, options).await.map(drop).map_err(|error| self.lost(error))
    }

    /// Begins the visibility timeout anew, for work that takes longer.
    ///
    /// # Errors
    ///
    /// `NotHeld` if another has claimed it since. With [`applied`](Error::applied) `Unknown` the claim is
    /// treated as lost, as its version is not known.
    pub async fn extend(&mut self) -> Result<()> {
        let claim = Some(Claim::new(&self.worker, self.visibility));
        let sent = Instant::now();
        self.version = self.write(&Head { attempts: self.attempts, claim, dead: false }).await?;
        self.sent = sent;
        Ok(())
    }

    /// Gives the job back: others can claim it at once. The attempt counts.
    ///
    /// # Errors
    ///
    /// `NotHeld` if another has claimed it since.
    pub async fn release(self) -> Result<()> {
        self.write(&Head { attempts: self.attempts, ..Head::default() }).await.map(drop)
    }

    /// Puts the job among the dead letters, whatever attempts it has left.
    ///
    /// # Errors
    ///
    /// `NotHeld` if another has claimed it since. After another error it is among the dead letters, or
    /// gets there when the next worker sees it, or was not touched.
    pub async fn reject(self) -> Result<()> {
        let head = Head { attempts: self.attempts, claim: None, dead: true };
        let version = self.write(&head).await?;
        dead::bury(&*self.store, &self.dead, &self.key, version, head.attempts, &self.payload).await
    }

    async fn write(&self, head: &Head) -> Result<Version> {
        let options = PutOptions::default()
            .with_precondition(Precondition::At(self.version))
            .with_expiry(Expiry::Never);
        let put = self.store.put_with(&self.key, encode(head, &self.payload)?, options).await;
        put.map(|put| put.version).map_err(|error| self.lost(error))
    }

    /// Another version is another's claim.
    fn lost(&self, error: Error) -> Error {
        if !error.is_conflict() {
            return error;
        }
        let mut lost = Error::not_held(None)
            .with_backend(self.store.capabilities().backend)
            .with_key(self.key.as_str())
            .with_detail("the job was claimed by another, or is done");
        if let Some(operation) = error.operation() {
            lost = lost.with_operation(operation);
        }
        lost
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("key", &self.key)
            .field("attempt", &self.attempts)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
