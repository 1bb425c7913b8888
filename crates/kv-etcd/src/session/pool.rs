//! Leases of locks that were released, kept for a while for the next locks: to lock and to unlock are one
//! write each then.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

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

impl Pool {
    /// Takes one for this time to live, of which two thirds are left at least.
    pub(super) fn take(&mut self, asked: Duration) -> Option<(Lease, Instant)> {
        let leases = self.idle.get_mut(&asked)?;
        let now = Instant::now();
        let at = leases.iter().rposition(|idle| end(idle) > now)?;
        Some(leases.swap_remove(at))
    }

    /// Keeps one, and says whether a task gives it back in time; `None`: there are enough, or it is too
    /// old.
    pub(super) fn keep(&mut self, lease: Lease, acked: Instant) -> Option<bool> {
        let others = self.idle.entry(lease.asked).or_default();
        if others.len() >= MOST_IDLE || end(&(lease, acked)) <= Instant::now() {
            return None;
        }
        others.push((lease, acked));
        Some(std::mem::replace(&mut self.tended, true))
    }

    /// Those that are idle for too long, or all of them, and when the next one will be.
    pub(super) fn give_back(&mut self, all: bool) -> (Vec<Lease>, Option<Instant>) {
        let now = Instant::now();
        let over = |idle: &mut (Lease, Instant)| all || end(idle) <= now;
        let over: Vec<_> = self.idle.values_mut().flat_map(|leases| leases.extract_if(.., over)).collect();
        self.idle.retain(|_, leases| !leases.is_empty());
        let next = self.idle.values().flatten().map(end).min();
        self.tended = next.is_some();
        (over.into_iter().map(|(lease, _)| lease).collect(), next)
    }
}
