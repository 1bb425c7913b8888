//! Refusing writes while there is still space on the disk to stop in good order.
//!
//! sled cannot go on after a write that did not fit, and cannot even be opened again before there is
//! space. So a reserve is kept that only deletes may use, and only half of it.

use std::path::Path;

use kv_core::Result;

use crate::error::from_io;
use crate::stage::no_space;

/// What opening needs at most besides a part of the log's size: the rest of a segment is cleared, and
/// a snapshot is written.
const RESERVE: u64 = 8 << 20;

/// What one change takes in the log, with its share of the pages that are rewritten for it.
const PER_CHANGE: u64 = 2 * 1024;

/// What of the disk a group of writes may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    puts: u64,
    deletes: u64,
    low: bool,
}

impl Room {
    /// Looks at the disk that `dir` is on, with a log of this size in which so many bytes are live.
    pub(crate) fn measure(dir: &Path, log_len: u64, live: u64) -> Result<Self> {
        let available = fs4::available_space(dir).map_err(from_io)?;
        Ok(Self::new(available, log_len, live))
    }

    fn new(available: u64, log_len: u64, live: u64) -> Self {
        let reserve = RESERVE + log_len / 16;
        let low = available < reserve;
        // sled writes into what it has cleaned up before it makes the log longer. It begins to clean
        // a segment when half of it is dead, so of a log with more than that a part is free, or soon.
        let reusable = if available >= reserve / 4 * 3 { log_len.saturating_sub(3 * live) / 4 } else { 0 };
        Self {
            puts: available.saturating_sub(reserve).max(reusable),
            deletes: available.saturating_sub(reserve / 2),
            low,
        }
    }

    /// Whether the reserve is begun: then what nobody must have should go.
    pub(crate) fn is_low(self) -> bool {
        self.low
    }

    /// Takes what so many puts with so many bytes of values in all may use.
    pub(crate) fn take_for_puts(&mut self, count: usize, bytes: usize) -> Result<()> {
        let needed = count as u64 * PER_CHANGE + 3 * bytes as u64;
        self.puts = self.puts.checked_sub(needed).ok_or_else(|| {
            no_space("the disk is nearly full: free space on it, or delete keys; the store goes on then")
        })?;
        self.deletes = self.deletes.saturating_sub(needed);
        Ok(())
    }

    /// Takes what so many deletes may use.
    pub(crate) fn take_for_deletes(&mut self, count: usize) -> Result<()> {
        let needed = count as u64 * PER_CHANGE;
        let full = || no_space("the disk is full: free space on it; the store goes on then");
        self.deletes = self.deletes.checked_sub(needed).ok_or_else(full)?;
        self.puts = self.puts.saturating_sub(needed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_may_use_what_puts_may_not() {
        let mut room = Room { puts: PER_CHANGE + 30, deletes: 3 * PER_CHANGE, low: true };
        room.take_for_puts(1, 10).unwrap();
        assert!(room.take_for_puts(1, 0).is_err());
        room.take_for_deletes(1).unwrap();
        assert!(room.take_for_deletes(1).is_err());
    }

    #[test]
    fn a_log_of_dead_records_is_written_into_again() {
        let reserve = RESERVE + (64 << 20) / 16;
        let full = Room::new(reserve - 1, 64 << 20, 30 << 20);
        assert!(full.is_low() && full.puts == 0 && full.deletes > 0);
        let dead = Room::new(reserve - 1, 64 << 20, 1 << 20);
        assert!(dead.is_low() && dead.puts > 0);
        assert_eq!(Room::new(reserve / 2, 64 << 20, 1 << 20).puts, 0);
    }
}
