//! The pauses between attempts.

use std::time::Duration;

/// How soon to ask again for a key that its last holder lost: for how long Consul keeps everybody away it does
/// not say.
pub(crate) const LOCK_DELAY_POLL: Duration = Duration::from_millis(500);

/// The pauses between attempts: they double up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` to `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    /// Pauses of a request that could not be made.
    pub(crate) fn reconnect() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// How long to pause now.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// It worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}
