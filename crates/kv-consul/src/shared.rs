//! What all parts of one store handle have in common.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Capabilities, Consistency, Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Lane};
use crate::ephemeral::Ephemeral;
use crate::first_tokens::FirstTokens;
use crate::hub::Hub;
use crate::names::{LOCK_FLAG, Names, SEMAPHORE_FLAG};
use crate::session::HandleSession;
use crate::slots::Slots;
use crate::turns::Turns;
use crate::wire::Kv;

/// One store handle, as its tasks, streams and guards see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) api: Api,
    pub(crate) names: Names,
    pub(crate) capabilities: Capabilities,
    pub(crate) timeout: Duration,
    pub(crate) lock_ttl: Duration,
    pub(crate) lock_delay: Duration,
    pub(crate) session: HandleSession,
    pub(crate) ephemeral: Ephemeral,
    pub(crate) first_tokens: FirstTokens,
    pub(crate) hub: Hub,
    pub(crate) slots: Arc<Slots>,
    pub(crate) turns: Turns,
    /// Cancelled when the handle is closed.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Handle,
    /// Whose turn it is to be released once more, of the locks whose release did not get through.
    pub(crate) releases: tokio::sync::Mutex<()>,
    random: Mutex<fastrand::Rng>,
    /// The first failure to release something, for `close` to report.
    pub(crate) failed_release: Mutex<Option<Error>>,
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "called once, where a store is opened")]
    pub(crate) fn new(
        api: Api,
        names: Names,
        capabilities: Capabilities,
        timeout: Duration,
        lock_ttl: Duration,
        lock_delay: Duration,
        session_ttl: Duration,
    ) -> Self {
        Self {
            api,
            names,
            capabilities,
            timeout,
            lock_ttl,
            lock_delay,
            session: HandleSession::new(session_ttl),
            ephemeral: Ephemeral::default(),
            first_tokens: FirstTokens::default(),
            hub: Hub::new(),
            slots: Arc::default(),
            turns: Turns::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            releases: tokio::sync::Mutex::new(()),
            random: Mutex::new(fastrand::Rng::new()),
            failed_release: Mutex::new(None),
        }
    }

    /// Refuses every call on a closed handle.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) }
    }

    /// Resolves when the handle has been closed for so long that what still runs is not waited for.
    pub(crate) async fn closed_for_good(&self) {
        self.closing.cancelled().await;
        tokio::time::sleep(self.timeout / 2).await;
    }

    /// The deadline of a call.
    pub(crate) fn deadline(&self, asked: Option<Duration>) -> Deadline {
        Deadline::after(asked.unwrap_or(self.timeout))
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

    fn rng(&self) -> std::sync::MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is stored under a native name now.
    pub(crate) async fn read(&self, native: &str, deadline: &Deadline) -> Result<Option<Kv>> {
        self.read_in(native, Consistency::Linearizable, deadline).await
    }

    /// The same, this fresh.
    pub(crate) async fn read_in(
        &self,
        native: &str,
        consistency: Consistency,
        deadline: &Deadline,
    ) -> Result<Option<Kv>> {
        let found = self.api.get(Lane::Call, native, consistency, deadline).await?;
        self.ephemeral.saw(native, found.as_ref().and_then(Kv::session));
        Ok(found)
    }
}

/// Whether a key says of itself that it is of a lock or a semaphore.
pub(crate) fn has_lock_flags(kv: &Kv) -> bool {
    matches!(kv.flags, LOCK_FLAG | SEMAPHORE_FLAG)
}

/// The pauses between attempts: they double up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` to `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    /// Pauses of a request that could not be made.
    pub(crate) fn reconnect() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// How long to pause now.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// It worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}
