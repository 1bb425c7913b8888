//! Answers that come late or not at all, callers that are gone, handles that are closed in between: no
//! session and no lock is left behind, and no error says less than is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kv_consul::kv_core::{
    Applied, Compare, Condition, DeleteOptions, ErrorKind, Expiry, Precondition, PutOptions, StoreExt, Txn,
    TxnOp,
};
use tokio::sync::watch;

use crate::common::script::{Act, Scripted, answer, applied, json, refused};
use crate::common::{SECOND, key, until};

fn session(request: &str) -> Option<&'static str> {
    let path = request.split(' ').nth(1).unwrap();
    let ask = path.strip_prefix("/v1/session/")?.split(['/', '?']).next()?;
    ["create", "renew", "destroy", "info"].into_iter().find(|known| *known == ask)
}

#[tokio::test]
async fn a_session_made_for_nobody_is_ended() {
    let (gate, open) = watch::channel(false);
    let server = Scripted::start(move |request| match session(request) {
        Some("create") => Act::When(open.clone(), Box::new(json(200, r#"{"ID":"s-1"}"#))),
        Some(_) => json(200, "true"),
        None => refused("key \"l/.lock\" doesn't exist"),
    })
    .await;
    let store = Arc::new(server.open("timeout=4s").await);
    let day = PutOptions::default().with_expiry(Expiry::Ttl(SECOND * 3600 * 24));
    let (one, other) = (Arc::clone(&store), Arc::clone(&store));
    let lock = tokio::spawn(async move { one.lock("l").await.map(drop) });
    let put = tokio::spawn(async move { other.put_with(&key("k"), "v", day).await.map(drop) });
    until("both should ask", SECOND * 5, || async { server.count("PUT /v1/session/create") == 2 }).await;
    lock.abort();
    put.abort();
    // And one that gives up waiting by itself.
    let soon = PutOptions::default().with_expiry(Expiry::Ttl(SECOND * 60)).with_timeout(SECOND / 4);
    let error = store.put_with(&key("k"), "v", soon).await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::No));
    gate.send_replace(true);
    until("all should be ended", SECOND * 3, || async { server.count("PUT /v1/session/destroy/s-1") == 3 })
        .await;
}

#[tokio::test]
async fn a_handle_that_is_closed_makes_no_session() {
    let (gate, open) = watch::channel(false);
    let server = Scripted::start(move |request| match session(request) {
        Some("create") => json(200, r#"{"ID":"s-1"}"#),
        Some(_) => json(200, "true"),
        None => Act::When(open.clone(), Box::new(applied(request, 7, ""))),
    })
    .await;
    let store = Arc::new(server.open("timeout=4s").await);
    let putting = Arc::clone(&store);
    let put = tokio::spawn(async move {
        let options = PutOptions::default().with_expiry(Expiry::Session);
        let options = options.with_precondition(Precondition::Value("v".into()));
        putting.put_with(&key("k"), "w", options).await
    });
    until("it should read", SECOND * 5, || async { server.count("PUT /v1/txn") == 1 }).await;
    store.close().await.unwrap();
    gate.send_replace(true);
    assert_eq!(put.await.unwrap().unwrap_err().kind(), &ErrorKind::Closed);
    assert_eq!(server.count("PUT /v1/session/create"), 0);
}

#[tokio::test]
async fn what_was_not_sent_was_not_applied() {
    for broken in ["txn", "session"] {
        let server = Scripted::start(move |request| match (session(request), broken) {
            (Some(_), "session") | (None, "txn") => Act::Cut,
            (Some(_), _) => json(200, r#"{"ID":"s-1"}"#),
            (None, _) => applied(request, 7, ""),
        })
        .await;
        let store = server.store().await;
        let value = || PutOptions::default().with_precondition(Precondition::Value("v".into()));
        let delete = DeleteOptions::default().with_precondition(Precondition::Value("v".into()));
        let ttl = Expiry::Ttl(SECOND * 20);
        let txn =
            Txn::when([Condition::value(key("k"), Compare::Less, "x")]).then([TxnOp::put(key("k"), "w")]);
        let refused = match broken {
            "txn" => vec![
                store.put_with(&key("k"), "w", value()).await.unwrap_err(),
                store.delete_with(&key("k"), delete).await.unwrap_err(),
                store.transact(txn).await.unwrap_err(),
            ],
            _ => vec![
                store.put_with(&key("k"), "w", value().with_expiry(ttl)).await.unwrap_err(),
                store.put_with(&key("k"), "w", PutOptions::default().with_expiry(ttl)).await.unwrap_err(),
                store
                    .put_with(&key("k"), "w", PutOptions::default().with_expiry(Expiry::Session))
                    .await
                    .unwrap_err(),
            ],
        };
        for error in refused {
            assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::No), "{error}");
        }
    }
}

#[tokio::test]
async fn a_wait_for_a_lock_takes_what_it_got_when_the_answer_was_lost() {
    let (free, freed) = watch::channel(false);
    let got = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&got);
    let server = Scripted::start(move |request| {
        match session(request) {
            Some("create") => return json(200, r#"{"ID":"s-1"}"#),
            Some("renew") => return json(200, "[]"),
            Some(_) => return json(200, "true"),
            None => {}
        }
        if request.starts_with("GET") {
            let gone = || answer(404, "X-Consul-Index: 9\r\n", "");
            return match (*freed.borrow(), request.contains("index=")) {
                (true, _) => gone(),
                (false, true) => Act::When(freed.clone(), Box::new(gone())),
                (false, false) => json(
                    200,
                    r#"[{"Key":"l/.lock","Flags":1,"CreateIndex":1,"ModifyIndex":5,"Session":"s-2"}]"#,
                ),
            };
        }
        if request.contains(r#""lock""#) {
            // It is done, and nobody is told.
            assert!(!taken.swap(true, Ordering::Relaxed), "it is not taken twice");
            return Act::Cut;
        }
        match (taken.load(Ordering::Relaxed), *freed.borrow()) {
            (true, _) => applied(request, 77, "s-1"),
            (false, true) => refused("key \"l/.lock\" doesn't exist"),
            (false, false) => applied(request, 7, "s-other"),
        }
    })
    .await;
    let store = Arc::new(server.open("timeout=2s").await);
    let waiting = Arc::clone(&store);
    let wait = tokio::spawn(async move { waiting.lock("l").await });
    until("it should wait", SECOND * 5, || async { server.count("PUT /v1/session/create") == 1 }).await;
    free.send_replace(true);
    let guard = tokio::time::timeout(SECOND * 10, wait).await.expect("the lock").unwrap().unwrap();
    assert_eq!(guard.token().get(), 77);
    assert!(got.load(Ordering::Relaxed) && guard.is_held());
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_put_that_is_refused_for_long_gets_a_session_of_its_full_time() {
    let begin = Instant::now();
    let server = Scripted::start(move |request| match session(request) {
        Some("create") => json(200, r#"{"ID":"s-1"}"#),
        Some(_) => json(200, "true"),
        // Somebody else keeps writing the key.
        None if begin.elapsed() < SECOND * 6 && request.contains(r#""lock""#) => {
            refused("failed index check for key \"k\", current modify index 24 != 1")
        }
        None => applied(request, 7, ""),
    })
    .await;
    let store = server.open("timeout=20s").await;
    let options = PutOptions::default().with_expiry(Expiry::Ttl(SECOND * 10));
    let options = options.with_precondition(Precondition::Value("v".into()));
    store.put_with(&key("k"), "w", options).await.unwrap();
    assert_eq!(server.count("PUT /v1/session/create"), 2);
    until("the first should be ended", SECOND * 3, || async {
        server.count("PUT /v1/session/destroy/s-1") == 1
    })
    .await;
}
