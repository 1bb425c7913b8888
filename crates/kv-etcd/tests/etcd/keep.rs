//! A put that keeps the expiry of its key: what it costs, and that the lease stays the one it was.

use std::time::Duration;

use crate::common::{etcdctl, key, leases, namespace, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{
    Compare, Condition, EntryExpiry, ErrorKind, Expiry, GetOptions, Precondition, PutOptions, StoreExt, Txn,
    TxnOp, TxnOutcome, Version,
};
use kv_testkit::Cluster;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn keep() -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Keep)
}

fn ttl(ttl: Duration) -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Ttl(ttl))
}

fn keeping(path: &str, value: impl Into<kv_etcd::kv_core::Bytes>) -> TxnOp {
    TxnOp::put_expiring(key(path), value, Expiry::Keep).unwrap()
}

/// The lease a key lives by, as the server tells it; 0 for none.
async fn lease(cluster: &Cluster, namespace: &str, path: &str) -> i64 {
    let shown = etcdctl(cluster, &format!("get {namespace}/{path} -w fields")).await;
    let line = shown.lines().find_map(|line| line.strip_prefix("\"Lease\" : "));
    line.unwrap_or_else(|| panic!("{path}: {shown}")).parse().unwrap()
}

async fn value(store: &EtcdStore, path: &str) -> Option<String> {
    store.get(path).await.unwrap().map(|entry| entry.text().unwrap().to_owned())
}

#[tokio::test]
async fn keeping_an_expiry_takes_one_round_trip() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    // A lock that is held makes requests of its own, so another handle holds it.
    let (store, other) = (open(&url).await, open(&url).await);
    let k = key("k");
    let mut version = store.put_with(&k, "1", ttl(HOUR)).await.unwrap().version;
    let granted = lease(&cluster, &namespace, "k").await;
    let guard = other.lock("l").await.unwrap();
    let mut before = store.requests();
    let mut cost = |what: &str, expected: u64| {
        let now = store.requests();
        assert_eq!(now - before, expected, "{what}");
        before = now;
    };
    for is_fenced in [false, true] {
        for (precondition, holds) in [
            (Precondition::Any, true),
            (Precondition::Present, true),
            (Precondition::At(version), true),
            (Precondition::Value("1".into()), true),
            (Precondition::Absent, false),
            (Precondition::At(Version::new(1)), false),
            (Precondition::Value("2".into()), false),
        ] {
            let precondition = match precondition {
                Precondition::At(at) if at != Version::new(1) => Precondition::At(version),
                other => other,
            };
            let what = format!("{precondition:?}, fenced: {is_fenced}");
            let mut options = keep().with_precondition(precondition);
            if is_fenced {
                options = options.with_fence(guard.fence());
            }
            match store.put_with(&k, "1", options).await {
                Ok(put) => {
                    assert!(holds, "{what}");
                    assert!(put.version > version && put.granted_ttl.is_none(), "{what}: {put:?}");
                    version = put.version;
                }
                Err(error) => assert!(!holds && error.is_conflict(), "{what}: {error}"),
            }
            cost(&what, 1);
        }
    }
    assert_eq!(lease(&cluster, &namespace, "k").await, granted, "it lives by another lease");
    for precondition in [Precondition::Any, Precondition::Absent] {
        let options = keep().with_precondition(precondition);
        store.delete("absent").await.unwrap();
        cost("delete", 1);
        store.put_with(&key("absent"), "x", options).await.unwrap();
        cost("on an absent key", 1);
    }
    for precondition in [Precondition::Present, Precondition::At(version), Precondition::Value("x".into())] {
        let options = keep().with_precondition(precondition);
        let error = store.put_with(&key("none"), "x", options).await.unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::PreconditionFailed { current: None }
        ));
        cost("refused on an absent key", 1);
    }

    // What is large is not sent for both cases.
    let large = || vec![b'v'; 1 << 20];
    store.put_with(&k, large(), keep()).await.unwrap();
    cost("a large value on a key that exists", 1);
    store.put_with(&key("large"), large(), keep()).await.unwrap();
    cost("a large value on an absent key", 2);
    store.put_with(&key("large"), large(), keep().with_fence(guard.fence())).await.unwrap();
    cost("a large value under a fence", 1);
    let _ = store.transact(Txn::always().then([keeping("k", large())])).await.unwrap();
    cost("a large value in a transaction: which keys exist is asked first", 2);

    store.update("k", |entry| entry.map(|_| "updated".into())).await.unwrap().unwrap();
    cost("update", 2);
    let fence = guard.fence();
    guard.unlock().await.unwrap();
    let error = store.put_with(&k, "lost", keep().with_fence(fence)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }));
    cost("a lost fence", 1);
    assert_eq!(value(&store, "k").await.unwrap(), "updated");
    assert_eq!(lease(&cluster, &namespace, "k").await, granted, "it lives by another lease");
    assert_eq!(lease(&cluster, &namespace, "large").await, 0);
}

#[tokio::test]
async fn a_kept_expiry_is_the_same_lease_whoever_granted_it() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (one, two) = (open(&url).await, open(&url).await);
    let k = key("k");
    let has = async |what: &str, count: usize| {
        until(what, 10 * SECOND, || async { leases(&cluster).await == count }).await;
    };
    one.put_with(&k, "1", ttl(HOUR)).await.unwrap();
    let first = lease(&cluster, &namespace, "k").await;
    for (store, next) in [(&two, "2"), (&one, "3"), (&two, "4")] {
        store.put_with(&k, next, keep()).await.unwrap();
        assert_eq!((lease(&cluster, &namespace, "k").await, leases(&cluster).await), (first, 1), "{next}");
    }
    // The handle that granted it still revokes it when its key stops using it.
    one.put_with(&k, "5", ttl(HOUR)).await.unwrap();
    has("the lease before is gone", 1).await;
    one.put_with(&k, "6", keep()).await.unwrap();
    assert_ne!(lease(&cluster, &namespace, "k").await, first);
    one.put("k", "7").await.unwrap();
    has("a put for good leaves none", 0).await;
    one.put_with(&k, "8", keep()).await.unwrap();
    assert_eq!(lease(&cluster, &namespace, "k").await, 0, "it had none");

    // One that a native tool attached.
    let granted = etcdctl(&cluster, "lease grant 600").await;
    let foreign = granted.split_whitespace().nth(1).unwrap();
    etcdctl(&cluster, &format!("put --lease={foreign} {namespace}/k native")).await;
    one.put_with(&k, "9", keep()).await.unwrap();
    assert_eq!(lease(&cluster, &namespace, "k").await, i64::from_str_radix(foreign, 16).unwrap());

    // The session of a handle, kept by another one.
    one.put_with(&k, "10", PutOptions::default().with_expiry(Expiry::Session)).await.unwrap();
    two.put_with(&k, "11", keep()).await.unwrap();
    let found = two.get_with(&k, GetOptions::default().with_expiry()).await.unwrap().unwrap();
    assert_eq!((found.value, found.expiry), ("11".into(), Some(EntryExpiry::Session)));
    one.close().await.unwrap();
    assert_eq!(value(&two, "k").await, None);
}

#[tokio::test]
async fn a_transaction_keeps_expiries_in_one_round_trip_where_that_fits() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let version = store.put_with(&key("a"), "1", ttl(HOUR)).await.unwrap().version;
    let granted = lease(&cluster, &namespace, "a").await;
    let guard = store.lock("l").await.unwrap();
    let differs = Condition::value(key("a"), Compare::NotEqual, "never");
    for (what, conditions, succeeds) in [
        ("none", vec![], true),
        ("the version", vec![Condition::version(key("a"), Compare::Equal, version)], true),
        ("another version", vec![Condition::version(key("a"), Compare::Equal, Version::new(1))], false),
        ("absent", vec![Condition::absent(key("a"))], false),
        ("not a value", vec![differs.clone(), Condition::present(key("a"))], true),
        ("not a value, of an absent key", vec![differs, Condition::absent(key("new"))], true),
    ] {
        for fence in [None, Some(guard.fence())] {
            store.delete("new").await.unwrap();
            let present = store.get("a").await.unwrap().unwrap().version;
            let conditions = conditions.iter().cloned().map(|condition| match what {
                "the version" => Condition::version(key("a"), Compare::Equal, present),
                _ => condition,
            });
            let puts = [keeping("a", what.to_owned()), keeping("new", what.to_owned())];
            let mut txn = Txn::when(conditions).then(puts.clone()).or_else(puts);
            if let Some(fence) = fence {
                txn = txn.with_fence(fence);
            }
            let before = store.requests();
            let result = store.transact(txn).await.unwrap();
            assert_eq!(store.requests() - before, 1, "{what}");
            assert_eq!(result.succeeded, succeeds, "{what}");
            let [TxnOutcome::Put(_), TxnOutcome::Put(_)] = &result.outcomes[..] else { panic!("{result:?}") };
            for path in ["a", "new"] {
                assert_eq!(value(&store, path).await.unwrap(), what, "{path}");
            }
            assert_eq!(lease(&cluster, &namespace, "a").await, granted, "{what}");
            assert_eq!(lease(&cluster, &namespace, "new").await, 0, "{what}");
        }
    }
}

#[tokio::test]
async fn a_transaction_of_as_many_kept_expiries_as_the_server_takes_asks_first() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let paths: Vec<_> = (0..128).map(|at| format!("k/n{at:03}")).collect();
    let granted = etcdctl(&cluster, "lease grant 600").await;
    let foreign = granted.split_whitespace().nth(1).unwrap();
    for path in paths.iter().step_by(3) {
        etcdctl(&cluster, &format!("put --lease={foreign} {namespace}/{path} old")).await;
    }
    let foreign = i64::from_str_radix(foreign, 16).unwrap();
    let check = async |what: &str| {
        for (at, path) in paths.iter().enumerate().step_by(7) {
            assert_eq!(value(&store, path).await.unwrap(), what, "{path}");
            let expected = if at % 3 == 0 { foreign } else { 0 };
            assert_eq!(lease(&cluster, &namespace, path).await, expected, "{path}");
        }
    };
    let puts = |count: usize, value: &'static str| {
        paths.iter().take(count).map(|path| keeping(path, value)).collect::<Vec<_>>()
    };
    let before = store.requests();
    let _ = store.transact(Txn::always().then(puts(128, "then"))).await.unwrap();
    assert_eq!(store.requests() - before, 2);
    check("then").await;

    // With conditions on some of the keys; the other branch likewise.
    let differ = |count: usize, from: &'static str| {
        paths.iter().take(count).map(|path| Condition::value(key(path), Compare::NotEqual, from)).collect()
    };
    for (from, succeeds) in [("else", true), ("then", false)] {
        let conditions: Vec<_> = differ(40, from);
        let txn = Txn::when(conditions).then(puts(88, "then")).or_else(puts(88, "else"));
        let before = store.requests();
        assert_eq!(store.transact(txn).await.unwrap().succeeded, succeeds);
        assert_eq!(store.requests() - before, 3, "the conditions, the other keys, and the transaction");
    }
    assert_eq!(value(&store, "k/n000").await.unwrap(), "else");
    assert_eq!(lease(&cluster, &namespace, "k/n003").await, foreign);
    assert_eq!(lease(&cluster, &namespace, "k/n004").await, 0);
}

/// A key that comes and goes between the question and the write is neither lost nor given a wrong expiry.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_keeps_the_expiry_of_a_key_that_comes_and_goes() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (store, other) = (open(&url).await, open(&url).await);
    let moving = tokio::spawn(async move {
        for _ in 0..60 {
            other.put_with(&key("k"), "short", ttl(HOUR)).await.unwrap();
            other.delete("k").await.unwrap();
        }
        other.put_with(&key("k"), "short", ttl(HOUR)).await.unwrap();
    });
    let large = vec![b'v'; 64 << 10];
    let mut rounds = 0;
    while !moving.is_finished() {
        store.put_with(&key("k"), large.clone(), keep()).await.unwrap();
        rounds += 1;
    }
    moving.await.unwrap();
    assert!(rounds > 3, "{rounds}");
    store.put_with(&key("k"), large, keep()).await.unwrap();
    assert_ne!(lease(&cluster, &namespace, "k").await, 0);
}
