//! The leases that wait to be revoked, and which of them is next.

use std::collections::VecDeque;

/// A lease to revoke.
pub(crate) struct Unused {
    pub(super) id: i64,
    /// Whether it surely is there. If not, the server may get to its grant after its revocation.
    pub(super) granted: bool,
    /// How often it was revoked and not found.
    pub(super) looks: u32,
    /// Attempts that failed since the handle is being closed.
    pub(super) failures: u32,
}

impl Unused {
    pub(super) fn new(id: i64, granted: bool) -> Self {
        Self { id, granted, looks: 0, failures: 0 }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Waiting {
    granted: VecDeque<Unused>,
    /// Those whose grant was not answered.
    doubtful: VecDeque<Unused>,
}

impl Waiting {
    pub(super) fn push(&mut self, lease: Unused) {
        let queue = if lease.granted { &mut self.granted } else { &mut self.doubtful };
        queue.push_back(lease);
    }

    /// The next one. Somebody may wait for what lives by a lease that was granted; an outage can leave
    /// many others, by which nothing lives.
    pub(super) fn pop(&mut self) -> Option<Unused> {
        self.granted.pop_front().or_else(|| self.doubtful.pop_front())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.granted.is_empty() && self.doubtful.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_goes_first() {
        let mut waiting = Waiting::default();
        for (id, granted) in [(1, false), (2, true), (3, false), (4, true)] {
            waiting.push(Unused::new(id, granted));
        }
        let order: Vec<_> = std::iter::from_fn(|| waiting.pop()).map(|lease| lease.id).collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert!(waiting.is_empty());
    }
}
