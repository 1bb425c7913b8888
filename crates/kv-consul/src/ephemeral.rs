//! Which sessions take their keys with them, and so may have a key taken from them by a write. Any other
//! session that has a key is somebody's lock.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Key, Result};

use crate::api::Lane;
use crate::names::is_record;
use crate::session::{DELETE, TTL_NAME};
use crate::shared::{Shared, has_lock_flags};
use crate::wire::Kv;

/// How many sessions are remembered.
const MAX_KNOWN: usize = 4096;

/// The sessions known to delete their keys at their end, which never changes.
#[derive(Debug, Default)]
pub(crate) struct Ephemeral {
    known: Mutex<HashSet<String>>,
}

impl Ephemeral {
    /// This session deletes its keys.
    pub(crate) fn add(&self, session: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(session.to_owned());
    }

    fn has(&self, session: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(session)
    }
}

/// Refuses to take a key from a lock somebody holds. What `ours` has is not taken from anybody.
///
/// # Errors
///
/// `InvalidKey` if it is a lock; `PermissionDenied` if the token may not see what it is.
pub(crate) async fn check_holder(
    shared: &Arc<Shared>,
    key: &Key,
    state: &Kv,
    ours: Option<&str>,
    deadline: &Deadline,
) -> Result<()> {
    let held = || is_record(key, "it is a lock that another program holds").not_applied();
    let Some(session) = state.session() else { return Ok(()) };
    if has_lock_flags(state) {
        return Err(held());
    }
    if ours == Some(session) || shared.ephemeral.has(session) {
        return Ok(());
    }
    match shared.api.session_info(session, deadline).await.map_err(Error::not_applied)? {
        Some(info) if info.behavior == DELETE => {
            shared.ephemeral.add(session);
            Ok(())
        }
        Some(_) => Err(held()),
        // Gone, and then the write will find another state. Or hidden from the token, which is no
        // leave to take what may be a lock.
        None => match shared.read(&state.key, deadline).await.map_err(Error::not_applied)? {
            Some(again) if again.session() == Some(session) => Err(Error::new(ErrorKind::PermissionDenied)
                .with_detail("the token may not see the session that has this key, which may be a lock")
                .not_applied()),
            _ => Ok(()),
        },
    }
}

/// Ends, in the background, sessions keys were taken from, as far as they were those keys' own.
pub(crate) fn retire(shared: &Arc<Shared>, sessions: Vec<String>) {
    if sessions.is_empty() {
        return;
    }
    let task = Arc::clone(shared);
    shared.spawn(async move {
        for session in sessions {
            let deadline = Deadline::after(task.timeout);
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
