//! Putting the entry that is to be kept.

use std::sync::Arc;

use kv_core::{
    Applied, Bytes, DeleteOptions, Entry, Error, ErrorKind, Key, Power, Precondition, PutOptions, Result,
    Store, StoreExt, Version,
};
use tokio::time::Instant;

use super::lifetime::Lifetime;
use crate::pace::{Pauses, passes};

/// How often a write is tried that others overtake, or whose answer is lost.
const ATTEMPTS: u32 = 8;

/// Over what an entry may be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over<'a> {
    /// Whatever is there.
    Anything,
    /// Nothing, or an entry with one of these values: what is left of an earlier life of it.
    Own(&'a [Bytes]),
    /// Nothing. The value must be one that nobody else writes: an entry with it is taken for what a write
    /// whose answer was lost has put.
    Nothing,
}

/// An entry that was put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) version: Version,
    /// When the write was sent: from then on its time to live counts, at the earliest.
    pub(crate) sent_at: Instant,
}

/// An entry that was not put.
#[derive(Debug)]
pub(crate) struct Unplaced {
    pub(crate) error: Error,
    /// Whether an attempt whose answer was lost may have put it all the same: [`forget`] takes it away.
    pub(crate) may_be_there: bool,
}

/// Puts an entry; `None` if there is one that it must not replace.
///
/// A write whose answer was lost is looked into, for some seconds, before that is told as an error.
pub(crate) async fn place(
    store: &Arc<dyn Store>,
    key: &Key,
    value: &Bytes,
    lifetime: Lifetime,
    over: Over<'_>,
) -> Result<Option<Placed>, Unplaced> {
    let precondition = over.precondition();
    // A store that cannot change how a key expires cannot put over one that does.
    let clears = !store.capabilities().has(Power::ExpiryChange);
    let first_sent_at = Instant::now();
    let mut placing =
        Placing { store, key, value, lifetime, over, clears, precondition, lost_answer: None, first_sent_at };
    let mut pauses = Pauses::new();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (error, pause) = match placing.attempt().await {
            Ok(Step::Done(placed)) => return Ok(placed),
            Ok(Step::Overtaken(error)) => (error, None),
            Err(error) if passes(&error) && placing.lost_answer.is_some() => (error, Some(pauses.next())),
            Err(error) => return Err(Unplaced { error, may_be_there: placing.lost_answer.is_some() }),
        };
        if attempt == ATTEMPTS {
            let may_be_there = placing.lost_answer.is_some();
            return Err(Unplaced { error: placing.lost_answer.unwrap_or(error), may_be_there });
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

struct Placing<'a> {
    store: &'a Arc<dyn Store>,
    key: &'a Key,
    value: &'a Bytes,
    lifetime: Lifetime,
    over: Over<'a>,
    clears: bool,
    precondition: Precondition,
    /// The failure of an attempt that may have been applied.
    lost_answer: Option<Error>,
    first_sent_at: Instant,
}

enum Step {
    Done(Option<Placed>),
    /// Others were faster: the next attempt can be made at once.
    Overtaken(Error),
}

impl Over<'_> {
    fn precondition(self) -> Precondition {
        match self {
            Self::Anything => Precondition::Any,
            Self::Own(_) | Self::Nothing => Precondition::Absent,
        }
    }
}

impl Placing<'_> {
    async fn attempt(&mut self) -> Result<Step> {
        if self.clears && self.over == Over::Anything {
            if let Some(entry) = self.store.get(self.key).await? {
                clear(self.store, &entry).await?;
            }
            self.precondition = Precondition::Absent;
        }
        let sent_at = Instant::now();
        let options = PutOptions::default()
            .with_precondition(self.precondition.clone())
            .with_expiry(self.lifetime.expiry());
        match self.store.put_with(self.key, self.value.clone(), options).await {
            Ok(put) => Ok(Step::Done(Some(Placed { version: put.version, sent_at }))),
            Err(error) if error.is_conflict() => self.refused(error).await,
            Err(error) => {
                if error.applied() == Applied::Unknown {
                    // The same write again is what tells: on an absent key, or with the same value.
                    self.lost_answer = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    /// Decides by what is there.
    async fn refused(&mut self, error: Error) -> Result<Step> {
        let Some(entry) = self.store.get(self.key).await? else {
            self.precondition = self.over.precondition();
            return Ok(Step::Overtaken(error));
        };
        match self.over {
            Over::Nothing if self.lost_answer.is_some() && entry.value == *self.value => {
                // It is the attempt whose answer was lost.
                let placed = Placed { version: entry.version, sent_at: self.first_sent_at };
                return Ok(Step::Done(Some(placed)));
            }
            Over::Own(own) if own.contains(&entry.value) => {
                if self.clears {
                    clear(self.store, &entry).await?;
                } else {
                    self.precondition = Precondition::At(entry.version);
                }
            }
            Over::Anything => {}
            Over::Own(_) | Over::Nothing => return Ok(Step::Done(None)),
        }
        Ok(Step::Overtaken(error))
    }
}

/// Deletes an entry if it is still the same.
async fn clear(store: &Arc<dyn Store>, entry: &Entry) -> Result<()> {
    let options = DeleteOptions::default().with_precondition(Precondition::At(entry.version));
    match store.delete_with(&entry.key, options).await {
        Err(error) if error.is_conflict() => Ok(()),
        done => done.map(drop),
    }
}

/// Takes away what a write of unknown outcome may have put, as soon as the store answers.
pub(crate) async fn forget(store: Arc<dyn Store>, key: Key, values: Vec<Bytes>) {
    let mut pauses = Pauses::new();
    loop {
        let forgotten = match store.get(&key).await {
            Ok(Some(entry)) if values.contains(&entry.value) => clear(&store, &entry).await,
            Ok(_) => return,
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(()) => return,
            Err(error) if passes(&error) => tokio::time::sleep(pauses.next()).await,
            Err(error) => {
                if *error.kind() != ErrorKind::Closed {
                    tracing::warn!(key = key.as_str(), %error, "an entry may stay until it expires");
                }
                return;
            }
        }
    }
}
