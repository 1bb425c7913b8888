//! A value of the store that a program uses as its configuration: always the last good one.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    CodecError, Decode, Error, ErrorKind, Key, Operation, Result, Store, Version, WatchState, WatchTarget,
};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::follow::{Followed, Following};
use crate::pace::until;

/// A typed value that follows an entry of the store: reads cost no request, and a bad update is reported and
/// not used.
///
/// Clones share one watch, which ends with the last of them.
///
/// # What it promises
///
/// - [`get`](Self::get) returns a value that was decoded from what was stored, the newest such. An update
///   that cannot be decoded, and a deletion, leave the last good value in use and are told by
///   [`problem`](Self::problem) and [`changed`](Self::changed).
/// - Updates that follow each other within the debounce are taken as one, the last of them. An entry that
///   never rests is taken at the latest after ten times the debounce.
/// - Outages are waited out. An error that does not pass ends the watch and stays the problem.
///
/// # What it does not promise
///
/// That two processes use the same value at one time, nor that each value that was stored was used.
///
/// # Costs
///
/// One read and one watch of a key.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use kv_recipes::kv_core::{Json, Result, Store, StoreExt};
/// use kv_recipes::Live;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// store.put("config/limit", "10").await?;
/// let mut limit: Live<u32> = Live::start(store.clone(), "config/limit", Json).await?;
/// assert_eq!(*limit.get(), 10);
///
/// store.put("config/limit", "a typing error").await?;
/// limit.changed().await?;
/// assert_eq!(*limit.get(), 10);
/// println!("not used: {}", limit.problem().unwrap());
///
/// store.put("config/limit", "20").await?;
/// limit.changed().await?;
/// assert_eq!(*limit.get(), 20);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Live<T> {
    shared: Arc<Shared<T>>,
    changes: watch::Receiver<u64>,
    task: Arc<Task>,
}

#[derive(Debug)]
struct Shared<T> {
    now: RwLock<Now<T>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Now<T> {
    value: Arc<T>,
    version: Version,
    /// Why what is stored is not used.
    rejected: Option<Error>,
    /// Why what is stored may not be known.
    trouble: Option<Error>,
    /// What the watch has ended with.
    end: Option<Error>,
}

/// Ends the watch when the last handle goes.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        let Self { shared, changes, task } = self;
        Self { shared: Arc::clone(shared), changes: changes.clone(), task: Arc::clone(task) }
    }
}

impl<T: Send + Sync + 'static> Live<T> {
    /// Reads the entry under `key`, decodes it, and follows it without a debounce. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no entry, `InvalidValue` if the first value cannot be decoded, and as for a
    /// watch. A program that has a default puts it first, with [`StoreExt::create`](kv_core::StoreExt::create).
    pub async fn start<K, C>(store: Arc<dyn Store>, key: K, codec: C) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
        C: Decode<T> + Send + Sync + 'static,
    {
        Self::start_with_debounce(store, key, codec, Duration::ZERO).await
    }

    /// Like [`start`](Self::start), taking updates that follow each other within `debounce` as one.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start_with_debounce<K, C>(
        store: Arc<dyn Store>,
        key: K,
        codec: C,
        debounce: Duration,
    ) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
        C: Decode<T> + Send + Sync + 'static,
    {
        let key = key.try_into().map_err(|error| error.into().with_operation(Operation::Watch))?;
        let mut source = Source {
            backend: store.capabilities().backend,
            following: Following::start(store, WatchTarget::key(key.clone())).await?,
            state: WatchState::new(),
            key,
            codec,
        };
        while !source.state.is_complete() {
            match source.following.next().await? {
                Followed::Event(event) => drop(source.state.apply(event)),
                Followed::Trouble(error) => return Err(error),
            }
        }
        let (value, version) = source.decoded()?;
        let now = Now { value: Arc::new(value), version, rejected: None, trouble: None, end: None };
        let (changes, told) = watch::channel(0);
        let shared = Arc::new(Shared { now: RwLock::new(now), changes });
        let task = tokio::spawn(follow(source, debounce, Arc::clone(&shared)));
        Ok(Self { shared, changes: told, task: Arc::new(Task(task)) })
    }

    /// The last good value.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.shared.now.read().value)
    }

    /// The version of the last good value.
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared.now.read().version
    }

    /// Why the last good value may not be what is stored: what is stored cannot be decoded (`InvalidValue`),
    /// it was deleted (`NotFound`), or the watch failed. The error names the key and not the value.
    #[must_use]
    pub fn problem(&self) -> Option<Error> {
        let now = self.shared.now.read();
        [&now.end, &now.trouble, &now.rejected].into_iter().flatten().next().cloned()
    }

    /// Waits until the value or the problem has changed since this handle waited last, or since it was made.
    /// A slow caller misses changes in between. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the watch has ended with: nothing changes any more.
    pub async fn changed(&mut self) -> Result<()> {
        if self.changes.changed().await.is_ok() {
            if let Some(error) = &self.shared.now.read().end {
                return Err(error.clone());
            }
            return Ok(());
        }
        Err(ErrorKind::Closed.into())
    }
}

impl<T> Shared<T> {
    fn change(&self, change: impl FnOnce(&mut Now<T>)) {
        change(&mut self.now.write());
        self.changes.send_modify(|count| *count += 1);
    }
}

impl<T> Now<T> {
    /// Takes what is stored now.
    fn take(&mut self, stored: Result<(T, Version)>) {
        match stored {
            Ok((_, version)) if version == self.version => self.rejected = None,
            Ok((value, version)) => {
                (self.value, self.version, self.rejected) = (Arc::new(value), version, None);
            }
            Err(error) => self.rejected = Some(error),
        }
    }
}

/// The entry that is followed.
struct Source<C> {
    backend: &'static str,
    key: Key,
    codec: C,
    following: Following,
    state: WatchState,
}

impl<C> Source<C> {
    fn decoded<T>(&self) -> Result<(T, Version)>
    where
        C: Decode<T>,
    {
        let Some(entry) = self.state.get(&self.key) else { return Err(self.error(ErrorKind::NotFound)) };
        let refuse = |error: CodecError| {
            let reason = "the codec refused it".to_owned();
            self.error(ErrorKind::InvalidValue { reason }).with_source(error)
        };
        self.codec.decode(&entry.value).map(|value| (value, entry.version)).map_err(refuse)
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind)
            .with_operation(Operation::Watch)
            .with_backend(self.backend)
            .with_key(self.key.as_str())
    }
}

async fn follow<T, C: Decode<T>>(mut source: Source<C>, debounce: Duration, shared: Arc<Shared<T>>) {
    // When what was seen is taken: at the latest, and if nothing else comes.
    let mut due: Option<(Instant, Instant)> = None;
    loop {
        let followed = tokio::select! {
            biased;
            () = until(due.map(|(latest, rest)| latest.min(rest))) => {
                due = None;
                let stored = source.decoded();
                shared.change(|now| now.take(stored));
                continue;
            }
            followed = source.following.next() => followed,
        };
        match followed {
            Ok(Followed::Event(event)) => {
                if !source.state.apply(event).is_empty() {
                    let now = Instant::now();
                    let latest = due.map_or(now + debounce * 10, |(latest, _)| latest);
                    due = Some((latest, now + debounce));
                }
                if source.state.is_complete() && shared.now.read().trouble.is_some() {
                    shared.change(|now| now.trouble = None);
                }
            }
            Ok(Followed::Trouble(error)) => shared.change(|now| now.trouble = Some(error)),
            Err(error) => return shared.change(|now| now.end = Some(error)),
        }
    }
}
