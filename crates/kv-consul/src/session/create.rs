//! Sessions on Consul: what they are made of, what they say of the keys they have, and their making.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{EntryExpiry, Error, ErrorKind, Result, TtlRange};
use tokio::sync::oneshot;

use crate::client::api::Lane;
use crate::client::error::protocol;
use crate::client::wire::{NewSession, SessionInfo};
use crate::env::Env;

/// The times to live Consul keeps for a session.
pub(crate) const TTL: TtlRange =
    TtlRange::new(Duration::from_secs(10), Duration::from_secs(24 * 3600), Duration::from_millis(1));

/// The name of the session of one key with a time to live. Such a session has that one key, so whoever
/// takes the key from it may end it.
pub(crate) const TTL_NAME: &str = "kv ttl";
pub(crate) const HANDLE_NAME: &str = "kv handle";
pub(crate) const LOCK_NAME: &str = "kv lock";

/// Whether the keys of a session are entries that expire: one a store like this made for that. Any other that
/// has a key is somebody's lock, whatever it does to its keys at its end.
pub(crate) fn has_entries(info: &SessionInfo) -> bool {
    info.behavior == DELETE && matches!(info.name.as_str(), TTL_NAME | HANDLE_NAME)
}

/// How the keys of a session expire.
pub(crate) fn expiry_of(info: &SessionInfo) -> Result<EntryExpiry> {
    match info.behavior.as_str() {
        DELETE if info.name == TTL_NAME => Ok(EntryExpiry::ttl(parse_go_duration(&info.ttl)?, None)),
        DELETE => Ok(EntryExpiry::Session),
        _ => Ok(EntryExpiry::Never),
    }
}

/// What a session does to its keys when it ends.
pub(crate) const DELETE: &str = "delete";
pub(crate) const RELEASE: &str = "release";

/// A time as Consul takes it.
fn go_duration(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// What `15s`, `1h0m0s` or `1500ms` stands for, as Go writes it.
fn parse_go_duration(text: &str) -> Result<Duration> {
    let wrong = || protocol("a session's time to live is no time");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    Ok(total)
}

/// A session that was made; ended on drop unless it is taken.
struct Fresh {
    env: Arc<Env>,
    id: Option<String>,
}

impl Fresh {
    fn take(mut self) -> Result<String> {
        self.id.take().ok_or_else(|| Error::new(ErrorKind::Internal))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            end(&self.env, id);
        }
    }
}

/// Ends a session nobody needs, in the background.
pub(crate) fn end(env: &Arc<Env>, id: String) {
    let task = Arc::clone(env);
    env.spawn(async move {
        let deadline = Deadline::after(task.times.timeout);
        if let Err(error) = task.api.destroy_session(Lane::Call, &id, &deadline).await {
            tracing::debug!(%error, "a session that is not needed stays until it expires");
        }
    });
}

/// Makes a session. A task of its own does, which outlives a caller that gives up, so that what is made
/// then is ended.
pub(crate) async fn create(
    env: &Arc<Env>,
    name: &'static str,
    ttl: Duration,
    behavior: &'static str,
    lock_delay: Duration,
    deadline: &Deadline,
) -> Result<String> {
    let new = NewSession {
        name,
        ttl: go_duration(ttl),
        behavior,
        lock_delay: go_duration(lock_delay),
        node_checks: [],
    };
    let (sender, made) = oneshot::channel();
    let patience = Deadline::after(deadline.remaining()? + env.times.timeout);
    let task = Arc::clone(env);
    env.spawn(async move {
        let made = tokio::select! {
            made = task.api.create_session(&new, &patience) => made,
            () = task.closed_for_good() => return,
        };
        let fresh = made.map(|id| Fresh { env: Arc::clone(&task), id: Some(id) });
        drop(sender.send(fresh));
    });
    let made = async { made.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed))) };
    deadline.run(made).await.map_err(|error| env.api.blame(error))?.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, millis) in
            [("15s", 15_000), ("10500ms", 10_500), ("1h0m0s", 3_600_000), ("1m30.5s", 90_500)]
        {
            assert_eq!(parse_go_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["s", "5", "5x", "1e400s", "-1s"] {
            assert!(parse_go_duration(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_go_duration(&go_duration(Duration::from_millis(12_345))).unwrap().as_millis(),
            12_345
        );
    }
}
