//! What the store does on a real Consul, beyond what every store does.

use std::time::Instant;

use futures_util::future::join_all;
use kv_consul::kv_core::{
    Compare, Condition, DeleteOptions, EntryExpiry, ErrorKind, Expiry, GetOptions, Key, ListOptions,
    LockLoss, LockOptions, LockWait, Precondition, PutOptions, SessionState, Store, StoreExt, StoreUrl, Txn,
    TxnOp, Version, WatchEvent, WatchOptions,
};
use kv_consul::{ConsulConfig, ConsulStore};
use reqwest::Method;

use crate::common::{self, SECOND, key, next, own_server, server, session_of, sessions, ttl, until};

#[tokio::test]
async fn each_operation_takes_the_round_trips_it_promises() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let a = key("a");
    let mut before = store.requests();
    let mut cost = |what: &str, expected: u64| {
        let now = store.requests();
        assert_eq!(now - before, expected, "{what}");
        before = now;
    };
    let version = store.put("a", "1").await.unwrap();
    cost("put", 1);
    store.get("a").await.unwrap().unwrap();
    cost("get", 1);
    assert_eq!(store.get("none").await.unwrap(), None);
    cost("get of nothing", 1);
    for (precondition, expected) in
        [(Precondition::Present, 1), (Precondition::At(version), 2), (Precondition::Absent, 2)]
    {
        let what = format!("{precondition:?}");
        let put = store.put_with(&a, "2", PutOptions::default().with_precondition(precondition)).await;
        assert_eq!(put.is_err(), expected == 2, "{what}");
        cost(&what, expected);
    }
    let version = store.get("a").await.unwrap().unwrap().version;
    cost("get", 1);
    store.compare_and_set("a", version, "3").await.unwrap();
    cost("compare and set", 1);
    store.compare_value_and_set("a", "3", "4").await.unwrap();
    cost("compare value and set", 2);
    store.create("b", "1").await.unwrap();
    cost("create", 1);
    let options = DeleteOptions::default().with_previous();
    assert_eq!(store.delete_with(&a, options).await.unwrap().previous.unwrap().value, "4");
    cost("delete with previous", 1);
    assert!(!store.delete("a").await.unwrap());
    cost("delete of nothing", 1);
    let txn = || {
        Txn::when([Condition::absent(key("a"))])
            .then([TxnOp::put(key("a"), "1")])
            .or_else([TxnOp::get(key("a"))])
    };
    assert!(store.transact(txn()).await.unwrap().succeeded);
    cost("transaction", 1);
    assert!(!store.transact(txn()).await.unwrap().succeeded);
    cost("transaction that takes the other branch: refused, read, carried out", 3);
    store.entries("").await.unwrap();
    cost("list", 1);
    store.put_with(&key("t"), "1", ttl(20)).await.unwrap();
    cost("put with a time to live", 2);
    store.get_with(&key("t"), GetOptions::default().with_expiry()).await.unwrap().unwrap();
    cost("get with expiry", 2);
    let telling = ListOptions::default().with_expiry();
    let told = store.list_with("", telling).await.unwrap().entries().await.unwrap();
    assert!(told.iter().all(|entry| entry.expiry.is_some()) && told.len() == 3);
    cost("list with expiries", 2);
    assert_eq!(store.delete_tree("").await.unwrap(), 3);
    cost("delete_tree", 1);
}

/// Waits until what an operation left to the background is done.
async fn settled(store: &ConsulStore) {
    until("the background should be quiet", SECOND * 20, || async {
        let before = store.requests();
        tokio::time::sleep(SECOND / 5).await;
        store.requests() == before
    })
    .await;
}

#[tokio::test]
async fn expiry_values_and_locks_take_the_round_trips_they_promise() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    let t = key("t");
    let permanent = PutOptions::default;
    for (who, what, more) in [(&store, "of its own", 0), (&other, "of another handle", 1)] {
        for (options, expected) in [(ttl(30), 4), (permanent(), 3)] {
            store.delete("t").await.unwrap();
            store.put_with(&t, "1", ttl(20)).await.unwrap();
            settled(&store).await;
            let before = who.requests();
            who.put_with(&t, "2", options).await.unwrap();
            assert_eq!(who.requests() - before, expected + more, "put over a time to live {what}");
            settled(who).await;
        }
        store.put_with(&t, "1", ttl(20)).await.unwrap();
        let before = who.requests();
        assert!(who.delete("t").await.unwrap());
        assert_eq!(who.requests() - before, 3 + more, "delete of a key with a time to live {what}");
        settled(who).await;
    }
    // The handle's session is there once the first key was bound to it.
    let session = || PutOptions::default().with_expiry(Expiry::Session);
    for (text, expected) in [("s/1", 2), ("s/2", 1), ("s/2", 1)] {
        let before = store.requests();
        store.put_with(&key(text), "1", session()).await.unwrap();
        assert_eq!(store.requests() - before, expected, "put of a session key");
    }

    store.put("v", "5").await.unwrap();
    let compare = |other: &str| {
        Txn::when([Condition::value(key("v"), Compare::Less, "6")]).then([TxnOp::put(key(other), "6")])
    };
    for (other, expected) in [("v", 2), ("absent", 3)] {
        store.put("v", "5").await.unwrap();
        let before = store.requests();
        assert!(store.transact(compare(other)).await.unwrap().succeeded);
        assert_eq!(store.requests() - before, expected, "transaction that compares a value");
    }

    let (mut lock, mut unlock) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let before = other.requests();
        let guard = other.lock("l").await.unwrap();
        lock.push(other.requests() - before);
        // The lock is watched from now on, which takes requests too.
        let begun = other.requests();
        until("it should be watched", SECOND * 5, || async { other.requests() >= begun + 3 }).await;
        let before = other.requests();
        guard.unlock().await.unwrap();
        unlock.push(other.requests() - before);
    }
    assert_eq!((lock, unlock.iter().min()), (vec![3; 5], Some(&2)), "{unlock:?}");
}

#[tokio::test]
async fn a_native_tool_sees_the_same_keys() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    for (text, path) in [
        ("a b", "a%20b"),
        ("a%20b", "a%2520b"),
        ("a?b#c", "a%3Fb%23c"),
        ("ü/x", "%C3%BC/x"),
        ("a+b&c=d", "a%2Bb%26c%3Dd"),
        ("-dots.~_", "-dots.~_"),
    ] {
        store.put(text, text).await.unwrap();
        let (status, body) = server.raw(Method::GET, &format!("/v1/kv/{namespace}/{path}?raw"), "").await;
        assert_eq!((status, body.as_str()), (200, text));
        // Through a watch, which has the name in a URL.
        let mut watch = store.watch_with(key(text), WatchOptions::default().with_initial()).await.unwrap();
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.value == text));
    }
    assert_eq!(store.keys("").await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_write_of_the_same_value_is_a_write() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let mut last = Version::ZERO;
    for _ in 0..5 {
        let version = store.put("a", "same").await.unwrap();
        assert!(version > last);
        last = version;
    }
    store.compare_and_set("a", last, "same").await.unwrap();
    assert!(store.compare_and_set("a", last, "same").await.unwrap_err().is_conflict());
}

#[tokio::test]
async fn a_key_that_stops_expiring_lets_go_of_its_session() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    let (a, path) = (key("a"), format!("{namespace}/a"));
    let with_expiry = || GetOptions::default().with_expiry();
    let created = store.put_with(&a, "1", ttl(20)).await.unwrap();
    assert_eq!(created.granted_ttl, Some(SECOND * 20));
    let first = session_of(&server, &path).await.unwrap();
    store.put_with(&a, "2", ttl(30)).await.unwrap();
    let second = session_of(&server, &path).await.unwrap();
    assert_ne!(first, second);
    let entry = store.get_with(&a, with_expiry()).await.unwrap().unwrap();
    assert_eq!(entry.expiry, Some(EntryExpiry::ttl(SECOND * 30, None)));
    assert_eq!((entry.created, entry.value.as_ref()), (created.version, b"2".as_ref()));

    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&a, "3", session).await.unwrap();
    let entry = store.get_with(&a, with_expiry()).await.unwrap().unwrap();
    assert_eq!(entry.expiry, Some(EntryExpiry::Session));
    let third = session_of(&server, &path).await.unwrap();

    store.put("a", "4").await.unwrap();
    let entry = store.get_with(&a, with_expiry()).await.unwrap().unwrap();
    assert_eq!((entry.expiry, entry.created), (Some(EntryExpiry::Never), created.version));
    assert_eq!(session_of(&server, &path).await, None);
    until("the sessions should be gone", SECOND * 5, || async {
        let all = sessions(&server).await;
        !all.contains(&first) && !all.contains(&second)
    })
    .await;
    assert!(sessions(&server).await.contains(&third), "the handle's session lives on");
    store.close().await.unwrap();
    assert!(!sessions(&server).await.contains(&third));
}

#[tokio::test]
async fn a_refused_put_leaves_no_session() {
    let Some(server) = own_server().await else { return };
    let store = server.store().await;
    store.put("a", "1").await.unwrap();
    for precondition in
        [Precondition::Absent, Precondition::At(Version::new(1)), Precondition::Value("x".into())]
    {
        store.put_with(&key("a"), "2", ttl(20).with_precondition(precondition)).await.unwrap_err();
    }
    until("no session should be left", SECOND * 5, || async { sessions(&server).await == "[]" }).await;
}

#[tokio::test]
async fn delete_tree_ends_the_sessions_of_expiring_keys() {
    let Some(server) = own_server().await else { return };
    let store = server.store().await;
    for prefix in ["a", ""] {
        for at in 0..3 {
            store.put_with(&key(&format!("a/{at}")), "1", ttl(3600)).await.unwrap();
        }
        assert_eq!(store.delete_tree(prefix).await.unwrap(), 3);
        until("no session should be left", SECOND * 5, || async { sessions(&server).await == "[]" }).await;
    }
}

#[tokio::test]
async fn closing_ends_a_wait_for_a_lock_that_nobody_polls() {
    let Some(server) = own_server().await else { return };
    let namespace = common::namespace();
    let (holder, store) = (server.open(&namespace, "").await, server.open(&namespace, "?timeout=5s").await);
    let guard = holder.lock("l").await.unwrap();
    let mut waiting = std::pin::pin!(store.lock("l"));
    tokio::select! {
        _ = &mut waiting => panic!("it is held"),
        () = until("it should wait with a session", SECOND * 10, || async {
            sessions(&server).await.matches("kv lock").count() == 2
        }) => {}
    }
    let begin = Instant::now();
    store.close().await.unwrap();
    assert!(begin.elapsed() < SECOND * 2, "{:?}", begin.elapsed());
    assert_eq!(sessions(&server).await.matches("kv lock").count(), 1, "of the holder");
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn the_largest_value_goes_under_the_longest_name() {
    let Some(server) = server().await else { return };
    let namespace = format!("{:n<256}", common::namespace());
    let store = server.open(&namespace, "").await;
    let max = store.capabilities().limits.max_value;
    let longest = "k".repeat(kv_consul::kv_core::MAX_KEY_BYTES);
    let value = vec![7; max];
    store.put(longest.as_str(), value.clone()).await.unwrap();
    let version = store.get(longest.as_str()).await.unwrap().unwrap().version;
    store.compare_and_set(longest.as_str(), version, value.clone()).await.unwrap();
    store.put_with(&key(&longest), value.clone(), ttl(20)).await.unwrap();
    store.put_with(&key(&longest), value.clone(), ttl(30)).await.unwrap();
    store.put(longest.as_str(), value.clone()).await.unwrap();
    assert_eq!(store.get(longest.as_str()).await.unwrap().unwrap().value, value);
    // 384 KiB fill Consul's 512 KiB with base64 alone.
    let whole = "A".repeat(384 * 1024 / 3 * 4);
    let body = format!(r#"[{{"KV":{{"Verb":"set","Key":"k","Value":"{whole}"}}}}]"#);
    assert_eq!(server.raw(Method::PUT, "/v1/txn", body).await.0, 413);
}

#[tokio::test]
async fn a_datacenter_is_asked_for_by_name() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, named) =
        (server.open(&namespace, "").await, server.open(&namespace, "?datacenter=dc1").await);
    let mut watch = named.watch("").await.unwrap();
    let version = store.put("a", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == version));
    assert_eq!(named.get("a").await.unwrap().unwrap().value, "1");
    named.lock("l").await.unwrap().unlock().await.unwrap();
    let nowhere = server.url_at(&server.endpoint(), &namespace, "datacenter=nowhere");
    let config = ConsulConfig::from_url(&StoreUrl::parse(&nowhere).unwrap()).unwrap();
    let error = ConsulStore::connect(config).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().contains("datacenter"), "{error}");
}

#[tokio::test]
async fn a_lock_whose_session_is_destroyed_is_lost_at_once() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "?lock_delay=2s").await;
    let guard = store.lock("l").await.unwrap();
    let fence = guard.fence();
    store.put_with(&key("guarded"), "1", PutOptions::default().with_fence(fence.clone())).await.unwrap();
    let session = session_of(&server, &format!("{namespace}/l/.lock")).await.unwrap();
    server.raw(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
    let destroyed = Instant::now();
    let loss = tokio::time::timeout(SECOND * 5, guard.lost()).await.unwrap();
    assert_eq!(loss, LockLoss::SessionLost);
    assert!(!guard.is_held());
    let fenced = PutOptions::default().with_fence(fence);
    for refused in [
        store.put_with(&key("guarded"), "2", fenced.clone()).await.map(drop),
        store
            .put_with(&key("guarded"), "2", fenced.clone().with_precondition(Precondition::Value("x".into())))
            .await
            .map(drop),
        store
            .transact(Txn::always().then([TxnOp::put(key("guarded"), "2")]).with_fence(fenced.fence.unwrap()))
            .await
            .map(drop),
        guard.unlock().await,
    ] {
        assert!(matches!(refused.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    }
    assert_eq!(store.get("guarded").await.unwrap().unwrap().value, "1");
    // Consul keeps everybody away for the lock delay.
    assert!(store.try_lock("l").await.unwrap().is_none());
    let guard = store.lock("l").await.unwrap();
    assert!(destroyed.elapsed() >= SECOND * 2 - SECOND / 10, "{:?}", destroyed.elapsed());
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_handle_whose_session_is_destroyed_says_so() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "?session_ttl=10s").await;
    let options = || PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("a"), "1", options()).await.unwrap();
    assert_eq!(store.session(), SessionState::Held);
    let session = session_of(&server, &format!("{namespace}/a")).await.unwrap();
    server.raw(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
    until("the loss should be told", SECOND * 8, || async { store.session() == SessionState::Lost }).await;
    assert_eq!(store.get("a").await.unwrap(), None);
    store.put_with(&key("b"), "1", options()).await.unwrap();
    assert_eq!(store.session(), SessionState::Held);
    // The next put finds out by itself, too.
    let session = session_of(&server, &format!("{namespace}/b")).await.unwrap();
    server.raw(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
    store.put_with(&key("c"), "1", options()).await.unwrap();
    assert_eq!(store.session(), SessionState::Held);
    assert!(store.exists("c").await.unwrap());
}

#[tokio::test]
async fn a_lock_leaves_nothing_behind() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    let guard = store.lock("l").await.unwrap();
    let session = session_of(&server, &format!("{namespace}/l/.lock")).await.unwrap();
    let waiting = tokio::time::timeout(SECOND / 2, other.lock("l")).await;
    assert!(waiting.is_err());
    let wait = LockOptions::default().with_wait(LockWait::UpTo(SECOND / 2));
    assert_eq!(other.lock_with(&key("l"), wait).await.unwrap_err().kind(), &ErrorKind::Locked);
    assert_eq!(other.queries(), 0);
    guard.unlock().await.unwrap();
    assert!(!sessions(&server).await.contains(&session));
    let (status, _) = server.raw(Method::GET, &format!("/v1/kv/{namespace}/?keys"), "").await;
    assert_eq!(status, 404);
    // A guard that is dropped, and one whose store is.
    drop(store.lock("l").await.unwrap());
    let second = tokio::time::timeout(SECOND * 5, other.lock("l")).await.unwrap().unwrap();
    drop(other);
    assert_eq!(tokio::time::timeout(SECOND * 5, second.lost()).await.unwrap(), LockLoss::Closed);
    store.lock("l").await.unwrap().unlock().await.unwrap();
}

#[tokio::test]
async fn sixteen_writers_of_one_counter_lose_nothing() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    store.put("n", "0").await.unwrap();
    let writers = (0..16).map(|_| async {
        let store = server.open(&namespace, "").await;
        for _ in 0..10 {
            loop {
                let entry = store.get("n").await.unwrap().unwrap();
                let number: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                match store.compare_and_set("n", entry.version, (number + 1).to_string()).await {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
        }
    });
    join_all(writers).await;
    assert_eq!(store.get("n").await.unwrap().unwrap().value, "160");
}

#[tokio::test]
async fn conditions_consul_does_not_know_hold_under_contention() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    store.put("n", "00").await.unwrap();
    // Each takes the lowest number that is left, by comparing values, and the other branch counts misses.
    let takers = (0..8).map(|taker| {
        let (server, namespace) = (&server, &namespace);
        async move {
            let store = server.open(namespace, "").await;
            let mut taken = 0;
            for at in 0..20 {
                let (now, then) = (format!("{at:02}"), format!("{:02}", at + 1));
                let take = Txn::when([
                    Condition::value(key("n"), Compare::Equal, now.clone()),
                    Condition::value(key("n"), Compare::Less, "99"),
                ])
                .then([TxnOp::put(key("n"), then), TxnOp::put(key(&format!("by/{at}")), format!("{taker}"))])
                .or_else([TxnOp::get(key("n"))]);
                taken += u32::from(store.transact(take).await.unwrap().succeeded);
            }
            taken
        }
    });
    let taken: u32 = join_all(takers).await.into_iter().sum();
    let reached: u32 =
        std::str::from_utf8(&store.get("n").await.unwrap().unwrap().value).unwrap().parse().unwrap();
    assert_eq!(taken, reached);
    assert_eq!(store.keys("by").await.unwrap().len(), usize::try_from(taken).unwrap());
}

#[tokio::test]
async fn lists_of_names_and_of_entries_agree() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    for text in ["a", "a-b", "a/b", "a/b/c", "a.b", "b"] {
        store.put(text, text).await.unwrap();
    }
    let _guard = store.lock("a/b").await.unwrap();
    let entries: Vec<Key> = store.entries("").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(store.keys("").await.unwrap(), entries);
    assert_eq!(entries.iter().map(Key::as_str).collect::<Vec<_>>(), ["a", "a-b", "a.b", "a/b", "a/b/c", "b"]);
    let stale = ListOptions::default().with_consistency(kv_consul::kv_core::Consistency::Stale);
    assert!(store.list_with("", stale).await.unwrap().as_of().is_some());
    // Nothing but a lock's record lies below.
    let _lonely = store.lock("lonely").await.unwrap();
    assert_eq!(store.children("").await.unwrap().len(), 5);
}
