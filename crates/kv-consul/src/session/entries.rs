//! Which sessions are known to be made for entries that expire, and which keys were seen bound to one.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many sessions are remembered, and how many keys.
const MAX_KNOWN: usize = 4096;

/// The sessions known to be made for entries that expire, which never changes, and the keys that were seen
/// bound to one of them, which may change at any time.
#[derive(Debug, Default)]
pub(crate) struct EntrySessions {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sessions: HashSet<String>,
    /// By native name.
    keys: HashMap<String, String>,
}

impl EntrySessions {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of this session are entries.
    pub(crate) fn add(&self, session: &str) {
        let mut known = self.lock();
        if known.sessions.len() >= MAX_KNOWN {
            known.sessions.clear();
        }
        known.sessions.insert(session.to_owned());
    }

    /// Whether the keys of this session are known to be entries.
    pub(crate) fn has(&self, session: &str) -> bool {
        self.lock().sessions.contains(session)
    }

    /// Remembers which session a key was seen bound to, if that is one of entries.
    pub(crate) fn saw(&self, native: &str, session: Option<&str>) {
        let mut known = self.lock();
        match session {
            Some(session) if known.sessions.contains(session) => {
                if known.keys.len() >= MAX_KNOWN {
                    known.keys.clear();
                }
                known.keys.insert(native.to_owned(), session.to_owned());
            }
            _ => drop(known.keys.remove(native)),
        }
    }

    /// The session of entries that a key was last seen bound to. Only a guess: whoever writes on it has
    /// Consul check it.
    pub(crate) fn last_seen(&self, native: &str) -> Option<String> {
        self.lock().keys.get(native).cloned()
    }
}
