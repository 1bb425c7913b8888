//! A layer that repeats calls that failed for a moment.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use kv_core::{Applied, Error, Operation, Result};

use crate::policy::{Call, Next, Policy};

/// Repeats a call that failed and surely was not applied, when the same call may succeed later: after
/// pauses that double, with jitter, up to a number of attempts.
///
/// A write whose outcome is unknown is never repeated: a repeated compare-and-set could fail because of
/// its own first attempt, and a repeated put could undo what another writer did in between. Waits for a
/// lock, which outlive outages by themselves once they are queued, `delete_tree`, which may have been
/// carried out in part, and administrative calls, which an operator decides on, are not repeated either.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kv_layers::kv_core::{ErrorKind, Operation, Result, StoreExt};
/// use kv_layers::{Faults, LayerExt, Retry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?
///     .layered(Faults::seeded(7).refuse(Operation::Put, 0.5))
///     .layered(Retry::default().with_attempts(50).with_pauses(Duration::ZERO, Duration::ZERO));
/// for n in 0..100 {
///     store.put(format!("a/{n}"), "x").await?; // half of the attempts fail, no call does
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    attempts: usize,
    first: Duration,
    longest: Duration,
}

impl Default for Retry {
    /// Up to 5 attempts, with pauses from 50 ms to 2 s.
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_millis(50), longest: Duration::from_secs(2) }
    }
}

impl Retry {
    /// The same with at most this many attempts at each call, the first one included. The default is 5.
    #[must_use]
    pub const fn with_attempts(mut self, attempts: usize) -> Self {
        self.attempts = attempts;
        self
    }

    /// The same with a first pause and a longest one. The defaults are 50 ms and 2 s. To each pause a
    /// random part of up to its own length is added.
    #[must_use]
    pub const fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    fn pauses(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_max_times(self.attempts.saturating_sub(1))
            .build()
    }
}

fn may_repeat(operation: Operation, error: &Error) -> bool {
    error.is_transient()
        && error.applied() == Applied::No
        && !matches!(operation, Operation::Lock | Operation::DeleteTree | Operation::Close)
        && !operation.is_administrative()
}

impl Policy for Retry {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let mut pauses = None;
        loop {
            let error = match next().await {
                Err(error) if may_repeat(call.operation, &error) => error,
                done => return done,
            };
            let Some(pause) = pauses.get_or_insert_with(|| self.pauses()).next() else { return Err(error) };
            tracing::debug!(operation = call.operation.name(), %error, ?pause, "trying again");
            tokio::time::sleep(pause).await;
        }
    }
}
