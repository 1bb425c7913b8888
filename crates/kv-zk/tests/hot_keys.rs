//! Many writers of one key: each gets its turn, and what was deleted is told as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::{key, namespace, server, until, with};
use futures_util::future::{join_all, try_join_all};
use kv_testkit::{Mode, Proxy};
use kv_zk::kv_core::{Applied, DeleteOptions, Entry, ErrorKind, Precondition, PutOptions, StoreExt};

common::on_each_client!(
    puts_of_one_key_at_once_all_succeed,
    a_put_that_never_had_its_turn_has_changed_nothing,
    a_put_that_is_dropped_hands_on_its_turn,
    busy_handles_starve_no_other,
    each_delete_tells_what_it_deleted,
);

const SECOND: Duration = Duration::from_secs(1);

/// In about the time they take one after the other, however slow the machine is. Also those that must
/// find something there, and deletes between them.
async fn puts_of_one_key_at_once_all_succeed(client: &str) {
    const PUTS: usize = 250;
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "timeout=30s").await;
    let begin = Instant::now();
    for at in 0..PUTS {
        store.put("alone", format!("{at}")).await.unwrap();
    }
    let one_after_the_other = begin.elapsed();
    store.put("hot", "first").await.unwrap();
    for precondition in [Precondition::Any, Precondition::Present] {
        let begin = Instant::now();
        let puts = (0..PUTS).map(|at| {
            let (store, precondition) = (store.clone(), precondition.clone());
            tokio::spawn(async move {
                let options = PutOptions::default().with_precondition(precondition);
                store.put_with(&key("hot"), format!("{at}"), options).await
            })
        });
        let versions = join_all(puts).await.into_iter().map(|put| put.unwrap().unwrap().version);
        let versions: Vec<_> = versions.collect();
        assert_eq!(versions.iter().collect::<BTreeSet<_>>().len(), PUTS);
        let entry = store.get("hot").await.unwrap().unwrap();
        let last = versions.iter().position(|version| *version == entry.version).unwrap();
        assert_eq!(versions.iter().max(), Some(&entry.version));
        assert_eq!(entry.value, format!("{last}"));
        let most = 5 * one_after_the_other + SECOND;
        assert!(begin.elapsed() < most, "{:?}, one after the other {one_after_the_other:?}", begin.elapsed());
    }
    let deletes = (0..PUTS).map(|at| {
        let store = store.clone();
        tokio::spawn(async move {
            if at % 2 == 0 { store.delete("hot").await } else { store.put("hot", "x").await.map(|_| true) }
        })
    });
    for done in join_all(deletes).await {
        done.unwrap().unwrap();
    }
}

/// A handle behind a proxy.
async fn behind(server: &common::Server, client: &str) -> Option<(kv_zk::ZkStore, Proxy)> {
    let cluster = server.cluster.as_ref()?;
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let url = cluster.url_of(&[proxy.endpoint()]).unwrap();
    let store = common::open(&with(&url, client, &namespace(), "session_timeout=20s")).await;
    Some((store, proxy))
}

async fn a_put_that_never_had_its_turn_has_changed_nothing(client: &str) {
    let Some(server) = server().await else { return };
    let Some((store, proxy)) = behind(&server, client).await else { return };
    store.put("hot", "first").await.unwrap();
    proxy.set(Mode::Hold).await;
    let before = store.requests();
    let put = |value: &'static str, timeout| {
        let store = store.clone();
        tokio::spawn(async move {
            let options = PutOptions::default().with_timeout(timeout);
            store.put_with(&key("hot"), value, options).await
        })
    };
    let first = put("under way", 3 * SECOND);
    until("the first is under way", SECOND, || async { store.requests() > before }).await;
    let second = put("never", SECOND);
    let error = second.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::No), "{error}");
    let error = first.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::Unknown), "{error}");
    proxy.set(Mode::Forward).await;
    until("it works again", 20 * SECOND, || async { store.put("hot", "last").await.is_ok() }).await;
}

async fn a_put_that_is_dropped_hands_on_its_turn(client: &str) {
    let Some(server) = server().await else { return };
    let Some((store, proxy)) = behind(&server, client).await else { return };
    store.put("hot", "first").await.unwrap();
    proxy.set(Mode::Delay(SECOND / 10)).await;
    let writing: Vec<_> = (0..10)
        .map(|at| {
            let store = store.clone();
            tokio::spawn(async move { store.put("hot", format!("{at}")).await })
        })
        .collect();
    let before = store.requests();
    until("one is under way", SECOND, || async { store.requests() >= before }).await;
    writing.iter().for_each(tokio::task::JoinHandle::abort);
    let last = store.put("hot", "last").await.unwrap();
    proxy.set(Mode::Forward).await;
    let entry = store.get("hot").await.unwrap().unwrap();
    assert_eq!((entry.version, &entry.value[..]), (last, &b"last"[..]));
}

/// Neither a handle that writes all the time nor many of them.
async fn busy_handles_starve_no_other(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let stores = join_all((0..8).map(|_| server.open(client, &namespace, ""))).await;
    let writers = stores.iter().enumerate().map(|(writer, store)| {
        let store = store.clone();
        tokio::spawn(async move {
            for at in 0..50 {
                store.put("hot", format!("{writer}-{at}")).await.unwrap();
            }
        })
    });
    try_join_all(writers).await.unwrap();
    // One handle never pauses, another writes now and then.
    let busy: Vec<_> = (0..8)
        .map(|writer| {
            let store = stores[0].clone();
            tokio::spawn(async move {
                loop {
                    store.put("hot", format!("busy {writer}")).await.unwrap();
                }
            })
        })
        .collect();
    for at in 0..20 {
        stores[1].put("hot", format!("other {at}")).await.unwrap();
    }
    for writer in busy {
        assert!(!writer.is_finished(), "a put of the busy handle failed");
        writer.abort();
    }
}

/// Nodes that are made again are at the same version of their own: three handles, so that between the
/// look of one the others can delete and put.
async fn each_delete_tells_what_it_deleted(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let stores = join_all((0..3).map(|_| server.open(client, &namespace, ""))).await;
    let writers = (0..6).map(|writer| {
        let store = stores[writer % 3].clone();
        tokio::spawn(async move {
            let mut put = Vec::new();
            for round in 0..60 {
                let value = format!("{writer}-{round}");
                put.push((store.put("dir/hot", value.clone()).await.unwrap(), value));
            }
            put
        })
    });
    let deleters = (0..6).map(|deleter| {
        let store = stores[deleter % 3].clone();
        tokio::spawn(async move {
            let mut deleted: Vec<Entry> = Vec::new();
            for _ in 0..60 {
                let options = DeleteOptions::default().with_previous();
                let answer = store.delete_with(&key("dir/hot"), options).await.unwrap();
                assert_eq!(answer.previous.is_some(), answer.existed);
                deleted.extend(answer.previous);
                tokio::task::yield_now().await;
            }
            deleted
        })
    });
    let (writers, deleters): (Vec<_>, Vec<_>) = (writers.collect(), deleters.collect());
    let put = try_join_all(writers).await.unwrap();
    let deleted = try_join_all(deleters).await.unwrap();
    let put: BTreeMap<_, _> = put.into_iter().flatten().collect();
    let mut deleted: Vec<Entry> = deleted.into_iter().flatten().collect();
    deleted.sort_by_key(|entry| entry.version);
    assert!(!deleted.is_empty(), "no delete found anything");
    for entry in &deleted {
        assert_eq!(put.get(&entry.version).map(String::as_bytes), Some(&entry.value[..]), "{entry:?}");
        assert!(put.contains_key(&entry.created), "{entry:?}");
    }
    for pair in deleted.windows(2) {
        assert_ne!(pair[0].version, pair[1].version, "two deletes returned one entry");
        assert!(pair[1].created > pair[0].version, "{:?} then {:?}", pair[0], pair[1]);
    }
}
