//! What the tests of this folder share.
#![allow(dead_code, reason = "each recipe uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kv_layers::{Call, Faults, LayerExt, Next, Policy};
use kv_mem::{MemConfig, MemStore};
use kv_recipes::kv_core::{Capabilities, ErrorKind, Key, Operation, Power, Result, Store, StoreExt, Watch};
use kv_sled::{SledConfig, SledStore};
use tempfile::TempDir;
use tokio::sync::watch;

/// How long a test waits for what should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Handles on one database of their own.
pub(crate) fn handles<const N: usize>() -> [Arc<dyn Store>; N] {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("recipes-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    std::array::from_fn(|_| {
        Arc::new(MemStore::open(MemConfig::new().with_name(&name)).unwrap()) as Arc<dyn Store>
    })
}

/// The store with faults; the seed is printed, so that a failure can be repeated with `SEED=…`.
#[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
pub(crate) fn faulty(store: Arc<dyn Store>, faults: impl FnOnce(Faults) -> Faults) -> Arc<dyn Store> {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    Arc::new(store.layered(faults(Faults::seeded(seed))))
}

/// The store with half of the calls of these operations refused.
pub(crate) fn flaky(store: Arc<dyn Store>, operations: &[Operation]) -> Arc<dyn Store> {
    faulty(store, |faults| operations.iter().fold(faults, |faults, operation| faults.refuse(*operation, 0.5)))
}

/// Takes a power away.
#[derive(Debug)]
struct Without(Power);

impl Policy for Without {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        next().await
    }

    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        inner.clone().without_power(self.0)
    }
}

/// The store without a power.
pub(crate) fn without(store: Arc<dyn Store>, power: Power) -> Arc<dyn Store> {
    Arc::new(store.layered(Without(power)))
}

/// The way to a store, which a test can cut: then every call fails with this error, surely not applied, and
/// all watches end with it.
#[derive(Clone, Debug)]
pub(crate) struct Cut(watch::Sender<Option<ErrorKind>>);

impl Cut {
    /// The store behind such a way.
    pub(crate) fn layer(store: Arc<dyn Store>) -> (Self, Arc<dyn Store>) {
        let cut = Self(watch::Sender::new(None));
        (cut.clone(), Arc::new(store.layered(cut)))
    }

    pub(crate) fn cut(&self, kind: ErrorKind) {
        self.0.send_replace(Some(kind));
    }

    pub(crate) fn mend(&self) {
        self.0.send_replace(None);
    }
}

impl Policy for Cut {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let cut = self.0.borrow().clone();
        match cut {
            Some(kind) if call.operation != Operation::Close => Err(call.error(kind).not_applied()),
            _ => next().await,
        }
    }

    fn watch(&self, watch: Watch) -> Watch {
        let mut cut = self.0.subscribe();
        let ended = async move {
            let kind = cut.wait_for(Option::is_some).await.ok().and_then(|kind| kind.clone());
            Err(kind.unwrap_or(ErrorKind::Closed).into())
        };
        // The end is looked at first.
        let ended = futures_util::stream::once(Box::pin(ended));
        let mut streams = futures_util::stream::select_with_strategy(ended, watch, |_: &mut ()| {
            futures_util::stream::PollNext::Left
        });
        let mut has_ended = false;
        Watch::new(futures_util::stream::poll_fn(move |cx| {
            if has_ended {
                return std::task::Poll::Ready(None);
            }
            let event = std::task::ready!(streams.poll_next_unpin(cx));
            has_ended = matches!(event, Some(Err(_)) | None);
            std::task::Poll::Ready(event)
        }))
    }
}

/// What comes of `future`, which must come soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    soon(what, async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// A memory store of its own.
pub(crate) fn mem() -> Arc<dyn Store> {
    let [store] = handles();
    store
}

/// A sled store of its own, and the directory that goes with it.
pub(crate) async fn sled() -> (Arc<dyn Store>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path().join("db"))).await.unwrap();
    (Arc::new(store), dir)
}

/// Runs a test on a memory store and on a sled store.
pub(crate) async fn on_both<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Store>) -> F) {
    test(mem()).await;
    let (store, _dir) = sled().await;
    test(Arc::clone(&store)).await;
    store.close().await.unwrap();
}
