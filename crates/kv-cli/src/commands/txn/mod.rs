//! `kv txn`: several keys at once, under conditions, from a file.

mod file;

use kv_core::{Error, Operation, Power, TxnOp, TxnOutcome, TxnResult};
use serde::Serialize;

use super::fence;
use crate::cli::Txn;
use crate::exit::{self, Failure};
use crate::input;
use crate::output::{Format, JsonEntry, Output, bytes_words, duration, for_reader};
use crate::session::Session;

/// What came of it, in JSON.
#[derive(Serialize)]
struct JsonResult<'r> {
    succeeded: bool,
    outcomes: Vec<JsonOutcome<'r>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonOutcome<'r> {
    Put {
        put: &'r str,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        granted_ttl_seconds: Option<f64>,
    },
    Delete {
        delete: &'r str,
        existed: bool,
    },
    Get {
        get: &'r str,
        /// `null` where there is none.
        entry: Option<JsonEntry<'r>>,
    },
}

impl<'r> JsonOutcome<'r> {
    /// `None` for a kind of outcome this version does not know.
    fn new(op: &'r TxnOp, outcome: &'r TxnOutcome) -> Option<Self> {
        let key = op.key().as_str();
        Some(match outcome {
            TxnOutcome::Put(put) => Self::Put {
                put: key,
                version: put.version.get(),
                granted_ttl_seconds: put.granted_ttl.map(|ttl| ttl.as_secs_f64()),
            },
            TxnOutcome::Delete(deleted) => Self::Delete { delete: key, existed: deleted.existed },
            TxnOutcome::Get(entry) => Self::Get { get: key, entry: entry.as_ref().map(JsonEntry::full) },
            _ => return None,
        })
    }
}

pub(crate) async fn run(session: &Session, args: Txn) -> Result<(), Failure> {
    let source = args.file;
    // Before the store is opened: what this reads from may need the same sled directory.
    let text = tokio::task::spawn_blocking(move || input::document(&source))
        .await
        .map_err(|error| Failure::io("reading the file stopped", error.into()))??;
    let mut txn = file::read(&text).map_err(|why| Failure::Usage(format!("txn: {why}")))?;
    txn.fence = if args.fence { Some(fence::of_this_lock()?) } else { None };
    txn.timeout = session.timeout();
    let (then, or_else) = (txn.then.clone(), txn.or_else.clone());

    let store = session.store().await?;
    let power = store.as_transact().ok_or_else(|| {
        Error::unsupported(Power::Transactions.name())
            .with_operation(Operation::Transact)
            .with_backend(store.capabilities().backend)
    })?;
    let done = session.request(Operation::Transact, "", power.transact_with(txn)).await?;
    let ops = if done.succeeded { &then } else { &or_else };
    show(session, ops, &done)?;
    if done.succeeded {
        return Ok(());
    }
    let ran = if or_else.is_empty() { "nothing was done" } else { "\"else\" was carried out" };
    Err(Failure::Incomplete {
        message: format!("txn: not all conditions hold, so {ran}"),
        code: exit::CONFLICT,
    })
}

fn show(session: &Session, ops: &[TxnOp], done: &TxnResult) -> Result<(), Failure> {
    let mut out = Output::stdout();
    let outcomes = ops.iter().zip(&done.outcomes);
    match session.output() {
        Some(Format::Json | Format::Jsonl) => {
            let outcomes = outcomes.filter_map(|(op, outcome)| JsonOutcome::new(op, outcome)).collect();
            out.json(&JsonResult { succeeded: done.succeeded, outcomes })?;
        }
        Some(Format::Table) | None => {
            for (op, outcome) in outcomes {
                out.line(&line(op, outcome))?;
            }
        }
    }
    out.flush()
}

/// One operation in words.
fn line(op: &TxnOp, outcome: &TxnOutcome) -> String {
    let key = for_reader(op.key().as_str());
    match outcome {
        TxnOutcome::Put(put) => match put.granted_ttl {
            Some(ttl) => format!("put {key}: version {}, for {}", put.version, duration(ttl)),
            None => format!("put {key}: version {}", put.version),
        },
        TxnOutcome::Delete(deleted) if deleted.existed => format!("delete {key}: deleted"),
        TxnOutcome::Delete(_) => format!("delete {key}: was not there"),
        TxnOutcome::Get(None) => format!("get {key}: there is no such key"),
        TxnOutcome::Get(Some(entry)) => {
            format!("get {key}: version {}, {}", entry.version, bytes_words(&entry.value))
        }
        _ => format!("{key}: done, in a way this kv does not know"),
    }
}
