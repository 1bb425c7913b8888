//! Time for stores that expire keys themselves: one notion that can be paused, injected and written
//! to disk.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// A moment, as a [`Clock`] tells it: the time since the Unix epoch.
///
/// It can be stored and means the same after a restart. Within one process the clock makes it
/// monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The moment this long after the Unix epoch.
    #[must_use]
    pub const fn from_epoch(since: Duration) -> Self {
        Self(since)
    }

    /// The time since the Unix epoch.
    #[must_use]
    pub const fn since_epoch(self) -> Duration {
        self.0
    }

    /// In whole milliseconds, rounded up: a deadline written down so is never too early.
    #[must_use]
    pub fn as_millis_ceil(self) -> u64 {
        u64::try_from(self.0.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// The moment this many milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The moment `duration` later; the last there is if that cannot be told.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A future that ends at a moment.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a store takes the time from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now. Never goes back.
    fn now(&self) -> Timestamp;

    /// Ends at `deadline`, not before; at once if that has passed.
    fn sleep_until(&self, deadline: Timestamp) -> Sleep;
}

/// The clock of the machine, by way of tokio: it obeys `tokio::time::pause`.
///
/// The wall clock is read once, when this is made; from then on the monotonic clock counts. So
/// setting the machine's clock while the process runs expires nothing and keeps nothing alive;
/// deadlines that were stored are judged by the wall clock of the next start.
#[derive(Clone, Debug)]
pub struct TokioClock {
    wall: Timestamp,
    monotonic: Instant,
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl TokioClock {
    /// A clock that takes the wall clock's time now.
    #[must_use]
    pub fn new() -> Self {
        // A machine set to before 1970 counts from 1970.
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { wall: Timestamp(wall), monotonic: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.wall.after(Instant::now().saturating_duration_since(self.monotonic))
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        let clock = self.clone();
        Box::pin(async move {
            // Looked at again after each sleep: a timer may be a tick early and a thread may wake up
            // for nothing.
            loop {
                let left = deadline.since(clock.now());
                if left.is_zero() {
                    return;
                }
                if tokio::runtime::Handle::try_current().is_ok() {
                    tokio::time::sleep(left).await;
                } else {
                    sleep_on_a_thread(left).await;
                }
            }
        })
    }
}

/// Where there is no runtime there is no timer: a thread sleeps in its place. It ends early when the
/// future is dropped.
async fn sleep_on_a_thread(duration: Duration) {
    let (done, ended) = oneshot::channel::<()>();
    let (cancel, cancelled) = std::sync::mpsc::channel::<()>();
    let sleeping = std::thread::Builder::new().name("kv-sleep".to_owned()).spawn(move || {
        // Either outcome ends the sleep: the time is over, or the future was dropped.
        let _ = cancelled.recv_timeout(duration);
        drop(done);
    });
    if sleeping.is_ok() {
        // The sender never sends: it is dropped when the time is over.
        drop(ended.await);
    }
    drop(cancel);
}

/// A clock that stands still until it is told to go on, for tests.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: watch::Sender<Timestamp>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { now: watch::Sender::new(now) }
    }

    /// Lets time pass. Sleeps whose deadline is reached end.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.after(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            if now.wait_for(|now| *now >= deadline).await.is_err() {
                // The clock is gone: its time never comes.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_obeys_pause_and_begins_at_the_wall_clock() {
        let clock = TokioClock::new();
        let begin = clock.now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(wall.abs_diff(begin.since_epoch()) < 60 * SECOND);
        clock.sleep_until(begin.after(3600 * SECOND)).await;
        assert_eq!(clock.now().since(begin), 3600 * SECOND);
    }

    #[test]
    fn the_tokio_clock_sleeps_outside_a_runtime() {
        let clock = TokioClock::new();
        let deadline = clock.now().after(Duration::from_millis(20));
        let mut sleep = clock.sleep_until(deadline);
        assert!(sleep.as_mut().now_or_never().is_none());
        futures_executor::block_on(sleep);
        assert!(clock.now() >= deadline);
    }

    #[tokio::test]
    async fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Timestamp::from_millis(5));
        let mut sleep = clock.sleep_until(Timestamp::from_millis(7));
        assert!(sleep.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        assert!(sleep.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        sleep.await;
        assert_eq!(clock.now(), Timestamp::from_millis(7));
    }

    #[test]
    fn a_stored_deadline_is_never_early() {
        let at = Timestamp::from_epoch(Duration::from_nanos(1_000_001));
        assert_eq!(at.as_millis_ceil(), 2);
        assert!(Timestamp::from_millis(at.as_millis_ceil()) >= at);
    }
}
