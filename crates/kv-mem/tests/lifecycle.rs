//! What closing and dropping lets go of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{drain, fresh, key, open};
use kv_mem::kv_core::{
    Bytes, DeleteOptions, DeleteTreeOptions, ErrorKind, Expiry, GetOptions, ListOptions, LockLoss,
    LockOptions, Prefix, PutOptions, Store, StoreExt, Txn, Version, WatchOptions, WatchTarget,
};
use kv_mem::{Clock, ManualClock, MemConfig, MemStore, Timestamp};

/// A value that tells when nobody has it any more.
#[derive(Clone)]
struct Traced(Arc<AtomicUsize>);

struct Value(Arc<AtomicUsize>);

impl Traced {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn value(&self) -> Bytes {
        self.0.fetch_add(1, Ordering::SeqCst);
        Bytes::from_owner(Value(Arc::clone(&self.0)))
    }

    fn alive(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        b"value"
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn session() -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Session)
}

/// Everything a store can have: entries, history, watches that have not read, a listing half read, a
/// deadline, session keys, a lock that is held and one that is waited for.
#[tokio::test]
async fn dropping_a_store_in_full_use_frees_everything() {
    let traced = Traced::new();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let store = open(MemConfig::new().with_clock(Arc::clone(&clock)));
    let mut watch = store.watch("").await.unwrap();
    let unread = store.watch("").await.unwrap();
    for number in 0..300 {
        let name = key(&format!("a/{number}"));
        store.put_with(&name, traced.value(), PutOptions::default()).await.unwrap();
    }
    let options = WatchOptions::default().with_initial();
    let reading = store.watch_with(common::prefix(""), options).await.unwrap();
    let listing = store.list("").await.unwrap();
    let ttl = PutOptions::default().with_expiry(Expiry::Ttl(Duration::from_secs(60)));
    store.put_with(&key("ttl"), traced.value(), ttl).await.unwrap();
    store.put_with(&key("session"), traced.value(), session()).await.unwrap();
    let guard = store.lock("l").await.unwrap();
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.lock("l").await }
    });
    while store.lock_holder(&key("l")).await.unwrap().is_none() || Arc::strong_count(&store) < 2 {
        tokio::task::yield_now().await;
    }
    store.close().await.unwrap();
    assert_eq!(*waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(guard.loss(), Some(LockLoss::Closed));
    drain(&mut watch);
    drop((store, watch, unread, reading, listing, guard));
    // The sweeper's task has the clock as long as it runs.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&clock) > 1 || traced.alive() > 0 {
        assert!(std::time::Instant::now() < end, "{} values are left", traced.alive());
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_stream_that_is_read_to_its_end_keeps_nothing() {
    futures_executor::block_on(async {
        let traced = Traced::new();
        let store = open(MemConfig::new().with_history(1));
        for number in 0..300 {
            let name = key(&format!("a/{number}"));
            store.put_with(&name, traced.value(), PutOptions::default()).await.unwrap();
        }
        let mut listing = store.list("").await.unwrap();
        let options = WatchOptions::default().with_initial();
        let mut watch = store.watch_with(common::prefix(""), options).await.unwrap();
        store.delete_tree("").await.unwrap();
        assert_eq!(traced.alive(), 300);
        let mut count = 0;
        while let Some(item) = futures_util::StreamExt::next(&mut listing).await {
            item.unwrap();
            count += 1;
        }
        assert_eq!(count, 300);
        // 300 entries, Synced, and the deletions, all at once or as many as the watch keeps.
        assert_eq!(drain(&mut watch).len(), 601);
        store.put("a", "").await.unwrap();
        drain(&mut watch);
        assert!(traced.alive() <= 1, "{} values are left", traced.alive());
    });
}

#[tokio::test]
async fn a_dropped_handle_takes_along_what_is_its_own_and_nothing_else() {
    let name = "a_dropped_handle";
    let handle = || open(MemConfig::new().with_name(name));
    let (going, staying) = (handle(), handle());
    let mut watch = staying.watch("").await.unwrap();
    going.put("kept", "x").await.unwrap();
    going.put_with(&key("s/1"), "x", session()).await.unwrap();
    going.put_with(&key("s/2"), "x", session()).await.unwrap();
    staying.put_with(&key("s/2"), "taken over", session()).await.unwrap();
    staying.put_with(&key("s/3"), "x", session()).await.unwrap();
    let lost = going.lock("l").await.unwrap();
    let mut ending = going.watch("").await.unwrap();
    drain(&mut watch);

    drop(going);
    assert_eq!(lost.loss(), Some(LockLoss::Closed));
    assert_eq!(drain(&mut ending), ["Closed"]);
    assert!(ending.next().await.is_none());
    assert_eq!(drain(&mut watch), ["-s/1 Expired"]);
    let keys: Vec<_> = staying.keys("").await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["kept", "s/2", "s/3"]);
    assert!(staying.try_lock("l").await.unwrap().is_some());
}

#[tokio::test]
async fn the_data_of_a_name_goes_with_its_last_handle() {
    let name = "the_data_of_a_name";
    let config = || MemConfig::new().with_name(name);
    let first = open(config().with_history(7));
    let second = open(config());
    first.put("a", "x").await.unwrap();
    let guard = first.lock("l").await.unwrap();
    drop(first);
    assert!(second.exists("a").await.unwrap());
    let error = MemStore::open(config().with_history(8)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().contains(name), "{error}");
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    assert!(MemStore::open(config().with_clock(clock)).is_err());
    second.close().await.unwrap();
    // A guard that is left is not somebody who has it open.
    let fresh = open(config().with_history(8));
    assert!(!fresh.exists("a").await.unwrap());
    drop((second, guard));
    assert!(fresh.put("a", "x").await.is_ok());
}

#[tokio::test]
async fn after_close_every_call_is_refused() {
    let store = fresh();
    let mut states = store.session_states();
    store.put_with(&key("a"), "x", session()).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    let (a, root) = (key("a"), common::prefix(""));
    let refused = [
        store.get_with(&a, GetOptions::default()).await.err(),
        store.put_with(&a, "x", PutOptions::default()).await.err(),
        store.delete_with(&a, DeleteOptions::default()).await.err(),
        store.list_with(&root, ListOptions::default()).await.err(),
        store.delete_tree_with(&root, DeleteTreeOptions::default()).await.err(),
        store.watch_with(root, WatchOptions::default()).await.err(),
        store.lock_with(&a, LockOptions::default()).await.err(),
        store.lock_holder(&a).await.err(),
        store.transact(Txn::always()).await.err(),
        store.server().await.err(),
    ];
    for error in refused {
        let error = error.expect("a closed store answered");
        assert_eq!(*error.kind(), ErrorKind::Closed);
        assert_eq!(error.backend(), Some("mem"));
        assert!(error.operation().is_some(), "{error}");
    }
    while states.next().await.is_some() {}
}

/// A task that never has to wait gives way all the same.
#[tokio::test(start_paused = true)]
async fn a_busy_task_does_not_keep_others_from_running() {
    let store = fresh();
    let busy = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            loop {
                store.put("a", "x").await.unwrap();
            }
        })
    };
    let mut watch = store.watch("").await.unwrap();
    for _ in 0..1000 {
        watch.next().await.unwrap().unwrap();
    }
    busy.abort();
}

/// Catches a store that begins with entries and hands out their versions again, or lets watches begin
/// before them.
#[tokio::test]
async fn a_store_begins_with_entries_at_their_versions() {
    let old = MemStore::open(MemConfig::new()).unwrap();
    for name in ["a", "a/b", "c"] {
        old.put(name, name).await.unwrap();
    }
    let entries = old.entries("").await.unwrap();
    let config = MemConfig::new().with_namespace("below".parse().unwrap());
    let new = MemStore::restore(config, entries.clone(), Version::new(3)).unwrap();
    assert_eq!(new.entries("").await.unwrap(), entries);
    let from = |version| WatchOptions::default().with_from(Version::new(version));
    let target = || WatchTarget::below(Prefix::root());
    let error = new.watch_with(target(), from(2)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
    let mut watch = new.watch_with(target(), from(3)).await.unwrap();
    assert_eq!(new.put("a", "x").await.unwrap(), Version::new(4));
    assert_eq!(watch.next().await.unwrap().unwrap().version(), Some(Version::new(4)));

    let twice = [entries[0].clone(), entries[0].clone()];
    for (refused, newest, named) in
        [(entries.clone(), 2, false), (twice.to_vec(), 3, false), (entries, 3, true)]
    {
        let config = if named { MemConfig::new().with_name("begun") } else { MemConfig::new() };
        let error = MemStore::restore(config, refused, Version::new(newest)).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidConfig { .. }),
            "{error}"
        );
    }
}
