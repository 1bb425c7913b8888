//! How many waiting queries there may be, those counted that the server still keeps for nobody.
//!
//! Consul does not notice that a client has gone while it waits for it: the connection of a query that was
//! broken off stays open on its side, and counts against the 200 of the address, until the time the query was
//! to wait is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most queries the server may have of one store handle.
const MAX: usize = 36;

/// The queries of one store handle.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    /// When those that were broken off end.
    left: Vec<Instant>,
}

/// The place of one query. Dropping it before the answer is there leaves the query to the server.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    ends: Instant,
    answered: bool,
}

impl Slots {
    /// A place for a query that waits this long at most; `None` if there is none now.
    pub(crate) fn take(self: &Arc<Self>, wait: Duration) -> Option<Slot> {
        let now = Instant::now();
        let mut state = self.lock();
        state.left.retain(|ends| *ends > now);
        if state.waiting + state.left.len() >= MAX {
            return None;
        }
        state.waiting += 1;
        drop(state);
        // Consul adds up to a sixteenth.
        Some(Slot { slots: Arc::clone(self), ends: now + wait + wait / 16, answered: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The query has an answer, or none will come.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.waiting -= 1;
        if !self.answered {
            state.left.push(self.ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_query_that_was_broken_off_counts_until_it_ends() {
        let slots = Arc::new(Slots::default());
        let wait = Duration::from_secs(16);
        let mut taken: Vec<Slot> = std::iter::from_fn(|| slots.take(wait)).collect();
        assert_eq!(taken.len(), MAX);
        taken.pop().unwrap().answered();
        drop(slots.take(wait).expect("one was answered"));
        assert!(slots.take(wait).is_none(), "and that one was broken off");
        tokio::time::advance(Duration::from_millis(17_001)).await;
        drop(taken);
        assert_eq!(slots.lock().left.len(), MAX);
        assert!(slots.take(wait).is_some(), "all have ended");
        assert_eq!(slots.lock().left.len(), 1);
    }
}
