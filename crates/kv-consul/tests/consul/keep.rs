//! Puts that keep the expiry a key has: what they cost, and whose keys they leave alone.

use kv_consul::ConsulStore;
use kv_consul::kv_core::{
    Applied, Compare, Condition, EntryExpiry, ErrorKind, Expiry, Fence, GetOptions, Precondition, PutOptions,
    StoreExt, Txn, TxnOp,
};
use reqwest::Method;

use crate::common::{self, LOCK_FLAG, SECOND, key, new_session, server, session_of, ttl, until};

fn expiring(expiry: Expiry) -> PutOptions {
    PutOptions::default().with_expiry(expiry)
}

fn keep() -> PutOptions {
    expiring(Expiry::Keep)
}

fn keep_in_txn(name: &str, value: &str) -> Txn {
    Txn::always().then([TxnOp::put_expiring(key(name), value.to_owned(), Expiry::Keep)])
}

async fn expiry_of(store: &ConsulStore, name: &str) -> EntryExpiry {
    let entry = store.get_with(&key(name), GetOptions::default().with_expiry()).await.unwrap();
    entry.unwrap().expiry.unwrap()
}

/// What a call costs, in requests.
async fn cost<T>(store: &ConsulStore, call: impl Future<Output = kv_consul::kv_core::Result<T>>) -> u64 {
    let before = store.requests();
    call.await.unwrap();
    store.requests() - before
}

#[tokio::test]
async fn keeping_an_expiry_takes_the_round_trips_it_promises() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    for (name, put) in [
        ("permanent", PutOptions::default()),
        ("ttl", ttl(60)),
        ("session", expiring(Expiry::Session)),
        ("absent", keep()),
    ] {
        assert!(name != "absent" || store.get("absent").await.unwrap().is_none());
        store.put_with(&key(name), "0", put).await.unwrap();
        let name = key(name);
        let mut version = store.get(&name).await.unwrap().unwrap().version;
        for _ in 0..3 {
            let put = |precondition| store.put_with(&name, "v", keep().with_precondition(precondition));
            assert_eq!(cost(&store, put(Precondition::Any)).await, 1, "{name}");
            assert_eq!(cost(&store, put(Precondition::Present)).await, 1, "{name}");
            assert_eq!(cost(&store, put(Precondition::Value("v".into()))).await, 2, "{name}");
            version = store.get(&name).await.unwrap().unwrap().version.max(version);
            let mut update = async || {
                let done = put(Precondition::At(version)).await?;
                version = done.version;
                Ok(())
            };
            assert_eq!(cost(&store, update()).await, 1, "{name}");
            assert_eq!(cost(&store, store.update(&name, |_| Some("w".into()))).await, 2, "{name}");
            assert_eq!(cost(&store, store.transact(keep_in_txn(name.as_str(), "t"))).await, 1, "{name}");
        }
        let refused = store.requests();
        for precondition in [Precondition::Absent, Precondition::At(version), Precondition::Value("x".into())]
        {
            let put = keep().with_precondition(precondition);
            let error = store.put_with(&name, "no", put).await.unwrap_err();
            assert!(error.is_conflict(), "{error}");
        }
        assert!(store.requests() - refused <= 5, "{name}: {}", store.requests() - refused);
        assert_eq!(store.get(&name).await.unwrap().unwrap().value, "t", "{name}");
    }
    // Of another handle's key nothing is known: refused, read, whose it is, written.
    for name in ["ttl", "session"] {
        let k = key(name);
        let put = || other.put_with(&k, "o", keep());
        let before = other.requests();
        put().await.unwrap();
        assert_eq!(other.requests() - before, 4, "{name} of another handle");
        assert_eq!(cost(&other, put()).await, 1, "{name} of another handle, once more");
    }
    let third = server.open(&namespace, "").await;
    assert_eq!(cost(&third, third.transact(keep_in_txn("ttl", "o"))).await, 4, "a transaction");
    assert_eq!(cost(&third, third.transact(keep_in_txn("ttl", "o"))).await, 1, "a transaction, once more");

    assert_eq!(expiry_of(&store, "permanent").await, EntryExpiry::Never);
    assert_eq!(expiry_of(&store, "absent").await, EntryExpiry::Never);
    assert_eq!(expiry_of(&store, "ttl").await, EntryExpiry::ttl(SECOND * 60, None));
    assert_eq!(expiry_of(&store, "session").await, EntryExpiry::Session);
}

#[tokio::test]
async fn a_registration_that_was_updated_a_thousand_times_goes_with_its_session() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    store.put_session("app/1", "0").await.unwrap();
    let session = session_of(&server, &format!("{namespace}/app/1")).await;
    assert!(session.is_some());
    for round in 1..=1000_u32 {
        let writer = if round % 10 == 0 { &other } else { &store };
        let next = |entry: Option<&kv_consul::kv_core::Entry>| {
            let value: u32 = std::str::from_utf8(&entry.unwrap().value).unwrap().parse().unwrap();
            Some((value + 1).to_string().into())
        };
        writer.update("app/1", next).await.unwrap().unwrap();
    }
    assert_eq!(store.get("app/1").await.unwrap().unwrap().value, "1000");
    assert_eq!(session_of(&server, &format!("{namespace}/app/1")).await, session);
    store.close().await.unwrap();
    assert_eq!(other.get("app/1").await.unwrap(), None);
}

#[tokio::test]
async fn what_was_known_of_an_expiry_is_checked_by_consul() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    let k = key("k");
    let put = |value: &'static str| store.put_with(&k, value, keep());
    // Each time the first handle believes the state that was before.
    store.put_with(&k, "1", ttl(60)).await.unwrap();
    other.put("k", "2").await.unwrap();
    put("3").await.unwrap();
    assert_eq!(expiry_of(&store, "k").await, EntryExpiry::Never);
    other.put_with(&k, "4", expiring(Expiry::Session)).await.unwrap();
    put("5").await.unwrap();
    assert_eq!(expiry_of(&store, "k").await, EntryExpiry::Session);
    other.put_with(&k, "6", ttl(90)).await.unwrap();
    let _ = store.transact(keep_in_txn("k", "7")).await.unwrap();
    assert_eq!(expiry_of(&store, "k").await, EntryExpiry::ttl(SECOND * 90, None));
    other.delete("k").await.unwrap();
    let _ = store.transact(keep_in_txn("k", "8")).await.unwrap();
    assert_eq!(expiry_of(&store, "k").await, EntryExpiry::Never);
    store.put_with(&k, "9", ttl(60)).await.unwrap();
    other.delete("k").await.unwrap();
    let present = keep().with_precondition(Precondition::Present);
    let error = store.put_with(&k, "10", present).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    put("11").await.unwrap();
    assert_eq!(expiry_of(&store, "k").await, EntryExpiry::Never);
    assert_eq!(store.get("k").await.unwrap().unwrap().value, "11");
}

/// A plain write leaves a key its session, whosever it is: only the check tells a lock from an entry.
#[tokio::test]
async fn a_put_that_keeps_the_expiry_does_not_write_on_a_lock() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, reader) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    let (leader, path) = (key("leader"), format!("{namespace}/leader"));
    for (flags, behavior) in [(0, "release"), (0, "delete"), (LOCK_FLAG, "release")] {
        for attempt in 0..6 {
            // This handle remembers the key as one of its own that expires. Meanwhile it became a lock.
            store.put_with(&leader, "ours", ttl(60)).await.unwrap();
            server.raw(Method::DELETE, &format!("/v1/kv/{path}"), "").await;
            let session = new_session(&server, behavior).await;
            let acquire = format!("/v1/kv/{path}?flags={flags}&acquire={session}");
            assert_eq!(server.raw(Method::PUT, &acquire, "them").await.1, "true");
            let entry = reader.get("leader").await.unwrap().unwrap();
            let put = |precondition| store.put_with(&leader, "x", keep().with_precondition(precondition));
            let held = Condition::version(leader.clone(), Compare::Equal, entry.version);
            let result = match attempt {
                0 => put(Precondition::Any).await.map(drop),
                1 => put(Precondition::Present).await.map(drop),
                2 => put(Precondition::At(entry.version)).await.map(drop),
                3 => put(Precondition::Value("them".into())).await.map(drop),
                4 => store.transact(keep_in_txn("leader", "x")).await.map(drop),
                _ => store.transact(Txn::when([held]).then(keep_in_txn("leader", "x").then)).await.map(drop),
            };
            let error = result.expect_err(&format!("{flags} {behavior} {attempt}"));
            assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{attempt}: {error}");
            assert_eq!(error.applied(), Applied::No, "{attempt}: {error}");
            let after = reader.get("leader").await.unwrap().unwrap();
            assert_eq!((after.version, after.value.as_ref()), (entry.version, b"them".as_slice()));
            assert_eq!(session_of(&server, &path).await, Some(session.clone()));
            server.raw(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
            server.raw(Method::DELETE, &format!("/v1/kv/{path}"), "").await;
        }
    }
}

#[tokio::test]
async fn an_expiry_is_kept_under_a_fence_and_not_after_it() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let store = server.open(&namespace, "").await;
    store.put_with(&key("ttl"), "0", ttl(60)).await.unwrap();
    store.put("permanent", "0").await.unwrap();
    let guard = store.lock("l").await.unwrap();
    let fence = guard.fence();
    let fenced = |fence: &Fence, name: &str| {
        let (store, name, options) = (&store, key(name), keep().with_fence(fence.clone()));
        async move { store.put_with(&name, "1", options).await }
    };
    for name in ["ttl", "permanent"] {
        fenced(&fence, name).await.unwrap();
        let _ = store.transact(keep_in_txn(name, "2").with_fence(fence.clone())).await.unwrap();
    }
    guard.unlock().await.unwrap();
    for name in ["ttl", "permanent"] {
        for error in [
            fenced(&fence, name).await.map(drop).unwrap_err(),
            store.transact(keep_in_txn(name, "3").with_fence(fence.clone())).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }), "{error}");
        }
        assert_eq!(store.get(name).await.unwrap().unwrap().value, "2");
    }
    assert_eq!(expiry_of(&store, "ttl").await, EntryExpiry::ttl(SECOND * 60, None));
    until("the expiry should be of one session", SECOND * 5, || async {
        common::sessions(&server).await.matches("kv ttl").count() >= 1
    })
    .await;
}
