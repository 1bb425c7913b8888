//! Seeing locks beyond what every store shows: breaks of the watcher's connection, what it costs, and
//! records of other programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::time::Duration;

use common::{key, namespace, open, server, until, with};
use futures_util::TryStreamExt;
use kv_testkit::{Mode, Proxy, require_or_skip};
use kv_zk::ZkStore;
use kv_zk::kv_core::{
    ErrorKind, Expiry, FencingToken, LockChanges, LockHolder, LockLoss, LockOptions, LockState, PutOptions,
    SessionState, Store, StoreExt,
};

common::on_each_client!(
    tokens_never_fall_over_breaks_and_lost_sessions,
    waiters_wake_no_lock_watch,
    a_hold_is_broken_by_its_record_alone,
    listing_locks_costs_a_request_for_each_node,
);

const SECOND: Duration = Duration::from_secs(1);

/// What a lock watch tells next.
async fn next(changes: &mut LockChanges) -> Option<LockHolder> {
    tokio::time::timeout(30 * SECOND, changes.next()).await.expect("a change").unwrap().unwrap()
}

/// Reads until a lock watch tells this holder.
async fn until_told(changes: &mut LockChanges, greatest: &mut u64, wanted: Option<FencingToken>) {
    loop {
        let holder = next(changes).await;
        if let Some(holder) = &holder {
            assert!(holder.token.get() >= *greatest, "{} after {greatest}", holder.token);
            *greatest = holder.token.get();
        }
        if holder.map(|holder| holder.token) == wanted {
            return;
        }
    }
}

async fn locks(store: &ZkStore, prefix: &str) -> Vec<LockState> {
    store.locks(prefix).await.unwrap().try_collect().await.unwrap()
}

async fn tokens_never_fall_over_breaks_and_lost_sessions(client: &str) {
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let cluster = servers.start().await.unwrap();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let (namespace, query) = (namespace(), "timeout=3s&session_timeout=6s");
    let direct = open(&with(&cluster.url().unwrap(), client, &namespace, query)).await;
    let behind = open(&with(&cluster.url_of(&[proxy.endpoint()]).unwrap(), client, &namespace, query)).await;
    let mut changes = behind.watch_lock("l").await.unwrap();
    assert_eq!(next(&mut changes).await, None, "nobody holds it yet");
    let mut greatest = 0;
    for loses_session in [false, true, false, true] {
        // So that the loss of the session is told.
        let session = PutOptions::default().with_expiry(Expiry::Session);
        behind.put_with(&key("here"), "x", session).await.unwrap();
        // One is held before the break, another one after it.
        let before = direct.lock("l").await.unwrap();
        until_told(&mut changes, &mut greatest, Some(before.token())).await;
        proxy.set(Mode::Refuse).await;
        proxy.cut();
        before.unlock().await.unwrap();
        for _ in 0..3 {
            direct.lock("l").await.unwrap().unlock().await.unwrap();
        }
        let after = direct.lock("l").await.unwrap();
        if loses_session {
            let is_lost = || async { behind.session() == SessionState::Lost };
            until("the session is lost", 20 * SECOND, is_lost).await;
        }
        proxy.set(Mode::Forward).await;
        until_told(&mut changes, &mut greatest, Some(after.token())).await;
        after.unlock().await.unwrap();
        until_told(&mut changes, &mut greatest, None).await;
        let works = || async { behind.delete("here").await.is_ok() };
        until("the watcher's handle works again", 20 * SECOND, works).await;
    }
    behind.close().await.unwrap();
    let end = tokio::time::timeout(5 * SECOND, changes.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(*end.kind(), ErrorKind::Closed, "{end}");
}

async fn waiters_wake_no_lock_watch(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let direct = server.open(client, &namespace, "").await;
    // Heartbeats are not counted, and rare ones are in nobody's way.
    let watcher = server.open(client, &namespace, "session_timeout=40s").await;
    let guard = direct.lock("l").await.unwrap();
    let mut changes = watcher.watch_lock("l").await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().token, guard.token());
    let before = watcher.requests();
    // Somebody reads the watch all the time.
    let watching = tokio::spawn(async move { (next(&mut changes).await, changes) });
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let direct = direct.clone();
            tokio::spawn(async move { direct.lock("l").await })
        })
        .collect();
    let queued = || async {
        let locks = locks(&direct, "").await;
        locks[0].waiters.as_ref().unwrap().len() == 20
    };
    until("all of them wait", 20 * SECOND, queued).await;
    for waiting in &waiting[1..] {
        waiting.abort();
    }
    until("one of them waits", 20 * SECOND, || async {
        locks(&direct, "").await[0].waiters.as_ref().unwrap().len() == 1
    })
    .await;
    assert_eq!(watcher.requests(), before, "waiters came and went, and the holder stayed");
    assert!(!watching.is_finished());
    guard.unlock().await.unwrap();
    let holder = waiting.into_iter().next().unwrap().await.unwrap().unwrap();
    let (told, mut changes) = watching.await.unwrap();
    assert!(told.is_none_or(|told| told.token == holder.token()));
    holder.unlock().await.unwrap();
    until_told(&mut changes, &mut 0, None).await;
}

async fn a_hold_is_broken_by_its_record_alone(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let (store, other) =
        (server.open(client, &namespace, "").await, server.open(client, &namespace, "").await);
    store.put("l", "the entry").await.unwrap();
    let guard = store.lock_with(&key("l"), LockOptions::default().with_owner("holder")).await.unwrap();
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.lock_with(&key("l"), LockOptions::default().with_owner("waiter")).await }
    });
    let queued = || async { locks(&other, "").await[0].waiters.as_ref().unwrap().len() == 1 };
    until("one waits", 20 * SECOND, queued).await;
    let state = locks(&other, "").await.remove(0);
    let (holder, waiter) = (state.holder.unwrap(), state.waiters.unwrap().remove(0));
    assert_eq!((holder.owner.as_ref(), waiter.owner.as_ref()), (&b"holder"[..], &b"waiter"[..]));
    // What the server's own tools show of it.
    let record = guard.fence().record().rsplit('/').next().unwrap().to_owned();
    let native = holder.native.unwrap();
    assert!(native.starts_with(&format!("node {record}, session 0x")), "{native}");
    assert_ne!(Some(&native), waiter.native.as_ref());
    // Who waits does not hold it, and nothing of a lock is broken twice.
    assert!(!other.break_lock("l", waiter.token).await.unwrap());
    assert!(guard.is_held() && !waiting.is_finished());
    assert!(other.break_lock("l", holder.token).await.unwrap());
    let loss = tokio::time::timeout(10 * SECOND, guard.lost()).await.unwrap();
    assert_eq!(loss, LockLoss::Removed);
    assert!(!other.break_lock("l", holder.token).await.unwrap());
    let next = tokio::time::timeout(10 * SECOND, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(next.token(), waiter.token, "the record of who waited is the one that holds");
    assert!(next.is_held());
    assert_eq!(store.get("l").await.unwrap().unwrap().value, "the entry");
    let error = other.break_lock(format!("l/{record}").as_str(), holder.token).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
}

async fn listing_locks_costs_a_request_for_each_node(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "").await;
    // Its own heartbeats are not counted, and rare ones are in nobody's way.
    let other = server.open(client, &namespace, "session_timeout=40s").await;
    for at in 0..10 {
        store.put(format!("a/{at}"), "x").await.unwrap();
    }
    let guards = [store.lock("a/3").await.unwrap(), store.lock("b/c").await.unwrap()];
    let before = other.requests();
    let found = locks(&other, "").await;
    let names: Vec<_> = found.iter().map(|lock| lock.key.as_str()).collect();
    assert_eq!(names, ["a/3", "b/c"]);
    // The namespace, a and the ten below it, b, and c; each record; and what makes it no older than the call.
    let nodes = 1 + 1 + 10 + 1 + 1;
    let catching_up = u64::from(client == "zookeeper-client");
    assert_eq!(other.requests() - before, nodes + 2 + catching_up);
    for guard in guards {
        guard.unlock().await.unwrap();
    }
}
