//! The short forms of `StoreExt` that nothing else of the tests calls, on the reference model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use common::{fresh, key, prefix, show};
use kv_mem::MemStore;
use kv_mem::kv_core::implement::Transact;
use kv_mem::kv_core::{
    Condition, ErrorKind, LockLoss, LockOptions, LockWait, PutOptions, StoreExt, Txn, TxnOp, WatchFilter,
    WatchOptions,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What comes of a call that must not wait for ever.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, call).await.expect("it waits for ever")
}

#[tokio::test]
async fn a_value_is_compared_and_set() {
    let store = fresh();
    let absent = store.compare_value_and_set("a", "1", "2").await.unwrap_err();
    assert_eq!(*absent.kind(), ErrorKind::PreconditionFailed { current: None });
    let first = store.put("a", "1").await.unwrap();
    let second = store.compare_value_and_set("a", "1", "2").await.unwrap();
    assert!(second > first);
    let late = store.compare_value_and_set("a", "1", "3").await.unwrap_err();
    assert_eq!(*late.kind(), ErrorKind::PreconditionFailed { current: Some(second) });
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn work_is_done_under_its_lock_and_the_lock_is_free_afterwards() {
    let store = fresh();
    let write = |fence| {
        let store = Arc::clone(&store);
        async move {
            assert!(store.try_lock("l").await.unwrap().is_none(), "nobody else has the lock meanwhile");
            store.put_with(&key("a"), "x", PutOptions::default().with_fence(fence)).await
        }
    };
    let version = store.with_lock("l", LockOptions::default(), write).await.unwrap().unwrap().version;
    assert_eq!(store.get("a").await.unwrap().unwrap().version, version);
    assert_eq!(store.lock_holder(&key("l")).await.unwrap(), None);
}

#[tokio::test]
async fn work_is_not_begun_without_its_lock() {
    let store = fresh();
    let held = store.lock("l").await.unwrap();
    let options = LockOptions::default().with_wait(LockWait::Try);
    let error = store.with_lock("l", options, |_| async { panic!("begun") }).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Locked);
    let bad = store.with_lock("a/../b", LockOptions::default(), |_| async {}).await.unwrap_err();
    assert!(matches!(bad.kind(), ErrorKind::InvalidKey { .. }), "{bad}");
    held.unlock().await.unwrap();
}

/// Says when it is dropped.
struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn work_ends_where_it_is_when_its_lock_is_lost() {
    let store = fresh();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (dropped, was_dropped) = tokio::sync::oneshot::channel();
    let working = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let work = |_| async move {
                let _dropped = Dropped(Some(dropped));
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
            };
            store.with_lock("l", LockOptions::default(), work).await
        }
    });
    soon(has_begun).await.unwrap();
    store.delete_tree("l").await.unwrap();
    let error = soon(working).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }));
    assert!(error.to_string().contains(&LockLoss::Removed.to_string()), "{error}");
    soon(was_dropped).await.unwrap();
    soon(store.lock("l")).await.unwrap().unlock().await.unwrap();
}

/// Dropping the call drops the work and releases the lock.
#[tokio::test]
async fn work_that_is_given_up_gives_up_its_lock() {
    let store = fresh();
    let work = |_| std::future::pending::<()>();
    let given_up = store.with_lock("l", LockOptions::default(), work);
    tokio::time::timeout(Duration::from_millis(50), given_up).await.unwrap_err();
    soon(store.lock("l")).await.unwrap().unlock().await.unwrap();
}

#[tokio::test]
async fn a_state_that_is_wanted_is_waited_for() {
    let store = fresh();
    store.put("a", "1").await.unwrap();
    let there = soon(store.wait_for("a", |entry| entry.is_some())).await.unwrap();
    assert_eq!(there.unwrap().value, "1");
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait_for("a", |entry| entry.is_some_and(|entry| entry.value == "3")).await }
    });
    for value in ["2", "3"] {
        tokio::task::yield_now().await;
        store.put("a", value).await.unwrap();
    }
    assert_eq!(soon(waiting).await.unwrap().unwrap().unwrap().value, "3");
    store.delete("a").await.unwrap();
    assert_eq!(soon(store.wait_for("a", |entry| entry.is_none())).await.unwrap(), None);
}

#[tokio::test]
async fn another_version_is_waited_for() {
    let store = fresh();
    let mut known = None;
    for change in ["put", "put", "delete"] {
        let waiting = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.wait_for_change("a", known).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "nothing has changed before the {change}");
        if change == "put" {
            store.put("a", "same").await.unwrap();
        } else {
            store.delete("a").await.unwrap();
        }
        let seen = soon(waiting).await.unwrap().unwrap().map(|entry| entry.version);
        assert_ne!(seen, known);
        known = seen;
    }
    assert_eq!(known, None);
}

#[tokio::test]
async fn waits_end_with_the_store() {
    let store = fresh();
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait_for("a", |entry| entry.is_some()).await }
    });
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    assert_eq!(*soon(waiting).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn each_event_is_called_back_until_it_is_enough() {
    let store = fresh();
    store.put("dir/a", "1").await.unwrap();
    store.put("dir/b", "2").await.unwrap();
    let mut seen = Vec::new();
    let options = WatchOptions::default().with_initial();
    soon(store.watch_each(prefix("dir").into(), options, |event| {
        seen.push(show(Ok(event)));
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }))
    .await
    .unwrap();
    assert_eq!(seen, ["+dir/a=1", "+dir/b=2", "synced"]);
    let options = WatchOptions::default().with_filter(WatchFilter::Deletes);
    let watching = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.watch_each(prefix("dir").into(), options, |_| ControlFlow::Continue(())).await }
    });
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    assert_eq!(*soon(watching).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

/// With both traits in scope the short form and the power are told apart on a concrete store.
#[tokio::test]
async fn a_concrete_store_has_the_short_form_of_transactions_beside_the_power() {
    let store: Arc<MemStore> = fresh();
    let txn = || Txn::when([Condition::absent(key("a"))]).then([TxnOp::put(key("a"), "x")]);
    assert!(store.transact(txn()).await.unwrap().succeeded);
    assert!(!store.transact_with(txn()).await.unwrap().succeeded);
}
