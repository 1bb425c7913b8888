//! `kv locks --watch`: one lock, its holder now and each change.

use kv_core::{Error, ErrorKind, Key, LockChanges, LockHolder, LockWatchOptions, Operation};
use serde::Serialize;

use super::holder::{self, JsonHolder};
use super::view::{view, warn_where_alone};
use crate::exit::Failure;
use crate::output::{Format, Output};
use crate::reader;
use crate::session::Session;

#[derive(Serialize)]
struct JsonChange<'c> {
    key: &'c str,
    /// `null` while nobody holds it.
    holder: Option<JsonHolder<'c>>,
}

pub(super) async fn run(session: &Session, key: &str, count: Option<u64>) -> Result<(), Failure> {
    let key = crate::commands::key(key, Operation::WatchLock)?;
    let mut options = LockWatchOptions::default();
    options.timeout = session.timeout();
    let store = session.store().await?;
    let view = view(&**store, Operation::WatchLock)?;
    warn_where_alone(session);
    let changes = view.watch_lock_with(&key, options);
    let changes = session.request(Operation::WatchLock, key.as_str(), changes).await?;
    let json = matches!(session.output(), Some(Format::Json | Format::Jsonl));
    tokio::select! {
        biased;
        done = write(&key, changes, json, count) => done,
        () = reader::gone() => Err(Failure::BrokenPipe),
    }
}

/// Writes this many changes, or all there will be.
async fn write(
    key: &Key,
    mut changes: LockChanges,
    json: bool,
    mut left: Option<u64>,
) -> Result<(), Failure> {
    let mut out = Output::stdout();
    while left != Some(0) {
        let holder = changes.next().await.unwrap_or_else(|| Err(ended_silently()))?;
        if json {
            out.json(&JsonChange { key: key.as_str(), holder: holder.as_ref().map(JsonHolder::new) })?;
        } else {
            out.line(&words(holder.as_ref()))?;
        }
        // Whoever reads this acts on it now.
        out.flush()?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn words(holder: Option<&LockHolder>) -> String {
    holder.map_or_else(|| "nobody".to_owned(), holder::words)
}

fn ended_silently() -> Error {
    Error::new(ErrorKind::Internal)
        .with_operation(Operation::WatchLock)
        .with_detail("the watch ended without saying why")
}
