//! The end of a move: what is the same at both places by now is deleted at the old one, each key only at the
//! version that was compared.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    DeleteOptions, Entry, EntryExpiry, ErrorKind, GetOptions, Key, Precondition, Result as StoreResult,
    Store, StoreExt, Version,
};
use tokio::task::JoinSet;

use super::pair::Pair;
use super::steps::Step;
use crate::commands::import::count;
use crate::exit::Failure;
use crate::progress::Progress;

/// How many deletes are under way at a time.
const IN_FLIGHT: usize = 32;

/// What became of one key.
enum Outcome {
    Deleted,
    /// It was changed since it was compared.
    Overtaken,
    /// Its copy would go, and it would not.
    CopyExpires,
}

/// The deletes of one move.
pub(super) struct Clear {
    progress: Progress,
    running: JoinSet<(Key, StoreResult<Outcome>)>,
    moved: u64,
    told: bool,
}

impl Clear {
    /// Of so many keys in all.
    pub(super) fn begin(total: u64) -> Self {
        Self {
            progress: Progress::begin("moved", true).of(total),
            running: JoinSet::new(),
            moved: 0,
            told: false,
        }
    }

    /// Compares anew, and deletes at the source what is the same at the destination. Tells how many keys went.
    pub(super) async fn all(&mut self, pair: &Pair) -> Result<u64, Failure> {
        let worked = self.work(pair).await;
        while !self.running.is_empty() {
            // What is under way is told with the rest; the first failure is the one that counts.
            if let (Err(failure), true) = (self.one_done().await, worked.is_ok()) {
                return Err(failure);
            }
        }
        worked?;
        self.told = true;
        Ok(self.moved)
    }

    async fn work(&mut self, pair: &Pair) -> Result<(), Failure> {
        let mut steps = pair.steps().await?;
        while let Some(step) = steps.next().await? {
            let Step::Same(key, at, copy) = step else { continue };
            while self.running.len() >= IN_FLIGHT {
                self.one_done().await?;
            }
            let (store, timeout) = (pair.source.clone(), pair.timeout);
            self.running.spawn(async move {
                let done = clear(&store, &key, at, &copy, timeout).await;
                (key, done)
            });
        }
        Ok(())
    }

    async fn one_done(&mut self) -> Result<(), Failure> {
        let (key, done) = match self.running.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => return Err(Failure::io("a delete stopped", error.into())),
            None => return Ok(()),
        };
        match done? {
            Outcome::Deleted => {
                self.moved += 1;
                self.progress.done(0);
            }
            Outcome::Overtaken => {
                self.progress.say(&format!("kv: left alone {key:?}: others changed it meanwhile"));
            }
            Outcome::CopyExpires => self.progress.say(&format!(
                "kv: left alone {key:?}: the same value is at its new key already, and expires there"
            )),
        }
        Ok(())
    }
}

impl Drop for Clear {
    /// A move that a signal or a failure broke off tells how far it came; the next run goes on there.
    fn drop(&mut self) {
        if !self.told {
            let most = self.running.len();
            let more = if most == 0 { String::new() } else { format!(", and up to {most} more") };
            self.progress.say(&format!(
                "kv: broken off: all keys are copied, and {} deleted at the old place{more}; the same command goes \
                 on there",
                count(self.moved, "key")
            ));
        }
    }
}

async fn clear(
    store: &Arc<dyn Store>,
    key: &Key,
    at: Version,
    copy: &Key,
    timeout: Option<Duration>,
) -> StoreResult<Outcome> {
    let read = async |key: &Key| -> StoreResult<Option<Entry>> {
        let mut options = GetOptions::default().with_expiry();
        options.timeout = timeout;
        store.get_with(key, options).await
    };
    let expires = |entry: &Entry| !matches!(entry.expiry, None | Some(EntryExpiry::Never));
    let Some(copied) = read(copy).await? else { return Ok(Outcome::Overtaken) };
    if expires(&copied) && !read(key).await?.is_some_and(|entry| expires(&entry)) {
        return Ok(Outcome::CopyExpires);
    }
    let mut options = DeleteOptions::default().with_precondition(Precondition::At(at));
    options.timeout = timeout;
    match store.delete_with(key, options).await {
        Ok(_) => Ok(Outcome::Deleted),
        Err(error) if matches!(error.kind(), ErrorKind::PreconditionFailed { .. } | ErrorKind::NotFound) => {
            Ok(Outcome::Overtaken)
        }
        Err(error) => Err(error),
    }
}
