//! Large subtrees are deleted at once and removed bit by bit: what meets that on its way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_backend::{ManualClock, Timestamp};
use kv_core::{
    Expiry, Key, Prefix, StoreExt, Txn, TxnOp, Version, Watch, WatchEvent, WatchOptions, WatchTarget,
};
use kv_sled::{SledConfig, SledStore};

const SECOND: Duration = Duration::from_secs(1);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn load(store: &SledStore, prefix: &str, count: usize, expiry: Expiry) {
    for numbers in (0..count).collect::<Vec<_>>().chunks(500) {
        let puts = numbers
            .iter()
            .map(|n| TxnOp::put_expiring(key(&format!("{prefix}/{n:05}")), n.to_string(), expiry));
        assert!(
            StoreExt::transact(store, Txn::always().then(puts).with_timeout(60 * SECOND))
                .await
                .unwrap()
                .succeeded
        );
    }
}

async fn until_removed(store: &SledStore) {
    let deadline = Instant::now() + 60 * SECOND;
    while store.stats().unwrap().removals > 0 {
        assert!(Instant::now() < deadline, "what was deleted is not removed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(30 * SECOND, watch.next()).await.unwrap().unwrap().unwrap()
}

/// Expiry comes upon dead entries that the removal comes upon as well. Each is taken off the books
/// once: opening looks whether they are right.
#[tokio::test]
async fn entries_that_expire_while_they_are_removed_are_removed_once() {
    for round in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
        let config = || SledConfig::new(dir.path()).with_clock(Arc::new(clock.clone())).with_small_tree(10);
        let store = SledStore::open(config()).await.unwrap();
        load(&store, "a", 2500, Expiry::Ttl(30 * SECOND)).await;
        load(&store, "b", 100, Expiry::Never).await;
        let (deleted, ()) = tokio::join!(store.delete_tree("a"), async { clock.advance(31 * SECOND) });
        assert!(deleted.unwrap() <= 2500);
        until_removed(&store).await;
        store.close().await.unwrap();
        let store = SledStore::open(config()).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(store.keys("").await.unwrap().len(), 100);
        store.close().await.unwrap();
    }
}

/// A subtree in a larger one: what was deleted with the first is not deleted again with the second.
#[tokio::test]
async fn subtrees_within_each_other_are_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SledConfig::new(dir.path()).with_small_tree(10).with_history(20_000);
    let store = SledStore::open(config()).await.unwrap();
    load(&store, "app/x", 4000, Expiry::Never).await;
    load(&store, "app/y", 50, Expiry::Never).await;
    load(&store, "app/a", 50, Expiry::Never).await;
    let mut watch = store.watch("app").await.unwrap();
    let (inner, outer) = tokio::join!(store.delete_tree("app/x"), store.delete_tree("app"));
    assert_eq!((inner.unwrap(), outer.unwrap()), (4000, 100));
    let (mut gone, mut last) = (BTreeMap::new(), Version::ZERO);
    while gone.len() < 4100 {
        match next(&mut watch).await {
            WatchEvent::Delete(deletion) => {
                let version = deletion.version.unwrap();
                assert!(version > last, "{} at {version} after {last}", deletion.key);
                last = version;
                assert!(gone.insert(deletion.key, version).is_none());
            }
            other => panic!("{other:?}"),
        }
    }
    let version = store.put("app/new", "x").await.unwrap();
    assert!(version > last, "{version} after {last}");
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == version));
    until_removed(&store).await;
    store.close().await.unwrap();
    let store = SledStore::open(config()).await.unwrap();
    assert_eq!(store.keys("").await.unwrap(), [key("app/new")]);
    store.close().await.unwrap();
}

/// The version a watch began with goes before it has read it: it says so, and goes on.
#[tokio::test]
async fn a_watch_that_reads_a_deleted_state_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path()).with_small_tree(10)).await.unwrap();
    load(&store, "a", 1000, Expiry::Never).await;
    load(&store, "b", 3, Expiry::Never).await;
    let options = WatchOptions::default().with_initial();
    let mut watch = store.watch_with(WatchTarget::Prefix(Prefix::root()), options).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    assert_eq!(store.delete_tree("a").await.unwrap(), 1000);
    let mut found = Vec::new();
    let mut resyncs = 0;
    loop {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => found.push(entry.key),
            WatchEvent::Resync => {
                found.clear();
                resyncs += 1;
            }
            WatchEvent::Synced => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(resyncs, 1);
    assert_eq!(found, store.keys("b").await.unwrap());
    store.put("a/new", "x").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key == key("a/new")));
    store.close().await.unwrap();
}

/// More dead entries lie before, between and behind the living ones than are passed over at a time.
#[tokio::test]
async fn lists_pass_over_what_is_deleted_and_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path())).await.unwrap();
    load(&store, "tree", 20_000, Expiry::Never).await;
    let (deleted, puts) = tokio::join!(store.delete_tree("tree"), async {
        let names = ["tree/00000", "tree/09000", "tree/09001", "tree/19999"].map(key);
        let puts = names.iter().map(|name| TxnOp::put(name, "new"));
        assert!(StoreExt::transact(&store, Txn::always().then(puts)).await.unwrap().succeeded);
        names
    });
    assert_eq!(deleted.unwrap(), 20_000);
    assert!(store.stats().unwrap().removals > 0, "all was removed already: nothing is passed over");
    assert_eq!(store.keys("tree").await.unwrap(), puts);
    let mut watch = store
        .watch_with(WatchTarget::Prefix(Prefix::root()), WatchOptions::default().with_initial())
        .await
        .unwrap();
    for name in &puts {
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key == *name));
    }
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    until_removed(&store).await;
    assert_eq!(store.keys("tree").await.unwrap(), puts);
    store.close().await.unwrap();
}

/// A watch that is far too slow, while others write all the time: it ends at what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watch_gets_the_state_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path()).with_history(100)).await.unwrap();
    load(&store, "a", 1500, Expiry::Never).await;
    let mut watch = store.watch("a").await.unwrap();
    let write = |store: SledStore, seed: usize| {
        tokio::spawn(async move {
            for round in 0..60 {
                let name =
                    |n: usize| key(&format!("a/{:05}", (seed * 7919 + round * 104_729 + n * 31) % 1500));
                let mut ops = BTreeMap::new();
                for n in 0..100 {
                    let (name, text) = (name(n), format!("{seed} {round} {n}"));
                    let op = if n % 3 == 0 { TxnOp::delete(&name) } else { TxnOp::put(&name, text) };
                    ops.insert(name, op);
                }
                assert!(
                    StoreExt::transact(&store, Txn::always().then(ops.into_values()))
                        .await
                        .unwrap()
                        .succeeded
                );
            }
        })
    };
    let writers: Vec<_> = (1..4).map(|seed| write(store.clone(), seed)).collect();
    // It looks when so much has happened that it has lost some of it.
    let before = store.stats().unwrap().changes;
    let deadline = Instant::now() + 60 * SECOND;
    while store.stats().unwrap().changes < before + 4000 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut writers = Some(writers);
    let mut state = BTreeMap::new();
    let (mut resyncs, mut entries_of_state, mut in_state) = (0, 0, false);
    while in_state || !state.contains_key(&key("a/end")) {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => {
                entries_of_state += usize::from(in_state);
                state.insert(entry.key, (entry.version, entry.value));
            }
            WatchEvent::Delete(gone) => drop(state.remove(&gone.key)),
            WatchEvent::Resync => {
                state.clear();
                resyncs += 1;
                in_state = true;
            }
            WatchEvent::Synced => {
                in_state = false;
                // It has read a state while there were writers.
                if let Some(writers) = writers.take() {
                    for writer in writers {
                        writer.await.unwrap();
                    }
                    store.put("a/end", "").await.unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(resyncs >= 1 && entries_of_state >= 500, "{resyncs} times, {entries_of_state} entries");
    let entries = store.entries("a").await.unwrap().into_iter();
    let entries: BTreeMap<_, _> = entries.map(|entry| (entry.key, (entry.version, entry.value))).collect();
    let wrong: Vec<_> = entries
        .iter()
        .filter(|(key, entry)| state.get(*key) != Some(entry))
        .map(|(key, entry)| (key, entry, state.get(key)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(state.len(), entries.len(), "what is gone is still there");
    store.close().await.unwrap();
}
