//! What operators ask of a store beside its data: powers of their own, each reached by an `as_…` of
//! [`Store`](crate::Store) and `None` where the backend has nothing honest to offer.
//!
//! No administrative call is ever sent twice by a store or a layer: its caller decides.

mod ext;
mod history;

use std::time::Duration;

pub use ext::AdminExt;
pub use history::{History, KeyVersion, VersionsOptions};

use crate::options::timeout_setter;

/// Options of a call that has none but its deadline.
///
/// ```
/// use std::time::Duration;
/// use kv_core::CallOptions;
///
/// let patient = CallOptions::default().with_timeout(Duration::from_secs(60));
/// assert_eq!(patient.timeout, Some(Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl CallOptions {
    timeout_setter!();
}
