//! The changes themselves, some at a time, each only where the destination is as it was compared.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    DeleteOptions, Entry, ErrorKind, GetOptions, Key, Precondition, PutOptions, Result as StoreResult, Store,
    StoreExt, Version,
};
use serde::Serialize;
use tokio::task::JoinSet;

use super::compare::Rules;
use super::pair::Pair;
use super::steps::Step;
use crate::commands::expiry;
use crate::commands::import::{count, is_refusal};
use crate::exit::Failure;
use crate::progress::Progress;

/// How many changes are under way at a time.
const IN_FLIGHT: usize = 32;

/// What was done.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Done {
    pub(super) made: u64,
    pub(super) changed: u64,
    pub(super) deleted: u64,
    pub(super) bytes: u64,
    pub(super) refused: u64,
}

impl Done {
    pub(super) fn total(self) -> u64 {
        self.made + self.changed + self.deleted + self.refused
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Make,
    Change,
    Delete,
}

/// What became of one change.
enum Outcome {
    Done {
        bytes: usize,
    },
    /// The key is not as it was compared; the comparison at the end tells.
    Overtaken,
    Refused(String),
    Failed(kv_core::Error),
}

/// The changes of one run.
pub(super) struct Apply {
    progress: Progress,
    done: Done,
    running: JoinSet<(Kind, Key, Outcome)>,
    told: bool,
}

impl Apply {
    /// Of so many changes in all.
    pub(super) fn begin(total: u64) -> Self {
        Self {
            progress: Progress::begin("copied", true).of(total),
            done: Done::default(),
            running: JoinSet::new(),
            told: false,
        }
    }

    /// Compares anew and makes the changes as it goes.
    pub(super) async fn all(&mut self, pair: &Pair, rules: Rules) -> Result<Done, Failure> {
        let worked = self.work(pair, rules).await;
        while !self.running.is_empty() {
            // What is under way is told with the rest; the first failure is the one that counts.
            if let (Err(failure), true) = (self.one_done().await, worked.is_ok()) {
                return Err(failure);
            }
        }
        worked?;
        self.told = true;
        Ok(self.done)
    }

    async fn work(&mut self, pair: &Pair, rules: Rules) -> Result<(), Failure> {
        let mut steps = pair.steps().await?;
        while let Some(step) = steps.next().await? {
            let (kind, key, work) = match step {
                Step::Same(..) | Step::Refuse(..) => continue,
                Step::Delete(..) if !rules.delete => continue,
                Step::Change(..) if !rules.overwrite => continue,
                Step::Make(entry, _) | Step::Change(entry, ..) if pair.refusal(&entry).is_some() => continue,
                Step::Make(entry, to) => (Kind::Make, to.clone(), Work::Put(entry, to, Precondition::Absent)),
                Step::Change(entry, to, at) => {
                    (Kind::Change, to.clone(), Work::Put(entry, to, Precondition::At(at)))
                }
                Step::Delete(key, at) => (Kind::Delete, key.clone(), Work::Delete(key, at)),
            };
            while self.running.len() >= IN_FLIGHT {
                self.one_done().await?;
            }
            let (source, destination) = (pair.source.clone(), pair.destination.clone());
            let timeout = pair.timeout;
            self.running.spawn(async move {
                let outcome = work.run(&source, &destination, rules.keep_ttl, timeout).await;
                (kind, key, outcome.unwrap_or_else(Outcome::Failed))
            });
        }
        Ok(())
    }

    /// Waits for one change to end, and takes note of how.
    async fn one_done(&mut self) -> Result<(), Failure> {
        let (kind, key, outcome) = match self.running.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => return Err(Failure::io("a change stopped", error.into())),
            None => return Ok(()),
        };
        match outcome {
            Outcome::Done { bytes } => {
                let counter = match kind {
                    Kind::Make => &mut self.done.made,
                    Kind::Change => &mut self.done.changed,
                    Kind::Delete => &mut self.done.deleted,
                };
                *counter += 1;
                self.done.bytes += bytes as u64;
                self.progress.done(bytes);
            }
            Outcome::Overtaken => {
                self.progress.say(&format!("kv: left alone {key:?}: others changed it meanwhile"))
            }
            Outcome::Refused(why) => {
                self.done.refused += 1;
                self.progress.say(&format!("kv: refused {key:?}: {why}"));
            }
            Outcome::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Drop for Apply {
    /// A copy that a signal or a failure broke off tells how far it came; the next run goes on there.
    fn drop(&mut self) {
        if !self.told {
            let Done { made, changed, deleted, .. } = self.done;
            let most = self.running.len();
            let more = if most == 0 { String::new() } else { format!(", and up to {most} more") };
            self.progress.say(&format!(
                "kv: broken off: {} made, {changed} changed, {deleted} deleted{more}; the same command goes on there",
                count(made, "key")
            ));
        }
    }
}

enum Work {
    Put(Entry, Key, Precondition),
    Delete(Key, Version),
}

impl Work {
    async fn run(
        self,
        source: &Arc<dyn Store>,
        destination: &Arc<dyn Store>,
        keep_ttl: bool,
        timeout: Option<Duration>,
    ) -> StoreResult<Outcome> {
        let (bytes, done) = match self {
            Self::Put(mut entry, to, precondition) => {
                let mut options = PutOptions::default().with_precondition(precondition);
                options.timeout = timeout;
                if keep_ttl && entry.expiry.is_none() {
                    let mut get = GetOptions::default().with_expiry();
                    get.timeout = timeout;
                    // The value and its expiry belong together.
                    match source.get_with(&entry.key, get).await? {
                        Some(now) => entry = now,
                        None => return Ok(Outcome::Overtaken),
                    }
                }
                if keep_ttl {
                    match expiry::of_entry(entry.expiry, destination.capabilities()) {
                        Ok(expiry) => options = options.with_expiry(expiry),
                        Err(why) => return Ok(Outcome::Refused(why)),
                    }
                }
                let bytes = entry.value.len();
                (bytes, destination.put_with(&to, entry.value, options).await.map(|_| ()))
            }
            Self::Delete(key, at) => {
                let mut options = DeleteOptions::default().with_precondition(Precondition::At(at));
                options.timeout = timeout;
                (0, destination.delete_with(&key, options).await.map(|_| ()))
            }
        };
        Ok(match done {
            Ok(()) => Outcome::Done { bytes },
            Err(error) => match error.kind() {
                ErrorKind::AlreadyExists { .. }
                | ErrorKind::PreconditionFailed { .. }
                | ErrorKind::NotFound => Outcome::Overtaken,
                kind if is_refusal(kind) => Outcome::Refused(kind.to_string()),
                _ => Outcome::Failed(error),
            },
        })
    }
}
