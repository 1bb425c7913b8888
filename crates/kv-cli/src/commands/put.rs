//! `kv put`: one value, under a condition and with a time to live where asked for.

use kv_core::{Expiry, Operation, Precondition, PutOptions};
use serde::Serialize;

use crate::cli::{Put, PutCondition};
use crate::exit::Failure;
use crate::input::{self, Encoding};
use crate::output::{Format, Output, duration};
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
    if let Some(ttl) = args.ttl {
        options = options.with_expiry(Expiry::Ttl(ttl));
    }
    options.timeout = session.timeout();
    let put = session.store().await?.put_with(&key, value, options);
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
    out.flush()
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
