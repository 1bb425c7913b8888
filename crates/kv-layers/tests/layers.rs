//! What each layer does, on the memory store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use kv_core::{
    AdminExt, Applied, Condition, Error, ErrorKind, Key, LockOptions, LockWait, Operation, Result, Store,
    StoreExt, Txn, TxnOp,
};
use kv_layers::{
    Audit, Call, ConcurrencyLimit, FailFast, Faults, LayerExt, Next, Policy, ReadOnly, Retry, Timeout,
};
use kv_mem::{MemConfig, MemStore};
use parking_lot::Mutex;

const MILLISECOND: Duration = Duration::from_millis(1);

fn mem() -> MemStore {
    MemStore::open(MemConfig::default()).unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Counts the calls that reach the store, and how many are there at once.
#[derive(Clone, Debug, Default)]
struct Count {
    calls: Arc<AtomicUsize>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Policy for Count {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(MILLISECOND).await;
        let answer = next().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

/// Fails as it is told.
#[derive(Clone, Debug)]
struct Broken(Arc<Mutex<Option<ErrorKind>>>);

impl Policy for Broken {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let kind = self.0.lock().clone();
        match kind {
            Some(kind) => Err(Error::new(kind).not_applied()),
            None => next().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_what_surely_was_not_applied_and_nothing_else() {
    for (kind, applied, attempts) in [
        (ErrorKind::Unavailable, Applied::No, 4),
        (ErrorKind::Timeout, Applied::No, 4),
        (ErrorKind::Overloaded, Applied::No, 4),
        (ErrorKind::Unavailable, Applied::Unknown, 1),
        (ErrorKind::PermissionDenied, Applied::No, 1),
        (ErrorKind::Closed, Applied::No, 1),
    ] {
        #[derive(Debug)]
        struct Fail(ErrorKind, Applied);
        impl Policy for Fail {
            async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, _: Next<'a, T>) -> Result<T> {
                let error = call.error(self.0.clone());
                Err(if self.1 == Applied::No { error.not_applied() } else { error.maybe_applied() })
            }
        }
        let count = Count::default();
        let store = mem()
            .layered(Fail(kind.clone(), applied))
            .layered(count.clone())
            .layered(Retry::default().with_attempts(4));
        let error = store.put("a", "x").await.unwrap_err();
        assert_eq!((error.kind(), error.applied()), (&kind, applied));
        assert_eq!(count.calls.swap(0, Ordering::SeqCst), attempts, "a put that is {kind:?}, {applied:?}");
        // Neither a wait for a lock nor what may be half done.
        store.lock_with(&key("l"), LockOptions::default().with_wait(LockWait::Try)).await.unwrap_err();
        store.delete_tree("a").await.unwrap_err();
        assert_eq!(count.calls.load(Ordering::SeqCst), 2, "a lock and a delete_tree that are {kind:?}");
    }
}

#[tokio::test]
async fn retry_carries_calls_through_failures() {
    let store = mem()
        .layered(Faults::seeded(3).refuse(Operation::Put, 0.5).refuse(Operation::Get, 0.5))
        .layered(Retry::default().with_attempts(64).with_pauses(Duration::ZERO, MILLISECOND));
    for n in 0..50 {
        store.put(format!("a/{n}"), "x").await.unwrap();
        assert!(store.exists(format!("a/{n}")).await.unwrap());
    }
    assert_eq!(store.keys("a").await.unwrap().len(), 50);
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults() {
    let run = |seed| async move {
        let store = mem().layered(Faults::seeded(seed).refuse(Operation::Put, 0.5));
        let mut failed = Vec::new();
        for n in 0..64 {
            failed.push(store.put(format!("a/{n}"), "x").await.is_err());
        }
        failed
    };
    let first = run(7).await;
    assert!(first.contains(&true) && first.contains(&false));
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
}

#[tokio::test]
async fn a_lost_answer_hides_success_and_no_refusal() {
    let store = mem().layered(Faults::seeded(1).lose_answer(Operation::Put, 1.0));
    let error = store.create("a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::Unknown));
    assert!(store.exists("a").await.unwrap());
    let error = store.create("a", "2").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::AlreadyExists { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn timeout_ends_a_call_and_says_that_a_write_may_have_been_applied() {
    let slow = Faults::seeded(1).delay(Operation::Put, 1.0, Duration::from_secs(60)).delay(
        Operation::Get,
        1.0,
        Duration::from_secs(60),
    );
    let store = mem().layered(slow).layered(Timeout::new(Duration::from_secs(2)));
    let began = tokio::time::Instant::now();
    let error = store.put("a", "x").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::Unknown));
    assert_eq!((error.key(), error.backend()), (Some("a"), Some("mem")));
    let error = store.get("a").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::No));
    assert_eq!(began.elapsed(), Duration::from_secs(4));
    // A wait for a lock goes by its own options.
    let guard = store.lock("l").await.unwrap();
    let wait = LockOptions::default().with_wait(LockWait::UpTo(Duration::from_secs(30)));
    let error = store.lock_with(&key("l"), wait).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Locked);
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn limit_bounds_calls_under_way_and_keeps_no_holder_from_its_end() {
    let count = Count::default();
    let store = mem().layered(count.clone()).layered(ConcurrencyLimit::new(3));
    for put in join_all((0..50).map(|n| store.put(format!("a/{n}"), "x"))).await {
        put.unwrap();
    }
    assert_eq!(count.most.load(Ordering::SeqCst), 3);

    let store = Arc::new(mem().layered(ConcurrencyLimit::new(1)));
    let guard = store.lock("l").await.unwrap();
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.lock("l").await }
    });
    while store.locks("").await.unwrap().next().await.unwrap().unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    store.put("l", "done").await.unwrap();
    guard.unlock().await.unwrap();
    waiting.await.unwrap().unwrap().unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn fail_fast_fails_at_once_probes_and_comes_back() {
    let broken = Broken(Arc::new(Mutex::new(None)));
    let count = Count::default();
    let layer = FailFast::after(3).with_probe_every(Duration::from_secs(1));
    let store = mem().layered(broken.clone()).layered(count.clone()).layered(layer);
    store.put("a", "x").await.unwrap();

    // A refusal is an answer.
    *broken.0.lock() = Some(ErrorKind::PermissionDenied);
    for _ in 0..10 {
        store.get("a").await.unwrap_err();
    }
    *broken.0.lock() = Some(ErrorKind::Unavailable);
    count.calls.store(0, Ordering::SeqCst);
    for _ in 0..3 {
        store.get("a").await.unwrap_err();
    }
    assert_eq!(count.calls.load(Ordering::SeqCst), 3);
    for _ in 0..100 {
        let error = store.put("a", "y").await.unwrap_err();
        assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::No));
        assert!(error.to_string().contains("next probe"), "{error}");
    }
    assert_eq!(count.calls.load(Ordering::SeqCst), 3, "nothing more reaches the store");

    // One probe a second, which fails.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for get in join_all((0..20).map(|_| store.get("a"))).await {
        get.unwrap_err();
    }
    assert_eq!(count.calls.load(Ordering::SeqCst), 4);

    // A server answers: the probe, and then everybody.
    *broken.0.lock() = None;
    store.get("a").await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(2)).await;
    store.get("a").await.unwrap();
    for get in join_all((0..20).map(|_| store.get("a"))).await {
        get.unwrap();
    }

    // Whatever the state, closing passes.
    *broken.0.lock() = Some(ErrorKind::Unavailable);
    for _ in 0..4 {
        store.get("a").await.unwrap_err();
    }
    *broken.0.lock() = None;
    store.close().await.unwrap();
    assert_eq!(*store.get("a").await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn read_only_refuses_every_write_and_passes_every_read() {
    let inner = Arc::new(mem());
    inner.put("a/b", "x").await.unwrap();
    let held = inner.lock("l").await.unwrap();
    let count = Count::default();
    let store = (Arc::clone(&inner) as Arc<dyn Store>).layered(count.clone()).layered(ReadOnly::default());
    let txn = Txn::when([Condition::present(key("a/b"))]).then([TxnOp::get(key("a/b"))]);
    for refused in [
        store.put("a/b", "y").await.map(drop),
        store.delete("a/b").await.map(drop),
        store.delete_tree("").await.map(drop),
        store.lock("free").await.map(drop),
        store.break_lock("l", held.token()).await.map(drop),
        store.transact(txn).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.applied()), (&ErrorKind::PermissionDenied, Applied::No));
        assert!(error.to_string().contains("read-only"), "{error}");
    }
    assert_eq!(count.calls.load(Ordering::SeqCst), 0, "nothing reaches the store");
    assert_eq!(store.entries("").await.unwrap().len(), 1);
    assert!(store.lock_holder(&key("l")).await.unwrap().is_some());
    drop(store.watch("a").await.unwrap());
    held.unlock().await.unwrap();
}

/// The fields of each line that do not depend on time.
fn audited(lines: &Mutex<Vec<String>>) -> Vec<(String, Vec<String>, String, Option<String>)> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    lines
        .lock()
        .drain(..)
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(line["at_ms"].is_u64() && line["took_ms"].is_u64() && line["backend"] == "mem");
            let keys = line["keys"].as_array().unwrap().iter().filter_map(text).collect();
            (text(&line["operation"]).unwrap(), keys, text(&line["outcome"]).unwrap(), text(&line["error"]))
        })
        .collect()
}

#[tokio::test]
async fn audit_writes_a_line_for_each_write_and_no_value() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lines);
    let audit = Audit::new(move |line| log.lock().push(line.to_owned()));
    let faults = Faults::seeded(1).lose_answer(Operation::Delete, 1.0);
    let store = mem().layered(faults).layered(audit);
    store.put("a\u{202e}\"b", "s3cret").await.unwrap();
    store.create("a\u{202e}\"b", "s3cret").await.unwrap_err();
    store.delete("gone").await.unwrap_err();
    store.get("a").await.unwrap();
    store.keys("").await.unwrap();
    let txn = Txn::when([Condition::absent(key("c"))])
        .then([TxnOp::put(key("c"), "s3cret"), TxnOp::get(key("read"))])
        .or_else([TxnOp::delete(key("b"))]);
    let _ = store.transact(txn).await.unwrap();
    store.lock("l").await.unwrap().unlock().await.unwrap();
    assert!(!lines.lock().iter().any(|line| line.contains("s3cret") || line.contains('\n')));
    let line = |operation: &str, keys: &[&str], outcome: &str, error: Option<&str>| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        (operation.to_owned(), keys, outcome.to_owned(), error.map(str::to_owned))
    };
    assert_eq!(
        audited(&lines),
        [
            line("put", &["a\u{202e}\"b"], "applied", None),
            line("put", &["a\u{202e}\"b"], "refused", Some("AlreadyExists")),
            line("delete", &["gone"], "unknown", Some("Unavailable")),
            line("transact", &["b", "c"], "applied", None),
            line("lock", &["l"], "applied", None),
        ]
    );
}

#[tokio::test]
async fn audit_tells_of_a_write_whose_future_was_dropped() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lines);
    let store = mem()
        .layered(Faults::seeded(1).delay(Operation::Put, 1.0, Duration::from_secs(60)))
        .layered(Audit::new(move |line| log.lock().push(line.to_owned())));
    tokio::time::timeout(MILLISECOND, store.put("a", "x")).await.unwrap_err();
    assert_eq!(audited(&lines), [("put".to_owned(), vec!["a".to_owned()], "dropped".to_owned(), None)]);
}

#[tokio::test]
async fn audit_appends_whole_lines_to_a_file() {
    let path = std::env::temp_dir().join(format!("kv-layers-audit-{}", std::process::id()));
    for _ in 0..2 {
        let store = Arc::new(mem().layered(Audit::to_file(&path).unwrap()));
        join_all((0..20).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put(format!("a/{n}"), "x").await.unwrap() })
        }))
        .await;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text.lines().count(), 40);
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert!(Audit::to_file("/no/such/folder/log").is_err());
}

/// Fails every call for a moment, and says that nothing was applied.
#[derive(Debug)]
struct Down;

impl Policy for Down {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, _: Next<'a, T>) -> Result<T> {
        Err(call.error(ErrorKind::Unavailable).not_applied())
    }
}

#[tokio::test(start_paused = true)]
async fn administrative_calls_are_not_repeated() {
    let count = Count::default();
    let store = mem().layered(Down).layered(count.clone()).layered(Retry::default().with_attempts(3));
    assert!(store.compact(kv_core::Version::new(1)).await.unwrap_err().is_transient());
    assert_eq!(count.calls.load(Ordering::SeqCst), 1, "of a compaction");
    assert!(store.get("k").await.unwrap_err().is_transient());
    assert_eq!(count.calls.load(Ordering::SeqCst), 1 + 3, "of a get");
}
