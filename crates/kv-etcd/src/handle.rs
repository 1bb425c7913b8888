//! One store handle: its parts, how they begin, and how they end.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::env::Env;
use crate::feed::Hub;
use crate::lock::Locks;
use crate::session::{Leases, Session, revoker};

/// One store handle.
pub(crate) struct Handle {
    pub(crate) env: Arc<Env>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) session: Arc<Session>,
    pub(crate) locks: Arc<Locks>,
    /// What is left, once everything is released.
    closed: watch::Sender<Option<Left>>,
}

/// How many leases could not be revoked; `None`: they were not counted, because the time was over.
#[derive(Clone, Copy)]
struct Left(Option<usize>);

impl Handle {
    /// Starts the tasks that live as long as the handle. The times are those that the session and locks
    /// live without renewal.
    pub(crate) fn start(env: Env, session_ttl: Duration, lock_ttl: Duration) -> Arc<Self> {
        let env = Arc::new(env);
        let (leases, revocations) = Leases::new(Arc::clone(&env));
        let leases = Arc::new(leases);
        let hub = Arc::new(Hub::start(Arc::clone(&env.client), env.timeout, env.closing.clone()));
        let locks = Locks::new(Arc::clone(&env), Arc::clone(&hub), Arc::clone(&leases), lock_ttl);
        let session = Session::new(Arc::clone(&env), Arc::clone(&leases), session_ttl);
        let closed = watch::Sender::new(None);
        let handle = Arc::new(Self { env, hub, leases, session: Arc::new(session), locks, closed });
        let (env, closed) = (Arc::clone(&handle.env), handle.closed.clone());
        tokio::spawn(async move {
            let (tasks, closing, timeout) = (&env.tasks, &env.closing, env.timeout);
            let released = async {
                closing.cancelled().await;
                tasks.close();
                // A future that nobody polls any more must leave time for the leases. Those that the
                // tasks let go of are revoked meanwhile.
                drop(tokio::time::timeout(timeout / 2, tasks.wait()).await);
            };
            // Without a leader no lease can be revoked, however long that is tried.
            let over = async {
                closing.cancelled().await;
                tokio::time::sleep(timeout).await;
            };
            let left = tokio::select! {
                left = revoker(&env.client, timeout, revocations, released) => Some(left),
                () = over => None,
            };
            env.client.disconnect();
            closed.send_replace(Some(Left(left)));
        });
        handle
    }

    /// Begins the closing. Needs no runtime.
    pub(crate) fn close(&self) {
        self.env.closing.cancel();
        self.session.cell.close();
    }

    /// Waits until everything is released.
    pub(crate) async fn closed(&self, timeout: Option<Duration>) -> Result<()> {
        let mut closed = self.closed.subscribe();
        let ended = async { Ok(closed.wait_for(Option::is_some).await.ok().and_then(|left| *left)) };
        // The task that closes takes the timeout at most, unless its runtime is gone and it with that.
        let most = timeout.unwrap_or_else(|| self.env.timeout.saturating_mul(2));
        match Deadline::after(most).run(ended).await? {
            Some(Left(Some(0))) => Ok(()),
            left => Err(Error::new(ErrorKind::Unavailable).with_detail(format!(
                "{} leases could not be revoked: what lives by them goes when they end",
                left.and_then(|left| left.0).map_or_else(|| "some".to_owned(), |left| left.to_string())
            ))),
        }
    }
}
