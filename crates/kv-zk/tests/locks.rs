//! Locks beyond what every store's do: what they leave behind, outages, and the grace of a holder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;
#[path = "common/fake.rs"]
mod fake;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{key, namespace, open, until, with};
use fake::{CREATE, DELETE, Fake, GET_CHILDREN, GET_CHILDREN_STAT, SYNC, made, names, stat};
use futures_util::future::join_all;
use kv_testkit::{Cluster, Mode, Proxy, require_or_skip};
use kv_zk::ZkStore;
use kv_zk::kv_core::{
    Applied, ErrorKind, Expiry, LockLoss, LockOptions, LockWait, PutOptions, SessionState, Store, StoreExt,
};

common::on_each_client!(
    locks_leave_no_nodes_behind,
    what_others_put_where_a_lock_was_stays,
    a_wait_that_is_not_queued_fails_like_any_request,
    a_queued_wait_outlives_outages_and_ends_in_time,
    an_expired_holder_has_its_grace,
    a_session_key_of_a_lost_session_is_put_again,
    an_owner_that_is_too_large_is_refused_before_it_is_sent,
    a_record_that_comes_after_a_break_is_taken_away_too,
);

const SECOND: Duration = Duration::from_secs(1);

async fn cluster() -> Option<Cluster> {
    Some(require_or_skip(env!("CARGO_MANIFEST_DIR"))?.start().await.unwrap())
}

/// A store straight on the server, and one behind a proxy, on one namespace.
async fn both(cluster: &Cluster, client: &str, query: &str) -> (ZkStore, ZkStore, Proxy) {
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let namespace = namespace();
    let direct = open(&with(&cluster.url().unwrap(), client, &namespace, query)).await;
    let behind = cluster.url_of(&[proxy.endpoint()]).unwrap();
    let behind = open(&with(&behind, client, &namespace, query)).await;
    (direct, behind, proxy)
}

/// The names of all nodes below one, by another tool.
async fn nodes(cluster: &Cluster, path: &str) -> Vec<String> {
    let line = format!("zkCli.sh -server 127.0.0.1:2181 ls -R {path} 2>/dev/null");
    let listed = cluster.node(1).exec(&["sh", "-c", &line]).await.unwrap();
    let below = format!("{path}/");
    listed.lines().map(str::trim).filter(|line| line.starts_with(&below)).map(str::to_owned).collect()
}

fn waiting(wait: LockWait) -> LockOptions {
    LockOptions::default().with_wait(wait)
}

async fn locks_leave_no_nodes_behind(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let namespace = namespace();
    let url = cluster.url().unwrap();
    let store = open(&with(&url, client, &namespace, "")).await;
    let other = open(&with(&url, client, &namespace, "")).await;
    // So that the namespace itself stays.
    store.put("kept", "x").await.unwrap();
    let locks = (0..100).map(|at| {
        let (store, other) = (store.clone(), other.clone());
        async move {
            let name = format!("locks/{}/{at}", at % 3);
            let guard = store.lock(name.as_str()).await.unwrap();
            // Some are wanted by others, who give up or get them.
            if at % 4 == 0 {
                let tried = other.lock_with(&key(&name), waiting(LockWait::Try)).await;
                assert_eq!(tried.unwrap_err().kind(), &ErrorKind::Locked);
            }
            let next = (at % 5 == 0).then(|| {
                let other = other.clone();
                tokio::spawn(async move { other.lock(name.as_str()).await.unwrap().unlock().await })
            });
            match at % 2 {
                0 => guard.unlock().await.unwrap(),
                _ => drop(guard),
            }
            if let Some(next) = next {
                next.await.unwrap().unwrap();
            }
        }
    });
    join_all(locks).await;
    let root = format!("/{namespace}");
    let kept = format!("{root}/kept");
    if client == "zookeeper-client" {
        let begin = Instant::now();
        loop {
            let left = nodes(&cluster, &root).await;
            if left == [kept.clone()] {
                break;
            }
            assert!(begin.elapsed() < 20 * SECOND, "{left:?}");
        }
    } else {
        // Without multi they cannot be told from keys that others make there in the same moment.
        let left = nodes(&cluster, &root).await;
        assert!(left.iter().all(|path| !path.contains("-lock-")) && left.len() == 105, "{left:?}");
    }
    // What the handles remember of the nodes is not taken for true.
    store.put("locks/1/1/below", "x").await.unwrap();
    other.lock("locks/0/0").await.unwrap().unlock().await.unwrap();
    assert_eq!(store.get("locks/1/1/below").await.unwrap().unwrap().value, "x");
}

/// Handles lock, put and delete at one place at once: no put is lost with the node of a lock.
async fn what_others_put_where_a_lock_was_stays(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let namespace = namespace();
    let url = cluster.url().unwrap();
    let locker = open(&with(&url, client, &namespace, "")).await;
    // Their keys are at version 0 of their nodes.
    let writer = if cfg!(feature = "zookeeper-async") { "zookeeper-async" } else { client };
    let writer = open(&with(&url, writer, &namespace, "")).await;
    let locking = tokio::spawn(async move {
        for _ in 0..150 {
            locker.lock("a/b").await.unwrap().unlock().await.unwrap();
        }
    });
    let mut rounds = 0;
    while !locking.is_finished() {
        for name in ["a/b", "a", "a/b/c"] {
            let version = writer.put(name, format!("{rounds}")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(rounds % 4)).await;
            let entry = writer.get(name).await.unwrap();
            assert_eq!(entry.map(|entry| entry.version), Some(version), "{name} in round {rounds}");
            assert!(writer.delete(name).await.unwrap());
        }
        rounds += 1;
    }
    locking.await.unwrap();
}

async fn a_wait_that_is_not_queued_fails_like_any_request(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (_direct, behind, proxy) = both(&cluster, client, "timeout=2s&session_timeout=20s").await;
    behind.lock("l").await.unwrap().unlock().await.unwrap();
    for mode in [Mode::Hold, Mode::Refuse] {
        proxy.set(mode).await;
        if mode == Mode::Refuse {
            proxy.cut();
        }
        for wait in [LockWait::Forever, LockWait::UpTo(60 * SECOND), LockWait::Try] {
            let begin = Instant::now();
            let error = behind.lock_with(&key("l"), waiting(wait)).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{mode:?}: {error}");
            assert_eq!(error.applied(), Applied::No, "{error}");
            assert!(begin.elapsed() < 4 * SECOND, "{mode:?} {wait:?}: {:?}", begin.elapsed());
        }
        proxy.set(Mode::Forward).await;
        until("it works again", 20 * SECOND, || async { behind.put("k", "x").await.is_ok() }).await;
    }
    behind.lock_with(&key("l"), waiting(LockWait::UpTo(10 * SECOND))).await.unwrap().unlock().await.unwrap();
}

async fn a_queued_wait_outlives_outages_and_ends_in_time(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "timeout=3s&session_timeout=6s").await;
    let held = direct.lock("l").await.unwrap();
    // So that the loss of the session is told.
    let session = PutOptions::default().with_expiry(Expiry::Session);
    behind.put_with(&key("here"), "x", session).await.unwrap();
    // It makes its record, looks at the others and watches the one before.
    let queue = |wait| {
        let behind = behind.clone();
        tokio::spawn(async move {
            let begin = Instant::now();
            (behind.lock_with(&key("l"), waiting(wait)).await, begin.elapsed())
        })
    };
    let queued = |before: u64| {
        let behind = &behind;
        until("it is queued", 2 * SECOND, move || async move { behind.requests() >= before + 3 })
    };
    let before = behind.requests();
    let patient = queue(LockWait::Forever);
    queued(before).await;
    let before = behind.requests();
    let short = queue(LockWait::UpTo(3 * SECOND));
    queued(before).await;
    proxy.set(Mode::Hold).await;
    let (ended, took) = short.await.unwrap();
    ended.unwrap_err();
    assert!(took < 7 * SECOND, "a wait of 3 s with requests of 3 s took {took:?}");
    // Longer than the session lives: its record is lost.
    until("the session is lost", 20 * SECOND, || async { behind.session() == SessionState::Lost }).await;
    held.unlock().await.unwrap();
    assert!(!patient.is_finished(), "a queued wait ended with the outage");
    proxy.set(Mode::Forward).await;
    let (guard, _) = tokio::time::timeout(30 * SECOND, patient).await.unwrap().unwrap();
    let guard = guard.unwrap();
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
}

/// The whole holder stands still until its lock has expired, and goes on before the servers end its
/// session.
async fn an_expired_holder_has_its_grace(client: &str) {
    let Some(cluster) = cluster().await else { return };
    for says_so in [false, true] {
        let url = with(&cluster.url().unwrap(), client, &namespace(), "session_timeout=20s");
        let direct = open(&url).await;
        let (held, is_held) = tokio::sync::oneshot::channel();
        let (told, is_told) = tokio::sync::oneshot::channel();
        let (end, ending) = tokio::sync::oneshot::channel::<()>();
        let holder = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let store = open(&url).await;
                let guard = store.lock("l").await.unwrap();
                held.send(()).unwrap();
                std::thread::sleep(14 * SECOND);
                let loss = guard.lost().await;
                assert!(matches!(loss, LockLoss::Expired | LockLoss::SessionLost), "{loss:?}");
                told.send((Instant::now(), guard.grace())).unwrap();
                if says_so {
                    drop(guard);
                    let _ = ending.await;
                } else {
                    let _ = ending.await;
                    drop(guard);
                }
            });
        });
        is_held.await.unwrap();
        let next = tokio::time::timeout(60 * SECOND, direct.lock("l")).await.unwrap().unwrap();
        let won = Instant::now();
        let (told, grace) = is_told.await.expect("the loss is told before the next one holds");
        let after = won.saturating_duration_since(told);
        assert!(grace >= 7 * SECOND, "{grace:?}");
        if says_so {
            assert!(after < grace / 2, "dropping the guard ends the wait: {after:?}");
        } else {
            assert!(after >= grace, "held by the next one {after:?} after the loss was told");
        }
        end.send(()).unwrap();
        holder.join().unwrap();
        next.unlock().await.unwrap();
    }
}

async fn a_session_key_of_a_lost_session_is_put_again(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "session_timeout=6s&timeout=3s").await;
    let session = PutOptions::default().with_expiry(Expiry::Session);
    behind.put_with(&key("here"), "1", session.clone()).await.unwrap();
    proxy.set(Mode::Hold).await;
    until("the session is lost", 20 * SECOND, || async { behind.session() == SessionState::Lost }).await;
    assert!(direct.get("here").await.unwrap().is_some(), "the server still has it");
    proxy.set(Mode::Forward).await;
    let begin = Instant::now();
    loop {
        match behind.put_with(&key("here"), "2", session.clone()).await {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.applied()),
                    (&ErrorKind::Unavailable, Applied::No),
                    "{error}"
                );
            }
        }
        assert!(begin.elapsed() < 20 * SECOND);
    }
    let entry = direct.get("here").await.unwrap().unwrap();
    assert_eq!(entry.value, "2");
    assert_eq!(behind.session(), SessionState::Held);
}

async fn an_owner_that_is_too_large_is_refused_before_it_is_sent(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let store = open(&with(&cluster.url().unwrap(), client, &namespace(), "")).await;
    store.put("k", "x").await.unwrap();
    let max = store.capabilities().limits.max_value;
    // As large as it may be, and below the longest name.
    let long = format!("{}/l", "n".repeat(500));
    let options = LockOptions::default().with_owner(vec![7; max]);
    let guard = store.lock_with(&key(&long), options).await.unwrap();
    assert_eq!(store.lock_holder(&key(&long)).await.unwrap().unwrap().owner.len(), max);
    guard.unlock().await.unwrap();
    store.put(&key(&long), vec![7; max]).await.unwrap();
    let before = store.requests();
    let options = LockOptions::default().with_owner(vec![7; 2 << 20]);
    let error = store.lock_with(&key("l"), options).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
    assert_eq!(store.requests(), before);
    store.put("k", "y").await.unwrap();
}

/// The server it is with after the break does not have the record yet: it has it once it has been asked
/// for what the others have.
async fn a_record_that_comes_after_a_break_is_taken_away_too(client: &str) {
    #[derive(Default)]
    struct Seen {
        record: Option<String>,
        caught_up: bool,
        removed: bool,
    }
    let seen = Arc::<Mutex<Seen>>::default();
    let state = Arc::clone(&seen);
    let fake = Fake::start(move |request| {
        let mut seen = state.lock().unwrap();
        let (op, path) = (request.op, request.path.as_str());
        if op == CREATE && !path.starts_with("/t/l/") {
            return Some(vec![(0, made(path))]);
        }
        if op == CREATE {
            seen.record = Some(format!("{path}0000000001"));
        }
        let record = seen.record.clone()?;
        if request.connection == 0 {
            return Some(Vec::new());
        }
        match op {
            SYNC => seen.caught_up = true,
            DELETE if path == record => seen.removed = true,
            DELETE => seen.caught_up = true,
            GET_CHILDREN | GET_CHILDREN_STAT => {
                let there = [record.trim_start_matches("/t/l/")];
                let mut answer = names(if seen.caught_up { &there } else { &[] });
                if op == GET_CHILDREN_STAT {
                    answer.extend(stat());
                }
                return Some(vec![(0, answer)]);
            }
            _ => return None,
        }
        (seen.removed && op == DELETE).then(|| vec![(0, Vec::new())])
    })
    .await;
    // No heartbeat comes in between.
    let query = "timeout=20s&session_timeout=40s";
    let store = open(&format!("zk://{}/t?client={client}&{query}", fake.address)).await;
    let locking = tokio::spawn({
        let store = store.clone();
        async move { store.lock("l").await }
    });
    until("the record is asked for", 5 * SECOND, || async { seen.lock().unwrap().record.is_some() }).await;
    locking.abort();
    fake.cut();
    until("the record is taken away", 10 * SECOND, || async { seen.lock().unwrap().removed }).await;
}
