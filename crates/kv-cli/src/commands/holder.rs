//! `kv lock --holder`: who has it.

use kv_core::text::escape;
use kv_core::{LockHolder, Operation};
use serde::Serialize;

use crate::cli::Lock;
use crate::exit::Failure;
use crate::output::{Format, JsonValue, Output, bytes_words};
use crate::session::Session;

#[derive(Serialize)]
struct Holder<'h> {
    key: &'h str,
    /// Under `value`, or `base64` where it is not text, as everywhere.
    #[serde(flatten)]
    owner: JsonValue<'h>,
    token: u64,
    /// What else the server knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<&'h str>,
}

/// A holder in words: its own name, and what the server knows of it.
pub(super) fn words(holder: &LockHolder) -> String {
    let native = holder.native.as_deref().map(escape);
    match (holder.owner.is_empty(), native) {
        (true, None) => format!("somebody without a name (token {})", holder.token),
        (true, Some(native)) => format!("{native} (token {})", holder.token),
        (false, None) => format!("{} (token {})", bytes_words(&holder.owner), holder.token),
        (false, Some(native)) => {
            format!("{} (token {}, {native})", bytes_words(&holder.owner), holder.token)
        }
    }
}

pub(crate) async fn run(session: &Session, args: Lock) -> Result<(), Failure> {
    let key = super::key(&args.key, Operation::LockHolder)?;
    let holder = session.store().await?.lock_holder(&key);
    let holder = session.in_time(Operation::LockHolder, holder);
    let holder = session.request(Operation::LockHolder, key.as_str(), holder).await?;
    let holder = holder.ok_or_else(|| Failure::NotFound(format!("lock {key:?}: nobody holds it")))?;
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => out.json(&Holder {
            key: key.as_str(),
            owner: JsonValue::new(&holder.owner),
            token: holder.token.get(),
            native: holder.native.as_deref(),
        })?,
        Some(Format::Table) | None => {
            out.line(&words(&holder))?;
        }
    }
    out.flush()
}
