//! A layer that refuses every write.

use kv_core::{ErrorKind, Result};

use crate::policy::{Call, Next, Policy};

/// Refuses every operation that could change something, locks and transactions included, with
/// `PermissionDenied` and before any I/O. Reads, lists and watches pass.
///
/// # Examples
///
/// ```
/// use kv_layers::kv_core::{Applied, ErrorKind, Result, StoreExt};
/// use kv_layers::{LayerExt, ReadOnly};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?.layered(ReadOnly::default());
/// let refused = store.delete_tree("").await.unwrap_err();
/// assert_eq!(*refused.kind(), ErrorKind::PermissionDenied);
/// assert_eq!(refused.applied(), Applied::No);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ReadOnly {}

impl Policy for ReadOnly {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        if !call.operation.is_write() {
            return next().await;
        }
        Err(call.error(ErrorKind::PermissionDenied).with_detail("this handle is read-only"))
    }
}
