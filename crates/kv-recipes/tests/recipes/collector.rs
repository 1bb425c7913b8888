//! Collectors and their replay.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_mem::{MemConfig, MemStore};
use kv_recipes::kv_core::{Entry, ErrorKind, Guarantee, Key, Store, StoreExt, Version};
use kv_recipes::{Collected, Collector, CollectorOptions, Snapshot};

use crate::common::{mem, on_both, soon, until};

const PREFIXES: [&str; 2] = ["log/a", "log/b"];

/// Eight tasks that put and delete at random, below the prefixes and beside them.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn begin(store: &Arc<dyn Store>) -> Self {
        let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        #[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
        {
            println!("SEED={seed}");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..8).map(|n| {
            let (store, stop) = (Arc::clone(store), Arc::clone(&stop));
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(n));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let below = ["log/a", "log/b", "log/beside", "log"][random.usize(..4)];
                    let key = format!("{below}/{:02}", random.u32(..50));
                    if random.f32() < 0.6 {
                        store.put(&key, random.u32(..).to_string()).await.unwrap();
                    } else {
                        store.delete(&key).await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// The entries of a snapshot, with the recorded changes on top of them, each of which must fit.
fn replayed(base: &Snapshot, collected: &Collected) -> Vec<Entry> {
    let mut entries: BTreeMap<Key, Entry> =
        base.entries().iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
    let mut newest = base.as_of();
    let replayed = collected.replay(base.prefixes(), |recorded| {
        let change = &recorded.change;
        assert_eq!(entries.get(&change.key), change.old.as_ref(), "what was there before");
        match &change.new {
            Some(entry) => drop(entries.insert(change.key.clone(), entry.clone())),
            None => drop(entries.remove(&change.key)),
        }
        newest = newest.max(recorded.version);
        ControlFlow::Continue(())
    });
    let replayed = replayed.unwrap();
    assert_eq!(replayed.up_to, newest);
    assert_eq!(replayed.complete, collected.is_complete());
    entries.into_values().collect()
}

/// Snapshot, collect, snapshot, replay: while others write.
async fn check(store: Arc<dyn Store>, options: CollectorOptions, for_at_least: usize) -> Collected {
    let writers = Writers::begin(&store);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let base = Snapshot::take(&store, PREFIXES).await.unwrap();
    let collector = soon("start", Collector::start_with(&store, &base, options)).await.unwrap();
    until("changes", async || collector.len() >= for_at_least).await;
    writers.end().await;
    let later = Snapshot::take(&store, PREFIXES).await.unwrap();
    soon("the rest", collector.catch_up(&later)).await.unwrap();
    let collected = collector.stop();
    assert_eq!(replayed(&base, &collected), later.entries());
    collected
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_and_replay_are_a_later_list() {
    on_both(|store| async move {
        assert!(store.capabilities().guarantees(Guarantee::WatchComplete));
        let collected = check(store, CollectorOptions::default(), 1000).await;
        assert!(collected.is_complete());
        assert!(collected.changes().iter().all(|recorded| !recorded.merged && recorded.version.is_some()));
        assert!(collected.changes().is_sorted_by_key(|recorded| recorded.version));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_keeps_the_last_change_of_each_key() {
    for options in
        [CollectorOptions::default().with_max_changes(60), CollectorOptions::default().with_max_bytes(1000)]
    {
        let store = mem();
        let base = Snapshot::take(&store, PREFIXES).await.unwrap();
        let collector = Collector::start_with(&store, &base, options.clone()).await.unwrap();
        for n in 0..1000 {
            store.put(format!("log/a/{}", n % 10), n.to_string()).await.unwrap();
        }
        store.delete("log/a/3").await.unwrap();
        let later = Snapshot::take(&store, PREFIXES).await.unwrap();
        soon("the rest", collector.catch_up(&later)).await.unwrap();
        assert!(collector.len() < 1000);
        let collected = collector.stop();
        assert!(!collected.is_complete());
        assert!(collected.changes().iter().any(|recorded| recorded.merged));
        assert_eq!(replayed(&base, &collected), later.entries());

        check(mem(), options, 30).await;
    }
}

/// The history of the store is so short, and the collector so seldom at work, that the watch has gaps.
#[tokio::test]
async fn a_gap_of_the_watch_is_made_up_for() {
    let store: Arc<dyn Store> = Arc::new(MemStore::open(MemConfig::new().with_history(1)).unwrap());
    store.put("log/a/0", "before").await.unwrap();
    let base = Snapshot::take(&store, PREFIXES).await.unwrap();
    let collector = Collector::start(&store, &base).await.unwrap();
    for n in 0..60 {
        let name = |below: &str, n: u32| format!("log/{below}/{}", n % 7);
        store.put(name("a", n), vec![b'x'; 1 << 20]).await.unwrap();
        store.delete(name("b", n + 3)).await.unwrap();
        store.put(name("b", n), "x").await.unwrap();
        if n % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let later = Snapshot::take(&store, PREFIXES).await.unwrap();
    soon("the rest", collector.catch_up(&later)).await.unwrap();
    let collected = collector.stop();
    assert_eq!(replayed(&base, &collected), later.entries());
    assert!(!collected.is_complete() && collected.changes().iter().any(|recorded| recorded.merged));
}

/// Catches a collector that says it has caught up while a key is there that has gone.
#[tokio::test]
async fn catching_up_waits_for_deletions() {
    let store = mem();
    store.put("log/a/1", "x").await.unwrap();
    let base = Snapshot::take(&store, PREFIXES).await.unwrap();
    let collector = Collector::start(&store, &base).await.unwrap();
    store.delete("log/a/1").await.unwrap();
    let later = Snapshot::take(&store, PREFIXES).await.unwrap();
    soon("the deletion", collector.catch_up(&later)).await.unwrap();
    assert!(replayed(&base, &collector.stop()).is_empty());
}

#[tokio::test]
async fn a_snapshot_older_than_the_history_is_refused() {
    let store: Arc<dyn Store> = Arc::new(MemStore::open(MemConfig::new().with_history(5)).unwrap());
    let base = Snapshot::take(&store, PREFIXES).await.unwrap();
    for n in 0..20 {
        store.put("log/a/1", n.to_string()).await.unwrap();
    }
    let error = Collector::start(&store, &base).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
}

#[tokio::test]
async fn the_end_of_the_watch_is_told_by_the_replay() {
    let store = mem();
    let base = Snapshot::take(&store, PREFIXES).await.unwrap();
    let collector = Collector::start(&store, &base).await.unwrap();
    store.put("log/a/1", "1").await.unwrap();
    until("the change", async || collector.len() == 1).await;
    store.put("log/b/1", "1").await.unwrap();
    let later = Snapshot::take(&store, PREFIXES).await.unwrap();
    soon("the rest", collector.catch_up(&later)).await.unwrap();
    store.close().await.unwrap();
    let other = mem();
    for _ in 0..10 {
        other.put("log/a/1", "never comes").await.unwrap();
    }
    let never = Snapshot::take(&other, PREFIXES).await.unwrap();
    let error = soon("the end", collector.catch_up(&never)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Closed);
    let collected = collector.stop();
    let mut told = 0;
    let replayed = collected.replay(base.prefixes(), |_| {
        told += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(*replayed.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(told, 2);
    assert!(!collected.is_complete());
}

#[tokio::test]
async fn a_replay_can_be_broken_off_and_narrowed() {
    let store = mem();
    let base = Snapshot::take(&store, ["log"]).await.unwrap();
    let collector = Collector::start(&store, &base).await.unwrap();
    for name in ["log/a/1", "log/b/1", "log/a/2"] {
        store.put(name, "x").await.unwrap();
    }
    until("the changes", async || collector.len() == 3).await;
    assert!(collector.catch_up(&Snapshot::take(&store, ["log/a"]).await.unwrap()).await.is_err());
    let collected = collector.stop();
    let below = |prefix: &str| [prefix.parse().unwrap()];
    let count = |prefix: &str, flow: ControlFlow<()>| collected.replay(&below(prefix), |_| flow).unwrap();
    assert_eq!(count("log/a", ControlFlow::Continue(())).changes, 2);
    let first = count("log", ControlFlow::Break(()));
    assert_eq!((first.changes, first.up_to), (1, Some(Version::new(1))));
}
