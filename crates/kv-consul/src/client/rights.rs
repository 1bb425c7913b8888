//! Whether what Consul says is not there may be read at all.
//!
//! Consul leaves out of an answer what the token may not read, without a word: a denied list is empty, a
//! denied key is absent. So an empty or absent answer is believed only after Consul was asked for the right.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_core::{Error, ErrorKind};
use tokio::time::Instant;

/// How long a right that the token has is taken for granted. A lack is asked for every time, because it ends
/// calls and watches.
const KEEP: Duration = Duration::from_secs(10);

/// How many rights are remembered.
const MAX_KNOWN: usize = 1024;

/// What is known of the token's rights.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The server has no ACLs: everybody may read everything. That does not change without a restart.
    off: bool,
    /// What the token may read, and when Consul said so.
    allowed: HashMap<String, Instant>,
    /// It was logged that the server does not tell rights.
    warned: bool,
}

impl Rights {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has no ACLs.
    pub(crate) fn are_off(&self) {
        self.lock().off = true;
    }

    /// The server may have restarted: what was known may be wrong now.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.off = false;
        state.allowed.clear();
    }

    /// Which of these are not known to be readable; `fresh`: as of now.
    pub(crate) fn unknown(&self, names: Vec<String>, fresh: bool) -> Vec<String> {
        let state = self.lock();
        let known =
            |name: &String| !fresh && state.allowed.get(name).is_some_and(|asked| asked.elapsed() < KEEP);
        if state.off { Vec::new() } else { names.into_iter().filter(|name| !known(name)).collect() }
    }

    /// The token may read this.
    pub(crate) fn allow(&self, name: String) {
        let mut state = self.lock();
        if state.allowed.len() >= MAX_KNOWN {
            state.allowed.clear();
        }
        state.allowed.insert(name, Instant::now());
    }

    /// Logs, once, that nobody tells what the token may read.
    pub(crate) fn warn(&self, why: &str) {
        if !std::mem::replace(&mut self.lock().warned, true) {
            tracing::warn!(
                why,
                "this Consul does not tell what the token may read: an empty answer may be a denied one"
            );
        }
    }
}

/// The refusal of a read that Consul answered as if there were nothing.
pub(crate) fn denied(name: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied)
        .with_detail(format!("the token lacks key:read on {name:?}, and Consul hides what it may not read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_right_is_kept_for_a_while_and_no_rights_until_the_server_restarts() {
        let rights = Rights::default();
        let names = || vec!["a".to_owned(), "b/".to_owned()];
        assert_eq!(rights.unknown(names(), false), names());
        rights.allow("a".to_owned());
        assert_eq!(rights.unknown(names(), false), ["b/"]);
        assert_eq!(rights.unknown(names(), true), names(), "as of now");
        tokio::time::advance(KEEP).await;
        assert_eq!(rights.unknown(names(), false), names());
        rights.are_off();
        tokio::time::advance(KEEP * 100).await;
        assert!(rights.unknown(names(), true).is_empty());
        rights.forget();
        assert_eq!(rights.unknown(names(), false), names());
        (0..MAX_KNOWN * 2).for_each(|at| rights.allow(at.to_string()));
        assert!(rights.lock().allowed.len() <= MAX_KNOWN);
    }
}
