//! A session that is renewed for as long as somebody needs it.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{ErrorKind, LockLoss, Result};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::env::Env;
use crate::session::create::{LOCK_NAME, RELEASE, create};

/// How much earlier than its time to live a hold is taken for lost. Consul itself waits twice as long.
pub(crate) fn margin(ttl: Duration) -> Duration {
    ttl / 20
}

/// How the renewing of a session stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    /// When the last renewal that was acknowledged was sent.
    pub(crate) sent_at: Instant,
    /// Why it is not renewed any more.
    pub(crate) end: Option<LockLoss>,
}

/// A session that is renewed until this is dropped or it ends.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub(crate) id: String,
    pub(crate) ttl: Duration,
    pub(crate) renewal: watch::Receiver<Renewal>,
    task: AbortHandle,
}

impl Renewed {
    /// A session for a lock: it keeps its keys when it ends, and Consul keeps others away from them for
    /// a while.
    pub(crate) async fn for_lock(env: &Arc<Env>, ttl: Duration, deadline: &Deadline) -> Result<Self> {
        Self::new(env, LOCK_NAME, ttl, RELEASE, env.times.lock_delay, deadline).await
    }

    /// A session that is renewed from now on.
    pub(crate) async fn new(
        env: &Arc<Env>,
        name: &'static str,
        ttl: Duration,
        behavior: &'static str,
        lock_delay: Duration,
        deadline: &Deadline,
    ) -> Result<Self> {
        let sent_at = Instant::now();
        let id = create(env, name, ttl, behavior, lock_delay, deadline).await?;
        let (sender, renewal) = watch::channel(Renewal { sent_at, end: None });
        let renewing = renew(Arc::clone(env), id.clone(), ttl, sender);
        let closing = env.closing.clone();
        let task = env.spawn(async move {
            let _ended = closing.run_until_cancelled_owned(renewing).await;
        });
        Ok(Self { id, ttl, renewal, task })
    }

    /// Lets it end.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// How much earlier than the time to live it is taken for lost.
    pub(crate) fn margin(&self) -> Duration {
        margin(self.ttl)
    }
}

impl Drop for Renewed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Renews a session until it ends.
async fn renew(env: Arc<Env>, id: String, ttl: Duration, renewal: watch::Sender<Renewal>) {
    let mut pause = ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        let sent_at = Instant::now();
        let deadline = Deadline::after(env.times.timeout.min(ttl / 3));
        let end = match env.api.renew_session(&id, &deadline).await {
            Ok(true) => None,
            Ok(false) => Some(LockLoss::SessionLost),
            Err(error) => match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Some(LockLoss::PermissionDenied),
                _ => {
                    tracing::debug!(%error, "a session could not be renewed");
                    pause = env.jitter(ttl / 20);
                    continue;
                }
            },
        };
        pause = ttl / 3;
        match end {
            None => renewal.send_modify(|renewal| renewal.sent_at = sent_at),
            Some(_) => {
                renewal.send_modify(|renewal| renewal.end = end);
                return;
            }
        }
    }
}
