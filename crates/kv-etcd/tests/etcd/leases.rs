//! What lives by a lease goes with it, and only then; and no lease is left behind.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::scripted::{GrantRequest, LeaseRequest, Reply, Scripted};
use crate::common::{key, leases, namespace, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{
    Applied, Condition, ErrorKind, Expiry, LockLoss, LockOptions, Precondition, PutOptions, StoreExt, Txn,
    TxnOp, Version,
};
use kv_testkit::{Mode, Proxy};
use prost::Message;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn ttl() -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Ttl(HOUR))
}

async fn value(store: &EtcdStore, path: &str) -> Option<Vec<u8>> {
    store.get(path).await.unwrap().map(|entry| entry.value.to_vec())
}

#[tokio::test]
async fn a_dropped_put_leaves_the_old_value_or_the_new_one() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=20s")).await;
    for path in ["put", "then", "else"] {
        direct.put(path, "old").await.unwrap();
        // The answer is still on its way when the future that waits for it is dropped.
        proxy.set(Mode::Delay(SECOND)).await;
        let made = until("the write is made", 15 * SECOND, || async {
            value(&direct, path).await.unwrap() == b"new"
        });
        let put = TxnOp::put_expiring(key(path), "new", Expiry::Ttl(HOUR));
        let other = TxnOp::put_expiring(key("other"), "x", Expiry::Ttl(HOUR));
        let txn = match path {
            "then" => Txn::always().then([put]).or_else([other]),
            _ => Txn::when([Condition::absent(key(path))]).then([other]).or_else([put]),
        };
        let write = async {
            match path {
                "put" => drop(store.put_with(&key(path), "new", ttl()).await),
                _ => drop(store.transact(txn).await),
            }
        };
        tokio::select! {
            () = write => panic!("it was to be dropped"),
            () = made => {}
        }
        proxy.set(Mode::Forward).await;
    }
    // Whatever was to be revoked in the background is.
    store.close().await.unwrap();
    for path in ["put", "then", "else"] {
        assert_eq!(value(&direct, path).await.as_deref(), Some(&b"new"[..]), "{path}");
    }
}

#[tokio::test]
async fn leases_that_nothing_uses_are_revoked() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let a = key("a");
    let has = async |what: &str, count: usize| {
        until(what, 10 * SECOND, || async { leases(&cluster).await == count }).await;
    };
    store.put_with(&a, "1", ttl()).await.unwrap();
    has("one put, one lease", 1).await;
    store.put_with(&a, "2", ttl()).await.unwrap();
    has("the lease before is gone", 1).await;
    let refused = ttl().with_precondition(Precondition::At(Version::new(1)));
    store.put_with(&a, "3", refused).await.unwrap_err();
    has("a refused put leaves none", 1).await;
    store.put("a", "4").await.unwrap();
    has("a put for good leaves none", 0).await;

    let put = |path: &str| TxnOp::put_expiring(key(path), "x", Expiry::Ttl(HOUR));
    let txn = Txn::when([Condition::present(&a)]).then([put("a"), put("b")]).or_else([put("c")]);
    let _ = store.transact(txn).await.unwrap();
    has("the branch that did not run leaves none", 2).await;
    store.delete("a").await.unwrap();
    has("a delete leaves none", 1).await;
    store.delete_tree("").await.unwrap();
    has("a delete of the tree leaves none", 0).await;

    // Dropped while its lease is granted: the server may get to the revocation first.
    for _ in 0..40 {
        drop(tokio::time::timeout(Duration::ZERO, store.put_with(&a, "5", ttl())).await);
    }
    has("a dropped put leaves none", 0).await;
    let guard = store.lock("l").await.unwrap();
    has("a lock, one lease", 1).await;
    drop(tokio::time::timeout(SECOND, store.lock("l")).await);
    assert!(store.try_lock("l").await.unwrap().is_none());
    has("waiters that gave up leave none", 1).await;
    guard.unlock().await.unwrap();
    has("an unlock leaves none", 0).await;
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("s"), "1", session).await.unwrap();
    drop(store.lock("l").await.unwrap());
    has("the session alone", 1).await;
    store.close().await.unwrap();
    assert_eq!(leases(&cluster).await, 0, "a closed handle leaves none");
}

#[tokio::test]
async fn a_released_lock_leaves_its_lease_to_the_next_for_a_while() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "?lock_ttl=12s");
    let (store, rival) = (open(&url).await, open(&url).await);
    let first = store.lock("l").await.unwrap();
    let fence = first.fence();
    first.unlock().await.unwrap();
    let before = store.requests();
    let second = store.lock("l").await.unwrap();
    assert_eq!(store.requests() - before, 1, "one write");
    // The record has the same name, and is another one all the same.
    assert_eq!(second.fence().record(), fence.record());
    assert!(second.token() > fence.token());
    let put = |fence| PutOptions::default().with_fence(fence);
    let error = rival.put_with(&key("f"), "1", put(fence)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }));
    rival.put_with(&key("f"), "2", put(second.fence())).await.unwrap();
    let before = store.requests();
    second.unlock().await.unwrap();
    assert_eq!(store.requests() - before, 1, "one write");

    // One that is in use is not given out again, nor one of another time to live.
    let held = store.lock("l").await.unwrap();
    let other = store.lock_with(&key("m"), LockOptions::default().with_ttl(60 * SECOND)).await.unwrap();
    assert_eq!(leases(&cluster).await, 2);
    // Who waits gets it in between, also from who locks again at once.
    let waiting = tokio::spawn({
        let rival = rival.clone();
        async move { rival.lock("l").await.unwrap() }
    });
    until("it waits", 5 * SECOND, || async { leases(&cluster).await == 3 }).await;
    held.unlock().await.unwrap();
    let again = store.lock("l");
    let waited = tokio::time::timeout(5 * SECOND, waiting).await.unwrap().unwrap();
    waited.unlock().await.unwrap();
    again.await.unwrap().unlock().await.unwrap();
    drop(other);
    until("what is idle is given back", 10 * SECOND, || async { leases(&cluster).await == 0 }).await;

    let mut guards = Vec::new();
    for at in 0..12 {
        guards.push(store.lock(format!("many/{at}")).await.unwrap());
    }
    for guard in guards {
        guard.unlock().await.unwrap();
    }
    until("few are kept", 3 * SECOND, || async { leases(&cluster).await <= 8 }).await;
    store.close().await.unwrap();
    assert_eq!(leases(&cluster).await, 0, "a closed handle leaves none");
}

#[tokio::test]
async fn closing_takes_the_timeout_at_most_while_nothing_can_be_revoked() {
    let Some(cluster) = start(1).await else { return };
    for mode in [Mode::Hold, Mode::Refuse] {
        let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
        let store = open(&url(&cluster, &[proxy.endpoint()], &namespace(), "?timeout=1s")).await;
        let guard = store.lock("held").await.unwrap();
        proxy.set(mode).await;
        proxy.cut();
        // Leases of which nobody knows whether they were granted.
        store.put_with(&key("a"), "1", ttl()).await.unwrap_err();
        store.lock("l").await.unwrap_err();
        let begin = Instant::now();
        let error = store.close().await.unwrap_err();
        let after = begin.elapsed();
        assert!(after < 3 * SECOND / 2, "{mode:?}: {after:?}");
        assert_eq!(error.kind(), &ErrorKind::Unavailable, "{mode:?}: {error}");
        assert!(error.to_string().contains("could not be revoked"), "{mode:?}: {error}");
        drop(guard);
    }
}

#[tokio::test]
async fn what_is_let_go_during_an_outage_is_free_after_it() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=1s")).await;
    let long = || LockOptions::default().with_ttl(HOUR);
    let dropped = store.lock_with(&key("dropped"), long()).await.unwrap();
    let unlocked = store.lock_with(&key("unlocked"), long()).await.unwrap();
    let waited_for = direct.lock("waited for").await.unwrap();
    let k = key("waited for");
    let mut waiting = Box::pin(store.lock_with(&k, long()));
    assert!(tokio::time::timeout(SECOND, &mut waiting).await.is_err());

    proxy.set(Mode::Refuse).await;
    proxy.cut();
    drop((dropped, waiting));
    unlocked.unlock().await.unwrap_err();
    // How long the outage takes: longer than a few attempts.
    tokio::time::sleep(6 * SECOND).await;
    assert!(direct.lock_holder(&key("dropped")).await.unwrap().is_some());
    proxy.set(Mode::Forward).await;
    for path in ["dropped", "unlocked"] {
        let free = || async { direct.lock_holder(&key(path)).await.unwrap().is_none() };
        until(path, 15 * SECOND, free).await;
    }
    until("only the direct lock is left", 15 * SECOND, || async { leases(&cluster).await == 1 }).await;
    waited_for.unlock().await.unwrap();
}

#[tokio::test]
async fn a_call_waits_for_anothers_session_up_to_its_own_deadline() {
    let Some(cluster) = start(1).await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace(), "")).await;
    let session = |timeout| PutOptions::default().with_expiry(Expiry::Session).with_timeout(timeout);
    proxy.set(Mode::Hold).await;
    let (a, b) = (key("a"), key("b"));
    let patient = store.put_with(&a, "1", session(60 * SECOND));
    tokio::pin!(patient);
    assert!(tokio::time::timeout(SECOND / 10, &mut patient).await.is_err());
    let begin = Instant::now();
    let hurried = store.put_with(&b, "1", session(SECOND));
    let error = tokio::select! {
        _ = &mut patient => panic!("nothing gets through"),
        error = hurried => error.unwrap_err(),
    };
    assert!(begin.elapsed() < 3 * SECOND, "{:?}", begin.elapsed());
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::No), "{error}");
    proxy.set(Mode::Forward).await;
    patient.await.unwrap();
}

/// A runtime of one thread, on which everything stands still while that sleeps: a stopped process.
#[test]
fn a_waiter_that_stood_still_gets_no_lock_that_is_over() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(cluster) = runtime.block_on(start(1)) else { return };
    let namespace = namespace();
    let proxy = runtime.block_on(Proxy::start(cluster.node(1).endpoint())).unwrap();
    let direct = runtime.block_on(open(&url(&cluster, &cluster.endpoints(), &namespace, "")));
    let behind = url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=20s");
    let (opened, is_open) = tokio::sync::oneshot::channel();
    let (go, goes) = tokio::sync::oneshot::channel();
    let (queued, queues) = tokio::sync::oneshot::channel();
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(&behind).await;
            opened.send(()).unwrap();
            goes.await.unwrap();
            let stop = async {
                queues.await.unwrap();
                std::thread::sleep(6 * SECOND);
            };
            let options = LockOptions::default().with_ttl(2 * SECOND);
            let k = key("l");
            let (guard, ()) = tokio::join!(store.lock_with(&k, options), stop);
            let guard = guard.unwrap();
            let told = (guard.loss(), guard.token(), store.lock_holder(&key("l")).await.unwrap());
            guard.unlock().await.unwrap();
            told
        })
    });
    runtime.block_on(async {
        is_open.await.unwrap();
        // The answer that it is first in the queue takes a while, in which it stops.
        proxy.set(Mode::Delay(SECOND / 2)).await;
        go.send(()).unwrap();
        let is_there = || async { direct.lock_holder(&key("l")).await.unwrap().is_some() };
        until("it queues", 10 * SECOND, is_there).await;
        queued.send(()).unwrap();
        let over = || async { direct.lock_holder(&key("l")).await.unwrap().is_none() };
        until("its place is over", 6 * SECOND, over).await;
        proxy.set(Mode::Forward).await;
    });
    let (loss, token, holder) = stopped.join().unwrap();
    assert_eq!(loss, None);
    assert_eq!(holder.map(|holder| holder.token), Some(token));
}

#[tokio::test]
async fn a_maximum_hold_of_no_time_is_over_at_once() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "")).await;
    let k = key("l");
    let locking = store.lock_with(&k, LockOptions::default().with_max_hold(Duration::ZERO));
    let guard = tokio::time::timeout(5 * SECOND, locking).await.expect("it does not ask for ever").unwrap();
    assert_eq!(guard.loss(), Some(LockLoss::HeldTooLong));
    until("it is released", 5 * SECOND, || async { leases(&cluster).await == 0 }).await;
}

#[tokio::test]
async fn a_release_waits_for_no_lease_that_may_never_have_been_granted() {
    const EACH: usize = 40;
    let (asked, revoked) = (Arc::<Mutex<Vec<i64>>>::default(), Arc::<Mutex<Vec<i64>>>::default());
    let (grants, revocations) = (Arc::clone(&asked), Arc::clone(&revoked));
    let server = Scripted::start(move |method, message| match method {
        "LeaseGrant" => {
            let mut grants = grants.lock().unwrap();
            grants.push(GrantRequest::decode(message).unwrap().id);
            match grants.len().div_ceil(EACH) {
                1 => Some(Reply::Fail(7, "etcdserver: permission denied".to_owned())),
                // It may still be made.
                2 => Some(Reply::Fail(14, "etcdserver: request timed out".to_owned())),
                _ => None,
            }
        }
        "LeaseRevoke" => {
            let LeaseRequest { id } = LeaseRequest::decode(message).unwrap();
            revocations.lock().unwrap().push(id);
            let is_doubtful = grants.lock().unwrap().iter().take(2 * EACH).any(|failed| *failed == id);
            is_doubtful.then(|| Reply::Fail(5, "etcdserver: requested lease not found".to_owned()))
        }
        _ => None,
    })
    .await;
    let store = server.store("").await;
    for at in 0..2 * EACH {
        let error = store.lock(format!("failed/{at}")).await.unwrap_err();
        assert_eq!(error.applied(), Applied::No, "{error}");
    }
    drop(store.lock("l").await.unwrap());
    let granted = asked.lock().unwrap()[2 * EACH];
    until("it is released", 2 * SECOND, || async { revoked.lock().unwrap().contains(&granted) }).await;
    store.close().await.unwrap();
    let (asked, revoked) = (asked.lock().unwrap(), revoked.lock().unwrap());
    assert!(asked[..EACH].iter().all(|id| !revoked.contains(id)), "what was refused is looked for");
    assert!(asked[EACH..].iter().all(|id| revoked.contains(id)), "what may be there is not");
}
