//! Requests about the servers themselves. None is ever sent twice.

use std::sync::Arc;

use kv_backend::Deadline;
use kv_core::Result;

use super::member::{Leader, Native};
use super::{Client, Repeat};

impl Client {
    /// Forgets every state before a revision.
    pub(crate) async fn compact(&self, deadline: Deadline, revision: i64) -> Result<()> {
        let ask = move |native: Arc<Native>| async move {
            native.kv.clone().compact(revision, None).await?;
            Ok(())
        };
        self.call(deadline, Leader::Needed, Repeat::Never, ask).await
    }
}
