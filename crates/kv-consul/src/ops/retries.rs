//! What a refused write waits for before it is tried again.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, Result};

use crate::client::refusal::Refusal;
use crate::env::backoff::LOCK_DELAY_POLL;
use crate::session::binding::Binding;
use crate::session::sessions::Sessions;

/// The pauses between attempts of one write.
pub(crate) struct Retries<'a> {
    sessions: &'a Arc<Sessions>,
    attempts: u32,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(sessions: &'a Arc<Sessions>) -> Self {
        Self { sessions, attempts: 0 }
    }

    /// Does what a refusal asks for before the next attempt.
    pub(crate) async fn after(
        &mut self,
        refused: &[(usize, Refusal)],
        binding: &mut Binding,
        deadline: &Deadline,
    ) -> Result<()> {
        let any = |wanted: Refusal| refused.iter().any(|(_, why)| *why == wanted);
        if any(Refusal::NoSession) {
            return binding.renew(self.sessions, deadline).await.map_err(Error::not_applied);
        }
        self.attempts += 1;
        let pause = if any(Refusal::LockDelay) {
            LOCK_DELAY_POLL
        } else if self.attempts > 1 {
            // The first loss of a race is an accident; more of them are contention.
            self.sessions.env.jitter(Duration::from_millis(2) * self.attempts.min(10))
        } else {
            return Ok(());
        };
        deadline
            .run(async {
                tokio::time::sleep(pause).await;
                Ok(())
            })
            .await
            .map_err(Error::not_applied)
    }
}
