//! What the locks of one store handle have in common.

use std::sync::{Arc, Mutex};

use kv_core::Error;

use crate::env::Env;
use crate::lock::first_tokens::FirstTokens;
use crate::lock::lock_queue::LockQueue;
use crate::session::sessions::Sessions;
use crate::watch::hub::Hub;

/// The locks of one store handle: those it waits for, holds, releases and looks at.
#[derive(Debug)]
pub(crate) struct Locks {
    pub(crate) env: Arc<Env>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) queue: LockQueue,
    pub(crate) first_tokens: FirstTokens,
    /// Whose turn it is to be released once more, of the locks whose release did not get through.
    pub(crate) releases: tokio::sync::Mutex<()>,
    /// The first failure to release something, for `close` to report.
    pub(crate) failed_release: Mutex<Option<Error>>,
}

impl Locks {
    /// No lock is held or waited for yet.
    pub(crate) fn new(hub: &Arc<Hub>, sessions: &Arc<Sessions>) -> Self {
        Self {
            env: Arc::clone(&sessions.env),
            hub: Arc::clone(hub),
            sessions: Arc::clone(sessions),
            queue: LockQueue::default(),
            first_tokens: FirstTokens::default(),
            releases: tokio::sync::Mutex::new(()),
            failed_release: Mutex::new(None),
        }
    }
}
