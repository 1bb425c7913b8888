//! A layer that fails at once while no server answers.

use std::time::Duration;

use kv_core::{Error, ErrorKind, Operation, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::policy::{Call, Next, Policy};

/// After a number of calls in a row that no server answered, fails further ones at once with
/// `Unavailable` and lets only one call through at a time, as a probe, until one is answered.
///
/// So a cluster without a quorum costs each caller no deadline, and a cluster that comes back is not met
/// by everything that had piled up. What counts as no answer is `Unavailable` and `Timeout`; a refusal is
/// an answer. The closing of the store always passes, and guards and sessions go on by themselves.
///
/// This is what kvdb's `NoQuorum` wrapper was for.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{FailFast, LayerExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let layer = FailFast::after(3).with_probe_every(Duration::from_millis(500));
/// let store = kv_mem::MemStore::open(Default::default())?.layered(layer);
/// store.put("a", "x").await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FailFast {
    after: u32,
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls in a row that nobody answered.
    failures: u32,
    /// When the next call may go through, once there are too many of them.
    next_probe: Option<Instant>,
}

impl FailFast {
    /// Fails at once after this many calls in a row without an answer; zero means one. Probes once a
    /// second.
    #[must_use]
    pub fn after(failures: u32) -> Self {
        Self { after: failures.max(1), every: Duration::from_secs(1), state: Mutex::default() }
    }

    /// The same with this pause between probes. The default is 1 s.
    #[must_use]
    pub fn with_probe_every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    /// Whether a call may go through now; else when the next one may.
    fn admit(&self) -> Result<(), Duration> {
        let mut state = self.state.lock();
        let Some(next) = state.next_probe else { return Ok(()) };
        let now = Instant::now();
        if now < next {
            return Err(next - now);
        }
        // This call is the probe. If its future is dropped, the next pause brings another.
        state.next_probe = Some(now + self.every);
        Ok(())
    }

    fn note(&self, answered: bool) {
        let mut state = self.state.lock();
        if answered {
            *state = State::default();
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.after {
            state.next_probe = Some(Instant::now() + self.every);
        }
    }
}

impl Policy for FailFast {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        if call.operation == Operation::Close {
            return next().await;
        }
        if let Err(left) = self.admit() {
            let why = format!("no server answered the last calls; the next probe is in {left:?}");
            return Err(call.error(ErrorKind::Unavailable).not_applied().with_detail(why));
        }
        let answer = next().await;
        let silent = |error: &Error| matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        self.note(!answer.as_ref().is_err_and(silent));
        answer
    }
}
