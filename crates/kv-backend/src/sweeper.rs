//! The one task of a store that waits for the next deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};

/// What a sweep leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Something expires at this moment.
    Until(Timestamp),
    /// Nothing is to expire: wait to be [armed](Sweeper::arm) again.
    Idle,
    /// The store is gone: end.
    Stop,
}

/// Runs a store's sweep at its next deadline, in one task that sleeps in between.
///
/// The task begins at the first [`arm`](Self::arm) and lives on the runtime of that call; if that
/// runtime is shut down, the next `arm` begins another. It holds nothing but what the sweep holds: a
/// `Weak` of the store, which answers [`Sweep::Stop`] when it is gone. Dropping the sweeper ends it.
///
/// Outside a tokio runtime there is no task: what is due goes when the store next looks.
#[derive(Debug)]
pub struct Sweeper {
    clock: Arc<dyn Clock>,
    armed: Arc<Notify>,
    running: Arc<AtomicBool>,
}

impl Sweeper {
    /// A sweeper that goes by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, armed: Arc::new(Notify::new()), running: Arc::new(AtomicBool::new(false)) }
    }

    /// Whether its task runs: whether it will sweep without being armed again.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Says that the next deadline may have come nearer. `sweep` is what the task runs: it lets go
    /// what is due and tells when to come again. It is used only where no task runs yet.
    pub fn arm<F, W>(&self, sweep: F)
    where
        F: Fn() -> W + Send + 'static,
        W: Future<Output = Sweep> + Send,
    {
        if self.is_running() {
            self.armed.notify_one();
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.running.swap(true, Ordering::AcqRel) {
            self.armed.notify_one();
            return;
        }
        let running = Running(Arc::clone(&self.running));
        let (clock, armed) = (Arc::clone(&self.clock), Arc::clone(&self.armed));
        runtime.spawn(async move {
            let _running = running;
            loop {
                // Registered before the sweep: arming that comes during it is not missed.
                let rearmed = armed.notified();
                match sweep().await {
                    Sweep::Stop => return,
                    Sweep::Idle => rearmed.await,
                    Sweep::Until(deadline) => {
                        futures_util::future::select(std::pin::pin!(rearmed), clock.sleep_until(deadline))
                            .await;
                    }
                }
            }
        });
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.armed.notify_one();
    }
}

/// Tells that no task runs any more, also when the runtime drops it.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::{TokioClock, TtlQueue};

    struct Toy {
        queue: Mutex<TtlQueue<u32>>,
        gone: Mutex<Vec<(u32, Timestamp)>>,
        clock: Arc<dyn Clock>,
        sweeper: Sweeper,
    }

    impl Toy {
        fn new() -> Arc<Self> {
            let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
            let sweeper = Sweeper::new(Arc::clone(&clock));
            Arc::new(Self { queue: Mutex::default(), gone: Mutex::default(), clock, sweeper })
        }

        fn expire(self: &Arc<Self>, key: u32, deadline: Timestamp) {
            self.queue.lock().set(key, deadline);
            let store = Arc::downgrade(self);
            self.sweeper.arm(move || Self::sweep(store.clone()));
        }

        async fn sweep(store: Weak<Self>) -> Sweep {
            let Some(store) = store.upgrade() else { return Sweep::Stop };
            let mut queue = store.queue.lock();
            while let Some((_, key)) = queue.pop_due(store.clock.now()) {
                store.gone.lock().push((key, store.clock.now()));
            }
            queue.next().map_or(Sweep::Idle, Sweep::Until)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_sweeps_at_each_deadline_also_at_one_that_came_later_and_is_earlier() {
        let toy = Toy::new();
        let begin = toy.clock.now();
        let at = |millis| begin.after(Duration::from_millis(millis));
        toy.expire(1, at(5000));
        tokio::time::sleep(Duration::from_millis(1000)).await;
        toy.expire(2, at(2000));
        tokio::time::sleep(Duration::from_millis(9000)).await;
        assert_eq!(*toy.gone.lock(), [(2, at(2000)), (1, at(5000))]);
        toy.expire(3, at(12_000));
        tokio::time::sleep(Duration::from_millis(9000)).await;
        assert_eq!(toy.gone.lock().last(), Some(&(3, at(12_000))));
    }

    #[tokio::test(start_paused = true)]
    async fn its_task_ends_with_the_store() {
        let toy = Toy::new();
        toy.expire(1, toy.clock.now().after(Duration::from_secs(3600)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let running = Arc::clone(&toy.sweeper.running);
        assert!(running.load(Ordering::Acquire));
        drop(toy);
        let begin = tokio::time::Instant::now();
        while running.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn it_survives_the_end_of_a_runtime_and_does_without_one() {
        let toy = Toy::new();
        toy.expire(1, toy.clock.now());
        assert!(!toy.sweeper.is_running());
        for key in 2..4 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                toy.expire(key, toy.clock.now());
                while !toy.queue.lock().is_empty() {
                    tokio::task::yield_now().await;
                }
            });
        }
        assert_eq!(toy.gone.lock().len(), 3);
    }
}
