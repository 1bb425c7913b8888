//! `kv lock --holder`: who has it.

use kv_core::text::escape;
use kv_core::{Key, LockHolder, Operation, StoreExt};
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{Format, JsonValue, Output, bytes_words};
use crate::session::Session;

/// Who holds a lock or waits for it, in JSON.
#[derive(Serialize)]
pub(super) struct JsonHolder<'h> {
    /// Under `value`, or `base64` where it is not text, as everywhere.
    #[serde(flatten)]
    owner: JsonValue<'h>,
    token: u64,
    /// What else the server knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<&'h str>,
}

impl<'h> JsonHolder<'h> {
    pub(super) fn new(holder: &'h LockHolder) -> Self {
        Self {
            owner: JsonValue::new(&holder.owner),
            token: holder.token.get(),
            native: holder.native.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct Held<'h> {
    key: &'h str,
    #[serde(flatten)]
    holder: JsonHolder<'h>,
}

/// A holder in words: its own name, and what the server knows of it.
pub(crate) fn words(holder: &LockHolder) -> String {
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

/// Who holds the lock now.
pub(super) async fn present(session: &Session, key: &Key) -> Result<Option<LockHolder>, Failure> {
    let holder = session.store().await?.lock_holder(key);
    let holder = session.in_time(Operation::LockHolder, holder);
    Ok(session.request(Operation::LockHolder, key.as_str(), holder).await?)
}

pub(super) fn nobody(key: &Key) -> Failure {
    Failure::NotFound(format!("lock {key:?}: nobody holds it"))
}

pub(super) async fn run(session: &Session, key: &Key) -> Result<(), Failure> {
    let holder = present(session, key).await?.ok_or_else(|| nobody(key))?;
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => {
            out.json(&Held { key: key.as_str(), holder: JsonHolder::new(&holder) })?;
        }
        Some(Format::Table) | None => out.line(&words(&holder))?,
    }
    out.flush()
}
