//! The one counter that versions and fencing tokens come from.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead numbers are reserved on disk.
const BLOCK: u64 = 1 << 20;

/// Numbers that never repeat, also across a crash that loses what was not flushed: those up to the
/// ceiling are reserved on disk before one of them is given out, and a store that was not closed
/// begins above it.
#[derive(Debug)]
pub(crate) struct Counter {
    last: AtomicU64,
    ceiling: AtomicU64,
}

impl Counter {
    /// Goes on after `last`; numbers up to `ceiling` are reserved.
    pub(crate) fn new(last: u64, ceiling: u64) -> Self {
        Self { last: AtomicU64::new(last), ceiling: AtomicU64::new(ceiling) }
    }

    /// A new number for a change, which reserves what it needs when it is committed.
    pub(crate) fn next(&self) -> u64 {
        self.next_many(1)
    }

    /// So many new numbers for changes; returns the last of them.
    pub(crate) fn next_many(&self, count: u64) -> u64 {
        self.last.fetch_add(count, Ordering::SeqCst) + count
    }

    /// A new number that is not written anywhere, if one is reserved.
    pub(crate) fn next_reserved(&self) -> Option<u64> {
        let ceiling = self.ceiling.load(Ordering::SeqCst);
        let take = |last| (last < ceiling).then_some(last + 1);
        self.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok().map(|last| last + 1)
    }

    /// The last number given out.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Up to where numbers are reserved.
    pub(crate) fn ceiling(&self) -> u64 {
        self.ceiling.load(Ordering::SeqCst)
    }

    /// Whether more should be reserved soon.
    pub(crate) fn is_low(&self) -> bool {
        self.last() + BLOCK / 2 > self.ceiling()
    }

    /// Up to where to reserve: what the next commit writes down.
    pub(crate) fn next_ceiling(&self) -> u64 {
        if self.is_low() { self.last() + BLOCK } else { self.ceiling() }
    }

    /// Notes that a ceiling is on disk.
    pub(crate) fn reserved(&self, ceiling: u64) {
        self.ceiling.fetch_max(ceiling, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reserved_numbers_are_given_out_unwritten() {
        let counter = Counter::new(5, 6);
        assert_eq!(counter.next_reserved(), Some(6));
        assert_eq!(counter.next_reserved(), None);
        assert!(counter.is_low());
        counter.reserved(counter.next_ceiling());
        assert!(!counter.is_low());
        assert_eq!(counter.next_reserved(), Some(7));
        assert_eq!(counter.next(), 8);
        assert_eq!(counter.next_ceiling(), counter.ceiling());
    }
}
