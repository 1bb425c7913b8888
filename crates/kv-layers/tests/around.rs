//! Every operation of a store passes a policy exactly once, and the policy's hooks get what begins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_core::{
    AdminExt, Capabilities, Listing, LockGuard, Operation, Power, Result, Store, StoreExt, Txn, TxnOp, Watch,
};
use kv_layers::{Call, LayerExt, Next, Policy};
use kv_mem::{MemConfig, MemStore};
use parking_lot::Mutex;

/// An operation and the key or prefix it was about.
type Passed = (Operation, Option<String>);

/// Notes what passes.
#[derive(Clone, Debug, Default)]
struct Notes {
    calls: Arc<Mutex<Vec<Passed>>>,
    begun: Arc<AtomicUsize>,
}

impl Policy for Notes {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        self.calls.lock().push((call.operation, call.target.path().map(str::to_owned)));
        next().await
    }

    fn watch(&self, watch: Watch) -> Watch {
        self.begun.fetch_add(1, Ordering::Relaxed);
        watch
    }

    fn listing(&self, listing: Listing) -> Listing {
        self.begun.fetch_add(1, Ordering::Relaxed);
        listing
    }

    fn guard(&self, guard: LockGuard) -> LockGuard {
        self.begun.fetch_add(1, Ordering::Relaxed);
        guard
    }
}

#[tokio::test]
async fn every_operation_passes_once() {
    let notes = Notes::default();
    // Through an Arc, as applications hold a store.
    let store: Arc<dyn Store> =
        Arc::new(MemStore::open(MemConfig::default()).unwrap().layered(notes.clone()));
    store.put("a/b", "x").await.unwrap();
    store.get("a/b").await.unwrap();
    store.delete("a/b").await.unwrap();
    store.keys("a").await.unwrap();
    store.delete_tree("a").await.unwrap();
    drop(store.watch("a").await.unwrap());
    let guard = store.lock("l").await.unwrap();
    store.lock_holder("l").await.unwrap();
    drop(store.watch_lock("l").await.unwrap());
    drop(store.locks("").await.unwrap());
    assert!(store.break_lock("l", guard.token()).await.unwrap());
    let _ = store
        .transact(Txn::always().then([TxnOp::put("t".parse::<kv_core::Key>().unwrap(), "x")]))
        .await
        .unwrap();
    let now = store.put("h", "x").await.unwrap();
    store.get_at("h", now).await.unwrap();
    drop(store.list_at("h", now).await.unwrap());
    store.key_versions("h").await.unwrap();
    store.compact(now).await.unwrap();
    store.server().await.unwrap();
    store.close().await.unwrap();

    let passed: Vec<_> = notes.calls.lock().clone();
    let expected = [
        (Operation::Put, Some("a/b")),
        (Operation::Get, Some("a/b")),
        (Operation::Delete, Some("a/b")),
        (Operation::List, Some("a")),
        (Operation::DeleteTree, Some("a")),
        (Operation::Watch, Some("a")),
        (Operation::Lock, Some("l")),
        (Operation::LockHolder, Some("l")),
        (Operation::WatchLock, Some("l")),
        (Operation::Locks, Some("")),
        (Operation::BreakLock, Some("l")),
        (Operation::Transact, None),
        (Operation::Put, Some("h")),
        (Operation::GetAt, Some("h")),
        (Operation::ListAt, Some("h")),
        (Operation::Versions, Some("h")),
        (Operation::Compact, None),
        (Operation::Server, None),
        (Operation::Close, None),
    ];
    let passed: Vec<_> = passed.iter().map(|(operation, path)| (*operation, path.as_deref())).collect();
    assert_eq!(passed, expected);
    assert_eq!(notes.begun.load(Ordering::Relaxed), 4, "two listings, a watch and a guard");
}

/// Takes transactions away.
#[derive(Debug)]
struct NoTransactions;

impl Policy for NoTransactions {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        next().await
    }

    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        inner.clone().without_power(Power::Transactions)
    }
}

#[tokio::test]
async fn a_power_that_is_taken_away_cannot_be_reached() {
    let store = MemStore::open(MemConfig::default()).unwrap().layered(NoTransactions);
    assert!(store.as_transact().is_none());
    assert!(store.as_lock_view().is_some() && store.as_history().is_some());
    let error = store.transact(Txn::always()).await.unwrap_err();
    assert!(matches!(error.kind(), kv_core::ErrorKind::Unsupported { .. }), "{error}");
}
