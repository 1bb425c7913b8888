//! Waiting: the pauses between two attempts at something that failed for a moment, and until a moment.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use kv_core::{Error, ErrorKind};
use tokio::time::Instant;

/// The first pause.
const SHORTEST: Duration = Duration::from_millis(50);

/// No pause is longer, but for its jitter.
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses without end that double from 50 ms up to 5 s, each with a random part of up to its own length
/// added, so that many clients do not come back at one moment.
#[derive(Debug)]
pub(crate) struct Pauses(backon::ExponentialBackoff);

impl Pauses {
    pub(crate) fn new() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(SHORTEST)
            .with_max_delay(LONGEST)
            .without_max_times();
        Self(pauses.build())
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }

    /// Sleeps for the next pause. Cancel-safe.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// Begins with the shortest pause again.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Sleeps until a moment; without one, for ever. Cancel-safe.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Whether what failed so is tried again without anybody changing anything: outages are, refusals are not.
pub(crate) fn passes(error: &Error) -> bool {
    error.is_transient() || matches!(error.kind(), ErrorKind::NotHeld { .. } | ErrorKind::Locked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_never_end() {
        let mut pauses = Pauses::new();
        let told: Vec<_> = (0..100).filter_map(|_| pauses.0.next()).collect();
        assert_eq!(told.len(), 100);
        assert!(told[0] >= SHORTEST && told[0] <= 2 * SHORTEST, "{:?}", told[0]);
        assert!(told[99] >= LONGEST && told[99] <= 2 * LONGEST, "{:?}", told[99]);
        pauses.reset();
        assert!(pauses.0.next().unwrap() <= 2 * SHORTEST);
    }
}
