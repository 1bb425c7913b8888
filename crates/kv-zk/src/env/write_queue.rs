//! Writes of one key by one handle go one after the other, and writers of different handles step back
//! from each other.
//!
//! A write is guarded by the version of the node it was decided on, so of those that are decided at
//! once only one is carried out. Without an order the others would read and try again against each
//! other, and most would run out of time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Precondition, Result};
use tokio::sync::OwnedMutexGuard;

/// Who writes a path now and who is next, for the paths that are being written.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    paths: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to write a path. Dropping it hands it to the one that has waited longest.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    // Dropped first: it knows the lock too, and the place looks who else does.
    _guard: OwnedMutexGuard<()>,
    _place: Place<'a>,
}

/// A place among those that write a path or wait to.
#[derive(Debug)]
struct Place<'a> {
    queue: &'a WriteQueue,
    path: String,
    /// None once it is given up.
    turn: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl WriteQueue {
    /// Waits for the turn to write a path.
    ///
    /// # Errors
    ///
    /// `Timeout`, not applied, if it does not come before the deadline.
    pub(crate) async fn turn(&self, path: &str, deadline: Deadline) -> Result<Turn<'_>> {
        let turn = {
            let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(paths.entry(path.to_owned()).or_default())
        };
        let waiting = Arc::clone(&turn);
        let place = Place { queue: self, path: path.to_owned(), turn: Some(turn) };
        let waiting = waiting.lock_owned();
        let guard = deadline.run(async { Ok(waiting.await) }).await.map_err(|error| {
            error.not_applied().with_detail("earlier writes of the key by this handle took all the time")
        })?;
        Ok(Turn { _guard: guard, _place: place })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut paths = self.queue.paths.lock().unwrap_or_else(PoisonError::into_inner);
        // Given up before the others are counted: of two that go at once, the second counts no other.
        drop(self.turn.take());
        // Only the map's: nobody writes the path any more.
        if paths.get(&self.path).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            paths.remove(&self.path);
        }
    }
}

/// Whether a write on this condition is decided anew when another writer was faster, for as long as
/// that takes. The others are refused then.
pub(crate) fn competes(precondition: &Precondition) -> bool {
    !matches!(precondition, Precondition::Absent | Precondition::At(_))
}

/// How long a writer steps back after another handle was faster.
#[derive(Debug, Default)]
pub(crate) struct StepBack {
    conflicts: u32,
}

impl StepBack {
    /// The longest pause, as a power of two of milliseconds: some round trips, so that there are many
    /// attempts in a deadline.
    const MOST: u32 = 4;

    /// Waits some time, longer with each conflict. After the first there is no wait: what was
    /// remembered may just have been old.
    ///
    /// # Errors
    ///
    /// `Timeout`, not applied, at the deadline.
    pub(crate) async fn wait(&mut self, deadline: Deadline) -> Result<()> {
        let most = 1000_u64 << self.conflicts.min(Self::MOST);
        if self.conflicts > 0 {
            let pause = Duration::from_micros(fastrand::u64(0..most));
            tokio::time::sleep(pause.min(deadline.remaining()?)).await;
        }
        self.conflicts += 1;
        deadline.remaining().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use kv_core::{Applied, ErrorKind};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_they_were_asked_for_and_paths_do_not_wait_for_each_other() {
        let queue = WriteQueue::default();
        let deadline = Deadline::after(SECOND);
        let first = queue.turn("/a", deadline).await.unwrap();
        let other = queue.turn("/b", deadline).await.unwrap();
        let order = Mutex::new(Vec::new());
        let waiting = |name: u32| {
            let (queue, order) = (&queue, &order);
            async move {
                let _turn = queue.turn("/a", deadline).await.unwrap();
                order.lock().unwrap().push(name);
                tokio::task::yield_now().await;
            }
        };
        futures_util::future::join4(waiting(1), waiting(2), waiting(3), async { drop(first) }).await;
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        drop(other);
        assert!(queue.paths.lock().unwrap().is_empty(), "nothing is remembered of paths nobody writes");
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_had_its_turn_has_changed_nothing() {
        let queue = WriteQueue::default();
        let held = queue.turn("/a", Deadline::after(SECOND)).await.unwrap();
        let error = queue.turn("/a", Deadline::after(SECOND)).await.unwrap_err();
        assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::No), "{error}");
        drop(held);
        assert!(queue.paths.lock().unwrap().is_empty());
    }

    #[test]
    fn of_two_that_go_at_once_one_takes_the_path_along() {
        let queue = WriteQueue::default();
        // It takes a while to free: the first is still at it when the second looks who is left.
        let path = "a".repeat(4 << 20);
        for round in 0..20 {
            let turn = Arc::clone(queue.paths.lock().unwrap().entry(path.clone()).or_default());
            let places = [Arc::clone(&turn), turn];
            let places = places.map(|turn| Place { queue: &queue, path: path.clone(), turn: Some(turn) });
            let start = std::sync::Barrier::new(places.len());
            std::thread::scope(|scope| {
                for place in places {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        drop(place);
                    });
                }
            });
            assert!(queue.paths.lock().unwrap().is_empty(), "round {round}");
        }
    }
}
