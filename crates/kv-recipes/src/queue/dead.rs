//! Dead letters: jobs that nobody finished in all their attempts.

use bytes::Bytes;
use kv_core::{DeleteOptions, Key, Precondition, Prefix, PutOptions, Result, Store, StoreExt, Version};

use super::record::{Head, encode};

/// A job among the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadJob {
    /// The name it had in the queue.
    pub id: String,
    /// What was pushed.
    pub payload: Bytes,
    /// How often it was claimed.
    pub attempts: u32,
}

/// Copies a job that is marked as dead to the dead letters, then removes it. Whoever sees the mark does it
/// again, so a crash in between leaves nothing behind.
pub(super) async fn bury<S: Store + ?Sized>(
    store: &S,
    dead: &Prefix,
    key: &Key,
    version: Version,
    attempts: u32,
    payload: &Bytes,
) -> Result<()> {
    let letter = encode(&Head { attempts, claim: None, dead: true }, payload)?;
    let absent = PutOptions::default().with_precondition(Precondition::Absent);
    match store.put_with(&dead.join(key.name())?, letter, absent).await {
        Err(error) if error.is_conflict() => {}
        done => drop(done?),
    }
    let marked = DeleteOptions::default().with_precondition(Precondition::At(version));
    match store.delete_with(key, marked).await {
        // Another has done it.
        Err(error) if error.is_conflict() => Ok(()),
        done => done.map(drop),
    }
}
