//! `kv lock --holder`: who has it.

use kv_core::Operation;
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
        })?,
        Some(Format::Table) | None => {
            out.line(&format!("{} (token {})", bytes_words(&holder.owner), holder.token))?;
        }
    }
    out.flush()
}
