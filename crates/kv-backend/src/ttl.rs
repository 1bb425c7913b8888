//! What expires next: deadlines in exact order.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::clock::Timestamp;

/// A queue of things that expire, each once. A plain value: it lives inside the store's own critical
/// section, and one [`Sweeper`](crate::Sweeper) sleeps until its next deadline.
///
/// All operations take time logarithmic in the number of deadlines.
#[derive(Debug)]
pub struct TtlQueue<K> {
    deadlines: HashMap<K, Timestamp>,
    order: BTreeSet<(Timestamp, K)>,
}

impl<K> Default for TtlQueue<K> {
    fn default() -> Self {
        Self { deadlines: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Ord + Hash + Clone> TtlQueue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets when `key` expires, in place of what was set before, which is returned.
    pub fn set(&mut self, key: K, deadline: Timestamp) -> Option<Timestamp> {
        let before = self.remove(&key);
        self.deadlines.insert(key.clone(), deadline);
        self.order.insert((deadline, key));
        before
    }

    /// Takes `key` out of the queue and tells when it would have expired.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<Timestamp>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if self.deadlines.is_empty() {
            return None;
        }
        let (key, deadline) = self.deadlines.remove_entry(key)?;
        self.order.remove(&(deadline, key));
        Some(deadline)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out the first thing whose deadline is reached at `now`, the earliest first.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        if self.next()? > now {
            return None;
        }
        let (deadline, key) = self.order.pop_first()?;
        self.deadlines.remove(&key);
        Some((deadline, key))
    }

    /// When `key` expires.
    #[must_use]
    pub fn deadline<Q>(&self, key: &Q) -> Option<Timestamp>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.deadlines.get(key).copied()
    }

    /// How many things are to expire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing is to expire.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn due_things_come_in_order_of_their_deadlines() {
        let mut queue = TtlQueue::new();
        for (key, deadline) in [("c", 30), ("a", 10), ("b", 20), ("d", 10)] {
            assert_eq!(queue.set(key, at(deadline)), None);
        }
        assert_eq!(queue.next(), Some(at(10)));
        assert_eq!(queue.pop_due(at(9)), None);
        assert_eq!(queue.pop_due(at(25)), Some((at(10), "a")));
        assert_eq!(queue.pop_due(at(25)), Some((at(10), "d")));
        assert_eq!(queue.pop_due(at(25)), Some((at(20), "b")));
        assert_eq!(queue.pop_due(at(25)), None);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_new_deadline_replaces_the_old_one() {
        let mut queue = TtlQueue::new();
        queue.set("a", at(10));
        assert_eq!(queue.set("a", at(40)), Some(at(10)));
        assert_eq!(queue.pop_due(at(39)), None);
        assert_eq!(queue.deadline("a"), Some(at(40)));
        assert_eq!(queue.remove("a"), Some(at(40)));
        assert_eq!(queue.remove("a"), None);
        assert!(queue.is_empty());
        assert_eq!(queue.next(), None);
    }
}
