//! What a token may not read, which Consul answers as if it were not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kv_consul::ConsulStore;
use kv_consul::kv_core::{
    Applied, Condition, Consistency, EntryExpiry, Error, ErrorKind, Expiry, GetOptions, ListOptions,
    Precondition, Prefix, PutOptions, Result, StoreExt, Txn, TxnOp, Watch, WatchEvent, WatchOptions,
};

use crate::common::acl::{AclServer, ROOT};
use crate::common::log::Log;
use crate::common::script::{Act, RIGHTS, Scripted, answer, applied, json, refused, rights};
use crate::common::{SECOND, key, next, until};

const LIMITED: &str = "33333333-cccc-3333-3333-333333333333";

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn initial() -> WatchOptions {
    WatchOptions::default().with_initial()
}

/// Reads a watch until it ends, which it must without telling a delete.
async fn end(watch: &mut Watch) -> Error {
    loop {
        match tokio::time::timeout(SECOND * 30, watch.next()).await.expect("the end") {
            Some(Ok(WatchEvent::Delete(gone))) => panic!("{gone:?} was told as deleted"),
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("the watch ended without a word"),
        }
    }
}

/// Every way to read what is there under `name` and below it.
async fn reads(store: &ConsulStore, name: &str) -> Vec<(&'static str, Result<()>)> {
    let name = key(name);
    let below = Prefix::new(name.as_str()).unwrap();
    let stale = GetOptions::default().with_consistency(Consistency::Stale);
    let folders = ListOptions::default().with_one_level();
    let listed = async |options: ListOptions| {
        let mut listing = store.list_with(&below, options).await?;
        while let Some(item) = futures_util::StreamExt::next(&mut listing).await {
            item?;
        }
        Ok(())
    };
    let watched = async |options: WatchOptions| {
        let mut watch = store.watch_with(below.clone(), options).await?;
        loop {
            if next_result(&mut watch).await? == WatchEvent::Synced {
                return Ok(());
            }
        }
    };
    let value = PutOptions::default().with_precondition(Precondition::Value("x".into()));
    let absent = Txn::when([Condition::value(name.clone(), kv_consul::kv_core::Compare::Equal, "x")]);
    vec![
        ("get", store.get(name.clone()).await.map(drop)),
        ("stale get", store.get_with(&name, stale).await.map(drop)),
        ("list", listed(ListOptions::default()).await),
        ("keys", store.keys(below.clone()).await.map(drop)),
        ("one level", listed(folders).await),
        ("lock_holder", store.lock_holder(&name).await.map(drop)),
        ("watch", store.watch(below.clone()).await.map(drop)),
        ("watch with the state", watched(initial()).await),
        ("watch of a key", store.watch_key(name.clone()).await.map(drop)),
        ("put if the value is", store.put_with(&name, "y", value).await.map(drop)),
        (
            "read in a transaction",
            store.transact(Txn::always().then([TxnOp::get(name.clone())])).await.map(drop),
        ),
        (
            "decide in a transaction",
            store.transact(absent.or_else([TxnOp::get(name.clone())])).await.map(drop),
        ),
    ]
}

async fn next_result(watch: &mut Watch) -> Result<WatchEvent> {
    tokio::time::timeout(SECOND * 30, watch.next()).await.expect("an event").expect("an event or an error")
}

#[tokio::test]
async fn what_a_token_may_not_read_is_denied_and_not_absent() {
    let Some(server) = AclServer::start("").await else { return };
    let rules = r#"key_prefix "app/mine/" { policy = "write" } key_prefix "app/read" { policy = "read" }"#;
    server.token("p", LIMITED, rules).await;
    let (root, store) =
        (server.open("app", ROOT, "").await.unwrap(), server.open("app", LIMITED, "").await.unwrap());
    // Whether there is something or not.
    for there in [false, true] {
        if there {
            root.put("secret", "x").await.unwrap();
            root.put("secret/a", "x").await.unwrap();
        }
        for (what, result) in reads(&store, "secret").await {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{what}: {error}");
            assert_eq!(error.applied(), Applied::No, "{what}: {error}");
            assert!(error.to_string().contains("key:"), "{what} names the right: {error}");
        }
    }
    // The whole namespace: of it the token sees a part only if there is something in that part.
    assert_eq!(store.keys("").await.unwrap_err().kind(), &ErrorKind::PermissionDenied);
    // What it may read is absent if it is.
    for name in ["mine/none", "read/none"] {
        for (what, result) in reads(&store, name).await {
            match result {
                Err(error) if what == "put if the value is" => assert!(error.is_conflict(), "{error}"),
                // Consul checks that a key is absent only for who may write it.
                Err(error) if what.ends_with("in a transaction") => {
                    assert!(name == "read/none" && error.to_string().contains("key:write"), "{error}");
                }
                result => result.expect(what),
            }
        }
        assert_eq!(store.get(name).await.unwrap(), None);
        assert_eq!(store.lock_holder(&key(name)).await.unwrap(), None);
    }
    store.put("mine/a", "x").await.unwrap();
    assert_eq!(store.keys("").await.unwrap(), [key("mine/a")], "a list that is denied in part has the rest");
}

#[tokio::test]
async fn a_right_taken_away_ends_watches_and_tells_no_deletes() {
    let Some(server) = AclServer::start("").await else { return };
    let all = r#"key_prefix "app/" { policy = "write" }"#;
    let id = server.token("p", LIMITED, all).await;
    let (root, store) =
        (server.open("app", ROOT, "").await.unwrap(), server.open("app", LIMITED, "").await.unwrap());
    for name in ["a/1", "a/2", "b/1", "c"] {
        root.put(name, "x").await.unwrap();
    }
    let mut a = store.watch("a").await.unwrap();
    let mut a_with_state = store.watch_with(prefix("a"), initial()).await.unwrap();
    while next(&mut a_with_state).await != WatchEvent::Synced {}
    let mut b = store.watch("b").await.unwrap();
    let mut c = store.watch_key("c").await.unwrap();
    // Deletes are told as before, down to the last key.
    for name in ["a/1", "a/2"] {
        root.delete(name).await.unwrap();
        for watch in [&mut a, &mut a_with_state] {
            assert!(matches!(next(watch).await, WatchEvent::Delete(gone) if gone.key.as_str() == name));
        }
    }
    root.put("a/1", "y").await.unwrap();
    for watch in [&mut a, &mut a_with_state] {
        assert!(matches!(next(watch).await, WatchEvent::Put(_)));
    }
    server.change(&id, "p", r#"key_prefix "app/b/" { policy = "read" }"#).await;
    // What a query asked before, it is answered as before.
    let changes = tokio::spawn(async move {
        for at in 0..60 {
            for name in ["a/1", "b/1", "c"] {
                root.put(name, at.to_string()).await.unwrap();
            }
            tokio::time::sleep(SECOND / 2).await;
        }
    });
    for watch in [&mut a, &mut a_with_state, &mut c] {
        let error = end(watch).await;
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
    }
    assert!(matches!(next(&mut b).await, WatchEvent::Put(_)), "it may still read that");
    changes.abort();
}

#[tokio::test]
async fn watches_that_share_a_query_are_denied_one_by_one() {
    let Some(server) = AclServer::start("").await else { return };
    let rules = r#"key_prefix "app/" { policy = "read" } key_prefix "app/secret/" { policy = "deny" }"#;
    server.token("p", LIMITED, rules).await;
    let (root, store) =
        (server.open("app", ROOT, "").await.unwrap(), server.open("app", LIMITED, "").await.unwrap());
    root.put("k/0", "x").await.unwrap();
    let mut watches = Vec::new();
    for at in 0..40 {
        watches.push(store.watch(format!("k{at}").as_str()).await.unwrap());
    }
    let shared = store.watch("").await.unwrap();
    until("they should share one query", SECOND * 10, || async { store.queries() == 1 }).await;
    assert_eq!(store.watch("secret").await.unwrap_err().kind(), &ErrorKind::PermissionDenied);
    root.put("k7/a", "x").await.unwrap();
    assert!(matches!(next(&mut watches[7]).await, WatchEvent::Put(_)), "nobody else is harmed");
    drop(shared);
}

#[tokio::test]
async fn with_a_policy_for_lists_a_list_needs_that_right() {
    let Some(server) = AclServer::start("enable_key_list_policy = true,").await else { return };
    server.token("p", LIMITED, r#"key_prefix "app/" { policy = "read" }"#).await;
    let store = server.open("app", LIMITED, "").await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    for error in [
        store.keys("").await.map(drop).unwrap_err(),
        store.entries("d").await.map(drop).unwrap_err(),
        store.watch("d").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("key:list"), "{error}");
    }
}

#[tokio::test]
async fn a_token_for_keys_and_sessions_does_all_but_tell_the_version() {
    let Some(server) = AclServer::start("").await else { return };
    let keys = r#"key_prefix "app/" { policy = "write" }"#;
    let id = server.token("p", LIMITED, keys).await;
    let store = server.open("app", LIMITED, "").await.unwrap();
    let told = store.server().await.unwrap();
    assert_eq!((told.product.as_str(), told.version.as_str()), ("Consul", "unknown"));
    let root = server.open("app", ROOT, "").await.unwrap();
    assert!(root.server().await.unwrap().version.starts_with("1."));
    // Without the right to sessions it is named.
    let ttl = || PutOptions::default().with_expiry(Expiry::Ttl(SECOND * 20));
    for error in [
        store.put_with(&key("t"), "x", ttl()).await.map(drop).unwrap_err(),
        store.lock("l").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("session:write"), "{error}");
    }
    let denied = server.open("other", LIMITED, "").await.unwrap();
    let error = denied.put("k", "x").await.unwrap_err();
    assert!(error.to_string().contains(r#"key:write on "other/k""#), "{error}");
    server.change(&id, "p", &format!(r#"{keys} session_prefix "" {{ policy = "write" }}"#)).await;
    store.put_with(&key("t"), "x", ttl()).await.unwrap();
    store.put("t", "y").await.unwrap();
    let guard = store.lock("l").await.unwrap();
    assert!(store.lock_holder(&key("l")).await.unwrap().is_some());
    guard.unlock().await.unwrap();
    assert_eq!(store.keys("").await.unwrap(), [key("t")]);
}

#[tokio::test]
async fn an_expiry_is_denied_to_who_may_not_read_the_session_it_hangs_on() {
    let Some(server) = AclServer::start("").await else { return };
    let keys = r#"key_prefix "app/" { policy = "write" }"#;
    let id = server.token("p", LIMITED, keys).await;
    let (root, store) =
        (server.open("app", ROOT, "").await.unwrap(), server.open("app", LIMITED, "").await.unwrap());
    root.put("plain", "x").await.unwrap();
    let held = [("ttl", Expiry::Ttl(SECOND * 30)), ("session", Expiry::Session)];
    for (name, expiry) in held {
        root.put_with(&key(name), "x", PutOptions::default().with_expiry(expiry)).await.unwrap();
    }
    let stale = GetOptions::default().with_consistency(Consistency::Stale);
    let options = [GetOptions::default().with_expiry(), stale.with_expiry()];
    for (name, _) in held {
        assert!(store.get(name).await.unwrap().is_some(), "without its expiry the key may be read");
        for options in options.clone() {
            let before = store.requests();
            let error = store.get_with(&key(name), options).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.applied()),
                (&ErrorKind::PermissionDenied, Applied::No),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains("session:read") && text.contains(name), "{text}");
            assert_eq!(store.requests() - before, 3, "{text}");
        }
        let telling = ListOptions::default().with_expiry();
        let listed = store.list_with(&prefix(""), telling).await.unwrap();
        let error = listed.entries().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("session:read"), "{error}");
        // A write would take the key from a session that it may not see.
        let error = store.put(name, "y").await.unwrap_err();
        assert!(error.to_string().contains("session:read"), "{error}");
    }
    for options in options.clone() {
        let entry = store.get_with(&key("plain"), options).await.unwrap().unwrap();
        assert_eq!(entry.expiry, Some(EntryExpiry::Never));
    }
    assert_eq!(store.lock_holder(&key("ttl")).await.unwrap(), None, "a lock's record is another key");
    let by_key = server.open("app", LIMITED, "lock_layout=key").await.unwrap();
    let error = by_key.lock_holder(&key("ttl")).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("session:read"), "{error}");
    server.change(&id, "p", &format!(r#"{keys} session_prefix "" {{ policy = "read" }}"#)).await;
    for options in options {
        let entry = store.get_with(&key("ttl"), options.clone()).await.unwrap().unwrap();
        assert!(matches!(entry.expiry, Some(EntryExpiry::Ttl { .. })), "{:?}", entry.expiry);
        let entry = store.get_with(&key("session"), options).await.unwrap().unwrap();
        assert_eq!(entry.expiry, Some(EntryExpiry::Session));
    }
}

#[tokio::test]
async fn a_key_whose_session_ends_at_each_look_is_not_looked_at_for_ever() {
    let looks = AtomicU64::new(0);
    let server = Scripted::start(move |request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/v1/session/info") => json(200, "[]"),
        _ => {
            let look = looks.fetch_add(1, Ordering::SeqCst);
            applied(request, 7, &format!("s{look}"))
        }
    })
    .await;
    let store = server.store().await;
    let error = store.get_with(&key("k"), GetOptions::default().with_expiry()).await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::No), "{error}");
    assert!(error.to_string().contains("session"), "{error}");
    assert_eq!(server.count("GET /v1/session/info"), 8);
}

/// A server where nothing is, whose question for rights this answers.
async fn nothing_there(told: impl Fn(&str) -> Act + Send + Sync + 'static) -> Scripted {
    Scripted::start_with_acl(move |request| match request {
        request if request.starts_with(RIGHTS) => told(request),
        request if request.starts_with("PUT /v1/txn") => refused("key \"k\" doesn't exist"),
        _ => answer(404, "X-Consul-Index: 5\r\n", ""),
    })
    .await
}

#[tokio::test]
async fn a_right_is_kept_and_a_denial_is_not() {
    let allow = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&allow);
    let server = nothing_there(move |request| {
        assert!(request.contains(r#"[{"Resource":"key","Access":"read","Segment":"#), "{request}");
        rights(request, told.load(Ordering::SeqCst))
    })
    .await;
    let store = server.store().await;
    for asked in 1..=2 {
        assert_eq!(store.get("k").await.unwrap_err().kind(), &ErrorKind::PermissionDenied);
        assert_eq!(server.count(RIGHTS), asked);
    }
    allow.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(store.get("k").await.unwrap(), None);
    }
    assert_eq!(server.count(RIGHTS), 3);
    // A prefix is another right, and is asked for with its slash.
    assert!(store.entries("k").await.unwrap().is_empty());
    assert_eq!(server.count(RIGHTS), 4);
    assert!(server.requests().last().unwrap().contains(r#""Segment":"k/""#));
    assert_eq!(store.requests(), 2 + 5 + 1, "they are no round trips an operation promises");
}

#[tokio::test]
async fn without_acls_it_is_asked_once() {
    let server = nothing_there(|_| json(401, "ACL support disabled")).await;
    let store = server.store().await;
    for _ in 0..3 {
        assert_eq!(store.get("k").await.unwrap(), None);
        assert!(store.entries("k").await.unwrap().is_empty());
    }
    assert_eq!(server.count(RIGHTS), 1);
}

#[tokio::test]
async fn where_nobody_tells_rights_the_answer_is_kept_and_one_warning_given() {
    let all: [fn() -> Act; 4] =
        [|| Act::Cut, || json(404, ""), || json(500, "rpc error"), || json(403, "Permission denied")];
    for told in all {
        let server = nothing_there(move |_| told()).await;
        let store = server.store().await;
        let log = Log::default();
        let listening = log.listen(tracing::Level::WARN);
        for _ in 0..3 {
            assert_eq!(store.get("k").await.unwrap(), None);
            assert!(store.entries("k").await.unwrap().is_empty());
        }
        drop(listening);
        assert_eq!(log.lines("an empty answer may be a denied one").len(), 1);
    }
    // One that is silent costs the deadline of the call and no more.
    let server = nothing_there(|_| Act::Silence).await;
    assert_eq!(server.store().await.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn nonsense_about_rights_is_a_protocol_error() {
    let all: [fn() -> Act; 4] = [
        || json(200, "[]"),
        || json(200, "{}"),
        || json(200, r#"[{"Resource":"key","Access":"read","Segment":"other","Allow":true}]"#),
        || json(200, r#"[{"Resource":"key","Access":"write","Segment":"k","Allow":true}]"#),
    ];
    for told in all {
        let server = nothing_there(move |_| told()).await;
        assert_eq!(server.store().await.get("k").await.unwrap_err().kind(), &ErrorKind::Protocol);
    }
    let server = nothing_there(|_| json(403, "ACL not found")).await;
    assert_eq!(server.store().await.get("k").await.unwrap_err().kind(), &ErrorKind::Unauthenticated);
}
