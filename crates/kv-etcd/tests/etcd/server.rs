//! What the store does on a real server, beyond what every store does.

use std::time::Duration;

use crate::common::{key, next, server, until};
use futures_util::TryStreamExt;
use kv_etcd::kv_core::{
    Compare, Condition, DeleteOptions, DeleteTreeOptions, EntryExpiry, ErrorKind, Expiry, GetOptions,
    ListItem, ListOptions, LockLoss, LockOptions, LockWait, Precondition, Prefix, PutOptions, SessionState,
    Store, StoreExt, Txn, TxnOp, TxnOutcome, Version, WatchEvent, WatchOptions, WatchTarget,
};

const SECOND: Duration = Duration::from_secs(1);

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
    for precondition in [
        Precondition::Absent,
        Precondition::Present,
        Precondition::At(version),
        Precondition::Value("1".into()),
    ] {
        let options = PutOptions::default().with_precondition(precondition);
        let _ = store.put_with(&a, "1", options).await;
        cost("put with a precondition", 1);
    }
    let options = DeleteOptions::default().with_previous();
    assert_eq!(store.delete_with(&a, options).await.unwrap().previous.unwrap().value, "1");
    cost("delete with previous", 1);
    let txn = Txn::when([Condition::absent(&a), Condition::value(key("b"), Compare::NotEqual, "x")])
        .then([TxnOp::put(&a, "1"), TxnOp::get(&a)])
        .or_else([TxnOp::get(&a)]);
    assert!(store.transact(txn).await.unwrap().succeeded);
    cost("transaction", 1);
    let options = PutOptions::default().with_expiry(Expiry::Ttl(60 * SECOND));
    store.put_with(&a, "1", options).await.unwrap();
    cost("put with a time to live", 2);
    store.get_with(&a, GetOptions::default().with_expiry()).await.unwrap().unwrap();
    cost("get with expiry", 2);
    let many = (0..300).map(|n| TxnOp::put(key(&format!("many/{n}")), "x")).collect::<Vec<_>>();
    for some in many.chunks(100) {
        let _ = store.transact(Txn::always().then(some.to_vec())).await.unwrap();
    }
    cost("three transactions", 3);
    assert_eq!(store.keys("many").await.unwrap().len(), 300);
    cost("list of keys", 1);
    for (what, requests) in [("the first list, which finds how large entries are", 2), ("a list", 1)] {
        let listing = store.list("many").await.unwrap();
        assert_eq!(listing.try_collect::<Vec<_>>().await.unwrap().len(), 300);
        cost(what, requests);
    }
    assert_eq!(store.delete_tree("many").await.unwrap(), 300);
    cost("delete_tree of many", 1);
    assert_eq!(store.delete_tree("").await.unwrap(), 1);
    cost("delete_tree, and in the background the lease", 1);
}

#[tokio::test]
async fn a_transaction_knows_absent_from_empty_and_reads_its_own_writes() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    store.put("empty", "").await.unwrap();
    for (condition, expected) in [
        (Condition::value(key("none"), Compare::Equal, ""), false),
        (Condition::value(key("none"), Compare::NotEqual, ""), true),
        (Condition::value(key("none"), Compare::Less, "z"), false),
        (Condition::value(key("empty"), Compare::Equal, ""), true),
        (Condition::value(key("empty"), Compare::NotEqual, ""), false),
        (Condition::version(key("none"), Compare::Less, Version::new(u64::MAX)), false),
        (Condition::version(key("empty"), Compare::Less, Version::new(u64::MAX)), true),
        (Condition::created(key("none"), Compare::Equal, Version::ZERO), false),
        (Condition::created(key("none"), Compare::NotEqual, Version::ZERO), true),
    ] {
        let told = format!("{condition:?}");
        let txn = Txn::when([condition, Condition::present(key("empty"))]);
        assert_eq!(store.transact(txn).await.unwrap().succeeded, expected, "{told}");
    }
    let both = Txn::when([
        Condition::value(key("empty"), Compare::NotEqual, "x"),
        Condition::value(key("none"), Compare::NotEqual, "x"),
    ])
    .then([TxnOp::put(key("k"), "new"), TxnOp::get(key("k")), TxnOp::delete(key("empty"))])
    .or_else([TxnOp::get(key("k"))]);
    let result = store.transact(both.clone()).await.unwrap();
    assert!(result.succeeded);
    let TxnOutcome::Get(Some(read)) = &result.outcomes[1] else { panic!("{result:?}") };
    assert_eq!(read.value, "new");
    store.put("empty", "x").await.unwrap();
    let result = store.transact(both).await.unwrap();
    assert!(!result.succeeded);
    assert!(matches!(&result.outcomes[..], [TxnOutcome::Get(Some(_))]));
}

#[tokio::test]
async fn a_list_shows_one_state_and_skips_what_lies_deeper() {
    let Some(server) = server().await else { return };
    let namespace = crate::common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    for at in 0..300 {
        store.put(format!("d/{at:03}"), "v").await.unwrap();
    }
    store.put("d-", "before").await.unwrap();
    store.put("e", "after").await.unwrap();
    let _guard = other.lock("locked/only").await.unwrap();
    let before = store.requests();
    let children = store.children("").await.unwrap();
    let paths: Vec<_> = children.iter().map(|item| item.path().to_owned()).collect();
    assert_eq!(paths, ["d-", "d", "e"]);
    assert!(matches!(children[1], ListItem::Prefix(_)));
    assert_eq!(store.requests() - before, 2);

    let options =
        ListOptions::default().with_range(key("d/010")..=key("d/299")).with_limit(280).with_keys_only();
    let mut listing = store.list_with(&Prefix::new("d").unwrap(), options).await.unwrap();
    store.delete_tree("d").await.unwrap();
    let mut keys = Vec::new();
    while let Some(item) =
        std::future::poll_fn(|cx| kv_etcd::kv_core::Stream::poll_next(std::pin::Pin::new(&mut listing), cx))
            .await
    {
        keys.push(item.unwrap().path().to_owned());
    }
    assert_eq!(keys.len(), 280);
    assert_eq!((keys[0].as_str(), keys[279].as_str()), ("d/010", "d/289"));
}

#[tokio::test]
async fn pages_adapt_to_large_values() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    for at in 0..40 {
        store.put(format!("{at:02}"), vec![7; 1 << 20]).await.unwrap();
    }
    assert_eq!(store.entries("").await.unwrap().len(), 40);
}

#[tokio::test]
async fn a_watch_goes_on_where_the_list_ended() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    store.put("w/a", "1").await.unwrap();
    let target = || WatchTarget::from(Prefix::new("w").unwrap());
    let mut watch = store.watch_with(target(), WatchOptions::default().with_initial()).await.unwrap();
    let version = store.put("w/b", "2").await.unwrap();
    store.delete("w/a").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key.as_str() == "w/a"));
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == version));
    let WatchEvent::Delete(deletion) = next(&mut watch).await else { panic!() };
    assert_eq!(deletion.previous.unwrap().value, "1");
    let mut again = store.watch_with(target(), WatchOptions::default().with_from(version)).await.unwrap();
    assert!(matches!(next(&mut again).await, WatchEvent::Delete(_)));
}

#[tokio::test]
async fn expiry_follows_the_last_put() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let k = key("k");
    let put = |ttl| PutOptions::default().with_expiry(Expiry::Ttl(ttl));
    let granted = store.put_with(&k, "1", put(2500 * SECOND / 1000)).await.unwrap().granted_ttl;
    assert_eq!(granted, Some(3 * SECOND));
    store.put_with(&k, "2", put(60 * SECOND)).await.unwrap();
    let entry = store.get_with(&k, GetOptions::default().with_expiry()).await.unwrap().unwrap();
    assert!(matches!(entry.expiry, Some(EntryExpiry::Ttl { granted, .. }) if granted == 60 * SECOND));
    store.put("k", "3").await.unwrap();
    tokio::time::sleep(4 * SECOND).await;
    let entry = store.get_with(&k, GetOptions::default().with_expiry()).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.expiry), ("3".into(), Some(EntryExpiry::Never)));
    let error = store.put_with(&k, "4", put(SECOND)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TtlOutOfRange { .. }));

    store.put_with(&k, "5", put(2 * SECOND)).await.unwrap();
    let get = || async { store.get("k").await.unwrap().is_none() };
    until("the key expires", 5 * SECOND, get).await;
}

#[tokio::test]
async fn session_keys_live_as_long_as_the_handle() {
    let Some(server) = server().await else { return };
    let namespace = crate::common::namespace();
    let (one, two) = (server.open(&namespace, "?session_ttl=2s").await, server.open(&namespace, "").await);
    assert_eq!(one.session(), SessionState::Idle);
    let session = PutOptions::default().with_expiry(Expiry::Session);
    one.put_with(&key("s"), "1", session).await.unwrap();
    assert_eq!(one.session(), SessionState::Held);
    for store in [&one, &two] {
        let before = store.requests();
        let entry = store.get_with(&key("s"), GetOptions::default().with_expiry()).await.unwrap().unwrap();
        assert_eq!(entry.expiry, Some(EntryExpiry::Session), "every handle tells it from a time to live");
        assert_eq!(store.requests() - before, 1);
    }
    tokio::time::sleep(5 * SECOND).await;
    assert!(two.get("s").await.unwrap().is_some());
    one.close().await.unwrap();
    assert!(two.get("s").await.unwrap().is_none());
    assert_eq!(*one.get("s").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn locks_queue_fence_and_leave_no_trace() {
    let Some(server) = server().await else { return };
    let namespace = crate::common::namespace();
    let (one, two) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    // Entries below the name do not count, whatever they look like.
    one.put("l/1", "entry").await.unwrap();
    one.put("l/abc", "entry").await.unwrap();
    one.put("l/abc/1", "entry").await.unwrap();
    let first = one.lock_with(&key("l"), LockOptions::default().with_owner("me")).await.unwrap();
    let nested = two.try_lock("l/2").await.unwrap().unwrap();
    let holder = two.lock_holder(&key("l")).await.unwrap().unwrap();
    assert_eq!((holder.owner, holder.token), ("me".into(), first.token()));
    assert!(two.try_lock("l").await.unwrap().is_none());
    let short = LockOptions::default().with_wait(LockWait::UpTo(SECOND / 2));
    assert_eq!(*two.lock_with(&key("l"), short).await.unwrap_err().kind(), ErrorKind::Locked);
    let waiting = tokio::time::timeout(SECOND / 2, two.lock("l")).await;
    assert!(waiting.is_err());

    let fenced = || PutOptions::default().with_fence(first.fence());
    one.put_with(&key("f"), "1", fenced()).await.unwrap();
    let record = format!("l/{}", first.fence().record().rsplit('/').next().unwrap());
    for refused in [
        two.put(record.as_str(), "x").await.map(|_| ()),
        two.delete(record.as_str()).await.map(|_| ()),
        two.transact(Txn::always().then([TxnOp::put(key(&record), "x")])).await.map(|_| ()),
    ] {
        assert!(matches!(refused.unwrap_err().kind(), ErrorKind::InvalidKey { .. }));
    }
    assert!(two.get(record.as_str()).await.unwrap().is_none());
    assert!(two.transact(Txn::when([Condition::absent(key(&record))])).await.unwrap().succeeded);
    assert!(!two.transact(Txn::when([Condition::present(key(&record))])).await.unwrap().succeeded);

    // Records are visible to etcdctl alone.
    let records = async || match &server.cluster {
        Some(cluster) => {
            let line = format!("get --prefix --keys-only {namespace}/l/");
            crate::common::etcdctl(cluster, &line).await.split_whitespace().count()
        }
        None => 0,
    };
    let before = records().await;
    let waiter = tokio::spawn({
        let two = two.clone();
        async move { two.lock("l").await.unwrap() }
    });
    let queues = || async { before == 0 || records().await == before + 1 };
    until("the waiter queues", 5 * SECOND, queues).await;
    assert!(!waiter.is_finished());
    let fence = first.fence();
    first.unlock().await.unwrap();
    let second = waiter.await.unwrap();
    assert!(second.token() > fence.token());
    let stale = PutOptions::default().with_fence(fence.clone());
    assert!(matches!(
        one.put_with(&key("f"), "2", stale).await.unwrap_err().kind(),
        ErrorKind::NotHeld { .. }
    ));
    let txn = Txn::always().then([TxnOp::put(key("f"), "2")]).with_fence(fence);
    assert!(matches!(one.transact(txn).await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));

    drop((second, nested));
    let free = || async { one.lock_holder(&key("l")).await.unwrap().is_none() };
    until("a dropped guard releases", 5 * SECOND, free).await;
    let guard = one.lock("l").await.unwrap();
    assert_eq!(one.keys("").await.unwrap().len(), 4);
    let gone = one.delete_tree_with(&Prefix::new("l").unwrap(), DeleteTreeOptions::default()).await.unwrap();
    assert_eq!(gone, 3);
    let lost = tokio::time::timeout(SECOND, guard.lost()).await.unwrap();
    assert_eq!(lost, LockLoss::Removed);
    assert!(matches!(guard.unlock().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    let guard = one.lock("l").await.unwrap();
    one.close().await.unwrap();
    assert_eq!(guard.loss(), Some(LockLoss::Closed));
    assert!(two.lock_holder(&key("l")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_transaction_beyond_the_limit_is_refused_before_anything_is_sent() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let puts = |count: usize| (0..count).map(|at| TxnOp::put(key(&format!("{at}")), "v"));
    let conditions = |count: usize| (0..count).map(|at| Condition::absent(key(&format!("c/{at}"))));
    let _ = store.transact(Txn::always().then(puts(128))).await.unwrap();
    let _ = store.transact(Txn::when(conditions(64)).then(puts(64))).await.unwrap();
    let before = store.requests();
    for txn in [
        Txn::always().then(puts(129)),
        Txn::always().or_else(puts(129)),
        Txn::when(conditions(65)).then(puts(64)),
        Txn::when(conditions(129)),
    ] {
        let error = store.transact(txn).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TooLarge { max: 128, .. }), "{error}");
    }
    let big = TxnOp::put(key("big"), vec![7; (3 << 19) - (64 << 10)]);
    let error = store.transact(Txn::always().then([big])).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
    assert_eq!(store.requests(), before);
}

#[tokio::test]
async fn a_transaction_that_does_not_fit_one_request_asks_first() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    let differ = |count: usize| {
        (0..count).map(|at| Condition::value(key(&format!("c/{at:02}")), Compare::NotEqual, "x"))
    };
    let txn = |count: usize| {
        Txn::when(differ(count)).then([TxnOp::put(key("k"), "then")]).or_else([TxnOp::put(key("k"), "else")])
    };
    for (count, requests) in [(8, 1), (9, 2), (60, 2)] {
        for at in 0..count {
            store.put(format!("c/{at:02}"), "y").await.unwrap();
        }
        for (last, branch) in [("y", "then"), ("x", "else"), ("y", "then")] {
            store.put(format!("c/{:02}", count - 1), last).await.unwrap();
            let before = store.requests();
            assert_eq!(store.transact(txn(count)).await.unwrap().succeeded, branch == "then");
            assert_eq!(store.requests() - before, requests, "{count} conditions");
            assert_eq!(store.get("k").await.unwrap().unwrap().value, branch);
        }
    }
    // A branch that is repeated for each condition, and with that exceeds what a request may hold.
    let large = TxnOp::put(key("large"), vec![7; 1 << 20]);
    let txn = Txn::when(differ(2)).then([TxnOp::delete(key("large"))]).or_else([large]);
    assert!(store.transact(txn.clone()).await.unwrap().succeeded);
    store.put("c/01", "x").await.unwrap();
    assert!(!store.transact(txn).await.unwrap().succeeded);
    assert_eq!(store.get("large").await.unwrap().unwrap().value.len(), 1 << 20);
}

/// While keys change between the question and the transaction, it is still all or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_asks_first_is_isolated() {
    let Some(server) = server().await else { return };
    let namespace = crate::common::namespace();
    let store = server.open(&namespace, "").await;
    // Each round one of all conditions fails, another one each time; so the branch never runs.
    store.put("c/00", "x").await.unwrap();
    let other = server.open(&namespace, "").await;
    let moving = tokio::spawn(async move {
        for at in 0..200 {
            let (from, to) = (key(&format!("c/{:02}", at % 12)), key(&format!("c/{:02}", (at + 1) % 12)));
            let _ = other
                .transact(Txn::always().then([TxnOp::put(from, "y"), TxnOp::put(to, "x")]))
                .await
                .unwrap();
        }
    });
    let mut rounds = 0;
    while !moving.is_finished() || rounds == 0 {
        let conditions =
            (0..12).map(|at| Condition::value(key(&format!("c/{at:02}")), Compare::NotEqual, "x"));
        let txn = Txn::when(conditions).then([TxnOp::put(key("never"), "")]);
        assert!(!store.transact(txn).await.unwrap().succeeded, "round {rounds}");
        rounds += 1;
    }
    moving.await.unwrap();
    assert_eq!(store.get("never").await.unwrap(), None);
}

#[tokio::test]
async fn a_large_tree_is_counted_to_its_end() {
    if !kv_testkit::is_nightly() {
        return;
    }
    let Some(server) = server().await else { return };
    let namespace = crate::common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    for at in 0..402 {
        let ops = (0..100).map(|op| TxnOp::put(key(&format!("t/{at:03}/{op:02}")), "v"));
        let _ = store.transact(Txn::always().then(ops)).await.unwrap();
    }
    // Behind what is looked at in one request.
    let guard = other.lock("t/z").await.unwrap();
    let ttl = PutOptions::default().with_expiry(Expiry::Ttl(3600 * SECOND));
    store.put_with(&key("t/zz"), "v", ttl).await.unwrap();
    assert_eq!(store.delete_tree("t").await.unwrap(), 40_201);
    assert_eq!(tokio::time::timeout(SECOND, guard.lost()).await.unwrap(), LockLoss::Removed);
    if let Some(cluster) = &server.cluster {
        let none = || async { crate::common::leases(cluster).await == 0 };
        until("the lease behind is revoked too", 5 * SECOND, none).await;
    }
}
