//! A layer that keeps a log of every write.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kv_core::{Applied, Key, Result};
use parking_lot::Mutex;
use serde::Serialize;

use crate::kind;
use crate::policy::{Call, Next, Policy, Target};

/// Writes one line of JSON for each operation that could change something: puts, deletes, transactions,
/// locks and their breaking. Values are never written.
///
/// | field | is |
/// |---|---|
/// | `at_ms` | when the call ended, in milliseconds since 1970 by the system's clock |
/// | `backend`, `operation` | as in errors |
/// | `keys` | the key or prefix, or the keys that a transaction can write |
/// | `outcome` | `applied`, `refused` (surely nothing was changed), `unknown`, or `dropped` (the future was dropped, so it is not known either) |
/// | `error` | the kind of the error, where there is one |
/// | `took_ms` | how long the call took |
///
/// The line is written when the call has ended, so a process that dies may lose the last ones. A line that
/// cannot be written is reported as a `tracing` error; the write it tells of stands.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{Audit, LayerExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let lines = Arc::new(Mutex::new(Vec::new()));
/// let log = Arc::clone(&lines);
/// let audit = Audit::new(move |line| log.lock().unwrap().push(line.to_owned()));
/// let store = kv_mem::MemStore::open(Default::default())?.layered(audit);
/// store.put("a", "x").await?;
/// store.get("a").await?;
/// let lines = lines.lock().unwrap();
/// assert_eq!(lines.len(), 1);
/// assert!(lines[0].contains(r#""operation":"put","keys":["a"],"outcome":"applied""#));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Audit {
    sink: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Audit {
    /// Hands each line, without its newline, to `sink`, which must not block.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { sink: Arc::new(sink) }
    }

    /// Appends each line to a file, which is made if it is missing. Lines of several processes do not mix
    /// on a local file system.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn to_file(path: impl AsRef<Path>) -> std::io::Result<Self> {
        let file = Mutex::new(OpenOptions::new().append(true).create(true).open(path)?);
        Ok(Self::new(move |line| {
            if let Err(error) = append(&file, line) {
                tracing::error!(%error, "a line of the audit log could not be written");
            }
        }))
    }

    /// Emits each line as a `tracing` event at the level INFO, with the target `kv_audit`.
    #[must_use]
    pub fn to_tracing() -> Self {
        Self::new(|line| tracing::info!(target: "kv_audit", "{line}"))
    }
}

/// One write call for the whole line, so that lines do not mix.
fn append(file: &Mutex<File>, line: &str) -> std::io::Result<()> {
    file.lock().write_all([line, "\n"].concat().as_bytes())
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: u128,
    backend: &'static str,
    operation: &'static str,
    keys: Vec<&'a str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    took_ms: u128,
}

/// A call that is under way. Dropping it before its end writes that it was dropped.
struct Pending<'a> {
    audit: &'a Audit,
    call: Call<'a>,
    began: Instant,
    ended: bool,
}

impl Pending<'_> {
    fn write(&mut self, outcome: &'static str, error: Option<String>) {
        self.ended = true;
        let line = Line {
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis(),
            backend: self.call.backend,
            operation: self.call.operation.name(),
            keys: keys(self.call.target),
            outcome,
            error,
            took_ms: self.began.elapsed().as_millis(),
        };
        match serde_json::to_string(&line) {
            Ok(line) => (self.audit.sink)(&line),
            Err(error) => tracing::error!(%error, "a line of the audit log could not be made"),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.write("dropped", None);
        }
    }
}

fn keys(target: Target<'_>) -> Vec<&str> {
    match target {
        Target::Txn(txn) => {
            let ops = txn.then.iter().chain(&txn.or_else);
            let mut keys: Vec<&str> =
                ops.filter(|op| op.is_write()).map(|op| Key::as_str(op.key())).collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        }
        other => other.path().into_iter().collect(),
    }
}

impl Policy for Audit {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        if !call.operation.is_write() {
            return next().await;
        }
        let mut pending = Pending { audit: self, call, began: Instant::now(), ended: false };
        let answer = next().await;
        match &answer {
            Ok(_) => pending.write("applied", None),
            Err(error) => {
                let outcome = if error.applied() == Applied::No { "refused" } else { "unknown" };
                pending.write(outcome, Some(kind::name(error.kind())));
            }
        }
        answer
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}
