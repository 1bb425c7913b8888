//! A layer that bounds how many calls are under way at once.

use kv_core::{Error, ErrorKind, Operation, Result};
use tokio::sync::Semaphore;

use crate::policy::{Call, Next, Policy};

/// Lets at most a given number of calls be under way at once; further ones wait for their turn, in the
/// order they were made.
///
/// Waits for a lock and the closing of the store do not count, or waiters could keep the holder from the
/// call that ends its work. A list and a watch count until they have begun.
///
/// # Examples
///
/// ```
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{ConcurrencyLimit, LayerExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?.layered(ConcurrencyLimit::new(16));
/// store.put("a", "x").await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ConcurrencyLimit {
    permits: Semaphore,
}

impl ConcurrencyLimit {
    /// At most this many calls at once; zero means one.
    #[must_use]
    pub fn new(calls: usize) -> Self {
        Self { permits: Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)) }
    }
}

impl Policy for ConcurrencyLimit {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        if matches!(call.operation, Operation::Lock | Operation::Close) {
            return next().await;
        }
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| Error::new(ErrorKind::Internal))?;
        next().await
    }
}
