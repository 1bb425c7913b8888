//! Times to live, to the tick of a clock that only the test moves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{drain, fresh, key, open};
use kv_mem::kv_core::{
    EntryExpiry, Expiry, GetOptions, ListOptions, LockLoss, LockOptions, Precondition, PutOptions, StoreExt,
    Txn, TxnOp,
};
use kv_mem::{ManualClock, MemConfig, MemStore, Timestamp};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

async fn put_for(store: &MemStore, name: &str, ttl: Duration) {
    let options = PutOptions::default().with_expiry(Expiry::Ttl(ttl));
    let result = store.put_with(&key(name), "x", options).await.unwrap();
    assert_eq!(result.granted_ttl, Some(ttl));
}

async fn left(store: &MemStore, name: &str) -> EntryExpiry {
    let entry = store.get_with(&key(name), GetOptions::default().with_expiry()).await.unwrap();
    entry.unwrap().expiry.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_key_is_there_until_its_time_and_not_a_tick_longer() {
    let store = fresh();
    put_for(&store, "a", 1000 * MS).await;
    tokio::time::advance(999 * MS).await;
    assert_eq!(left(&store, "a").await, EntryExpiry::ttl(1000 * MS, Some(MS)));
    tokio::time::advance(MS).await;
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.keys("").await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn watches_are_told_when_it_goes_though_nobody_looks() {
    let store = fresh();
    let mut watch = store.watch("").await.unwrap();
    let begin = Instant::now();
    put_for(&store, "late", 5000 * MS).await;
    // What is due earlier comes when the later one is waited for already.
    tokio::time::sleep(1000 * MS).await;
    put_for(&store, "early", 1000 * MS).await;
    assert_eq!(drain(&mut watch), ["+late=x", "+early=x"]);
    assert_eq!(common::show(watch.next().await.unwrap()), "-early Expired");
    // One millisecond is the resolution of tokio's timer.
    assert!(begin.elapsed() >= 2000 * MS && begin.elapsed() <= 2001 * MS, "{:?}", begin.elapsed());
    assert_eq!(common::show(watch.next().await.unwrap()), "-late Expired");
    assert!(begin.elapsed() >= 5000 * MS && begin.elapsed() <= 5001 * MS, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn keys_go_in_the_order_of_their_times_each_with_a_version() {
    let store = fresh();
    for (name, ttl) in [("c", 30), ("a", 10), ("b", 20)] {
        put_for(&store, name, ttl * MS).await;
    }
    let from = store.put("end", "").await.unwrap();
    tokio::time::advance(40 * MS).await;
    // A write first lets go what is due: its version is the newest.
    let last = store.put("end", "").await.unwrap();
    assert_eq!(last.get(), from.get() + 4);
    let options = kv_mem::kv_core::WatchOptions::default().with_from(from);
    let mut watch = store.watch_with(common::prefix(""), options).await.unwrap();
    assert_eq!(drain(&mut watch), ["-a Expired", "-b Expired", "-c Expired", "+end="]);
}

#[tokio::test(start_paused = true)]
async fn a_later_put_says_anew_how_long_it_stays() {
    let store = fresh();
    for name in ["kept", "longer", "shorter"] {
        put_for(&store, name, 100 * MS).await;
    }
    let mut watch = store.watch("").await.unwrap();
    tokio::time::advance(50 * MS).await;
    store.put("kept", "x").await.unwrap();
    put_for(&store, "longer", 100 * MS).await;
    put_for(&store, "shorter", 10 * MS).await;
    drain(&mut watch);
    tokio::time::sleep(60 * MS).await;
    assert_eq!(drain(&mut watch), ["-shorter Expired"]);
    assert_eq!(left(&store, "kept").await, EntryExpiry::Never);
    tokio::time::sleep(50 * MS).await;
    assert_eq!(drain(&mut watch), ["-longer Expired"]);
    tokio::time::sleep(1000 * MS).await;
    assert_eq!(drain(&mut watch), [""; 0]);
}

#[tokio::test]
async fn what_has_expired_is_absent_to_every_call() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let store = open(MemConfig::new().with_clock(clock.clone()));
    for name in ["get", "list", "create", "update", "delete", "txn"] {
        put_for(&store, &format!("a/{name}"), 10 * MS).await;
    }
    clock.advance(10 * MS);
    assert_eq!(store.get("a/get").await.unwrap(), None);
    let listing = store.list_with(&common::prefix("a"), ListOptions::default()).await.unwrap();
    assert_eq!(futures_util::StreamExt::count(listing).await, 0);
    store.create("a/create", "new").await.unwrap();
    assert!(store.replace("a/update", "new").await.is_err());
    let present = PutOptions::default().with_precondition(Precondition::Value("x".into()));
    assert!(store.put_with(&key("a/update"), "new", present).await.is_err());
    assert!(!store.delete("a/delete").await.unwrap());
    let get = Txn::always().then([TxnOp::get(key("a/txn"))]);
    let result = store.transact(get).await.unwrap();
    assert_eq!(result.outcomes, [kv_mem::kv_core::TxnOutcome::Get(None)]);
}

#[tokio::test]
async fn an_injected_clock_drives_watches_waits_and_holds() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let store = open(MemConfig::new().with_clock(clock.clone()));
    put_for(&store, "a", 3_600_000 * MS).await;
    let mut watch = store.watch("").await.unwrap();
    clock.advance(3_600_000 * MS);
    assert_eq!(common::show(watch.next().await.unwrap()), "-a Expired");

    let options = LockOptions::default().with_max_hold(3_600_000 * MS);
    let guard = store.lock_with(&key("l"), options).await.unwrap();
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.lock("l").await.unwrap() }
    });
    clock.advance(3_600_000 * MS);
    let next = waiting.await.unwrap();
    assert_eq!(guard.loss(), Some(LockLoss::HeldTooLong));
    assert!(next.token() > guard.token());
}

#[test]
fn without_a_runtime_what_is_due_goes_at_the_next_call() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let store = open(MemConfig::new().with_clock(clock.clone()));
    futures_executor::block_on(async {
        let mut watch = store.watch("").await.unwrap();
        put_for(&store, "a", 10 * MS).await;
        drain(&mut watch);
        clock.advance(10 * MS);
        assert_eq!(store.get("a").await.unwrap(), None);
        assert_eq!(drain(&mut watch), [""; 0]);
        store.put("b", "").await.unwrap();
        assert_eq!(drain(&mut watch), ["-a Expired", "+b="]);
    });
}

/// The task that waits for deadlines lives on one runtime; the store outlives it.
#[test]
fn a_store_that_outlives_a_runtime_goes_on_in_the_next() {
    let store = fresh();
    for round in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            // Put in the runtime before: only the watch is there to notice.
            let mut watch = store.watch("").await.unwrap();
            if round > 0 {
                let event = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
                assert_eq!(common::show(event.expect("nobody told").unwrap()), "-a Expired");
            }
            put_for(&store, "a", 50 * MS).await;
        });
    }
}
