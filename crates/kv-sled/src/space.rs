//! Refusing writes while there is still space on the disk to stop in good order.
//!
//! sled cannot go on after a write that did not fit, and cannot even be opened again before there is
//! space. So a reserve is kept, and what makes more room may go deeper into it than what makes less:
//! puts stop first, then deletes, then letting history go, and last the removal of what is dead
//! already, which stops at what opening needs.
//!
//! None of it is for ever. sled begins to clean a segment of its log when half of it is dead, so the
//! log need not grow beyond twice what is live and a few segments on their way. What it has beyond
//! that is written into again, without taking anything from the disk, and counts like free space. So
//! whoever deletes comes to where puts go on, however far the log grew meanwhile; and a deleted tree
//! is one record, and always fits.

use std::path::Path;

use kv_core::Result;

use crate::error::from_io;
use crate::record::Meta;
use crate::stage::no_space;

const MIB: u64 = 1 << 20;

/// What opening needs at most besides a part of the log's size: the rest of a segment is cleared, and
/// a snapshot is written.
const OPENING: u64 = 3 * MIB;

/// Where letting history go, deletes and puts stop, above what opening needs. Between the last two the
/// log may grow by three segments before the first one that deletes emptied is free.
const TRIMS_STOP: u64 = 3 * MIB;
const DELETES_STOP: u64 = 4 * MIB;
const PUTS_STOP: u64 = 10 * MIB;

/// The segments that are being written, waited for and cleaned.
const ON_THE_WAY: u64 = 6 * MIB;

/// What one change takes in the log, with its share of the pages that are rewritten for it.
const PER_CHANGE: u64 = 2 * 1024;

/// What a record takes besides its content: key, seal and its place in a page.
const PER_RECORD: u64 = 64;

/// What of the disk a group of writes may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    puts: u64,
    deletes: u64,
    trims: u64,
    removals: u64,
    low: bool,
}

impl Room {
    /// Looks at the disk that `dir` is on, with a log of this size for what the store has.
    pub(crate) fn measure(dir: &Path, log_len: u64, meta: &Meta) -> Result<Self> {
        let available = fs4::available_space(dir).map_err(from_io)?;
        // Pages are not all full.
        let live = (meta.bytes + PER_RECORD * meta.records) / 4 * 5;
        Ok(Self::new(available, log_len, live))
    }

    fn new(available: u64, log_len: u64, live: u64) -> Self {
        let opening = OPENING + log_len / 16;
        let spare = available.saturating_sub(opening);
        let reusable = log_len.saturating_sub(2 * live + ON_THE_WAY);
        // Even if all of the group makes the log longer, opening is left what it needs.
        let above = |stop| (spare + reusable).saturating_sub(stop).min(spare);
        Self {
            puts: above(PUTS_STOP),
            deletes: above(DELETES_STOP),
            trims: above(TRIMS_STOP),
            removals: above(0),
            low: available < opening + PUTS_STOP,
        }
    }

    /// Whether the reserve is begun: then what nobody must have should go.
    pub(crate) fn is_low(self) -> bool {
        self.low
    }

    fn take(&mut self, needed: u64) {
        self.puts = self.puts.saturating_sub(needed);
        self.deletes = self.deletes.saturating_sub(needed);
        self.trims = self.trims.saturating_sub(needed);
        self.removals = self.removals.saturating_sub(needed);
    }

    /// Takes what so many puts with so many bytes of values in all may use.
    pub(crate) fn take_for_puts(&mut self, count: usize, bytes: usize) -> Result<()> {
        let needed = count as u64 * PER_CHANGE + 3 * bytes as u64;
        if needed > self.puts {
            return Err(no_space(
                "the disk is nearly full: free space on it, or delete keys; the store goes on then",
            ));
        }
        self.take(needed);
        Ok(())
    }

    /// Takes what so many deletes may use.
    pub(crate) fn take_for_deletes(&mut self, count: usize) -> Result<()> {
        let needed = count as u64 * PER_CHANGE;
        if needed > self.deletes {
            return Err(no_space(
                "the disk is full: free space on it, or delete a whole tree; the store goes on then",
            ));
        }
        self.take(needed);
        Ok(())
    }

    /// Takes what letting so many changes of history go may use, or as many as there is space for, and
    /// says how many.
    pub(crate) fn take_for_trims(&mut self, count: usize) -> usize {
        let count = count.min(fitting(self.trims));
        self.take(count as u64 * PER_CHANGE);
        count
    }

    /// Takes what removing so many dead records may use, or as many as there is space for, and says
    /// how many.
    pub(crate) fn take_for_removals(&mut self, count: usize) -> usize {
        let count = count.min(fitting(self.removals));
        self.take(count as u64 * PER_CHANGE);
        count
    }
}

fn fitting(bytes: u64) -> usize {
    usize::try_from(bytes / PER_CHANGE).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_may_use_what_the_one_before_may_not() {
        let [puts, deletes, trims, removals] =
            [PER_CHANGE + 30, 3 * PER_CHANGE, 4 * PER_CHANGE, 5 * PER_CHANGE + 1];
        let mut room = Room { puts, deletes, trims, removals, low: true };
        room.take_for_puts(1, 10).unwrap();
        assert!(room.take_for_puts(1, 0).is_err());
        room.take_for_deletes(1).unwrap();
        assert!(room.take_for_deletes(1).is_err());
        assert_eq!((room.take_for_trims(9), room.take_for_trims(9)), (1, 0));
        assert_eq!((room.take_for_removals(9), room.take_for_removals(9)), (1, 0));
    }

    /// However large the store is: where one kind of write stops, the next goes on, and where enough
    /// is dead, all of them do.
    #[test]
    fn there_is_a_way_on_from_everywhere() {
        for log in [2 * MIB, 12 * MIB, 64 * MIB, 6400 * MIB] {
            let opening = OPENING + log / 16;
            let full = |available| Room::new(available, log, log);
            let mut room = full(opening + PUTS_STOP);
            assert!(!room.is_low() && room.take_for_puts(1, 0).is_err());
            room.take_for_deletes(3000).unwrap();
            let mut room = full(opening + DELETES_STOP);
            assert!(room.is_low() && room.take_for_deletes(1).is_err());
            assert_eq!(room.take_for_trims(500), 500);
            let mut room = full(opening + TRIMS_STOP);
            assert_eq!((room.take_for_trims(1), room.take_for_removals(1500)), (0, 1500));
            assert_eq!(full(opening).take_for_removals(1), 0, "opening needs the rest");
            if log > ON_THE_WAY + PUTS_STOP {
                let mut room = Room::new(opening + MIB, log, 0);
                room.take_for_puts(1, 100_000).unwrap();
                room.take_for_deletes(1).unwrap();
                let mut room = Room::new(opening, log, 0);
                assert!(room.take_for_puts(1, 0).is_err(), "not what opening needs");
            }
        }
    }
}
