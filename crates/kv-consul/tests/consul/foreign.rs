//! Keys, locks and semaphores of other programs: seen, respected, left alone.

use kv_consul::kv_core::{
    Applied, Condition, DeleteOptions, ErrorKind, Expiry, Precondition, PutOptions, StoreExt, Txn, TxnOp,
};
use reqwest::Method;

use crate::common::log::Log;
use crate::common::{self, LOCK_FLAG, SECOND, key, new_session, server, session_of, ttl};

/// Consul's flags for its own semaphores.
const SEMAPHORE_FLAG: u64 = 16_210_313_421_097_356_768;

/// Puts keys under names a URL cannot carry.
async fn put_natively(server: &common::Server, namespace: &str, names: &[&str]) {
    let ops: Vec<_> = names
        .iter()
        .map(|name| {
            serde_json::json!({"KV": {"Verb": "set", "Key": format!("{namespace}/{name}"), "Value": "eQ=="}})
        })
        .collect();
    let (status, text) = server.raw(Method::PUT, "/v1/txn", serde_json::json!(ops).to_string()).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test]
async fn foreign_names_are_left_alone() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    store.put("a/b", "x").await.unwrap();
    put_natively(&server, &namespace, &["a/dir/", "a//b", "a/.lock"]).await;
    assert_eq!(store.keys("").await.unwrap(), [key("a/b")]);
    assert_eq!(store.entries("").await.unwrap().len(), 1);
    assert_eq!(store.delete_tree("a").await.unwrap(), 1);
    let (status, _) = server.raw(Method::GET, &format!("/v1/kv/{namespace}/?recurse"), "").await;
    assert_eq!(status, 404, "delete_tree removes them too");
}

#[tokio::test]
async fn a_lock_of_another_program_is_not_broken_by_a_write() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    let session = new_session(&server, "release").await;
    let path = format!("/v1/kv/{namespace}/leader?flags={LOCK_FLAG}&acquire={session}");
    assert_eq!(server.raw(Method::PUT, &path, "them").await.1, "true");
    // Others read who the leader is.
    assert_eq!(store.get("leader").await.unwrap().unwrap().value, "them");
    for error in [
        store.put("leader", "x").await.unwrap_err(),
        store.delete("leader").await.map(drop).unwrap_err(),
        store.put_with(&key("leader"), "x", ttl(20)).await.map(drop).unwrap_err(),
        store.transact(Txn::always().then([TxnOp::put(key("leader"), "x")])).await.map(drop).unwrap_err(),
        store.transact(Txn::always().then([TxnOp::delete(key("leader"))])).await.map(drop).unwrap_err(),
        store.put("leader/.lock", "x").await.unwrap_err(),
        store.delete(".lock").await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
    }
    assert_eq!(session_of(&server, &format!("{namespace}/leader")).await, Some(session.clone()));
    // In that layout it excludes us.
    let theirs = server.open(&namespace, "?lock_layout=key").await;
    assert!(theirs.try_lock("leader").await.unwrap().is_none());
    assert_eq!(theirs.lock_holder(&key("leader")).await.unwrap().unwrap().owner, "them");
    assert_eq!(theirs.get("leader").await.unwrap(), None);
    server.raw(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
    let guard = theirs.try_lock("leader").await.unwrap().unwrap();
    let path = format!(
        "/v1/kv/{namespace}/leader?flags={LOCK_FLAG}&acquire={}",
        new_session(&server, "release").await
    );
    assert_eq!(server.raw(Method::PUT, &path, "them").await.1, "false", "we exclude them");
    guard.unlock().await.unwrap();
    assert_eq!(server.raw(Method::PUT, &path, "them").await.1, "true");
}

#[tokio::test]
async fn a_leader_with_any_flags_is_not_replaced_by_a_write() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    let session = new_session(&server, "release").await;
    let path = format!("{namespace}/leader");
    let acquire = format!("/v1/kv/{path}?acquire={session}");
    assert_eq!(server.raw(Method::PUT, &acquire, "them").await.1, "true");
    let entry = store.get("leader").await.unwrap().unwrap();
    assert_eq!(entry.value, "them");
    let leader = key("leader");
    let put = |options: PutOptions| store.put_with(&leader, "x", options);
    let conditional = |precondition| PutOptions::default().with_precondition(precondition);
    let delete = DeleteOptions::default().with_precondition(Precondition::At(entry.version));
    let holds = Condition::version(leader.clone(), kv_consul::kv_core::Compare::Equal, entry.version);
    for error in [
        put(PutOptions::default()).await.unwrap_err(),
        put(ttl(20)).await.unwrap_err(),
        put(PutOptions::default().with_expiry(Expiry::Session)).await.unwrap_err(),
        put(conditional(Precondition::Present)).await.unwrap_err(),
        put(conditional(Precondition::At(entry.version))).await.unwrap_err(),
        put(conditional(Precondition::Value("them".into()))).await.unwrap_err(),
        store.delete("leader").await.map(drop).unwrap_err(),
        store.delete_with(&leader, delete).await.map(drop).unwrap_err(),
        store.transact(Txn::always().then([TxnOp::put(leader.clone(), "x")])).await.map(drop).unwrap_err(),
        store.transact(Txn::when([holds]).then([TxnOp::delete(leader.clone())])).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
        assert_eq!(error.applied(), Applied::No, "{error}");
    }
    assert_eq!(session_of(&server, &path).await, Some(session.clone()));
    assert_eq!(store.get("leader").await.unwrap().unwrap().version, entry.version);
    // Released, it is a key as any other.
    server.raw(Method::PUT, &format!("/v1/kv/{path}?release={session}"), "them").await;
    store.put("leader", "x").await.unwrap();
}

/// What a session does to its keys at its end does not say that nobody holds them as a lock.
#[tokio::test]
async fn a_leader_whose_session_deletes_is_not_replaced_by_a_write_either() {
    let Some(server) = server().await else { return };
    for layout in ["record", "key"] {
        let namespace = common::namespace();
        let store = server.open(&namespace, &format!("?lock_layout={layout}&timeout=20s")).await;
        let session = new_session(&server, "delete").await;
        let acquire = format!("/v1/kv/{namespace}/leader?acquire={session}");
        assert_eq!(server.raw(Method::PUT, &acquire, "them").await.1, "true");
        let leader = key("leader");
        for error in [
            store.put("leader", "x").await.map(drop).unwrap_err(),
            store.put_with(&leader, "x", ttl(20)).await.map(drop).unwrap_err(),
            store.delete("leader").await.map(drop).unwrap_err(),
            store
                .transact(Txn::always().then([TxnOp::put(leader.clone(), "x")]))
                .await
                .map(drop)
                .unwrap_err(),
            store.transact(Txn::always().then([TxnOp::delete(leader.clone())])).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{layout}: {error}");
            assert_eq!(error.applied(), Applied::No, "{layout}: {error}");
        }
        assert_eq!(session_of(&server, &format!("{namespace}/leader")).await, Some(session));
        // An entry of another handle that expires, or lives by a session, is replaced by anybody.
        let other = server.open(&namespace, "").await;
        let by_session = PutOptions::default().with_expiry(Expiry::Session);
        for (name, options) in [("ttl", ttl(20)), ("session", by_session)] {
            other.put_with(&key(name), "1", options).await.unwrap();
            store.put(name, "2").await.unwrap();
            assert_eq!(session_of(&server, &format!("{namespace}/{name}")).await, None, "{layout}");
        }
    }
}

/// Clients in Python, and Consul's tutorial on elections, give their locks no flags.
#[tokio::test]
async fn a_lock_without_flags_is_a_lock() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "?lock_layout=key&lock_delay=0s&timeout=20s").await;
    let leader = key("leader");
    for behavior in ["release", "delete"] {
        let session = new_session(&server, behavior).await;
        let path = format!("/v1/kv/{namespace}/leader");
        assert_eq!(server.raw(Method::PUT, &format!("{path}?acquire={session}"), "them").await.1, "true");
        let theirs = store.lock_holder(&leader).await.unwrap().expect("they hold it");
        assert_eq!(theirs.owner, "them");
        assert!(store.try_lock("leader").await.unwrap().is_none());
        let mut waiting = std::pin::pin!(store.lock("leader"));
        assert!(tokio::time::timeout(SECOND / 2, &mut waiting).await.is_err(), "it is held");
        if behavior == "release" {
            assert_eq!(server.raw(Method::PUT, &format!("{path}?release={session}"), "them").await.1, "true");
            assert_eq!(store.lock_holder(&leader).await.unwrap(), None);
        } else {
            server.raw(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
        }
        let ours = tokio::time::timeout(SECOND * 20, waiting).await.expect("it is free").unwrap();
        assert!(ours.token() > theirs.token);
        let other = new_session(&server, "release").await;
        assert_eq!(server.raw(Method::PUT, &format!("{path}?acquire={other}"), "x").await.1, "false");
        // A write that is no acquisition takes the flags off our record, and nothing else.
        server.raw(Method::PUT, &path, "scribble").await;
        assert_eq!(store.lock_holder(&leader).await.unwrap().unwrap().owner, "scribble");
        assert!(store.try_lock("leader").await.unwrap().is_none());
        assert!(ours.is_held());
        ours.unlock().await.unwrap();
        // What was left of their lock is no obstacle, and no entry of ours is taken for a lock.
        store.lock("leader").await.unwrap().unlock().await.unwrap();
        assert_eq!(store.lock_holder(&leader).await.unwrap(), None);
    }
    store.put("entry", "1").await.unwrap();
    store.put_with(&key("expires"), "1", ttl(20)).await.unwrap();
    server.raw(Method::PUT, &format!("/v1/kv/{namespace}/theirs"), "1").await;
    for name in ["entry", "expires", "theirs"] {
        let error = store.lock(name).await.unwrap_err();
        assert!(error.is_conflict() && error.to_string().contains("an entry"), "{error}");
        assert_eq!(store.lock_holder(&key(name)).await.unwrap(), None);
        assert_eq!(store.get(name).await.unwrap().unwrap().value, "1");
    }
}

#[tokio::test]
async fn the_free_record_of_a_lock_on_the_key_itself_is_no_entry() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "?lock_layout=key").await;
    let unlocked = async || {
        store.delete("k").await.unwrap();
        server.raw(Method::DELETE, &format!("/v1/kv/{namespace}/k"), "").await;
        let guard = store.lock("k").await.unwrap();
        let error = store.create("k", "x").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
        guard.unlock().await.unwrap();
        let (status, _) = server.raw(Method::GET, &format!("/v1/kv/{namespace}/k"), "").await;
        assert_eq!(status, 200, "programs on the Go client's lock leave the record");
        assert_eq!(store.get("k").await.unwrap(), None);
    };
    unlocked().await;
    assert_eq!(store.replace("k", "x").await.unwrap_err().kind(), &ErrorKind::NotFound);
    assert!(!store.delete("k").await.unwrap());
    assert!(store.entries("").await.unwrap().is_empty());
    store.create("k", "x").await.unwrap();
    let error = store.create("k", "y").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::AlreadyExists { .. }), "{error}");
    assert!(store.delete("k").await.unwrap());
    unlocked().await;
    store.put_with(&key("k"), "x", ttl(20).with_precondition(Precondition::Absent)).await.unwrap();
    unlocked().await;
    let txn = Txn::when([Condition::absent(key("k"))]).then([TxnOp::put(key("k"), "x")]);
    assert!(store.transact(txn).await.unwrap().succeeded);
    assert_eq!(store.get("k").await.unwrap().unwrap().value, "x");
}

#[tokio::test]
async fn names_that_are_no_keys_are_told_in_one_line() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    put_natively(&server, &namespace, &["dir/", "a//b", "c/../d"]).await;
    let log = Log::default();
    let listening = log.listen(tracing::Level::DEBUG);
    assert!(store.keys("").await.unwrap().is_empty());
    assert!(store.entries("").await.unwrap().is_empty());
    drop(listening);
    let lines = log.lines("names that are no keys");
    assert_eq!(lines.len(), 2, "one for each list: {lines:?}");
    assert!(lines.iter().all(|line| line.contains("count=3")), "{lines:?}");
}

#[tokio::test]
async fn a_semaphore_is_invisible_and_no_lock() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    let session = new_session(&server, "release").await;
    let contender = format!("/v1/kv/{namespace}/s/{session}?flags={SEMAPHORE_FLAG}&acquire={session}");
    assert_eq!(server.raw(Method::PUT, &contender, "").await.1, "true");
    let record = format!("/v1/kv/{namespace}/s/.lock?flags={SEMAPHORE_FLAG}");
    let body = format!(r#"{{"Limit":2,"Holders":{{"{session}":true}}}}"#);
    assert_eq!(server.raw(Method::PUT, &record, body.clone()).await.1, "true");
    store.put("s/entry", "x").await.unwrap();
    // A name like theirs is an entry where there is no semaphore.
    store.put(format!("other/{session}").as_str(), "x").await.unwrap();
    assert_eq!(store.keys("s").await.unwrap(), [key("s/entry")]);
    assert_eq!(store.keys("other").await.unwrap().len(), 1);
    assert_eq!(store.entries("s").await.unwrap().len(), 1);
    assert_eq!(store.get(format!("s/{session}").as_str()).await.unwrap(), None);
    assert!(store.lock("s").await.unwrap_err().is_conflict());
    assert_eq!(store.lock_holder(&key("s")).await.unwrap(), None);
    let (_, unchanged) = server.raw(Method::GET, &format!("/v1/kv/{namespace}/s/.lock?raw"), "").await;
    assert_eq!(unchanged, body);
}
