//! Locks under what other programs, outages and a process that stands still do to them.

use std::time::{Duration, Instant};

use crate::common::{etcdctl, key, leases, namespace, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{ErrorKind, Fence, LockGuard, LockLoss, LockOptions, LockWait, PutOptions, StoreExt};
use kv_testkit::{Cluster, Mode, Proxy};

const SECOND: Duration = Duration::from_secs(1);

async fn fenced(store: &EtcdStore, fence: Fence) -> Result<(), ErrorKind> {
    let options = PutOptions::default().with_fence(fence);
    let put = store.put_with(&key("fenced"), "x", options).await;
    put.map(drop).map_err(|error| error.kind().clone())
}

/// The records of the lock `j` on the server, in the order they were created.
async fn records(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let line = format!("get --prefix --keys-only --sort-by=CREATE {namespace}/j/");
    etcdctl(cluster, &line).await.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

async fn loss(guard: &LockGuard) -> LockLoss {
    tokio::time::timeout(2 * SECOND, guard.lost()).await.expect("within a watch's latency")
}

#[tokio::test]
async fn a_record_that_is_written_over_is_a_loss_and_leaves_nothing() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (store, rival) = (open(&url).await, open(&url).await);
    let granted = etcdctl(&cluster, "lease grant 600").await;
    let foreign = granted.split_whitespace().nth(1).unwrap();
    for how in ["", &format!("--lease={foreign}")] {
        let guard = store.lock("j").await.unwrap();
        let record = guard.fence().record().to_owned();
        etcdctl(&cluster, &format!("put {how} {record} theirs")).await;
        // The server says so before the guard can know.
        assert_eq!(fenced(&rival, guard.fence()).await, Err(ErrorKind::NotHeld { loss: None }), "{how}");
        assert_eq!(loss(&guard).await, LockLoss::Removed, "{how}");
        let next = rival.lock("j").await.unwrap();
        assert!(matches!(guard.unlock().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }), "{how}");
        assert!(next.is_held() && fenced(&rival, next.fence()).await.is_ok());
        next.unlock().await.unwrap();
        let none = || async { records(&cluster, &namespace).await.is_empty() };
        until("nothing is left of it", 5 * SECOND, none).await;
    }
    let line = format!("lock {namespace}/j echo locked");
    let locked = etcdctl(&cluster, &line);
    assert_eq!(tokio::time::timeout(5 * SECOND, locked).await.expect("etcdctl is kept away"), "locked");

    // Written over with its lease kept it is what it was.
    let guard = store.lock("j").await.unwrap();
    etcdctl(&cluster, &format!("put --ignore-lease {} other-owner", guard.fence().record())).await;
    assert!(rival.try_lock("j").await.unwrap().is_none());
    assert!(guard.is_held() && fenced(&rival, guard.fence()).await.is_ok());
    assert_eq!(rival.lock_holder(&key("j")).await.unwrap().unwrap().owner, "other-owner");
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn who_waits_behind_a_record_that_is_written_over_goes_on() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let dying = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=1s")).await;
    let ttl = LockOptions::default().with_ttl(60 * SECOND);
    let guard = dying.lock_with(&key("j"), ttl).await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.lock("j").await.unwrap() }
    });
    until("it waits", 5 * SECOND, || async { records(&cluster, &namespace).await.len() == 2 }).await;
    // The holder is cut off, so that the one who waits is the one who sees it and cleans up.
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    etcdctl(&cluster, &format!("put {} theirs", guard.fence().record())).await;
    let next = tokio::time::timeout(5 * SECOND, waiting).await.expect("it is no rival any more").unwrap();
    assert!(next.token() > guard.token() && fenced(&store, next.fence()).await.is_ok());
    assert_eq!(fenced(&store, guard.fence()).await, Err(ErrorKind::NotHeld { loss: None }));
    let alone = || async { records(&cluster, &namespace).await == [next.fence().record()] };
    until("nothing is left of it", 5 * SECOND, alone).await;
}

#[tokio::test]
async fn what_nobody_saw_being_written_over_is_removed_by_the_next_one() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    // Entries whose names look like leases, written more than once, and not by a lock.
    let granted = etcdctl(&cluster, "lease grant 600").await;
    let lease = granted.split_whitespace().nth(1).unwrap();
    let entries = ["j/abc", "j/694d77aa9e38260f", &format!("j/{lease}")];
    for entry in entries {
        store.put(entry, "1").await.unwrap();
        store.put(entry, "2").await.unwrap();
    }
    let mut left = String::new();
    for compacts in [false, true] {
        let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
        let dying = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=1s")).await;
        let ttl = LockOptions::default().with_ttl(60 * SECOND);
        let guard = dying.lock_with(&key("j"), ttl).await.unwrap();
        left = guard.fence().record().to_owned();
        proxy.set(Mode::Refuse).await;
        proxy.cut();
        let put = etcdctl(&cluster, &format!("put {left} theirs -w json")).await;
        if compacts {
            let revision = put.split("\"revision\":").nth(1).unwrap();
            let revision = revision.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            etcdctl(&cluster, &format!("compact {revision}")).await;
        }
        // It is no rival any more, so that nobody waits behind it.
        let next = store.try_lock("j").await.unwrap().unwrap();
        next.unlock().await.unwrap();
        if !compacts {
            let gone = || async { !records(&cluster, &namespace).await.contains(&left) };
            until("nothing is left of it", 5 * SECOND, gone).await;
        }
    }
    // What its history does not tell from an entry is one. The command that README gives cures it.
    store.close().await.unwrap();
    let mut expected: Vec<_> = entries.iter().map(|entry| format!("{namespace}/{entry}")).collect();
    expected.push(left.clone());
    assert_eq!(records(&cluster, &namespace).await, expected);
    etcdctl(&cluster, &format!("del {left}")).await;
    expected.pop();
    assert_eq!(records(&cluster, &namespace).await, expected);
}

#[tokio::test]
async fn a_place_in_the_queue_that_is_written_over_is_taken_anew() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let stores = [open(&url).await, open(&url).await, open(&url).await];
    let guard = stores[0].lock("j").await.unwrap();
    let mut waiting = Vec::new();
    for store in &stores[1..] {
        let store = store.clone();
        waiting.push(tokio::spawn(async move { store.lock("j").await.unwrap() }));
        let queued = || async { records(&cluster, &namespace).await.len() == waiting.len() + 1 };
        until("it waits", 5 * SECOND, queued).await;
    }
    let second = records(&cluster, &namespace).await[1].clone();
    etcdctl(&cluster, &format!("put {second} theirs")).await;
    let anew = || async {
        let records = records(&cluster, &namespace).await;
        records.len() == 3 && !records.contains(&second)
    };
    until("it takes another place, behind the other", 5 * SECOND, anew).await;
    let first = guard.token();
    guard.unlock().await.unwrap();
    let third = tokio::time::timeout(5 * SECOND, waiting.pop().unwrap()).await.unwrap().unwrap();
    assert!(third.token() > first);
    tokio::time::timeout(SECOND, &mut waiting[0]).await.expect_err("both have it");
    let token = third.token();
    third.unlock().await.unwrap();
    let last = tokio::time::timeout(5 * SECOND, waiting.pop().unwrap()).await.unwrap().unwrap();
    assert!(last.token() > token);
}

/// How long the lock's record stays after its loss was told, up to a while.
async fn stays(direct: &EtcdStore, path: &str, told: Instant) -> Duration {
    until(path, 20 * SECOND, || async { direct.lock_holder(&key(path)).await.unwrap().is_none() }).await;
    told.elapsed()
}

#[tokio::test]
async fn an_expired_lock_is_given_away_only_after_its_grace() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let behind = url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s");
    let (store, closing) = (open(&behind).await, open(&behind).await);
    // Long enough that the server itself ends none of them in this test.
    let options = || LockOptions::default().with_ttl(8 * SECOND);
    let kept = store.lock_with(&key("kept"), options()).await.unwrap();
    let polled = store.lock_with(&key("polled"), options()).await.unwrap();
    let dropped = store.lock_with(&key("dropped"), options()).await.unwrap();
    let unlocked = store.lock_with(&key("unlocked"), options()).await.unwrap();
    let closed = closing.lock_with(&key("closed"), options()).await.unwrap();
    let grace = kept.grace();
    assert!(grace >= SECOND / 2, "{grace:?}");
    // Renewals arrive and nobody learns of it: the leases last longer than their holders know.
    proxy.set(Mode::DropReplies).await;
    let told = async |guard: &LockGuard| {
        let loss = tokio::time::timeout(10 * SECOND, guard.lost()).await.unwrap();
        assert_eq!(loss, LockLoss::Expired);
        Instant::now()
    };
    let (silent, late, by_drop, by_unlock, by_close) = tokio::join!(
        async {
            let told = told(&kept).await;
            stays(&direct, "kept", told).await
        },
        async {
            // It asks only when most of a time of grace has passed since the expiry.
            told(&kept).await;
            tokio::time::sleep(grace * 3 / 4).await;
            assert_eq!(polled.loss(), Some(LockLoss::Expired));
            stays(&direct, "polled", Instant::now()).await
        },
        async {
            let told = told(&dropped).await;
            drop(dropped);
            stays(&direct, "dropped", told).await
        },
        async {
            let told = told(&unlocked).await;
            let error = unlocked.unlock().await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }), "{error}");
            stays(&direct, "unlocked", told).await
        },
        async {
            let told = told(&closed).await;
            // It is not confirmed, as no answer comes.
            let closing = tokio::spawn(async move { drop(closing.close().await) });
            let after = stays(&direct, "closed", told).await;
            closing.await.unwrap();
            after
        },
    );
    assert!(silent >= grace && silent < grace + 2 * SECOND, "{silent:?} of {grace:?}");
    assert!(late >= grace && late < grace + 2 * SECOND, "asked late: {late:?} of {grace:?}");
    for (how, after) in [("drop", by_drop), ("unlock", by_unlock), ("close", by_close)] {
        assert!(after < grace / 2, "{how}: {after:?} of {grace:?}");
    }
}

/// A runtime of one thread, on which everything stands still while that sleeps: a stopped process.
#[test]
fn a_holder_that_stood_still_gives_nothing_away_at_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(cluster) = runtime.block_on(start(1)) else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let direct = runtime.block_on(open(&url));
    let (tell, told) = tokio::sync::oneshot::channel();
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(&url).await;
            let asked = Instant::now();
            let options = LockOptions::default().with_ttl(10 * SECOND);
            let guard = store.lock_with(&key("l"), options).await.unwrap();
            // Up to just before its end on the server.
            std::thread::sleep((9 * SECOND + SECOND / 10).saturating_sub(asked.elapsed()));
            assert_eq!(guard.loss(), Some(LockLoss::Expired));
            tell.send(Instant::now()).unwrap();
            tokio::time::sleep(5 * SECOND).await;
        });
    });
    let (after, grace) = runtime.block_on(async {
        let told = told.await.unwrap();
        (stays(&direct, "l", told).await, SECOND)
    });
    // The server ends it by itself not before 10 s.
    assert!(after >= grace * 8 / 10, "{after:?}");
    stopped.join().unwrap();
}

#[tokio::test]
async fn a_wait_is_over_in_time_and_one_that_was_queued_outlives_an_outage() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s&lock_ttl=3s")).await;
    let holder = direct.lock("l").await.unwrap();
    let lock = |wait| {
        let store = store.clone();
        tokio::spawn(async move {
            let begin = Instant::now();
            let options = LockOptions::default().with_wait(wait);
            (store.lock_with(&key("l"), options).await, begin.elapsed())
        })
    };
    let queued = [lock(LockWait::Forever), lock(LockWait::UpTo(2 * SECOND))];
    until("both wait", 2 * SECOND, || async { leases(&cluster).await == 3 }).await;
    for mode in [Mode::Refuse, Mode::Hold] {
        proxy.set(mode).await;
        proxy.cut();
        // What is not queued yet fails like any request.
        for wait in
            [LockWait::Forever, LockWait::Try, LockWait::UpTo(2 * SECOND), LockWait::UpTo(60 * SECOND)]
        {
            let (locked, after) = lock(wait).await.unwrap();
            let error = locked.unwrap_err();
            assert!(error.is_transient() && after < 3 * SECOND, "{mode:?} {wait:?}: {error} {after:?}");
        }
    }
    let [forever, bounded] = queued;
    let (locked, after) = bounded.await.unwrap();
    assert_eq!(locked.unwrap_err().kind(), &ErrorKind::Locked);
    assert!(after < 5 * SECOND, "the wait and one request: {after:?}");

    // By now its place is lost with its lease, and the lock is free before the outage ends.
    until("its lease is over", 10 * SECOND, || async { leases(&cluster).await == 1 }).await;
    holder.unlock().await.unwrap();
    assert!(!forever.is_finished(), "it was queued once");
    proxy.set(Mode::Forward).await;
    let (locked, _) = tokio::time::timeout(10 * SECOND, forever).await.expect("it goes on").unwrap();
    locked.unwrap().unlock().await.unwrap();
    until("nothing is left", 10 * SECOND, || async { leases(&cluster).await == 0 }).await;
}
