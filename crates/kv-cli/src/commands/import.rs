//! `kv import`: a directory tree or an export into the store, a few puts at a time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kv_core::{ErrorKind, Key, Operation, Precondition, PutOptions, PutResult, StoreExt};
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use super::expiry;
use crate::cli::Import;
use crate::exit::{self, Failure};
use crate::formats::{LeftOut, Opened, Row};
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::session::Session;

/// How many puts are under way at a time.
const IN_FLIGHT: usize = 32;
/// How many names of what was left out are told.
const NAMES: usize = 5;

#[derive(Serialize)]
struct Summary {
    imported: u64,
    bytes: u64,
    refused: u64,
    left_out: u64,
    /// With `--if-absent`: keys that were there already, and stay as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    existed: Option<u64>,
}

type Put = (Key, usize, kv_core::Result<PutResult>);

pub(crate) async fn run(session: &Session, args: Import) -> Result<(), Failure> {
    let below = super::prefix(&args.prefix, Operation::Put)?;
    // Before the store is opened: what writes to standard input may need the same sled directory.
    let source = tokio::task::spawn_blocking(move || Opened::open(&args.source, args.format, args.follow))
        .await
        .map_err(reader_died)??;
    let store = session.store().await?;
    // From here on it is told how far it came.
    let mut work = Work::begin();
    let declared = store.capabilities();
    let max_value = declared.limits.max_value;
    // Before the first put: what is not whole changes nothing.
    let source = Arc::new(source);
    let (checked, within) = (source.clone(), below.clone());
    let checked = tokio::task::spawn_blocking(move || checked.check(&within, max_value)).await;
    match checked.map_err(reader_died).and_then(|checked| checked) {
        Ok(Some(keys)) => work.progress.expect(keys),
        Ok(None) => {}
        Err(failure) => {
            work.told = true;
            return Err(failure);
        }
    }
    let (mut rows, reader) = Opened::rows(source, below, max_value);

    let mut options = PutOptions::default();
    if args.if_absent {
        options = options.with_precondition(Precondition::Absent);
        work.existed = Some(0);
    }
    options.timeout = session.timeout();
    while let Some(row) = rows.recv().await {
        match row {
            Row::LeftOut { name, what } => work.left_out(name, what),
            Row::Refused { name, why } => work.refuse(&name, &why),
            Row::Entry { key, value, expiry } => match expiry::of_row(expiry, args.expiry, declared) {
                Err(why) => {
                    let why = format!("{why}; --expiry none makes it permanent");
                    work.refuse(&format!("{key:?}"), &why);
                }
                Ok(expiry) => {
                    // Two rows for one key are put one after the other, so that the later one stays.
                    while work.puts.len() >= IN_FLIGHT || work.busy.contains(&key) {
                        work.one_done().await;
                    }
                    work.busy.insert(key.clone());
                    let (store, options) = (store.clone(), options.clone().with_expiry(expiry));
                    work.puts.spawn(async move {
                        let length = value.len();
                        let done = store.put_with(&key, value, options).await;
                        (key, length, done)
                    });
                }
            },
        }
        if work.failed.is_some() {
            break;
        }
    }
    // Ends the reader, if it still has rows.
    drop(rows);
    while !work.puts.is_empty() {
        work.one_done().await;
    }
    let read = match work.failed.take() {
        Some(failure) => Err(failure),
        None => reader.await.map_err(reader_died).and_then(|read| read),
    };
    work.finish(read, session.output(), args.skip_refused)
}

struct Work {
    progress: Progress,
    refused: u64,
    /// How many keys were there already, where that is asked for.
    existed: Option<u64>,
    /// What was left out: how much of each kind, and the first names.
    left_out: BTreeMap<LeftOut, (u64, Vec<String>)>,
    puts: JoinSet<Put>,
    /// The keys of the puts under way.
    busy: HashSet<Key>,
    /// Why no more is put.
    failed: Option<Failure>,
    /// What became of it all has been told.
    told: bool,
}

impl Work {
    fn begin() -> Self {
        Self {
            progress: Progress::begin("imported", true),
            refused: 0,
            existed: None,
            left_out: BTreeMap::new(),
            puts: JoinSet::new(),
            busy: HashSet::new(),
            failed: None,
            told: false,
        }
    }

    fn refuse(&mut self, name: &str, why: &str) {
        self.refused += 1;
        self.progress.say(&format!("kv: refused {name}: {why}"));
    }

    fn left_out(&mut self, name: String, what: LeftOut) {
        let (count, names) = self.left_out.entry(what).or_default();
        *count += 1;
        if names.len() < NAMES {
            names.push(name);
        }
    }

    /// Tells what became of it all.
    fn finish(
        mut self,
        read: Result<(), Failure>,
        format: Option<Format>,
        skip_refused: bool,
    ) -> Result<(), Failure> {
        self.told = true;
        for (what, (count, names)) in &self.left_out {
            self.progress.say(&format!("kv: left out {}", left_out_words(*what, *count, names)));
        }
        let summary = Summary {
            imported: self.progress.keys(),
            bytes: self.progress.bytes(),
            refused: self.refused,
            left_out: self.left_out.values().map(|(count, _)| count).sum(),
            existed: self.existed,
        };
        if let Err(failure) = read {
            self.progress.say(&format!("kv: {} imported before this:", count(summary.imported, "key")));
            return Err(failure);
        }
        drop(self);
        let mut out = Output::stdout();
        match format {
            Some(Format::Json | Format::Jsonl) => out.json(&summary)?,
            Some(Format::Table) | None => {
                let existed =
                    summary.existed.map_or_else(String::new, |there| format!("; {there} were there already"));
                out.line(&format!("imported {} keys, {} bytes{existed}", summary.imported, summary.bytes))?;
            }
        }
        out.flush()?;
        if summary.refused > 0 && !skip_refused {
            return Err(Failure::Incomplete {
                message: format!("{} refused, listed above; --skip-refused accepts that", summary.refused),
                code: exit::OTHER,
            });
        }
        Ok(())
    }

    /// Waits for one put to end, and takes note of how.
    async fn one_done(&mut self) {
        let (key, length, done) = match self.puts.join_next().await {
            Some(Ok(put)) => put,
            Some(Err(error)) => {
                // Which key it was is lost with it: no more than a start over is safe.
                self.failed.get_or_insert(Failure::io("a put stopped", error.into()));
                self.busy.clear();
                return;
            }
            None => return self.busy.clear(),
        };
        self.busy.remove(&key);
        match done {
            Ok(_) => self.progress.done(length),
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists { .. }) => {
                self.existed = self.existed.map(|there| there + 1);
            }
            Err(error) if is_refusal(error.kind()) => {
                self.refuse(&format!("{key:?}"), &error.kind().to_string());
            }
            Err(error) => {
                self.failed.get_or_insert(error.into());
            }
        }
    }
}

impl Drop for Work {
    /// An import that a signal broke off tells how far it came.
    fn drop(&mut self) {
        if !self.told {
            let most = self.puts.len();
            let more = if most == 0 { String::new() } else { format!("; up to {most} more may have been") };
            self.progress.say(&format!(
                "kv: broken off: {} of {} bytes imported{more}",
                count(self.progress.keys(), "key"),
                self.progress.bytes()
            ));
        }
    }
}

/// How many of what was left out, and which.
fn left_out_words(what: LeftOut, number: u64, names: &[String]) -> String {
    let (what, advice) = match what {
        LeftOut::Link => ("symbolic link", " (--follow reads what they point to)"),
        LeftOut::DeadLink if number == 1 => ("symbolic link", " that leads nowhere"),
        LeftOut::DeadLink => ("symbolic link", " that lead nowhere"),
        LeftOut::Special => ("special file", ""),
    };
    let more = match number - names.len() as u64 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{advice}: {}{more}", count(number, what), names.join(", "))
}

/// A number of things.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Whether the store refused this one key or value, and the next may do.
pub(super) fn is_refusal(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidKey { .. }
            | ErrorKind::InvalidValue { .. }
            | ErrorKind::TooLarge { .. }
            | ErrorKind::TtlOutOfRange { .. }
            | ErrorKind::Unsupported { .. }
    )
}

fn reader_died(error: JoinError) -> Failure {
    Failure::io("reading the source stopped", error.into())
}
