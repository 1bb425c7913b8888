//! Many watches over few queries, on a real Consul.

use std::time::Instant;

use futures_util::future::try_join_all;
use kv_consul::kv_core::{Key, StoreExt, Version, Watch, WatchEvent, WatchOptions};

use crate::common::{self, SECOND, key, next, server, until};

#[tokio::test]
async fn a_thousand_watches_share_few_queries() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let keys: Vec<Key> = (0..1000).map(|at| key(&format!("w/{}/{at}", at % 7))).collect();
    let mut watches: Vec<Watch> =
        try_join_all(keys.iter().map(|key| store.watch_with(key.clone(), WatchOptions::default())))
            .await
            .unwrap();
    assert!(store.queries() <= 64, "{} queries", store.queries());
    let mut versions: Vec<Version> = Vec::new();
    for some in keys.chunks(20) {
        versions.extend(try_join_all(some.iter().map(|key| store.put(key, "x"))).await.unwrap());
    }
    for (watch, version) in watches.iter_mut().zip(&versions) {
        assert!(matches!(next(watch).await, WatchEvent::Put(entry) if entry.version == *version));
    }
    for key in &keys {
        store.delete(key).await.unwrap();
    }
    for (watch, key) in watches.iter_mut().zip(&keys) {
        assert!(matches!(next(watch).await, WatchEvent::Delete(gone) if gone.key == *key));
    }
    drop(watches);
    assert_eq!(store.queries(), 0, "the last watch ends its query");
}

#[tokio::test]
async fn unrelated_writes_wake_nobody_for_long() {
    let Some(server) = server().await else { return };
    let (store, writer) = (server.store().await, server.store().await);
    store.put("there/x", "1").await.unwrap();
    let mut watches = Vec::new();
    for prefix in ["absent", "there"] {
        watches.push(store.watch(prefix).await.unwrap());
    }
    watches.push(store.watch_key("absent-key").await.unwrap());
    let (before, begin) = (store.requests(), Instant::now());
    for at in 0..1000 {
        writer.put(format!("other/{}", at % 50).as_str(), "x").await.unwrap();
    }
    tokio::time::sleep(SECOND / 2).await;
    let (polls, took) = (store.requests() - before, begin.elapsed().as_secs_f64());
    // Each of the three may ask some times at once and then twice a second.
    assert!(polls as f64 <= 3.0 * (8.0 + 3.0 * took), "{polls} polls in {took} s");
    for watch in &mut watches {
        assert!(tokio::time::timeout(SECOND / 10, watch.next()).await.is_err(), "no event");
    }
    // And none is deaf.
    for (watch, text) in watches.iter_mut().zip(["absent/x", "there/x", "absent-key"]) {
        let version = writer_of(&store, text).await;
        assert!(matches!(next(watch).await, WatchEvent::Put(entry) if entry.version == version));
    }
}

async fn writer_of(store: &kv_consul::ConsulStore, text: &str) -> Version {
    store.put(text, "now").await.unwrap()
}

#[tokio::test]
async fn queries_merge_without_losing_or_doubling() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let mut first = store.watch_key("m/first/key").await.unwrap();
    let version = store.put("m/first/key", "1").await.unwrap();
    // More watches come, until the first one's query is merged into one of an ancestor, and writes go on.
    let mut watches = Vec::new();
    let mut expected = vec![version];
    for at in 0..80 {
        watches.push(store.watch(format!("m/{at}").as_str()).await.unwrap());
        if at % 10 == 0 {
            expected.push(store.put("m/first/key", format!("{at}")).await.unwrap());
            // Not faster than a watch can tell one from the next.
            tokio::time::sleep(SECOND / 10).await;
        }
    }
    let last = expected.last().copied().unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&last) {
        match next(&mut first).await {
            WatchEvent::Put(entry) => told.push(entry.version),
            other => panic!("{other:?}"),
        }
    }
    assert!(told.is_sorted() && told.windows(2).all(|pair| pair[0] != pair[1]), "{told:?}");
    assert!(told.iter().all(|version| expected.contains(version)));
    assert!(tokio::time::timeout(SECOND / 2, first.next()).await.is_err(), "nothing is doubled");
}

#[tokio::test]
async fn first_states_nobody_reads_are_in_nobodys_way() {
    let Some(server) = server().await else { return };
    let store = server.open(&common::namespace(), "?timeout=5s").await;
    store.put("a/b", "1").await.unwrap();
    let initial = || WatchOptions::default().with_initial();
    let prefix = || kv_consul::kv_core::WatchTarget::Prefix("a".parse().unwrap());
    let mut watches = try_join_all((0..100).map(|_| store.watch_with(prefix(), initial()))).await.unwrap();
    let lists = try_join_all((0..100).map(|_| store.list("a"))).await.unwrap();
    assert_eq!(store.entries("").await.unwrap().len(), 1);
    drop(lists);
    for watch in &mut watches {
        assert!(matches!(next(watch).await, WatchEvent::Put(entry) if entry.value == "1"));
        assert_eq!(next(watch).await, WatchEvent::Synced);
    }
    let version = store.put("a/c", "2").await.unwrap();
    for watch in &mut watches {
        assert!(matches!(next(watch).await, WatchEvent::Put(entry) if entry.version == version));
    }
}

#[tokio::test]
async fn merged_queries_are_taken_apart_when_there_is_room() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, writer) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    let mut watches: Vec<(String, Watch)> = Vec::new();
    for at in 0..80 {
        let path = format!("u/{at}/x");
        let watch = store.watch_key(path.as_str()).await.unwrap();
        watches.push((path, watch));
    }
    assert!(store.queries() <= 32, "{}", store.queries());
    watches.truncate(3);
    assert_eq!(store.queries(), 3);
    // Nothing is lost on the way, and each now reads no more than it needs.
    for (path, watch) in &mut watches {
        let version = writer.put(path.as_str(), "1").await.unwrap();
        assert!(matches!(next(watch).await, WatchEvent::Put(entry) if entry.version == version));
    }
    let before = store.requests();
    for at in 0..200 {
        writer.put(format!("u/others/{at}").as_str(), "x").await.unwrap();
    }
    let polls = store.requests() - before;
    assert!(polls <= 30, "{polls} polls for writes of others");
    for (path, watch) in &mut watches {
        writer.delete(path.as_str()).await.unwrap();
        assert!(matches!(next(watch).await, WatchEvent::Delete(gone) if gone.key.as_str() == path));
    }
}

#[tokio::test]
async fn watches_that_come_and_go_leave_the_server_its_connections() {
    let Some(server) = server().await else { return };
    let store = server.open(&common::namespace(), "?timeout=5s").await;
    // Consul goes on waiting for a client that has gone, and cuts off whoever has 200 connections.
    for at in 0..300 {
        let before = store.requests();
        let watch = store.watch(format!("d/{at}").as_str()).await.unwrap();
        until("its query should wait, or there should be no room", SECOND * 5, || async {
            store.requests() >= before + 2 || at > 30
        })
        .await;
        drop(watch);
    }
    assert_eq!(store.queries(), 0);
    let other = server.open(&common::namespace(), "?timeout=5s").await;
    for at in 0..20 {
        store.put("d/x", at.to_string()).await.unwrap();
        other.put("d/x", at.to_string()).await.unwrap();
    }
    // One that stays is told at once all the same.
    let mut watch = store.watch("d").await.unwrap();
    let version = store.put("d/y", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == version));
}
