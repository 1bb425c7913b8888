//! What handles on one namespace do to each other's keys: nobody is fooled by what another has done
//! before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::time::{Duration, Instant};

use common::{expiring, key, namespace, open, server, until, with};
use kv_testkit::{Proxy, require_or_skip};
use kv_zk::kv_core::{
    Condition, DeleteOptions, Entry, EntryExpiry, ErrorKind, Expiry, GetOptions, ListOptions, LockGuard,
    Precondition, Prefix, PutOptions, Store, StoreExt, Txn, TxnOp, Version, WatchOptions, WatchTarget,
};

common::on_each_client!(
    a_stale_version_is_refused_after_a_key_was_made_again,
    a_parent_that_was_a_key_is_no_key,
    no_key_is_put_below_one_that_came_to_expire,
    each_operation_takes_the_round_trips_it_promises,
    a_put_that_keeps_the_expiry_leaves_the_node_as_it_is,
    a_put_that_keeps_the_expiry_restarts_a_time_to_live,
    what_cannot_be_below_a_session_key_is_absent,
    a_handle_has_one_connection,
);

const SECOND: Duration = Duration::from_secs(1);

fn put_if(precondition: Precondition) -> PutOptions {
    PutOptions::default().with_precondition(precondition)
}

fn delete_if(precondition: Precondition) -> DeleteOptions {
    DeleteOptions::default().with_precondition(precondition)
}

/// A node that is made again is at the same version of its own once more.
async fn a_stale_version_is_refused_after_a_key_was_made_again(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let a = server.open(client, &namespace, "").await;
    let b = server.open(client, &namespace, "").await;
    let k = key("k");
    for writes in [1, 3] {
        let mut stale = Version::new(0);
        for _ in 0..writes {
            stale = a.put(&k, "a's").await.unwrap();
        }
        assert!(b.delete(&k).await.unwrap());
        let mut current = stale;
        for _ in 0..writes {
            current = b.put(&k, "b's").await.unwrap();
        }
        let refused = [
            a.compare_and_set(&k, stale, "over b's").await.map(drop),
            a.delete_with(&k, delete_if(Precondition::At(stale))).await.map(drop),
            a.put_with(&k, "over b's", put_if(Precondition::Value("a's".into()))).await.map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            let expected = ErrorKind::PreconditionFailed { current: Some(current) };
            assert_eq!(error.kind(), &expected, "after {writes} writes: {error}");
        }
        assert_eq!(b.get(&k).await.unwrap().unwrap().value, "b's");
        a.compare_and_set(&k, current, "a's again").await.unwrap();
    }
}

/// What was a key is a parent now, at the same version of its own.
async fn a_parent_that_was_a_key_is_no_key(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let a = server.open(client, &namespace, "").await;
    let b = server.open(client, &namespace, "").await;
    for empty in [false, true] {
        a.put("k", "a's").await.unwrap();
        assert!(b.delete("k").await.unwrap());
        b.put("k/below", "b's").await.unwrap();
        if empty {
            b.delete("k/below").await.unwrap();
        }
        let error = a.put_with(&key("k"), "x", put_if(Precondition::Present)).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
        assert!(!a.delete("k").await.unwrap(), "it said that it deleted what is not there");
        assert_eq!(b.get("k").await.unwrap(), None);
        assert_eq!(b.get("k/below").await.unwrap().is_some(), !empty);
    }
}

/// The server would keep such a key, and with it the one above beyond its time.
async fn no_key_is_put_below_one_that_came_to_expire(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let a = server.open(client, &namespace, "").await;
    let b = server.open(client, &namespace, "").await;
    a.put("p/x", "so that a knows p").await.unwrap();
    assert_eq!(b.delete_tree("").await.unwrap(), 1);
    b.put_with(&key("p"), "expires", expiring(60 * SECOND)).await.unwrap();
    let error = a.put("p/y", "x").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert_eq!(b.get("p/y").await.unwrap(), None);
    b.put_with(&key("p"), "alone", expiring(60 * SECOND)).await.unwrap();
    // The parent that a remembers is another node, and a good one.
    b.delete("p").await.unwrap();
    b.put("p/z", "x").await.unwrap();
    a.put("p/y", "x").await.unwrap();
}

async fn each_operation_takes_the_round_trips_it_promises(client: &str) {
    let Some(server) = server().await else { return };
    // Heartbeats are not counted, and rare ones are in nobody's way.
    let store = server.open(client, &namespace(), "session_timeout=40s").await;
    let full = client == "zookeeper-client";
    store.put("a/warm", "x").await.unwrap();
    let (mut trips, mut requests) = (store.round_trips(), store.requests());
    let mut cost = |what: &str, expected_trips: u64, expected_requests: u64| {
        let now = (store.round_trips(), store.requests());
        let spent = (now.0 - trips, now.1 - requests);
        assert_eq!(spent, (expected_trips, expected_requests), "{client}: {what}");
        (trips, requests) = now;
    };
    // A new key: with it the state of its parent, which travels along.
    let first = store.put("a/k", "1").await.unwrap();
    cost("a put that creates", 1, 2);
    let version = store.put("a/k", "2").await.unwrap();
    cost("a put of what this handle put", 1, 1);
    store.get("a/k").await.unwrap().unwrap();
    cost("get", 1, if full { 2 } else { 1 });
    store.get("a/none").await.unwrap();
    cost("get of nothing", 1, if full { 2 } else { 1 });
    // What a list begins with: the state of the top and its names, after a sync where there is one.
    assert_eq!(store.keys("none").await.unwrap().len(), 0);
    cost("list of nothing", 1, if full { 3 } else { 2 });
    assert_eq!(store.entries("a").await.unwrap().len(), 2);
    cost("list of two keys, each of which is read", 3, if full { 5 } else { 4 });
    let telling = ListOptions::default().with_expiry();
    let list = store.list_with(&Prefix::new("a").unwrap(), telling).await.unwrap();
    assert_eq!(list.entries().await.unwrap().len(), 2);
    cost("a list that tells how each of two keys expires", 3, if full { 7 } else { 6 });
    // A look that is no older than the call, then the write.
    let version = store.compare_and_set("a/k", version, "3").await.unwrap();
    cost("compare_and_set", 2, 3);
    store.compare_and_set("a/k", first, "x").await.unwrap_err();
    cost("a compare_and_set that is refused", 1, 2);
    store.put_with(&key("a/k"), "4", put_if(Precondition::Present)).await.unwrap();
    cost("a put over what must be there", 2, 3);
    store.create("a/k", "x").await.unwrap_err();
    cost("a create that is refused", 2, 3);
    assert!(version > first);
    // A put that keeps the expiry costs what one does that never changes it.
    let keep = || PutOptions::default().with_expiry(Expiry::Keep);
    store.put_with(&key("a/s"), "1", PutOptions::default().with_expiry(Expiry::Session)).await.unwrap();
    cost("a put of a session key that creates", 1, 2);
    let version = store.put_with(&key("a/s"), "2", keep()).await.unwrap().version;
    cost("a put that keeps the expiry of what this handle put", 1, 1);
    let at = keep().with_precondition(Precondition::At(version));
    store.put_with(&key("a/s"), "3", at).await.unwrap();
    cost("a put at a version that keeps the expiry", 2, 3);
    store.put_with(&key("a/new"), "1", keep()).await.unwrap();
    cost("a put that keeps the expiry of an absent key", 1, 2);
    store.update("a/s", |entry| entry.map(|_| "4".into())).await.unwrap();
    cost("an update: a get, and a put at its version", 3, if full { 5 } else { 4 });
    assert!(store.delete("a/k").await.unwrap());
    cost("delete", 2, if full { 3 } else { 2 });
    assert!(!store.delete("a/k").await.unwrap());
    // That nothing is there is answered after a refused write.
    cost("delete of nothing", 2, if full { 4 } else { 3 });
}

async fn what_cannot_be_below_a_session_key_is_absent(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "").await;
    if store.as_transact().is_none() {
        return;
    }
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("s"), "here", session).await.unwrap();
    let absent = || Txn::when([Condition::absent(key("s/x")), Condition::absent(key("s/x/y"))]);
    for value in ["1", "2"] {
        let done = store.transact(absent().then([TxnOp::put(key("seen"), value)])).await.unwrap();
        assert!(done.succeeded);
        assert_eq!(store.get("seen").await.unwrap().unwrap().value, value);
        // Another version of the key above is no reason to refuse.
        store.put("other", "x").await.unwrap();
        let session = PutOptions::default().with_expiry(Expiry::Session);
        store.put_with(&key("s"), "again", session).await.unwrap();
    }
    // Together with a write of the key above.
    let both = absent().then([TxnOp::delete(key("s")), TxnOp::put(key("seen"), "3")]);
    assert!(store.transact(both).await.unwrap().succeeded);
    assert_eq!(store.get("s").await.unwrap(), None);
}

/// Whatever a put compares with, it is the very node that stays, and it goes as it would have.
async fn a_put_that_keeps_the_expiry_leaves_the_node_as_it_is(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let (a, b) = (server.open(client, &namespace, "").await, server.open(client, &namespace, "").await);
    let keep = || PutOptions::default().with_expiry(Expiry::Keep);
    let expiry = GetOptions::default().with_expiry();
    a.put_with(&key("t"), "0", expiring(1234 * SECOND)).await.unwrap();
    a.put_with(&key("s"), "0", PutOptions::default().with_expiry(Expiry::Session)).await.unwrap();
    for name in ["t", "s"] {
        let first = b.get_with(&key(name), expiry.clone()).await.unwrap().unwrap();
        let guard = if b.as_transact().is_some() { Some(b.lock("l").await.unwrap()) } else { None };
        let mut value = 0_u32;
        let conditions = |entry: &Entry| {
            [
                Precondition::Any,
                Precondition::Present,
                Precondition::At(entry.version),
                Precondition::Value(entry.value.clone()),
            ]
        };
        for at in 0..4 {
            for store in [&a, &b] {
                let entry = store.get(name).await.unwrap().unwrap();
                value += 1;
                let mut options = keep().with_precondition(conditions(&entry)[at].clone());
                if let Some(guard) = guard.as_ref().filter(|_| at % 2 == 0) {
                    options = options.with_fence(guard.fence());
                }
                let put = store.put_with(&key(name), value.to_string(), options).await.unwrap();
                assert_eq!(put.granted_ttl, None, "nothing is granted");
            }
        }
        value += 1;
        b.update(name, |_| Some(value.to_string().into())).await.unwrap();
        if guard.is_some() {
            value += 1;
            let put = TxnOp::put_expiring(key(name), value.to_string(), Expiry::Keep);
            let txn = Txn::when([Condition::present(key(name))]).then([put]);
            assert!(b.transact(txn).await.unwrap().succeeded);
        }
        let last = b.get_with(&key(name), expiry.clone()).await.unwrap().unwrap();
        assert_eq!((last.created, last.expiry), (first.created, first.expiry), "{client}: {name}");
        assert_eq!(last.value, value.to_string(), "{client}: {name}");
        if let Some(guard) = guard {
            guard.unlock().await.unwrap();
        }
        let error = b.put_with(&key(name), "x", keep().with_precondition(Precondition::Absent)).await;
        assert!(matches!(error.unwrap_err().kind(), ErrorKind::AlreadyExists { .. }));
    }
    a.close().await.unwrap();
    until("the session key goes with its session", 10 * SECOND, || async {
        b.get("s").await.unwrap().is_none()
    })
    .await;
    // Absent, and what is only a parent: permanent.
    b.put_with(&key("s"), "1", keep()).await.unwrap();
    b.put("p/below", "x").await.unwrap();
    b.put_with(&key("p"), "1", keep()).await.unwrap();
    if b.as_transact().is_some() {
        let put = |name| TxnOp::put_expiring(key(name), "1", Expiry::Keep);
        b.put("q/below", "x").await.unwrap();
        assert!(b.transact(Txn::always().then([put("new"), put("q")])).await.unwrap().succeeded);
    }
    for name in ["s", "p", "new", "q"] {
        let Some(entry) = b.get_with(&key(name), expiry.clone()).await.unwrap() else { continue };
        assert_eq!(entry.expiry, Some(EntryExpiry::Never), "{client}: {name}");
        assert_eq!(entry.created, entry.version, "{client}: {name}");
    }
}

/// ZooKeeper counts a time to live from the last set.
async fn a_put_that_keeps_the_expiry_restarts_a_time_to_live(client: &str) {
    let Some(server) = server().await else { return };
    let store = server.open(client, &namespace(), "").await;
    let ttl = 4 * SECOND;
    let begin = Instant::now();
    store.put_with(&key("t"), "0", expiring(ttl)).await.unwrap();
    let mut put_at = Instant::now();
    while begin.elapsed() < 3 * ttl {
        tokio::time::sleep(SECOND / 2).await;
        let keep = PutOptions::default().with_expiry(Expiry::Keep).with_precondition(Precondition::Present);
        let put = store.put_with(&key("t"), "1", keep).await;
        // A machine that slept too long has let it go.
        assert!(put.is_ok() || put_at.elapsed() >= ttl, "{client}: gone {:?} after a put", put_at.elapsed());
        if put.is_err() {
            return;
        }
        put_at = Instant::now();
    }
}

/// ZooKeeper as shipped takes 60 connections from one address.
async fn a_handle_has_one_connection(client: &str) {
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let cluster = servers.start().await.unwrap();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let url = cluster.url_of(&[proxy.endpoint()]).unwrap();
    let store = open(&with(&url, client, &namespace(), "")).await;
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("s"), "x", session).await.unwrap();
    let (mut watches, mut locks) = (Vec::new(), Vec::new());
    for at in 0..20 {
        locks.push(store.lock(format!("locks/{at}")).await.unwrap());
        let target = WatchTarget::from(key(&format!("k/{at}")));
        watches.push(store.watch_with(target, WatchOptions::default().with_initial()).await.unwrap());
    }
    for broken in [false, true] {
        if broken {
            proxy.cut();
            until("it works again", 20 * SECOND, || async { store.put("k", "x").await.is_ok() }).await;
        }
        until("one connection is open", 10 * SECOND, || async { proxy.counts().open == 1 }).await;
        store.get("k").await.unwrap();
        assert_eq!(proxy.counts().open, 1, "{client}");
    }
    assert!(locks.iter().all(LockGuard::is_held));
    store.close().await.unwrap();
    until("none is open", 10 * SECOND, || async { proxy.counts().open == 0 }).await;
}
