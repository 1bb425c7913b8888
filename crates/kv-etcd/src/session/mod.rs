//! Leases, and the session: one lease, made when first needed, that all session keys of a handle live by.

mod id;
mod leases;
mod pool;
mod revoker;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kv_backend::{Deadline, SessionCell};
use kv_core::{Error, Result, SessionState};
use tokio::time::Instant;

use crate::env::Env;
pub(crate) use id::{Purpose, is_session};
pub(crate) use leases::{Ended, Granted, Leases, margin};
pub(crate) use pool::Lease;
pub(crate) use revoker::revoker;

/// The session of one handle.
pub(crate) struct Session {
    env: Arc<Env>,
    leases: Arc<Leases>,
    pub(crate) cell: SessionCell,
    /// Its lease, 0 while there is none.
    lease: AtomicI64,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
    ttl: Duration,
}

impl Session {
    pub(crate) fn new(env: Arc<Env>, leases: Arc<Leases>, ttl: Duration) -> Self {
        Self {
            env,
            leases,
            cell: SessionCell::new(),
            lease: AtomicI64::new(0),
            making: tokio::sync::Mutex::default(),
            ttl,
        }
    }

    /// The lease, if there is a session.
    fn present(&self) -> Option<i64> {
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

impl Session {
    /// The lease of the session, which is made if there is none.
    pub(crate) async fn lease(self: &Arc<Self>, deadline: Deadline) -> Result<i64> {
        if let Some(lease) = self.present() {
            return Ok(lease);
        }
        // Whoever makes one may have more time than this call.
        let turn = deadline.run(async { Ok(self.making.lock().await) });
        let _making = turn.await.map_err(Error::not_applied)?;
        if let Some(lease) = self.present() {
            return Ok(lease);
        }
        let granted = self.leases.grant(deadline, Purpose::Session, self.ttl).await?;
        self.env.check_open()?;
        let (ttl, sent_at) = (granted.ttl, granted.sent_at);
        self.cell.renewed(sent_at, ttl, margin(ttl));
        let lease = granted.keep();
        self.lease.store(lease, Ordering::Release);
        let session = Arc::clone(self);
        self.env.tasks.spawn(async move { session.keep(lease, ttl, sent_at + ttl / 3).await });
        Ok(lease)
    }

    /// Keeps one session alive until it is lost or the handle is closed.
    async fn keep(&self, lease: i64, ttl: Duration, first: Instant) {
        let kept = self.leases.keep(
            lease,
            ttl,
            first,
            |sent_at| {
                // An acknowledgement that comes after we told the loss does not bring it back.
                if self.present() == Some(lease) {
                    self.cell.renewed(sent_at, ttl, margin(ttl));
                }
            },
            |_| self.cell.suspect(),
        );
        tokio::select! {
            ended = kept => {
                match ended {
                    Ended::Gone => tracing::warn!("the session was lost: its lease is gone"),
                    Ended::Refused(error) => tracing::warn!(%error, "the session was lost"),
                }
                self.gone(lease);
                self.leases.revoke_later(lease);
            }
            () = self.lost(lease) => {
                // By our clock: so that its keys are gone for everybody, it is ended on the server too.
                self.gone(lease);
                self.leases.revoke_later(lease);
            }
            () = self.env.closing.cancelled() => self.leases.revoke_later(lease),
        }
    }

    /// Resolves once the session with this lease is lost.
    async fn lost(&self, lease: i64) {
        let mut states = self.cell.states();
        while self.present() == Some(lease) {
            if states.next().await.is_none() {
                // Closed, which the caller sees by itself.
                std::future::pending::<()>().await;
            }
        }
    }
}
