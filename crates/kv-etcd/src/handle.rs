//! What all parts of one store handle share, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Deadline, Namespace};
use kv_core::{Capabilities, Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::config::EtcdConfig;
use crate::error::closed;
use crate::hub::Hub;
use crate::lease::{Leases, revoker};
use crate::session::Session;

/// One store handle.
pub(crate) struct Handle {
    pub(crate) client: Arc<Client>,
    pub(crate) namespace: Namespace,
    pub(crate) capabilities: Capabilities,
    pub(crate) timeout: Duration,
    pub(crate) lock_ttl: Duration,
    pub(crate) leases: Leases,
    pub(crate) session: Session,
    pub(crate) hub: Hub,
    /// Set when the handle is closed or its last clone dropped.
    pub(crate) closing: CancellationToken,
    /// What the closing waits for: the tasks that hold locks and the session.
    pub(crate) tasks: TaskTracker,
    /// What is left, once everything is released.
    closed: watch::Sender<Option<Left>>,
}

/// How many leases could not be revoked; `None`: they were not counted, because the time was over.
#[derive(Clone, Copy)]
struct Left(Option<usize>);

impl Handle {
    /// Connects, and starts the tasks that live as long as the handle.
    pub(crate) async fn connect(config: EtcdConfig, capabilities: Capabilities) -> Result<Arc<Self>> {
        config.check()?;
        let namespace = Namespace::new(&config.namespace)?;
        let client = Arc::new(Client::new(&config)?);
        client.probe(config.connect_timeout).await?;
        let (leases, revocations) = Leases::new(Arc::clone(&client), config.timeout);
        let closing = CancellationToken::new();
        let core = Arc::new(Self {
            hub: Hub::start(Arc::clone(&client), config.timeout, closing.clone()),
            client,
            namespace,
            capabilities,
            timeout: config.timeout,
            lock_ttl: config.lock_ttl,
            leases,
            session: Session::new(config.session_ttl),
            closing,
            tasks: TaskTracker::new(),
            closed: watch::Sender::new(None),
        });
        let (client, closing) = (Arc::clone(&core.client), core.closing.clone());
        let (tasks, closed, timeout) = (core.tasks.clone(), core.closed.clone(), core.timeout);
        tokio::spawn(async move {
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
                left = revoker(Arc::clone(&client), timeout, revocations, released) => Some(left),
                () = over => None,
            };
            client.disconnect();
            closed.send_replace(Some(Left(left)));
        });
        Ok(core)
    }

    /// The deadline of a call.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(timeout.unwrap_or(self.timeout))
    }

    /// `Closed` if the handle is.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    /// Begins the closing. Needs no runtime.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.session.cell.close();
    }

    /// Waits until everything is released.
    pub(crate) async fn closed(&self, timeout: Option<Duration>) -> Result<()> {
        let mut closed = self.closed.subscribe();
        let ended = async { Ok(closed.wait_for(Option::is_some).await.ok().and_then(|left| *left)) };
        // The task that closes takes the timeout at most, unless its runtime is gone and it with that.
        let most = timeout.unwrap_or_else(|| self.timeout.saturating_mul(2));
        match Deadline::after(most).run(ended).await? {
            Some(Left(Some(0))) => Ok(()),
            left => Err(Error::new(ErrorKind::Unavailable).with_detail(format!(
                "{} leases could not be revoked: what lives by them goes when they end",
                left.and_then(|left| left.0).map_or_else(|| "some".to_owned(), |left| left.to_string())
            ))),
        }
    }
}
