//! A layer that bounds how many calls begin per second.

use std::fmt;
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kv_core::{Operation, Result};

use crate::policy::{Call, Next, Policy};

/// Lets at most a given number of calls begin per second; further ones wait. After a pause up to that
/// many may begin at once.
///
/// The closing of the store does not count. Needs the feature `rate-limit`.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroU32;
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{LayerExt, RateLimit};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?
///     .layered(RateLimit::per_second(NonZeroU32::new(500).unwrap()));
/// store.put("a", "x").await?;
/// # Ok(()) }
/// ```
pub struct RateLimit {
    limiter: DefaultDirectRateLimiter,
    per_second: NonZeroU32,
}

impl RateLimit {
    /// At most this many calls begin per second.
    #[must_use]
    pub fn per_second(calls: NonZeroU32) -> Self {
        Self { limiter: RateLimiter::direct(Quota::per_second(calls)), per_second: calls }
    }
}

impl Policy for RateLimit {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        if call.operation != Operation::Close {
            self.limiter.until_ready().await;
        }
        next().await
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("per_second", &self.per_second).finish_non_exhaustive()
    }
}
