//! The collector itself: a watch that is recorded in the background.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    Entry, Error, ErrorKind, Guarantee, Key, Operation, Result, Store, StoreExt, Version, Watch, WatchEvent,
    WatchOptions, WatchTarget,
};
use parking_lot::Mutex;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::collected::Collected;
use super::log::{Bounds, Log};
use crate::names::Prefixes;
use crate::snapshot::Snapshot;

/// How a [`Collector`] goes about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CollectorOptions {
    /// The most changes that are kept one by one. The default is 100,000.
    pub max_changes: usize,
    /// The most bytes of keys and values that are kept one by one. The default is 64 MiB.
    pub max_bytes: usize,
    /// The deadline of starting the watch and of each reconnect, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        Self { max_changes: 100_000, max_bytes: 64 << 20, timeout: None }
    }
}

impl CollectorOptions {
    /// Changes the most changes that are kept one by one.
    #[must_use]
    pub fn with_max_changes(mut self, changes: usize) -> Self {
        self.max_changes = changes;
        self
    }

    /// Changes the most bytes of keys and values that are kept one by one.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Gives the start of the watch and each reconnect a deadline of its own, in place of the store's
    /// default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Records what changes below the prefixes of a [`Snapshot`], from the snapshot on, until it is stopped.
///
/// # Guarantee
///
/// The snapshot, and on top of it the recorded changes, are a later state of the store: nothing between the
/// two is lost, on every store, through reconnects, compaction and a log that is full. What is lost in a gap
/// of the watch is made up by comparing states, and marked [`merged`](super::Recorded::merged).
///
/// It promises each single change only where the store declares
/// [`WatchComplete`](Guarantee::WatchComplete), and only while the watch has no gap and the log is within
/// its bounds: [`Collected::is_complete`] tells. Over a bound the log keeps the last change of each key, so
/// its memory is bounded by the bound or the number of keys that changed, whichever is more. Changes of
/// different keys are in the order in which the watch told them, which is the order of their versions on
/// etcd, sled and memory.
///
/// A snapshot that is [`Fuzzy`](crate::Consistent::Fuzzy) will do: the changes put right what was read too
/// early.
///
/// # Cost
///
/// One watch of the innermost prefix that covers all prefixes of the snapshot. Memory for all entries below
/// the prefixes, and for the log. It runs as a task of the tokio runtime in which it was started.
///
/// # Cancellation
///
/// Dropping the collector, or the future of [`start`](Self::start), ends the watch. No future here changes
/// anything in the store.
///
/// # Examples
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use kv_recipes::kv_core::{Result, Store, StoreExt};
/// use kv_recipes::{Collector, Snapshot};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let before = Snapshot::take(&store, ["jobs"]).await?;
/// let collector = Collector::start(&store, &before).await?;
/// store.put("jobs/1", "waiting").await?;
/// store.put("jobs/1", "done").await?;
/// collector.catch_up(&Snapshot::take(&store, ["jobs"]).await?).await?;
///
/// let mut told = Vec::new();
/// let replayed = collector.stop().replay(before.prefixes(), |recorded| {
///     told.push(recorded.change.new.as_ref().map(|entry| entry.value.clone()));
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(told, [Some("waiting".into()), Some("done".into())]);
/// assert!(replayed.complete);
/// # Ok(()) }
/// ```
#[must_use = "a collector that is dropped records nothing"]
pub struct Collector {
    shared: Arc<Mutex<Shared>>,
    from: Option<Version>,
    prefixes: Prefixes,
    changed: Receiver<()>,
    task: JoinHandle<()>,
}

struct Shared {
    /// `None` once it was taken away.
    log: Option<Log>,
    error: Option<Error>,
}

impl Collector {
    /// Begins to record after this snapshot.
    ///
    /// # Errors
    ///
    /// `Compacted` if the changes since the snapshot are gone; what a watch fails with.
    pub async fn start(store: &Arc<dyn Store>, snapshot: &Snapshot) -> Result<Self> {
        Self::start_with(store, snapshot, CollectorOptions::default()).await
    }

    /// Begins to record after this snapshot, with these options.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn start_with(
        store: &Arc<dyn Store>,
        snapshot: &Snapshot,
        options: CollectorOptions,
    ) -> Result<Self> {
        let prefixes = snapshot.covered().clone();
        let mut watching = match snapshot.as_of() {
            Some(version) => WatchOptions::default().with_from(version),
            None => WatchOptions::default().with_initial(),
        };
        watching.timeout = options.timeout;
        let watch = store.watch_with(WatchTarget::below(prefixes.ancestor()), watching).await?;
        let complete = store.capabilities().guarantees(Guarantee::WatchComplete);
        let bounds = Bounds { changes: options.max_changes, bytes: options.max_bytes };
        let mut log = Log::new(snapshot.entries(), bounds, complete);
        if snapshot.as_of().is_none() {
            // The state comes first, and is compared with the snapshot.
            log.apply(WatchEvent::Resync);
        }
        let shared = Arc::new(Mutex::new(Shared { log: Some(log), error: None }));
        let (sender, changed) = channel(());
        let task = tokio::spawn(record(watch, prefixes.clone(), Arc::clone(&shared), sender));
        Ok(Self { shared, from: snapshot.as_of(), prefixes, changed, task })
    }

    /// Waits until everything that this later snapshot shows is recorded: each of its entries, or something
    /// newer, and the end of each key that it does not have.
    ///
    /// A snapshot that is not [`AtVersion`](crate::Consistent::AtVersion) does not say when what it lacks
    /// went. Then a key counts as newer than the snapshot if it has a greater version than everything in
    /// it: to be sure that a deletion is recorded, put a key of your own before taking it.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the watch ended with; `InvalidArgument` for a snapshot of other prefixes.
    pub async fn catch_up(&self, later: &Snapshot) -> Result<()> {
        if *later.covered() != self.prefixes {
            return Err(Error::invalid_argument("the snapshot is one of other prefixes")
                .with_operation(Operation::Watch));
        }
        let newest = later.newest();
        let mut missing: Vec<&Entry> = later.entries().iter().collect();
        // Keys that the snapshot lacks and that have not gone yet.
        let mut left: Vec<Key> = Vec::new();
        let mut changed = self.changed.clone();
        loop {
            changed.borrow_and_update();
            {
                let shared = self.shared.lock();
                if let Some(log) = shared.log.as_ref().filter(|log| log.state().is_complete()) {
                    let is_old = |entry: &&Entry| Some(entry.version) <= newest;
                    missing.retain(|entry| !log.has(entry));
                    left.retain(|key| log.state().get(key).as_ref().is_some_and(is_old));
                    if missing.is_empty() && left.is_empty() {
                        let lacks = |entry: &&Entry| later.get(&entry.key).is_none();
                        let entries = log.state().entries().filter(is_old).filter(lacks);
                        left = entries.map(|entry| entry.key.clone()).collect();
                        if left.is_empty() {
                            return Ok(());
                        }
                    }
                }
                if let Some(error) = &shared.error {
                    return Err(error.clone());
                }
            }
            if changed.changed().await.is_err() {
                // The task tells its end before it goes; this is the end of the runtime.
                return Err(Error::new(ErrorKind::Closed).with_operation(Operation::Watch));
            }
        }
    }

    /// How many changes are recorded so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().log.as_ref().map_or(0, Log::len)
    }

    /// Whether nothing is recorded so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stops, and hands out what was recorded.
    pub fn stop(self) -> Collected {
        self.task.abort();
        let (log, error) = {
            let mut shared = self.shared.lock();
            (shared.log.take(), shared.error.take())
        };
        let complete = log.as_ref().is_some_and(|log| log.complete) && error.is_none();
        Collected {
            changes: log.map(Log::into_changes).unwrap_or_default(),
            from: self.from,
            complete,
            error,
        }
    }
}

/// Records what the watch tells, until it fails or the log is taken away.
async fn record(mut watch: Watch, prefixes: Prefixes, shared: Arc<Mutex<Shared>>, changed: Sender<()>) {
    while let Some(event) = watch.next().await {
        let mut shared = shared.lock();
        match event {
            Ok(event) => {
                let Some(log) = &mut shared.log else { return };
                if event.key().is_none_or(|key| prefixes.covers(key)) {
                    log.apply(event);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the watch of a collector ended");
                shared.error = Some(error);
            }
        }
        drop(shared);
        changed.send_replace(());
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("prefixes", &self.prefixes.as_slice())
            .field("recorded", &self.len())
            .finish_non_exhaustive()
    }
}
