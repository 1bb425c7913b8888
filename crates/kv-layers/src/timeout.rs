//! A layer that bounds the time of each call.

use std::time::Duration;

use kv_core::{ErrorKind, Operation, Result};

use crate::policy::{Call, Next, Policy};

/// Ends each call that takes longer than a given time with `Timeout`; a write may then have been applied,
/// and the error says so.
///
/// Every store has a deadline for each request already. This one bounds whatever is below the layer as a
/// whole, such as a call with all its [retries](crate::Retry). A wait for a lock and the closing of the
/// store are not bounded; of a list and a watch only the beginning is.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{LayerExt, Retry, Timeout};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?
///     .layered(Retry::default())
///     .layered(Timeout::new(Duration::from_secs(10)));
/// store.put("a", "x").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Timeout {
    limit: Duration,
}

impl Timeout {
    /// Ends each call after this time.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl Policy for Timeout {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        if matches!(call.operation, Operation::Lock | Operation::Close) {
            return next().await;
        }
        match tokio::time::timeout(self.limit, next()).await {
            Ok(answer) => answer,
            Err(_) => {
                let late = format!("no answer within {:?}", self.limit);
                Err(call.error(ErrorKind::Timeout).with_detail(late))
            }
        }
    }
}
