//! A store that is open, and a server that then makes no sense.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;
#[path = "common/fake.rs"]
mod fake;

use std::time::{Duration, Instant};

use common::{open, until};
use fake::{EXISTS, Fake, GET_ACL, GET_CHILDREN, GET_DATA, NO_NODE, Request, data};
use kv_zk::ZkStore;
use kv_zk::kv_core::{ErrorKind, ListOptions, Prefix, StoreExt, WatchEvent, WatchOptions};

common::on_each_client!(
    counts_below_zero_are_errors_and_harm_no_other_call,
    data_that_is_cut_short_is_an_error,
    answers_that_do_not_fit_end_the_session,
    events_without_end_hold_up_no_call_and_take_no_memory,
);

const SECOND: Duration = Duration::from_secs(1);

async fn store(fake: &Fake, client: &str) -> ZkStore {
    open(&format!("zk://{}/t?client={client}&timeout=2s&connect_timeout=5s&session_timeout=4s", fake.address))
        .await
}

fn is(request: &Request, op: i32, path: &str) -> bool {
    request.op == op && request.path == path
}

/// What became of a call is an error of one of these kinds; what zookeeper-async makes of nonsense is
/// the end of its session.
fn check(what: &str, error: &kv_zk::kv_core::Error) {
    let kinds = [ErrorKind::Protocol, ErrorKind::Unavailable, ErrorKind::Timeout];
    assert!(kinds.contains(error.kind()), "{what}: {error}");
}

async fn counts_below_zero_are_errors_and_harm_no_other_call(client: &str) {
    let minus = (-1_i32).to_be_bytes().to_vec();
    let fake = Fake::start(move |request| {
        if is(request, GET_CHILDREN, "/t") || is(request, GET_ACL, "/t/acl") {
            return Some(vec![(0, minus.clone())]);
        }
        if is(request, EXISTS, "/t") {
            return Some(vec![(0, fake::stat())]);
        }
        (is(request, GET_DATA, "/t/good")).then(|| vec![(0, data("good"))])
    })
    .await;
    let store = store(&fake, client).await;
    assert_eq!(store.get("good").await.unwrap().unwrap().value, "good");
    // No children may be what a count of -1 means; a panic or a hang it is not.
    let listed = async {
        let mut list = store.list_with(&Prefix::root(), ListOptions::default()).await?;
        list.next().await.transpose()
    };
    match tokio::time::timeout(10 * SECOND, listed).await.expect("an end") {
        Ok(found) => assert!(found.is_none(), "{found:?}"),
        Err(error) => check("list", &error),
    }
    let deleted = tokio::time::timeout(10 * SECOND, store.delete("acl")).await.expect("an end");
    if let Err(error) = deleted {
        check("acl", &error);
    }
    // The handle goes on, with another session if need be.
    until("it works again", 20 * SECOND, || async {
        store.get("good").await.is_ok_and(|entry| entry.is_some_and(|entry| entry.value == "good"))
    })
    .await;
}

async fn data_that_is_cut_short_is_an_error(client: &str) {
    let fake = Fake::start(|request| {
        let whole = data("good");
        if is(request, GET_DATA, "/t/short") {
            return Some(vec![(0, whole[..20].to_vec())]);
        }
        (is(request, GET_DATA, "/t/good")).then(|| vec![(0, whole)])
    })
    .await;
    let store = store(&fake, client).await;
    let error = store.get("short").await.unwrap_err();
    check("short data", &error);
    until("it works again", 20 * SECOND, || async {
        store.get("good").await.is_ok_and(|entry| entry.is_some_and(|entry| entry.value == "good"))
    })
    .await;
}

/// What is left of a broken connection is taken for answers on the next one by zookeeper-async, which
/// does not look whom they are for: from then on everybody gets another's answer.
async fn answers_that_do_not_fit_end_the_session(client: &str) {
    let fake = Fake::start(|request| {
        let answer = match (request.op, request.path.as_str()) {
            (GET_DATA, "/t/a") => (0, data("a")),
            (GET_DATA, "/t/b") => (0, data("b")),
            // The first question on the second connection is answered once too often.
            (EXISTS, "/") if request.connection == 1 => {
                return Some(vec![(0, data("left over")), (0, fake::stat())]);
            }
            (GET_CHILDREN, _) => (NO_NODE, Vec::new()),
            _ => return None,
        };
        Some(vec![answer])
    })
    .await;
    let store = store(&fake, client).await;
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "a");
    let mut watch = store.watch_with(Prefix::root(), WatchOptions::default()).await.unwrap();
    fake.cut();
    for _ in 0..20 {
        for name in ["a", "b"] {
            if let Ok(entry) = store.get(name).await {
                assert_eq!(entry.unwrap().value, name, "another's answer");
            }
        }
    }
    until("it works again", 20 * SECOND, || async { store.get("a").await.is_ok() }).await;
    if client == "zookeeper-async" {
        assert!(fake.connections() > 2, "the session was not given up");
        let event = tokio::time::timeout(20 * SECOND, watch.next()).await.expect("an event").unwrap();
        assert_eq!(event.unwrap(), WatchEvent::Resync);
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What the process takes can be told of one test at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Each call ends by its deadline, the session is given up, and what it took does not grow.
async fn events_without_end_hold_up_no_call_and_take_no_memory(client: &str) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let fake = Fake::start(|request| is(request, GET_DATA, "/t/good").then(|| vec![(0, data("good"))])).await;
    let store = store(&fake, client).await;
    assert_eq!(store.get("good").await.unwrap().unwrap().value, "good");
    let before = resident();
    let flood = tokio::spawn({
        let store = store.clone();
        async move { store.get(fake::FLOOD).await }
    });
    let (begin, mut most) = (Instant::now(), 0);
    while begin.elapsed() < 4 * SECOND {
        let call = Instant::now();
        let _ = store.get("good").await;
        assert!(call.elapsed() < 3 * SECOND, "a call of 2 s took {:?}", call.elapsed());
        most = most.max(resident().saturating_sub(before));
    }
    let error = tokio::time::timeout(SECOND, flood).await.expect("an end").unwrap().unwrap_err();
    check("flood", &error);
    until("it works again", 20 * SECOND, || async { store.get("good").await.is_ok() }).await;
    assert!(fake.connections() > 1, "the session was not given up");
    // Not more than what arrives until it is noticed.
    assert!(most < 1 << 30, "{most} bytes more");
    let then = resident();
    tokio::time::sleep(2 * SECOND).await;
    assert!(resident() < then + (64 << 20), "it goes on: {} bytes in 2 s", resident() - then);
    store.close().await.unwrap();
}
