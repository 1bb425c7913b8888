//! What all parts of one store handle share: the client, the names, times, the end, tasks and random numbers.

pub(crate) mod backoff;
pub(crate) mod names;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::api::Api;
use crate::env::names::Names;

/// The times that all parts of a handle go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Of a call that names no deadline.
    pub(crate) timeout: Duration,
    /// To live of the handle's session.
    pub(crate) session_ttl: Duration,
    /// To live of a lock that names none.
    pub(crate) lock_ttl: Duration,
    /// During which nobody gets a lock whose holder was lost.
    pub(crate) lock_delay: Duration,
}

/// The environment of one store handle, as its tasks, streams and guards see it.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) api: Api,
    pub(crate) names: Names,
    pub(crate) times: Times,
    /// Cancelled when the handle is closed.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Handle,
    random: Mutex<fastrand::Rng>,
}

impl Env {
    /// The environment of a handle that is opened on this runtime.
    pub(crate) fn new(api: Api, names: Names, times: Times) -> Self {
        Self {
            api,
            names,
            times,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            random: Mutex::new(fastrand::Rng::new()),
        }
    }

    /// Refuses every call on a closed handle.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) }
    }

    /// Resolves when the handle has been closed for so long that what still runs is not waited for.
    pub(crate) async fn closed_for_good(&self) {
        self.closing.cancelled().await;
        tokio::time::sleep(self.times.timeout / 2).await;
    }

    /// The deadline of a call.
    pub(crate) fn deadline(&self, asked: Option<Duration>) -> Deadline {
        Deadline::after(asked.unwrap_or(self.times.timeout))
    }

    /// Runs something in the background, also from a thread that is not of the runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tasks.spawn_on(task, &self.runtime).abort_handle()
    }

    /// Flags no write had before, so that Consul takes a write of the same value for one. They stay
    /// below 2^53, which every JSON parser keeps, and so are never those of a lock.
    pub(crate) fn fresh_flags(&self) -> u64 {
        self.rng().u64(1..1 << 53)
    }

    /// A time between a half and the whole of this one.
    pub(crate) fn jitter(&self, time: Duration) -> Duration {
        time.mul_f64(0.5 + self.rng().f64() / 2.0)
    }

    fn rng(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
