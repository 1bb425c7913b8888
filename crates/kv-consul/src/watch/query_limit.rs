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
pub(crate) struct QueryLimit {
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
pub(crate) struct QueryPermit {
    limit: Arc<QueryLimit>,
    ends: Instant,
    answered: bool,
}

impl QueryLimit {
    /// A place for a query that waits this long at most; `None` if there is none now.
    pub(crate) fn take(self: &Arc<Self>, wait: Duration) -> Option<QueryPermit> {
        let now = Instant::now();
        let mut state = self.lock();
        state.left.retain(|ends| *ends > now);
        if state.waiting + state.left.len() >= MAX {
            return None;
        }
        state.waiting += 1;
        drop(state);
        // Consul adds up to a sixteenth.
        Some(QueryPermit { limit: Arc::clone(self), ends: now + wait + wait / 16, answered: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryPermit {
    /// The query has an answer, or none will come.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for QueryPermit {
    fn drop(&mut self) {
        let mut state = self.limit.lock();
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
        let limit = Arc::new(QueryLimit::default());
        let wait = Duration::from_secs(16);
        let mut taken: Vec<QueryPermit> = std::iter::from_fn(|| limit.take(wait)).collect();
        assert_eq!(taken.len(), MAX);
        taken.pop().unwrap().answered();
        drop(limit.take(wait).expect("one was answered"));
        assert!(limit.take(wait).is_none(), "and that one was broken off");
        tokio::time::advance(Duration::from_millis(17_001)).await;
        drop(taken);
        assert_eq!(limit.lock().left.len(), MAX);
        assert!(limit.take(wait).is_some(), "all have ended");
        assert_eq!(limit.lock().left.len(), 1);
    }
}
