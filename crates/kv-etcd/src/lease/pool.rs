//! Leases of locks that were released, kept for a while for the next locks: to lock and to unlock are one
//! write each then.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Granted, Leases};
use crate::handle::Handle;

/// How many are kept for one time to live.
const MOST_IDLE: usize = 8;

/// A lease that one lock lives by at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// The time to live that was asked for.
    pub(super) asked: Duration,
    /// What the server granted: that or more.
    pub(crate) ttl: Duration,
}

/// The leases that no lock lives by, with the sending of their last acknowledged renewal.
#[derive(Default)]
pub(super) struct Pool {
    idle: HashMap<Duration, Vec<(Lease, Instant)>>,
    /// Whether a task gives them back in time.
    tended: bool,
}

/// Until when one is as good as new. After that too little of its time to live is vouched for.
fn end((lease, acked): &(Lease, Instant)) -> Instant {
    *acked + lease.ttl / 3
}

impl Leases {
    /// The lease of an earlier lock, of which two thirds of its time to live are left at least.
    pub(crate) fn idle(&self, asked: Duration) -> Option<Granted<'_>> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let leases = pool.idle.get_mut(&asked)?;
        let now = Instant::now();
        let at = leases.iter().rposition(|idle| end(idle) > now)?;
        let (lease, acked) = leases.swap_remove(at);
        drop(pool);
        let Lease { id, asked, ttl } = lease;
        Some(Granted { leases: self, id, asked, ttl, sent_at: acked, granted: true, revokes: true })
    }

    /// Revokes what is idle for too long, or everything, and says when the next one will be.
    fn give_back(&self, all: bool) -> Option<Instant> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let over = |idle: &mut (Lease, Instant)| all || end(idle) <= now;
        let over: Vec<_> = pool.idle.values_mut().flat_map(|leases| leases.extract_if(.., over)).collect();
        pool.idle.retain(|_, leases| !leases.is_empty());
        let next = pool.idle.values().flatten().map(end).min();
        pool.tended = next.is_some();
        drop(pool);
        over.into_iter().for_each(|(lease, _)| self.revoke_later(lease.id));
        next
    }
}

/// Keeps a lease whose lock was released, by an acknowledged request: nothing lives by it.
pub(crate) fn reuse(core: &Arc<Handle>, lease: Lease, acked: Instant) {
    let leases = &core.leases;
    let mut pool = leases.pool.lock().unwrap_or_else(PoisonError::into_inner);
    let others = pool.idle.entry(lease.asked).or_default();
    if others.len() >= MOST_IDLE || end(&(lease, acked)) <= Instant::now() {
        drop(pool);
        return leases.revoke_later(lease.id);
    }
    others.push((lease, acked));
    let is_tended = std::mem::replace(&mut pool.tended, true);
    drop(pool);
    if !is_tended {
        let core = Arc::clone(core);
        core.tasks.clone().spawn(async move {
            while let Some(next) = core.leases.give_back(core.closing.is_cancelled()) {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = core.closing.cancelled() => {}
                }
            }
        });
    }
}
