//! `kv import`: a directory tree or an export into the store, a few puts at a time.

use std::collections::HashSet;

use kv_core::{ErrorKind, Key, Operation, PutOptions, PutResult};
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use crate::cli::Import;
use crate::exit::{self, Failure};
use crate::formats::{Opened, Row};
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::session::Session;

/// How many puts are under way at a time.
const IN_FLIGHT: usize = 32;

#[derive(Serialize)]
struct Summary {
    imported: u64,
    bytes: u64,
    refused: u64,
}

type Put = (Key, usize, kv_core::Result<PutResult>);

pub(crate) async fn run(session: &Session, args: Import) -> Result<(), Failure> {
    let below = super::prefix(&args.prefix, Operation::Put)?;
    // Before the store is opened: what writes to standard input may need the same sled directory.
    let source = tokio::task::spawn_blocking(move || Opened::open(&args.source, args.format))
        .await
        .map_err(reader_died)??;
    let store = session.store().await?;
    let (mut rows, reader) = source.rows(below, store.capabilities().limits.max_value);

    let mut work = Work {
        progress: Progress::begin("imported", true),
        refused: 0,
        puts: JoinSet::new(),
        busy: HashSet::new(),
        failed: None,
    };
    let mut options = PutOptions::default();
    options.timeout = session.timeout();
    while let Some(row) = rows.recv().await {
        match row {
            Row::Refused { name, why } => work.refuse(&name, &why),
            Row::Entry { key, value } => {
                // Two rows for one key are put one after the other, so that the later one stays.
                while work.puts.len() >= IN_FLIGHT || work.busy.contains(&key) {
                    work.one_done().await;
                }
                work.busy.insert(key.clone());
                let (store, options) = (store.clone(), options.clone());
                work.puts.spawn(async move {
                    let length = value.len();
                    let done = store.put_with(&key, value, options).await;
                    (key, length, done)
                });
            }
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
    let read = match work.failed {
        Some(failure) => Err(failure),
        None => reader.await.map_err(reader_died).and_then(|read| read),
    };
    let summary =
        Summary { imported: work.progress.keys(), bytes: work.progress.bytes(), refused: work.refused };
    if let Err(failure) = read {
        work.progress.say(&format!("kv: {} keys were imported before this:", summary.imported));
        return Err(failure);
    }
    drop(work.progress);
    finish(session.output(), &summary, args.skip_refused)
}

fn finish(format: Option<Format>, summary: &Summary, skip_refused: bool) -> Result<(), Failure> {
    let Summary { imported, bytes, refused } = summary;
    let mut out = Output::stdout();
    match format {
        Some(Format::Json | Format::Jsonl) => out.json(summary)?,
        Some(Format::Table) | None => out.line(&format!("imported {imported} keys, {bytes} bytes"))?,
    }
    out.flush()?;
    if *refused > 0 && !skip_refused {
        return Err(Failure::Incomplete {
            message: format!("{refused} refused, listed above; --skip-refused accepts that"),
            code: exit::OTHER,
        });
    }
    Ok(())
}

struct Work {
    progress: Progress,
    refused: u64,
    puts: JoinSet<Put>,
    /// The keys of the puts under way.
    busy: HashSet<Key>,
    /// Why no more is put.
    failed: Option<Failure>,
}

impl Work {
    fn refuse(&mut self, name: &str, why: &str) {
        self.refused += 1;
        self.progress.say(&format!("kv: refused {name}: {why}"));
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
            Err(error) if is_refusal(error.kind()) => {
                self.refuse(&format!("{key:?}"), &error.kind().to_string());
            }
            Err(error) => {
                self.failed.get_or_insert(error.into());
            }
        }
    }
}

/// Whether the store refused this one key or value, and the next may do.
fn is_refusal(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidKey { .. } | ErrorKind::InvalidValue { .. } | ErrorKind::TooLarge { .. })
}

fn reader_died(error: JoinError) -> Failure {
    Failure::io("reading the source stopped", error.into())
}
