//! What one attempt at a request fails with.

use etcd_client as native;
use kv_core::Error;

use super::error::{self, Next};

/// Why an attempt failed and what it leaves to do.
pub(crate) struct Failure {
    pub(super) error: Error,
    pub(super) next: Next,
}

impl From<native::Error> for Failure {
    fn from(error: native::Error) -> Self {
        let (error, next) = error::classify(error);
        Self { error, next }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, next: Next::Stop }
    }
}
