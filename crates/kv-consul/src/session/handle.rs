//! The session of a store handle, by which its session keys live.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Deadline, SessionCell};
use kv_core::{Error, Result};
use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

use crate::client::api::{Api, Lane};
use crate::env::Env;
use crate::session::create::{DELETE, HANDLE_NAME, end};
use crate::session::renewed::{Renewal, Renewed, margin};

/// The session of a store handle, made when the first key needs it.
#[derive(Debug)]
pub(crate) struct HandleSession {
    pub(crate) cell: Arc<SessionCell>,
    ttl: Duration,
    live: Mutex<Option<Live>>,
}

#[derive(Debug)]
struct Live {
    session: Renewed,
    watcher: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl HandleSession {
    /// No session is made yet.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { cell: Arc::new(SessionCell::new()), ttl, live: Mutex::new(None) }
    }

    /// The id of the session; a new one if there is none, or none any more.
    pub(crate) async fn id(&self, env: &Arc<Env>, deadline: &Deadline) -> Result<String> {
        use kv_core::SessionState::{Held, Suspect};
        let mut live =
            deadline.run(async { Ok(self.live.lock().await) }).await.map_err(Error::not_applied)?;
        if let Some(live) = live.as_ref()
            && matches!(self.cell.state(), Held | Suspect)
        {
            return Ok(live.session.id.clone());
        }
        // Whoever closes the handle takes the session under this lock: one made now would live on.
        env.check_open().map_err(Error::not_applied)?;
        if let Some(old) = live.take() {
            // Lost by our clock, which is ahead of Consul's: what it still has must not come to life.
            end(env, old.session.id.clone());
        }
        let session = Renewed::new(env, HANDLE_NAME, self.ttl, DELETE, Duration::ZERO, deadline).await?;
        let first = *session.renewal.borrow();
        self.cell.renewed(first.sent_at, self.ttl, margin(self.ttl));
        let id = session.id.clone();
        let watcher = env.spawn(follow(
            Arc::clone(env),
            Arc::clone(&self.cell),
            self.ttl,
            id.clone(),
            session.renewal.clone(),
        ));
        *live = Some(Live { session, watcher });
        Ok(id)
    }

    /// Consul does not know this session any more.
    pub(crate) async fn gone(&self, id: &str) {
        if self.live.lock().await.as_ref().is_some_and(|live| live.session.id == id) {
            self.cell.lost();
        }
    }

    /// Ends the session, and with it its keys.
    pub(crate) async fn close(&self, api: &Api, deadline: &Deadline) -> Result<()> {
        let live = deadline.run(async { Ok(self.live.lock().await.take()) }).await?;
        self.cell.close();
        match live {
            Some(live) => api.destroy_session(Lane::Vital, &live.session.id, deadline).await,
            None => Ok(()),
        }
    }
}

/// Publishes how the session of the handle stands.
async fn follow(
    env: Arc<Env>,
    cell: Arc<SessionCell>,
    ttl: Duration,
    id: String,
    mut renewal: watch::Receiver<Renewal>,
) {
    loop {
        let now = *renewal.borrow_and_update();
        if now.end.is_some() {
            return cell.lost();
        }
        if cell.state() == kv_core::SessionState::Lost {
            // Renewed too late: the program has been told that the keys are gone, and so they go.
            return end(&env, id);
        }
        cell.renewed(now.sent_at, ttl, margin(ttl));
        if renewal.changed().await.is_err() {
            return;
        }
    }
}
