//! Locks whose holder is cut off or stands still, and waits for locks in outages.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kv_consul::ConsulStore;
use kv_consul::kv_core::{
    ErrorKind, LockGuard, LockLoss, LockOptions, LockWait, Precondition, PutOptions, StoreExt,
};
use kv_testkit::{Mode, Proxy};
use tokio::sync::watch;

use crate::common::script::{Act, Scripted, answer, applied, json, refused};
use crate::common::{LOCK_FLAG, SECOND, key, open, own_server, until};

fn up_to(wait: Duration) -> LockOptions {
    LockOptions::default().with_wait(LockWait::UpTo(wait))
}

/// When a rival that waits has the lock.
fn rival(store: &Arc<ConsulStore>, name: &'static str) -> tokio::task::JoinHandle<Instant> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let guard = store.lock(name).await.unwrap();
        let had_at = Instant::now();
        guard.unlock().await.unwrap();
        had_at
    })
}

/// Consul ends a session only after twice its time to live, and this side knows the loss before its end: what
/// is in between is there for the holder, and must not be given away.
#[tokio::test]
async fn an_expired_lock_is_kept_through_its_grace_unless_the_holder_lets_go() {
    let Some(server) = own_server().await else { return };
    let proxy = Proxy::start(server.endpoint()).await.unwrap();
    let url = server.url_at(&proxy.endpoint(), "app", "timeout=2s&lock_ttl=40s&lock_delay=0s");
    let ours = open(&url).await;
    let closed = open(&url).await;
    let rivals = Arc::new(server.open("app", "").await);
    let mut guards: Vec<LockGuard> = Vec::new();
    for name in ["kept", "dropped", "unlocked"] {
        guards.push(ours.lock(name).await.unwrap());
    }
    let closing = closed.lock("closed").await.unwrap();
    let grace = closing.grace();
    assert_eq!(grace, SECOND * 2);
    proxy.set(Mode::Hold).await;
    let waiting = ["kept", "dropped", "unlocked", "closed"].map(|name| rival(&rivals, name));
    // The one that is kept is asked last: its grace counts from then.
    for guard in [&closing].into_iter().chain(guards.iter().rev()) {
        let loss = tokio::time::timeout(SECOND * 45, guard.lost()).await.unwrap();
        assert_eq!(loss, LockLoss::Expired);
    }
    let told = Instant::now();
    proxy.set(Mode::Forward).await;
    let unlocked = guards.pop().unwrap();
    drop(guards.pop());
    assert!(matches!(unlocked.unlock().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    closed.close().await.unwrap();
    let mut had_at = Vec::new();
    for waiting in waiting {
        had_at.push(tokio::time::timeout(SECOND * 20, waiting).await.unwrap().unwrap() - told);
    }
    assert!(had_at[0] >= grace - SECOND / 10, "the lock that was kept went after {:?}", had_at[0]);
    assert!(had_at[1..].iter().all(|after| *after < grace), "those let go went after {had_at:?}");
}

#[tokio::test]
async fn a_wait_up_to_a_time_ends_in_an_outage() {
    let Some(server) = own_server().await else { return };
    let proxy = Proxy::start(server.endpoint()).await.unwrap();
    let url = server.url_at(&proxy.endpoint(), "app", "timeout=3s&lock_ttl=60s");
    let (holder, waiter) = (server.open("app", "").await, open(&url).await);
    let guard = holder.lock("l").await.unwrap();
    let begin = Instant::now();
    let name = key("l");
    let mut waiting = std::pin::pin!(waiter.lock_with(&name, up_to(SECOND * 3)));
    tokio::select! {
        _ = &mut waiting => panic!("it is held"),
        () = until("it should wait", SECOND * 10, || async { waiter.queries() == 1 }) => {}
    }
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    waiting.await.unwrap_err();
    assert!(begin.elapsed() < SECOND * 13 / 2, "{:?}", begin.elapsed());
    // One that is not queued fails like any request, however long it would wait.
    for mode in [Mode::Refuse, Mode::Hold] {
        proxy.set(mode).await;
        proxy.cut();
        let begin = Instant::now();
        let error = waiter.lock("other").await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(begin.elapsed() < SECOND * 4, "{:?}", begin.elapsed());
    }
    guard.unlock().await.unwrap();
}

/// A server where another holds the lock until its waiter asks for a session, which takes it three requests.
#[tokio::test]
async fn a_wait_that_is_queued_outlives_the_loss_of_the_request_for_its_session() {
    let (free, freed) = watch::channel(false);
    let sessions = AtomicU32::new(0);
    let held = move |index: u64| {
        let kv = format!(
            r#"{{"Key":"l/.lock","Value":"","Flags":{LOCK_FLAG},"Session":"other","CreateIndex":1,"ModifyIndex":{index}}}"#
        );
        format!(r#"{{"Results":[{{"KV":{kv}}}],"Errors":null}}"#)
    };
    let server = Scripted::start(move |request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/v1/session/create") => match sessions.fetch_add(1, Ordering::SeqCst) {
            // The one it makes while it waits.
            0 => {
                free.send_replace(true);
                json(503, "in a moment")
            }
            1 => Act::Cut,
            _ => json(200, r#"{"ID":"ours"}"#),
        },
        path if path.starts_with("/v1/session") => json(200, "true"),
        path if path.contains("index=") => {
            Act::When(freed.clone(), Box::new(answer(404, "X-Consul-Index: 20\r\n", "")))
        }
        path if path.starts_with("/v1/kv") && *freed.borrow() => answer(404, "X-Consul-Index: 20\r\n", ""),
        path if path.starts_with("/v1/kv") => {
            let kv = format!(
                r#"[{{"Key":"l/.lock","Value":"","Flags":{LOCK_FLAG},"Session":"other","CreateIndex":1,"ModifyIndex":9}}]"#
            );
            answer(200, "X-Consul-Index: 9\r\n", &kv)
        }
        _ if request.contains("\"lock\"") => applied(request, 21, "ours"),
        _ if *freed.borrow() => refused("key \"l/.lock\" doesn't exist"),
        _ => json(200, &held(9)),
    })
    .await;
    let store = server.store().await;
    let guard = tokio::time::timeout(SECOND * 20, store.lock("l")).await.expect("in time").unwrap();
    assert_eq!(guard.token().get(), 21);
}

/// A server that carries out the waiter's lock and then answers no transaction and no renewal until nothing
/// vouches for the session any more; it renews it again once the waiter has seen the record.
#[tokio::test]
async fn a_wait_does_not_wait_for_its_own_session_after_an_outage() {
    let (free, freed) = watch::channel(false);
    let (release, released) = watch::channel(false);
    let (sessions, seen) = (AtomicU32::new(0), AtomicU32::new(0));
    let taken: OnceLock<Instant> = OnceLock::new();
    let record = |session: &str, index: u64| {
        let kv = format!(
            r#"[{{"Key":"l/.lock","Value":"","Flags":{LOCK_FLAG},"Session":"{session}","CreateIndex":1,"ModifyIndex":{index}}}]"#
        );
        answer(200, &format!("X-Consul-Index: {index}\r\n"), &kv)
    };
    let server = Scripted::start(move |request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/v1/session/create") => {
            json(200, &format!(r#"{{"ID":"s-{}"}}"#, sessions.fetch_add(1, Ordering::SeqCst) + 1))
        }
        path if path.starts_with("/v1/session/renew") && seen.load(Ordering::SeqCst) == 0 => {
            json(503, "an outage")
        }
        path if path.starts_with("/v1/session/renew") => json(200, "[]"),
        path if path.starts_with("/v1/session") => json(200, "true"),
        path if path.starts_with("/v1/kv") && path.contains("index=9&") => {
            Act::When(freed.clone(), Box::new(record("s-1", 21)))
        }
        path if path.starts_with("/v1/kv") && path.contains("index=21&") => {
            Act::When(released.clone(), Box::new(answer(404, "X-Consul-Index: 22\r\n", "")))
        }
        path if path.contains("index=") => Act::Silence,
        path if path.starts_with("/v1/kv") => record("other", 9),
        _ if request.contains("\"lock\"") && taken.get().is_none() => {
            taken.set(Instant::now()).unwrap();
            Act::Cut
        }
        // The session was made at most as late as the lock was taken.
        _ if taken.get().is_some_and(|at| at.elapsed() < SECOND * 10) => json(503, "an outage"),
        _ if request.contains("\"unlock\"") && request.contains("s-1") => {
            release.send_replace(true);
            applied(request, 22, "")
        }
        _ if request.contains("\"unlock\"") => applied(request, 24, ""),
        _ if request.contains("\"lock\"") => applied(request, 23, "s-2"),
        _ if *released.borrow() => refused("key \"l/.lock\" doesn't exist"),
        _ if taken.get().is_some() => {
            seen.fetch_add(1, Ordering::SeqCst);
            applied(request, 21, "s-1")
        }
        _ if *freed.borrow() => refused("key \"l/.lock\" doesn't exist"),
        _ => applied(request, 9, "other"),
    })
    .await;
    // Its queries wait for longer than the test does, so that none that ends wakes the waiter.
    let store = Arc::new(server.open("timeout=30s&lock_ttl=10s").await);
    let waiting = Arc::clone(&store);
    let wait = tokio::spawn(async move { waiting.lock("l").await });
    until("it should wait", SECOND * 5, || async { server.count("PUT /v1/session/create") == 1 }).await;
    free.send_replace(true);
    let guard = tokio::time::timeout(SECOND * 20, wait).await.expect("in time").unwrap().unwrap();
    assert_eq!(guard.token().get(), 23, "of a session that is vouched for");
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_any_request() {
    let server = Scripted::start(|request| applied(request, 7, "")).await;
    let store = server.store().await;
    let asked = store.requests();
    let large = vec![0; 2 << 20];
    let value = PutOptions::default().with_precondition(Precondition::Value(large.clone().into()));
    for error in [
        store
            .lock_with(&key("l"), LockOptions::default().with_owner(large.clone()))
            .await
            .map(drop)
            .unwrap_err(),
        store.put_with(&key("k"), "v", value).await.map(drop).unwrap_err(),
        store.compare_value_and_set("k", large.clone(), "v").await.map(drop).unwrap_err(),
        store
            .delete_with(
                &key("k"),
                kv_consul::kv_core::DeleteOptions::default()
                    .with_precondition(Precondition::Value(large.clone().into())),
            )
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
    }
    assert_eq!(store.requests(), asked);
}
