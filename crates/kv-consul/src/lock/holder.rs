//! Who holds a lock, as its record on Consul tells, whoever took it: a store like this one, `consul lock`, or
//! another program with a session.

use kv_backend::Deadline;
use kv_core::text::escape;
use kv_core::{FencingToken, LockHolder, Result};

use crate::client::wire::{Kv, SessionInfo};
use crate::env::names::SEMAPHORE_FLAG;
use crate::lock::locks::Locks;
use crate::session::holding::{Holding, hidden_session, holding};

/// The most characters of a session's name that are told.
const MAX_NAME: usize = 200;

/// A record that a session holds as a lock.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) record: Kv,
    pub(crate) session: String,
    pub(crate) token: FencingToken,
}

/// What holds a record.
pub(crate) enum Holds {
    /// Nobody, or nothing that is a lock.
    Nobody,
    Lock(Held),
    /// A session that does not hold it any more: it is another record by now.
    Over,
}

impl Held {
    /// Whether this acquisition has that token.
    pub(crate) fn is(&self, token: FencingToken) -> bool {
        let Kv { create_index, modify_index, lock_index, .. } = self.record;
        // The first acquisition of a record that it made itself, though it was written on since.
        let made_it = lock_index == 1 && create_index == token.get();
        self.token == token || modify_index == token.get() || made_it
    }

    /// The holder, with what Consul knows of the session, where that is known.
    pub(crate) fn holder(&self, info: Option<&SessionInfo>) -> Result<LockHolder> {
        let mut native = format!("session {}", escape(&self.session));
        if let Some(info) = info.filter(|info| !info.name.is_empty()) {
            let name: String = info.name.chars().take(MAX_NAME).collect();
            native.push_str(&format!(", {}", escape(&name)));
        }
        Ok(LockHolder::new(self.record.bytes()?, self.token).with_native(native))
    }
}

/// Whether a session holds a record as a lock. In the layout in which locks and entries lie side by side
/// `info` tells what the session is, if that is known already.
///
/// # Errors
///
/// `PermissionDenied` if the token may not see what the session is and that decides.
pub(crate) async fn holds(
    locks: &Locks,
    record: Kv,
    info: Option<&SessionInfo>,
    deadline: &Deadline,
) -> Result<Holds> {
    let Some(session) = record.session().map(str::to_owned) else { return Ok(Holds::Nobody) };
    if record.flags == SEMAPHORE_FLAG {
        return Ok(Holds::Nobody);
    }
    if locks.env.names.locks_keys() {
        match holding(&locks.sessions, &record, &session, info, deadline).await? {
            Holding::Lock => {}
            Holding::Entry => return Ok(Holds::Nobody),
            Holding::Hidden => return Err(hidden_session()),
            Holding::Over => return Ok(Holds::Over),
        }
    }
    let token = locks.first_tokens.token(&record, &session);
    Ok(Holds::Lock(Held { record, session, token }))
}

/// Who holds the lock of this record now.
pub(crate) async fn present(locks: &Locks, record: &str, deadline: &Deadline) -> Result<Option<Held>> {
    loop {
        let Some(kv) = locks.sessions.read(record, deadline).await? else { return Ok(None) };
        match holds(locks, kv, None, deadline).await? {
            Holds::Nobody => return Ok(None),
            Holds::Lock(held) => return Ok(Some(held)),
            Holds::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(session: &str, created: u64, modified: u64, lock_index: u64) -> Kv {
        Kv {
            key: "l/.lock".to_owned(),
            value: None,
            flags: 0,
            create_index: created,
            modify_index: modified,
            lock_index,
            session: Some(session.to_owned()),
        }
    }

    #[test]
    fn an_acquisition_is_known_by_its_tokens() {
        let held = |created, modified, lock_index| {
            let token = FencingToken::new(modified);
            Held { record: record("a", created, modified, lock_index), session: "a".to_owned(), token }
        };
        assert!(held(5, 8, 1).is(FencingToken::new(8)));
        assert!(held(5, 8, 1).is(FencingToken::new(5)), "it made the record");
        assert!(!held(5, 8, 2).is(FencingToken::new(5)), "that was the one before");
        assert!(!held(5, 8, 1).is(FencingToken::new(7)));
        assert!(!held(5, 8, 0).is(FencingToken::new(5)), "nobody can say how often it was acquired");
    }
}
