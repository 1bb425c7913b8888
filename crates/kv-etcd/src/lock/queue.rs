//! Who stands in the queue of one lock, by what the server tells of its records.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::client::{Change, Name, Record};
use crate::record;

/// The largest owner value that is kept here. A larger one is read when it is wanted, so that a watch of
/// a lock costs little memory however many wait for it.
const MOST_KEPT: usize = 4 << 10;

/// The candidates of a lock: the one created first holds it, the others wait in that order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    by_created: BTreeMap<i64, Candidate>,
    by_name: HashMap<Name, i64>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: Name,
    pub(super) created: i64,
    pub(super) version: i64,
    /// `None`: it is not known here.
    pub(super) owner: Option<Bytes>,
}

impl Queue {
    /// Adds a candidate that was read without its owner value.
    pub(super) fn read(&mut self, record: Record) {
        if record::is_lock(&record) {
            self.insert(record, false);
        }
    }

    /// Notes what became of a record.
    pub(super) fn change(&mut self, change: Change) {
        let Change { deleted, record, .. } = change;
        // What is written over without its lease is a candidate no more.
        if deleted || !record::is_lock(&record) {
            self.remove(&record.name);
        } else {
            self.insert(record, true);
        }
    }

    /// The holder.
    pub(super) fn first(&self) -> Option<&Candidate> {
        self.by_created.values().next()
    }

    fn insert(&mut self, record: Record, has_owner: bool) {
        self.remove(&record.name);
        let Record { name, value, version, created, .. } = record;
        let owner = (has_owner && value.len() <= MOST_KEPT).then_some(value);
        self.by_name.insert(name.clone(), created);
        self.by_created.insert(created, Candidate { name, created, version, owner });
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some(created) = self.by_name.remove(name) {
            self.by_created.remove(&created);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lease: i64, created: i64, version: i64, value: &'static [u8]) -> Record {
        let name = format!("l/{lease:x}").into();
        Record { name, value: Bytes::from_static(value), version, created, lease }
    }

    fn put(record: Record) -> Change {
        Change { deleted: false, record, previous: None }
    }

    fn deleted(lease: i64) -> Change {
        Change { deleted: true, ..put(Record { lease: 0, ..record(lease, 0, 99, b"") }) }
    }

    fn holder(queue: &Queue) -> Option<(i64, Option<&[u8]>)> {
        queue.first().map(|first| (first.created, first.owner.as_deref()))
    }

    #[test]
    fn the_one_created_first_holds_it() {
        let mut queue = Queue::default();
        queue.read(record(0xb, 5, 5, b""));
        queue.read(Record { lease: 0, ..record(0x1, 1, 1, b"an entry") });
        assert_eq!(holder(&queue), Some((5, None)), "what was read has no owner");
        queue.change(put(record(0xa, 7, 7, b"a")));
        queue.change(put(record(0xc, 8, 8, b"c")));
        assert_eq!(holder(&queue), Some((5, None)));
        queue.change(deleted(0xb));
        assert_eq!(holder(&queue), Some((7, Some(&b"a"[..]))));
        // Written over with its lease it is the same one with another owner; without, it is none.
        queue.change(put(record(0xa, 7, 9, b"other")));
        assert_eq!(holder(&queue), Some((7, Some(&b"other"[..]))));
        queue.change(put(Record { lease: 0, ..record(0xa, 7, 10, b"theirs") }));
        assert_eq!(holder(&queue), Some((8, Some(&b"c"[..]))));
        // A lease that is used again stands in another place.
        queue.change(deleted(0xc));
        queue.change(put(record(0xc, 12, 12, b"again")));
        queue.change(deleted(0xd));
        assert_eq!(holder(&queue), Some((12, Some(&b"again"[..]))));
        queue.change(deleted(0xc));
        assert_eq!((holder(&queue), queue.by_created.len(), queue.by_name.len()), (None, 0, 0));
    }

    #[test]
    fn a_large_owner_is_not_kept() {
        let mut queue = Queue::default();
        queue.change(put(record(0xa, 1, 1, &[b'x'; MOST_KEPT + 1])));
        assert_eq!(holder(&queue), Some((1, None)));
    }
}
