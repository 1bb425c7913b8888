//! The sessions of one store handle: its own, and what it knows of those that keys are bound to.

use std::sync::Arc;

use kv_backend::Deadline;
use kv_core::{Consistency, Result};

use crate::client::api::Lane;
use crate::client::wire::Kv;
use crate::env::Env;
use crate::session::entries::EntrySessions;
use crate::session::handle::HandleSession;

/// What reads and writes of keys that expire go through.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) env: Arc<Env>,
    pub(crate) handle: HandleSession,
    pub(crate) entries: EntrySessions,
}

impl Sessions {
    /// No session is made yet.
    pub(crate) fn new(env: &Arc<Env>) -> Self {
        Self {
            env: Arc::clone(env),
            handle: HandleSession::new(env.times.session_ttl),
            entries: EntrySessions::default(),
        }
    }

    /// The id of the handle's own session; a new one if there is none, or none any more.
    pub(crate) async fn handle_id(&self, deadline: &Deadline) -> Result<String> {
        let id = self.handle.id(&self.env, deadline).await?;
        self.entries.add(&id);
        Ok(id)
    }

    /// What is stored under a native name now.
    pub(crate) async fn read(&self, native: &str, deadline: &Deadline) -> Result<Option<Kv>> {
        self.read_in(native, Consistency::Linearizable, deadline).await
    }

    /// The same, this fresh.
    pub(crate) async fn read_in(
        &self,
        native: &str,
        consistency: Consistency,
        deadline: &Deadline,
    ) -> Result<Option<Kv>> {
        let found = self.env.api.get(Lane::Call, native, consistency, deadline).await?;
        self.entries.saw(native, found.as_ref().and_then(Kv::session));
        Ok(found)
    }
}
