//! Deadlines: no request waits for ever.

use std::time::Duration;

use kv_core::text::duration;
use kv_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

/// Runs one request, or fails with `Timeout` after this long.
///
/// Whether a write was applied is then unknown; a caller that knows better says so with
/// [`Error::not_applied`].
///
/// # Errors
///
/// `Timeout`, or what the request fails with.
pub async fn within<T>(timeout: Duration, request: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(timeout, request).await {
        Ok(result) => result,
        Err(_) => Err(exceeded(timeout)),
    }
}

/// One deadline for an operation that makes several requests.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// The deadline this long from now.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        // A time too far to be represented is as good as a year.
        let at = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        Self { at, timeout }
    }

    /// What is left.
    ///
    /// # Errors
    ///
    /// `Timeout`, not applied, if nothing is.
    pub fn remaining(&self) -> Result<Duration> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(exceeded(self.timeout).not_applied()) } else { Ok(left) }
    }

    /// Runs one request of the operation.
    ///
    /// # Errors
    ///
    /// `Timeout`, or what the request fails with.
    pub async fn run<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.at, request).await {
            Ok(result) => result,
            Err(_) => Err(exceeded(self.timeout)),
        }
    }
}

fn exceeded(timeout: Duration) -> Error {
    Error::new(ErrorKind::Timeout).with_detail(format!("no answer within {}", duration(timeout)))
}

#[cfg(test)]
mod tests {
    use kv_core::Applied;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_request_ends_at_the_deadline() {
        let begin = Instant::now();
        let error = within(Duration::from_secs(5), std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Timeout);
        assert_eq!(error.applied(), Applied::Unknown);
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_covers_all_requests_of_an_operation() {
        let deadline = Deadline::after(Duration::from_secs(5));
        deadline
            .run(async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(deadline.remaining().unwrap(), Duration::from_secs(2));
        deadline.run(std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(deadline.remaining().unwrap_err().applied(), Applied::No);
    }
}
