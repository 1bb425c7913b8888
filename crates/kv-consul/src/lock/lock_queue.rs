//! Taking turns: of all tasks of one handle that wait for the same lock, one at a time asks Consul, so that
//! a release wakes one task of each handle and not all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Who may ask for which lock now.
#[derive(Debug, Default)]
pub(crate) struct LockQueue {
    queues: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl LockQueue {
    /// Waits, in the order of the calls, for the turn to ask for the lock of this record. Cancel-safe; the
    /// turn ends when the guard is dropped.
    pub(crate) fn take(&self, record: &str) -> impl Future<Output = OwnedMutexGuard<()>> + Send + use<> {
        self.queue(record).lock_owned()
    }

    fn queue(&self, record: &str) -> Arc<AsyncMutex<()>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(record).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(AsyncMutex::new(()));
        queues.insert(record.to_owned(), Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_has_the_turn_and_nothing_stays() {
        let queue = LockQueue::default();
        let first = queue.take("a").await;
        let other = queue.take("b").await;
        let waiting = tokio::time::timeout(Duration::from_secs(1), queue.take("a"));
        assert!(waiting.await.is_err());
        drop(first);
        drop(queue.take("a").await);
        drop(other);
        drop(queue.take("c").await);
        assert_eq!(queue.queues.lock().unwrap().len(), 1);
    }
}
