//! `kv put`: one value, under a condition and with a time to live where asked for.

use std::io::{self, IsTerminal};

use kv_core::{Expiry, Key, Operation, Precondition, PutOptions, SessionState, Store, StoreExt};
use serde::Serialize;

use super::fence;
use crate::cli::{Put, PutCondition};
use crate::exit::Failure;
use crate::input::{self, Encoding};
use crate::output::{Format, Output, duration, say};
use crate::session::Session;

#[derive(Serialize)]
struct Done<'d> {
    key: &'d str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted_ttl_seconds: Option<f64>,
}

pub(crate) async fn run(session: &Session, args: Put) -> Result<(), Failure> {
    let key = super::key(&args.key, Operation::Put)?;
    // Before the store is opened: what this reads from may need the same sled directory.
    let value = tokio::task::spawn_blocking(move || {
        input::value(&args.value, args.raw, Encoding::of(args.hex, args.base64))
    })
    .await
    .map_err(|error| Failure::io("reading the value stopped", error.into()))??;

    let mut options = PutOptions::default().with_precondition(precondition(&args.condition));
    options.expiry = match args.ttl {
        Some(ttl) => Expiry::Ttl(ttl),
        None if args.keep_ttl => Expiry::Keep,
        None if args.session => Expiry::Session,
        None => Expiry::Never,
    };
    options.fence = if args.fence { Some(fence::of_this_lock()?) } else { None };
    options.timeout = session.timeout();
    let store = session.store().await?;
    let put = store.put_with(&key, value, options);
    let put = session.request(Operation::Put, key.as_str(), put).await?;

    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => out.json(&Done {
            key: key.as_str(),
            version: put.version.get(),
            granted_ttl_seconds: put.granted_ttl.map(|ttl| ttl.as_secs_f64()),
        })?,
        Some(Format::Table) | None => out.line(&match put.granted_ttl {
            Some(ttl) => format!("version {}, for {}", put.version, duration(ttl)),
            None => format!("version {}", put.version),
        })?,
    }
    out.flush()?;
    drop(out);
    if args.session { stay(&**store, &key).await } else { Ok(()) }
}

/// Waits until the session is lost that the key lives by. A signal ends it, and the key with it.
async fn stay(store: &dyn Store, key: &Key) -> Result<(), Failure> {
    if io::stderr().is_terminal() {
        say(&format!("kv: {key:?} lives until this command is ended"));
    }
    let mut states = store.session_states();
    while let Some(state) = states.next().await {
        if state == SessionState::Lost {
            break;
        }
    }
    Err(Failure::NoLock(format!("the session was lost, and {key:?} goes with it")))
}

fn precondition(condition: &PutCondition) -> Precondition {
    match condition {
        PutCondition { if_absent: true, .. } => Precondition::Absent,
        PutCondition { if_present: true, .. } => Precondition::Present,
        PutCondition { if_version: Some(version), .. } => Precondition::At(*version),
        PutCondition { if_value: Some(value), .. } => Precondition::Value(value.clone().into()),
        PutCondition { if_version: None, if_value: None, .. } => Precondition::Any,
    }
}
