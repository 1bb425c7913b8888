//! What all parts of one handle share, and which knows none of them.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Deadline, Namespace};
use kv_core::{Capabilities, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::client::error::closed;

/// See the module.
pub(crate) struct Env {
    pub(crate) client: Arc<Client>,
    pub(crate) namespace: Namespace,
    pub(crate) capabilities: Capabilities,
    /// The deadline of a request, unless a call has its own.
    pub(crate) timeout: Duration,
    /// Set when the handle is closed or its last clone dropped.
    pub(crate) closing: CancellationToken,
    /// What the closing waits for: the tasks that hold locks and the session.
    pub(crate) tasks: TaskTracker,
}

impl Env {
    /// The deadline of a call.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(timeout.unwrap_or(self.timeout))
    }

    /// `Closed` if the handle is.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() { Err(closed()) } else { Ok(()) }
    }
}
