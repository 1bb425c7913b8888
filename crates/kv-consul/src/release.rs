//! Releasing a lock: once for whoever waits for it, and in the background until it is done.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::api::{Lane, Txn};
use crate::session::Renewed;
use crate::shared::{Backoff, Shared};
use crate::wire::{Content, Op};

/// Frees the record of a session, and removes it where it exists for the lock only; then ends the session.
pub(crate) async fn release(
    shared: &Arc<Shared>,
    session: &str,
    record: &str,
    content: &Content,
    deadline: &Deadline,
) -> Result<()> {
    let mut ops = vec![Op::unlock(record, content, session)];
    if !shared.names.locks_keys() {
        ops.push(Op::delete(record));
    }
    let freed = shared.api.txn_in(Lane::Vital, &ops, None, deadline).await;
    // Ending the session frees the record too if nothing else did.
    let ended = shared.api.destroy_session(Lane::Vital, session, deadline).await;
    match freed? {
        Txn::Done(_) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "the session of a released lock stays until it expires");
            }
            Ok(())
        }
        Txn::Refused(_) => Err(Error::new(ErrorKind::NotHeld).with_detail("by Consul's account")),
    }
}

/// Gives up, in the background, what a session may hold.
pub(crate) struct GiveUp {
    shared: Arc<Shared>,
    session: String,
    ttl: Duration,
    record: String,
    content: Content,
}

impl GiveUp {
    pub(crate) fn new(shared: &Arc<Shared>, renewed: &Renewed, record: &str, content: &Content) -> Self {
        let (shared, session, ttl) = (Arc::clone(shared), renewed.id.clone(), renewed.ttl);
        Self { shared, session, ttl, record: record.to_owned(), content: content.clone() }
    }

    /// Tries until it is done, or the session has ended by itself, or the handle is closed; at least once.
    pub(crate) async fn run(self) {
        // By its own timers Consul ends a session that is not renewed after twice its time to live.
        let until = Instant::now() + self.ttl * 2;
        let mut pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let deadline = Deadline::after(self.shared.timeout);
            match release(&self.shared, &self.session, &self.record, &self.content, &deadline).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "a lock that is not needed could not be released yet");
                }
                _ => return,
            }
            tokio::select! {
                () = tokio::time::sleep(self.shared.jitter(pauses.pause())) => {}
                () = self.shared.closing.cancelled() => return,
            }
            if Instant::now() > until {
                return;
            }
        }
    }
}
