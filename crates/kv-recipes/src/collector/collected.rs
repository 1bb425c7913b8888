//! What a collector recorded, and its replay.

use std::fmt;
use std::ops::ControlFlow;

use kv_core::{Error, Prefix, Result, Version};

use super::log::Recorded;

/// What was recorded, in the order in which the watch told it.
pub struct Collected {
    pub(super) changes: Vec<Recorded>,
    pub(super) from: Option<Version>,
    pub(super) complete: bool,
    pub(super) error: Option<Error>,
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// How many changes were given to the callback.
    pub changes: u64,
    /// The greatest version among them and the one the collector began after.
    pub up_to: Option<Version>,
    /// Whether each single change was among them: none was merged, left out, or not told.
    pub complete: bool,
}

impl Collected {
    /// The changes, in the order in which the watch told them.
    #[must_use]
    pub fn changes(&self) -> &[Recorded] {
        &self.changes
    }

    /// Whether each single change is there: the store declares
    /// [`WatchComplete`](kv_core::Guarantee::WatchComplete), and neither a gap of the watch nor the bound
    /// of the log merged any.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Why the watch ended before the collector was stopped, if it did: what happened afterwards is not
    /// recorded.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Gives the changes below these prefixes to a callback, in order, until it breaks.
    ///
    /// On top of the snapshot that the collector began with, they lead to a later state of the store: the
    /// last change of each key is its state when the collector was stopped.
    ///
    /// # Errors
    ///
    /// What the watch ended with, after everything recorded before was replayed: then the state it leads to
    /// is older than the stop.
    pub fn replay(
        &self,
        prefixes: &[Prefix],
        mut callback: impl FnMut(&Recorded) -> ControlFlow<()>,
    ) -> Result<Replayed> {
        let mut replayed = Replayed { changes: 0, up_to: self.from, complete: self.complete };
        let wanted = |recorded: &&Recorded| prefixes.iter().any(|prefix| prefix.covers(&recorded.change.key));
        for recorded in self.changes.iter().filter(wanted) {
            replayed.changes += 1;
            replayed.up_to = replayed.up_to.max(recorded.version);
            if callback(recorded).is_break() {
                return Ok(replayed);
            }
        }
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(replayed),
        }
    }
}

impl fmt::Debug for Collected {
    // Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected")
            .field("changes", &self.changes.len())
            .field("complete", &self.complete)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
