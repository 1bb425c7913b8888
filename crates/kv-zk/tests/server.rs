//! What the store does on a real server, beyond what every store does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{expiring, key, namespace, next, server, with};
use futures_util::StreamExt;
use kv_testkit::{is_nightly, require_or_skip};
use kv_zk::kv_core::{
    DeleteTreeOptions, EntryExpiry, ErrorKind, Expiry, GetOptions, Guarantee, ListItem, ListOptions, Power,
    Prefix, PutOptions, Store, StoreExt, WatchEvent, WatchOptions,
};

common::on_each_client!(
    parents_are_no_entries_until_they_are_put,
    a_key_keeps_its_creation,
    names_of_lock_records_are_refused,
    the_servers_own_tree_is_out_of_reach,
    a_value_that_marks_parents_is_refused,
    servers_without_time_to_live_are_told_by_name,
    other_tools_see_the_same,
    what_a_client_crate_lacks_is_declared,
    a_large_tree_is_listed_in_order_and_deleted,
);

const SECOND: Duration = Duration::from_secs(1);

async fn parents_are_no_entries_until_they_are_put(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "").await;
    store.put("a/b/c", "leaf").await.unwrap();
    for parent in ["a", "a/b"] {
        assert_eq!(store.get(parent).await.unwrap(), None);
        assert!(!store.delete(parent).await.unwrap());
    }
    store.create("a/b", "was a parent").await.unwrap();
    // Below a permanent key one that expires is a leaf like any other.
    store.put_with(&key("a/b/d"), "x", expiring(60 * SECOND)).await.unwrap();
    assert!(store.delete("a/b/d").await.unwrap());
    assert!(store.delete("a/b").await.unwrap());
    assert_eq!(store.get("a/b").await.unwrap(), None);
    assert_eq!(store.get("a/b/c").await.unwrap().unwrap().value, "leaf");
    // A key below one that expires, and one that expires above a key.
    store.put_with(&key("e"), "x", expiring(60 * SECOND)).await.unwrap();
    for refused in [
        store.put("e/below", "x").await.map(drop),
        store.lock("e").await.map(drop),
        store.put_with(&key("a/b"), "x", expiring(60 * SECOND)).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("expire"), "{error}");
    }
    assert_eq!(store.get("a/b").await.unwrap(), None);
}

/// Where the node is older than the key, or younger, the key's own age is told.
async fn a_key_keeps_its_creation(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "").await;
    let other = server.open(client, &namespace, "").await;
    store.put("a/b", "x").await.unwrap();
    for round in 0..3 {
        let created = store.put("a", "now a key").await.unwrap();
        store.put("a", "again").await.unwrap();
        for handle in [&store, &other] {
            let entry = handle.get("a").await.unwrap().unwrap();
            assert_eq!(entry.created, created, "round {round}");
            assert!(entry.version > created);
        }
        store.delete("a").await.unwrap();
    }
    if store.capabilities().has(Power::ExpiryChange) {
        let created = store.put("k", "x").await.unwrap();
        for expiry in [Expiry::Ttl(60 * SECOND), Expiry::Session, Expiry::Never, Expiry::Session] {
            store.put_with(&key("k"), "y", PutOptions::default().with_expiry(expiry)).await.unwrap();
            let entry = other.get("k").await.unwrap().unwrap();
            assert_eq!(entry.created, created, "after {expiry:?}");
        }
    }
    store.put_with(&key("t"), "x", expiring(1234 * SECOND)).await.unwrap();
    let entry = other.get_with(&key("t"), GetOptions::default().with_expiry()).await.unwrap().unwrap();
    assert_eq!(entry.expiry, Some(EntryExpiry::ttl(1234 * SECOND, None)));
}

/// Exactly what separates the two client crates, and nothing else.
async fn what_a_client_crate_lacks_is_declared(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "").await;
    let full = client == "zookeeper-client";
    for power in Power::ALL {
        let expected = match power {
            Power::KeepExpiry | Power::ListExpiry | Power::LockView => true,
            Power::SessionKeys | Power::StaleReads | Power::Ttl => true,
            Power::Transactions | Power::FencedWrites | Power::ExpiryChange => full,
            _ => false,
        };
        assert_eq!(store.capabilities().has(*power), expected, "{client}: {power:?}");
    }
    for guarantee in Guarantee::ALL {
        let expected = match guarantee {
            Guarantee::LockFifo => true,
            Guarantee::LinearizableReads => full,
            _ => false,
        };
        assert_eq!(store.capabilities().guarantees(*guarantee), expected, "{client}: {guarantee:?}");
    }
    assert_eq!(store.as_transact().is_some(), full);
    if !full {
        let store = server.open(client, &namespace(), "barrier_reads=true").await;
        assert!(store.capabilities().guarantees(Guarantee::LinearizableReads));
        let before = (store.round_trips(), store.requests());
        store.get("a").await.unwrap();
        assert_eq!((store.round_trips() - before.0, store.requests() - before.1), (1, 2));
    }
}

async fn names_of_lock_records_are_refused(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "").await;
    let guard = store.lock("a").await.unwrap();
    let record = guard.fence().record().rsplit('/').next().unwrap().to_owned();
    for name in [format!("a/{record}"), "a/x-lock-0000000001/b".to_owned(), "x__lock__0000000001".to_owned()]
    {
        for refused in
            [store.put(name.as_str(), "x").await.map(drop), store.delete(name.as_str()).await.map(drop)]
        {
            assert!(matches!(refused.unwrap_err().kind(), ErrorKind::InvalidKey { .. }), "{name}");
        }
        assert_eq!(store.get(name.as_str()).await.unwrap(), None);
    }
    assert!(store.keys("").await.unwrap().is_empty());
    guard.unlock().await.unwrap();
}

async fn the_servers_own_tree_is_out_of_reach(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, "", "").await;
    for name in ["zookeeper", "zookeeper/quota"] {
        let error = store.put(name, "x").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
        assert_eq!(store.get(name).await.unwrap(), None);
    }
    let zookeeper: Prefix = "zookeeper".parse().unwrap();
    assert!(store.keys(&zookeeper).await.unwrap().is_empty());
    assert_eq!(store.delete_tree_with(&zookeeper, DeleteTreeOptions::default()).await.unwrap(), 0);
    let mut list = store.list_with(&Prefix::root(), ListOptions::default().with_one_level()).await.unwrap();
    while let Some(item) = list.next().await {
        assert!(!item.unwrap().path().starts_with("zookeeper"));
    }
}

async fn a_value_that_marks_parents_is_refused(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "").await;
    let error = store.put("a", &b"\0kv: no entry, only a parent\0"[..]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
    assert_eq!(store.get("a").await.unwrap(), None);
}

async fn servers_without_time_to_live_are_told_by_name(client: &str) {
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let cluster = servers.append("zoo.cfg", "\nextendedTypesEnabled=false\n").start().await.unwrap();
    let store = common::open(&with(&cluster.url().unwrap(), client, &namespace(), "")).await;
    assert!(!store.capabilities().has(Power::Ttl));
    let error = store.put_with(&key("a"), "x", expiring(SECOND)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("zookeeper.extendedTypesEnabled"), "{error}");
    assert_eq!(store.get("a").await.unwrap(), None);
}

/// What `zkCli.sh` writes is read, listed and watched; what the store writes is plain to it.
async fn other_tools_see_the_same(client: &str) {
    let Some(server) = server().await else { return };
    let Some(cluster) = &server.cluster else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "").await;
    store.put("ours/deep", "plain value").await.unwrap();
    let mut watch = store.watch_with(Prefix::root(), WatchOptions::default().with_initial()).await.unwrap();
    while !matches!(next(&mut watch).await, WatchEvent::Synced) {}
    let cli = |line: String| async move {
        let node = cluster.node(1);
        let line = format!("zkCli.sh -server 127.0.0.1:2181 {line} 2>/dev/null");
        node.exec(&["sh", "-c", &line]).await.unwrap()
    };
    assert!(cli(format!("get /{namespace}/ours/deep")).await.contains("plain value"));
    cli(format!("create /{namespace}/theirs hello")).await;
    match next(&mut watch).await {
        WatchEvent::Put(entry) => {
            assert_eq!((entry.key.as_str(), &entry.value[..]), ("theirs", &b"hello"[..]))
        }
        other => panic!("{other:?}"),
    }
    // An empty node of another tool is an entry, and its sequential nodes are keys.
    cli(format!("create /{namespace}/theirs/empty \"\"")).await;
    cli(format!("create -s /{namespace}/theirs/queue- x")).await;
    let keys: Vec<String> = store.keys("").await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["ours/deep", "theirs", "theirs/empty", "theirs/queue-0000000001"]);
    assert_eq!(store.get("theirs/empty").await.unwrap().unwrap().value, "");
    for _ in 0..2 {
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    }
    cli(format!("deleteall /{namespace}/theirs")).await;
    let mut gone = BTreeSet::new();
    while gone.len() < 3 {
        if let WatchEvent::Delete(deletion) = next(&mut watch).await {
            gone.insert(deletion.key.to_string());
        }
    }
}

async fn a_large_tree_is_listed_in_order_and_deleted(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "timeout=300s").await;
    let size = if is_nightly() { 100_000 } else { 4_000 };
    let keys: Vec<String> =
        (0..size).map(|at| format!("t/{}/{}-{}/k{at}", at % 7, at % 61, at % 3)).collect();
    let mut puts =
        futures_util::stream::iter(keys.iter().map(|key| store.put(key.as_str(), "x"))).buffered(500);
    while let Some(put) = puts.next().await {
        put.unwrap();
    }
    let mut expected = keys.clone();
    expected.sort();
    let mut list = store.list_with(&Prefix::root(), ListOptions::default()).await.unwrap();
    let mut at = 0;
    while let Some(item) = list.next().await {
        match item.unwrap() {
            ListItem::Entry(entry) => assert_eq!(entry.key.as_str(), expected[at]),
            other => panic!("{other:?}"),
        }
        at += 1;
    }
    assert_eq!(at, size);
    let prefix: Prefix = "t".parse().unwrap();
    assert_eq!(store.delete_tree(&prefix).await.unwrap(), u64::try_from(size).unwrap());
    assert!(store.keys("").await.unwrap().is_empty());
}
