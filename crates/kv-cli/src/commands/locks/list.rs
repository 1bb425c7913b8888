//! `kv locks`: every lock that is held or waited for.

use kv_core::text::escape;
use kv_core::{LockState, LocksOptions, Operation};
use serde::Serialize;

use super::holder::JsonHolder;
use super::view::{view, warn_where_alone};
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, bytes_words, say, table};
use crate::session::Session;

#[derive(Serialize)]
struct JsonLock<'l> {
    key: &'l str,
    /// `null` between two holders.
    holder: Option<JsonHolder<'l>>,
    /// Missing where the server keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiters: Option<Vec<JsonHolder<'l>>>,
}

impl<'l> JsonLock<'l> {
    fn new(lock: &'l LockState) -> Self {
        Self {
            key: lock.key.as_str(),
            holder: lock.holder.as_ref().map(JsonHolder::new),
            waiters: lock.waiters.as_ref().map(|waiters| waiters.iter().map(JsonHolder::new).collect()),
        }
    }
}

pub(super) async fn run(session: &Session, prefix: &str) -> Result<(), Failure> {
    let prefix = crate::commands::prefix(prefix, Operation::Locks)?;
    let mut options = LocksOptions::default();
    options.timeout = session.timeout();
    let store = session.store().await?;
    let view = view(&**store, Operation::Locks)?;
    warn_where_alone(session);
    let locks = view.locks_with(&prefix, options);
    let mut locks = session.request(Operation::Locks, prefix.as_str(), locks).await?;

    let mut out = Output::stdout();
    let mut number = 0_u64;
    match session.output() {
        Some(format @ (Format::Json | Format::Jsonl)) => {
            let mut items = JsonItems::begin(format, &mut out)?;
            while let Some(lock) = locks.next().await {
                items.item(&mut out, &JsonLock::new(&lock?))?;
                number += 1;
            }
            items.end(&mut out)?;
        }
        Some(Format::Table) | None => {
            let mut rows = table();
            rows.set_header(["LOCK", "TOKEN", "WAIT", "OWNER", "SERVER SAYS"]);
            while let Some(lock) = locks.next().await {
                rows.add_row(row(&lock?));
                number += 1;
            }
            if number > 0 {
                out.table(rows)?;
            }
        }
    }
    out.flush()?;
    if number == 0 {
        say(&format!("kv: no lock below {} is held or waited for", crate::commands::shown(&prefix)));
    }
    Ok(())
}

/// One line of the table. What is not known is a dash.
fn row(lock: &LockState) -> [String; 5] {
    let nothing = || "-".to_owned();
    let holder = lock.holder.as_ref();
    let owner = match holder {
        None => "(nobody)".to_owned(),
        Some(holder) if holder.owner.is_empty() => nothing(),
        Some(holder) => bytes_words(&holder.owner).into_owned(),
    };
    let native = holder.and_then(|holder| holder.native.as_deref());
    [
        escape(lock.key.as_str()).into_owned(),
        holder.map_or_else(nothing, |holder| holder.token.to_string()),
        lock.waiters.as_ref().map_or_else(nothing, |waiters| waiters.len().to_string()),
        owner,
        native.map_or_else(nothing, |native| escape(native).into_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use kv_core::{FencingToken, Key, LockHolder};

    use super::*;

    fn holder(owner: &'static [u8], token: u64) -> LockHolder {
        LockHolder::new(owner.into(), FencingToken::new(token))
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_nothing_acts_on_a_terminal() {
        let key = Key::new("jobs/a").unwrap();
        let held = LockState::new(key.clone(), Some(holder(b"ho\x1bst", 7).with_native("lease \u{202e}1")))
            .with_waiters(vec![holder(b"x", 9), holder(b"", 10)]);
        assert_eq!(row(&held), ["jobs/a", "7", "2", "ho\\u{1b}st", "lease \\u{202e}1"]);
        let stranger = LockState::new(key.clone(), Some(holder(b"", 7)));
        assert_eq!(row(&stranger), ["jobs/a", "7", "-", "-", "-"]);
        let vacant = LockState::new(key, None).with_waiters(Vec::new());
        assert_eq!(row(&vacant), ["jobs/a", "-", "0", "(nobody)", "-"]);
    }

    #[test]
    fn the_json_shape() {
        let key = Key::new("jobs/a").unwrap();
        let json = |lock: &LockState| serde_json::to_value(JsonLock::new(lock)).unwrap();
        let held = LockState::new(key.clone(), Some(holder(b"host:1", 7).with_native("lease 1")))
            .with_waiters(vec![holder(b"\xff", 9)]);
        let expected = serde_json::json!({
            "key": "jobs/a",
            "holder": {"value": "host:1", "token": 7, "native": "lease 1"},
            "waiters": [{"base64": "/w==", "token": 9}],
        });
        assert_eq!(json(&held), expected);
        let vacant = serde_json::json!({"key": "jobs/a", "holder": null});
        assert_eq!(json(&LockState::new(key, None)), vacant);
    }
}
