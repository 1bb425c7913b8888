//! What the tests of this folder share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt;
use kv_mem::kv_core::{Entry, Error, Key, Prefix, Watch, WatchEvent};
use kv_mem::{MemConfig, MemStore};

pub(crate) fn open(config: MemConfig) -> Arc<MemStore> {
    Arc::new(MemStore::open(config).unwrap())
}

pub(crate) fn fresh() -> Arc<MemStore> {
    open(MemConfig::new())
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn prefix(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

/// A waker that counts how often it was called.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a watch has now; `None` if nothing.
pub(crate) fn poll(watch: &mut Watch, waker: &Waker) -> Option<Result<WatchEvent, Error>> {
    match watch.poll_next_unpin(&mut Context::from_waker(waker)) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    }
}

/// An event in short.
pub(crate) fn show(event: Result<WatchEvent, Error>) -> String {
    let value = |entry: &Entry| String::from_utf8_lossy(&entry.value).into_owned();
    match event {
        Ok(WatchEvent::Put(entry)) => format!("+{}={}", entry.key, value(&entry)),
        Ok(WatchEvent::Delete(deletion)) => format!("-{} {:?}", deletion.key, deletion.cause),
        Ok(WatchEvent::Resync) => "resync".to_owned(),
        Ok(WatchEvent::Synced) => "synced".to_owned(),
        Ok(other) => panic!("{other:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Everything a watch has now. On a tokio runtime it ends early when the task has had its share, after
/// about a hundred events.
pub(crate) fn drain(watch: &mut Watch) -> Vec<String> {
    std::iter::from_fn(|| poll(watch, Waker::noop())).map(show).collect()
}

/// A seed, printed so that a failure can be repeated with `SEED=…`.
#[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
pub(crate) fn seeded() -> fastrand::Rng {
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
