//! The leases that wait to be revoked, and which of them is next.

use std::collections::VecDeque;

use super::Unused;

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
