//! The session: one lease, made when first needed, that all session keys of a handle live by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kv_backend::{Deadline, SessionCell};
use kv_core::{Error, Result, SessionState};
use tokio::time::Instant;

use crate::handle::Handle;
use crate::lease::{Ended, Purpose, margin};

/// The session of one handle.
pub(crate) struct Session {
    pub(crate) cell: SessionCell,
    /// Its lease, 0 while there is none.
    lease: AtomicI64,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
    ttl: Duration,
}

impl Session {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            cell: SessionCell::new(),
            lease: AtomicI64::new(0),
            making: tokio::sync::Mutex::default(),
            ttl,
        }
    }

    /// The lease, if there is a session.
    pub(crate) fn lease(&self) -> Option<i64> {
        let lease = self.lease.load(Ordering::Acquire);
        (lease != 0 && self.cell.state() != SessionState::Lost).then_some(lease)
    }

    /// The server says this lease is gone.
    pub(crate) fn gone(&self, lease: i64) {
        if self.lease.compare_exchange(lease, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.cell.lost();
        }
    }
}

/// The lease of the session, which is made if there is none.
pub(crate) async fn lease(core: &Arc<Handle>, deadline: Deadline) -> Result<i64> {
    let session = &core.session;
    if let Some(lease) = session.lease() {
        return Ok(lease);
    }
    // Whoever makes one may have more time than this call.
    let turn = deadline.run(async { Ok(session.making.lock().await) });
    let _making = turn.await.map_err(Error::not_applied)?;
    if let Some(lease) = session.lease() {
        return Ok(lease);
    }
    let granted = core.leases.grant(deadline, Purpose::Session, session.ttl).await?;
    core.check_open()?;
    let (ttl, sent_at) = (granted.ttl, granted.sent_at);
    session.cell.renewed(sent_at, ttl, margin(ttl));
    let lease = granted.keep();
    session.lease.store(lease, Ordering::Release);
    core.tasks.spawn(keep(Arc::clone(core), lease, ttl, sent_at + ttl / 3));
    Ok(lease)
}

/// Keeps one session alive until it is lost or the handle is closed.
async fn keep(core: Arc<Handle>, lease: i64, ttl: Duration, first: Instant) {
    let session = &core.session;
    let kept = core.leases.keep(
        lease,
        ttl,
        first,
        |sent_at| {
            // An acknowledgement that comes after we told the loss does not bring it back.
            if session.lease() == Some(lease) {
                session.cell.renewed(sent_at, ttl, margin(ttl));
            }
        },
        |_| session.cell.suspect(),
    );
    tokio::select! {
        ended = kept => {
            match ended {
                Ended::Gone => tracing::warn!("the session was lost: its lease is gone"),
                Ended::Refused(error) => tracing::warn!(%error, "the session was lost"),
            }
            session.gone(lease);
            core.leases.revoke_later(lease);
        }
        () = lost(session, lease) => {
            // By our clock: so that its keys are gone for everybody, it is ended on the server too.
            session.gone(lease);
            core.leases.revoke_later(lease);
        }
        () = core.closing.cancelled() => core.leases.revoke_later(lease),
    }
}

/// Resolves once the session with this lease is lost.
async fn lost(session: &Session, lease: i64) {
    let mut states = session.cell.states();
    while session.lease() == Some(lease) {
        if states.next().await.is_none() {
            // Closed, which the caller sees by itself.
            std::future::pending::<()>().await;
        }
    }
}
