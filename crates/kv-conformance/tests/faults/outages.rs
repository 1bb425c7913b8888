//! Locks of a store whose servers do not answer.

use kv_conformance::Line;
use kv_core::{ErrorKind, LockGuard, Result};

use super::Fault;

/// How a lock behaves on a line that is cut.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Outage {
    #[default]
    Honest,
    /// A lock that nobody was asked for waits until somebody can be asked.
    WaitsForADeadServer,
    /// A wait ends when the line is cut.
    EndsQueuedWaits,
    /// A wait that is over ends when the line is mended.
    OverrunsItsWait,
}

impl Outage {
    pub(crate) async fn lock(
        self,
        line: &Line,
        locking: impl Future<Output = Result<LockGuard>>,
    ) -> Result<LockGuard> {
        if line.is_cut() && self != Self::WaitsForADeadServer {
            return Err(ErrorKind::Unavailable.into());
        }
        line.until(false).await;
        let locked = match self {
            Self::EndsQueuedWaits => tokio::select! {
                locked = locking => locked,
                () = line.until(true) => Err(ErrorKind::Unavailable.into()),
            },
            _ => locking.await,
        };
        // Who is cut off is told of nothing but of the end of his own time.
        if locked.is_ok() || self == Self::OverrunsItsWait {
            line.until(false).await;
        }
        locked
    }
}

pub(super) fn faults() -> [Fault; 3] {
    [
        Fault::new("a_lock_waits_for_a_dead_server", &["lock_without_a_server_fails_like_a_request"])
            .outage(Outage::WaitsForADeadServer),
        Fault::new("an_outage_ends_queued_waits", &["queued_wait_outlives_an_outage"])
            .outage(Outage::EndsQueuedWaits),
        Fault::new("an_outage_prolongs_a_bounded_wait", &["wait_up_to_ends_in_an_outage"])
            .outage(Outage::OverrunsItsWait),
    ]
}
