//! What it means that a session has a key. A session made for entries that expire may have the key taken from it
//! by a write. Any other session that has a key is somebody's lock.

use std::sync::Arc;

use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Key, Result};

use crate::client::api::Lane;
use crate::client::wire::{Kv, SessionInfo};
use crate::env::Env;
use crate::env::names::{has_lock_flags, is_record};
use crate::session::create::{TTL_NAME, has_entries};
use crate::session::sessions::Sessions;

/// What it means that a session has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// The key is an entry that expires.
    Entry,
    /// The key is a lock that somebody holds.
    Lock,
    /// The token may not see what the session is.
    Hidden,
    /// The session does not have the key any more.
    Over,
}

/// What it means that this session has the key; `info` tells what the session is, if that is known already.
pub(crate) async fn holding(
    sessions: &Sessions,
    state: &Kv,
    session: &str,
    info: Option<&SessionInfo>,
    deadline: &Deadline,
) -> Result<Holding> {
    if has_lock_flags(state) {
        return Ok(Holding::Lock);
    }
    if sessions.entries.has(session) {
        return Ok(Holding::Entry);
    }
    let for_entries = match info {
        Some(info) => has_entries(info),
        None => match look_at(sessions, &state.key, session, deadline).await? {
            Seen::Session(info) => has_entries(&info),
            Seen::Hidden => return Ok(Holding::Hidden),
            Seen::Over => return Ok(Holding::Over),
        },
    };
    if !for_entries {
        return Ok(Holding::Lock);
    }
    sessions.entries.add(session);
    Ok(Holding::Entry)
}

/// What Consul tells of a session that was read to have a key.
pub(crate) enum Seen {
    /// What it is.
    Session(SessionInfo),
    /// The token may not see it.
    Hidden,
    /// The session does not have the key any more.
    Over,
}

/// Asks for a session that was read to have the key of this native name.
///
/// Consul answers for a session that the token may not read as for one that is gone. The right goes by the
/// node of the session, which only the session tells, so it cannot be asked for. But with the end of a session
/// Consul takes its keys from it at once: a session that still has the key is hidden.
pub(crate) async fn look_at(
    sessions: &Sessions,
    native: &str,
    session: &str,
    deadline: &Deadline,
) -> Result<Seen> {
    if let Some(info) = sessions.env.api.session_info(session, deadline).await? {
        return Ok(Seen::Session(info));
    }
    Ok(match sessions.read(native, deadline).await? {
        Some(again) if again.session() == Some(session) => Seen::Hidden,
        _ => Seen::Over,
    })
}

/// That the token may not see what has a key.
pub(crate) fn hidden_session() -> Error {
    Error::new(ErrorKind::PermissionDenied)
        .with_detail("the token lacks session:read: it may not see the session that has this key")
        .not_applied()
}

/// Refuses to take a key from a lock somebody holds. What `ours` has is not taken from anybody.
///
/// # Errors
///
/// `InvalidKey` if it is a lock; `PermissionDenied` if the token may not see what it is.
pub(crate) async fn check_holder(
    sessions: &Sessions,
    key: &Key,
    state: &Kv,
    ours: Option<&str>,
    deadline: &Deadline,
) -> Result<()> {
    let Some(session) = state.session() else { return Ok(()) };
    if ours == Some(session) && !has_lock_flags(state) {
        return Ok(());
    }
    match holding(sessions, state, session, None, deadline).await.map_err(Error::not_applied)? {
        // Over: the write will find another state.
        Holding::Entry | Holding::Over => Ok(()),
        Holding::Lock => Err(is_record(key, "it is a lock that another program holds").not_applied()),
        Holding::Hidden => Err(hidden_session()),
    }
}

/// Ends, in the background, sessions keys were taken from, as far as they were those keys' own.
pub(crate) fn retire(env: &Arc<Env>, sessions: Vec<String>) {
    if sessions.is_empty() {
        return;
    }
    let task = Arc::clone(env);
    env.spawn(async move {
        for session in sessions {
            let deadline = Deadline::after(task.times.timeout);
            let ended = async {
                match task.api.session_info(&session, &deadline).await? {
                    Some(info) if info.name == TTL_NAME => {
                        task.api.destroy_session(Lane::Call, &session, &deadline).await
                    }
                    _ => Ok(()),
                }
            };
            let ended = tokio::select! {
                ended = ended => ended,
                () = task.closed_for_good() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a session that is not needed stays until it expires");
            }
        }
    });
}
