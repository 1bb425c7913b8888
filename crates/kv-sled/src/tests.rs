//! Failures in the middle of a write, made on purpose: what callers, readers and watches are told, and
//! that the store goes on or stops as promised.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kv_backend::{Deadline, ManualClock, Namespace, State, StateFor, Timestamp};
use kv_core::{
    Applied, Bytes, Error, ErrorKind, Expiry, Key, Operation, Precondition, Prefix, PutOptions, Result,
    StoreExt, Txn, TxnOp, WatchEvent, WatchOptions, WatchTarget,
};

use parking_lot::Mutex;

use crate::database::Database;
use crate::lock::Fences;
use crate::name::Name;
use crate::stage::NewExpiry;
use crate::txn::Write;
use crate::watch::Snapshots;
use crate::{Durability, SledConfig, SledStore};

/// What is to fail in an open database. A database that is opened again has none of it.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Nothing of the next batch is applied.
    apply: AtomicBool,
    /// The next flush says that it failed, and did not.
    flush: AtomicBool,
    /// The next scan after the next flush fails.
    scan_after_flush: AtomicBool,
    scan: AtomicBool,
}

fn once(fault: &AtomicBool) -> Result<()> {
    if fault.swap(false, Ordering::SeqCst) { Err(failure()) } else { Ok(()) }
}

fn failure() -> Error {
    Error::new(ErrorKind::Unavailable).with_detail("on purpose")
}

impl Faults {
    pub(crate) fn apply(&self) -> Result<()> {
        once(&self.apply)
    }

    pub(crate) fn flushed(&self) -> Result<()> {
        if self.scan_after_flush.swap(false, Ordering::SeqCst) {
            self.scan.store(true, Ordering::SeqCst);
        }
        once(&self.flush)
    }

    pub(crate) fn scan(&self) -> Result<()> {
        once(&self.scan)
    }
}

/// The logs that cannot be synced, however often they are opened.
static UNSYNCABLE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

pub(crate) fn sync_fault(log: &Path) -> Result<()> {
    if UNSYNCABLE.lock().contains(log) { Err(failure()) } else { Ok(()) }
}

/// Makes every sync fail, or work again.
fn break_syncs(dir: &tempfile::TempDir, broken: bool) {
    let log = dir.path().canonicalize().unwrap().join("db");
    let mut unsyncable = UNSYNCABLE.lock();
    if broken {
        unsyncable.insert(log)
    } else {
        unsyncable.remove(&log)
    };
}

fn database(store: &SledStore) -> Arc<Database> {
    store.open_handle(Operation::Get).unwrap().database
}

/// Makes something fail from now on.
fn break_it(store: &SledStore, fault: impl FnOnce(&Faults) -> &AtomicBool) {
    let client = database(store).view().client().unwrap();
    fault(&client.faults).store(true, Ordering::SeqCst);
}

async fn open(config: SledConfig) -> SledStore {
    SledStore::open(config).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn session() -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Session)
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn next(watch: &mut kv_core::Watch) -> WatchEvent {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap().unwrap()
}

/// Every write is refused, for longer than it takes to try again.
async fn assert_over(store: &SledStore) {
    let begin = Instant::now();
    while begin.elapsed() < crate::commit::RETRY + Duration::from_millis(500) {
        let error = store.put("a", "3").await.unwrap_err();
        assert_eq!(error.applied(), Applied::No, "{error}");
        assert!(error.to_string().contains("open it again"), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_failed_sync_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SledConfig::new(dir.path()).with_durability(Durability::Power);
    let store = open(config()).await;
    store.put("a", "1").await.unwrap();
    let flushes = store.stats().unwrap().flushes;
    break_syncs(&dir, true);
    let error = store.put("a", "2").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::Unknown), "{error}");
    // Even though every sync would work from now on.
    break_syncs(&dir, false);
    assert_over(&store).await;
    assert_eq!(store.stats().unwrap().flushes, flushes);
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"1", "what is not synced is not seen");
    store.close().await.unwrap_err();

    let store = open(config()).await;
    let found = store.get("a").await.unwrap().unwrap().value;
    assert!(&found[..] == b"1" || &found[..] == b"2", "the one of unknown outcome, or not");
    store.put("a", "4").await.unwrap();
    // Nor is a flush, whose failure may be that of the same pages.
    break_it(&store, |faults| &faults.flush);
    assert_eq!(store.put("a", "5").await.unwrap_err().applied(), Applied::Unknown);
    assert_over(&store).await;
    store.close().await.unwrap_err();

    // Nor is one that fails while a database is opened again after something else.
    let store = open(config()).await;
    break_it(&store, |faults| &faults.apply);
    break_syncs(&dir, true);
    store.put("a", "6").await.unwrap_err();
    eventually("it is over", async || {
        store.put("a", "7").await.unwrap_err().to_string().contains("open it again")
    })
    .await;
    break_syncs(&dir, false);
    assert_over(&store).await;
    store.close().await.unwrap_err();
}

#[tokio::test]
async fn a_failed_flush_is_recovered_from_and_nothing_is_told_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(SledConfig::new(dir.path())).await;
    store.put("a", "1").await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    break_it(&store, |faults| &faults.flush);
    let error = store.put("a", "2").await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    eventually("it is written again", async || store.put("b", "3").await.is_ok()).await;
    for expected in ["2", "3"] {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => assert_eq!(&entry.value[..], expected.as_bytes()),
            other => panic!("{other:?}"),
        }
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn closing_says_when_not_everything_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        || SledConfig::new(dir.path()).with_durability(Durability::Interval(Duration::from_secs(600)));
    let store = open(config()).await;
    store.put("a", "1").await.unwrap();
    break_syncs(&dir, true);
    let error = store.close().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert!(error.to_string().contains("not everything could be made durable"), "{error}");
    // And it is closed.
    store.close().await.unwrap();
    break_syncs(&dir, false);
    let store = open(config()).await;
    assert!(store.exists("a").await.unwrap());
    store.close().await.unwrap();
}

async fn large_tree(dir: &tempfile::TempDir) -> SledStore {
    let store = open(SledConfig::new(dir.path()).with_small_tree(4)).await;
    for n in 0..10 {
        store.put(format!("tree/{n}"), "x").await.unwrap();
    }
    store
}

#[tokio::test]
async fn a_subtree_that_is_found_deleted_after_a_failure_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = large_tree(&dir).await;
    let mut watch = store.watch("tree").await.unwrap();
    break_it(&store, |faults| &faults.flush);
    let error = store.delete_tree("tree").await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    assert_eq!(next(&mut watch).await, WatchEvent::Resync);
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    eventually("it is written again", async || store.put("tree/new", "y").await.is_ok()).await;
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key == key("tree/new")));
    assert_eq!(store.keys("").await.unwrap(), [key("tree/new")]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_deleted_subtree_that_cannot_be_told_makes_watches_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = large_tree(&dir).await;
    let before = store.put("other", "x").await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    break_it(&store, |faults| &faults.scan_after_flush);
    assert_eq!(store.delete_tree("tree").await.unwrap(), 10);
    assert_eq!(next(&mut watch).await, WatchEvent::Resync);
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key == key("other")));
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    let from = WatchOptions::default().with_from(before);
    let error = store.watch_with(WatchTarget::Prefix(Prefix::root()), from).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
    store.put("other", "y").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    store.close().await.unwrap();
}

/// Expired is expired for every call, also where the deletion is late.
#[tokio::test]
async fn what_has_expired_is_seen_by_nobody_before_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    let store = open(SledConfig::new(dir.path()).with_clock(Arc::new(clock.clone()))).await;
    let second = Duration::from_secs(1);
    let ttl = || PutOptions::default().with_expiry(Expiry::Ttl(second));
    store.put_with(&key("dir/a"), Bytes::new(), ttl()).await.unwrap();
    store.put("dir/b", "stays").await.unwrap();
    break_it(&store, |faults| &faults.apply);
    clock.advance(2 * second);
    assert!(!store.exists("dir/a").await.unwrap());
    assert_eq!(store.keys("").await.unwrap(), [key("dir/b")]);
    assert_eq!(store.entries("dir").await.unwrap().len(), 1);
    eventually("it is written again", async || store.put("c", "").await.is_ok()).await;

    // More than are deleted at a time: the last one is not deleted when it is asked for.
    let puts = (0..2500).map(|n| {
        let store = store.clone();
        async move { store.put_with(&key(&format!("many/{n:04}")), Bytes::new(), ttl()).await.unwrap() }
    });
    let versions = futures_util::future::join_all(puts).await;
    let last = versions.iter().enumerate().max_by_key(|(_, put)| put.version).unwrap().0;
    clock.advance(2 * second);
    store.create(format!("many/{last:04}"), "new").await.unwrap();
    assert_eq!(store.keys("many").await.unwrap().len(), 1);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_session_that_could_not_be_ended_is_ended_later() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SledConfig::new(dir.path());
    let (first, second) = (open(config()).await, open(config()).await);
    first.put_with(&key("mine"), Bytes::new(), session()).await.unwrap();
    second.put_with(&key("other"), Bytes::new(), session()).await.unwrap();
    break_it(&second, |faults| &faults.apply);
    first.close().await.unwrap_err();
    eventually("the key of the session goes", async || !second.exists("mine").await.unwrap_or(true)).await;
    assert!(second.exists("other").await.unwrap());
    second.close().await.unwrap();
}

#[tokio::test]
async fn a_session_has_no_key_after_its_end_whatever_was_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SledConfig::new(dir.path());
    let stays = open(config()).await;
    let deadline = || Deadline::after(Duration::from_secs(30));
    for round in 0..30 {
        let store = open(config()).await;
        let handle = store.open_handle(Operation::Put).unwrap();
        let NewExpiry::Session(id) = handle.expiry(Expiry::Session).unwrap() else { panic!("a session") };
        let put = |name: &str| Write::Put {
            name: Name::new(&Arc::new(Namespace::new(&Prefix::root()).unwrap()), &key(name)),
            value: Bytes::new(),
            precondition: Precondition::Any,
            expiry: NewExpiry::Session(id),
        };
        let database = database(&store);
        // In one group with the end of the session, where it comes right before it.
        let early = database.write(put("early"), Fences::None, deadline());
        let (early, closed) = tokio::join!(early, store.close());
        closed.unwrap();
        drop(early);
        assert!(!stays.exists("early").await.unwrap(), "round {round}");
        // And one that comes after it.
        let late = database.write(put("late"), Fences::None, deadline()).await.unwrap_err();
        assert_eq!((late.kind(), late.applied()), (&ErrorKind::Closed, Applied::No), "{late}");
        assert!(!stays.exists("late").await.unwrap(), "round {round}");
    }
    stays.close().await.unwrap();
}

#[tokio::test]
async fn a_session_with_many_keys_ends_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SledConfig::new(dir.path());
    let (store, stays) = (open(config()).await, open(config()).await);
    let puts = (0..2500).map(|n| {
        let store = store.clone();
        async move { store.put_with(&key(&format!("mine/{n}")), Bytes::new(), session()).await.unwrap() }
    });
    futures_util::future::join_all(puts).await;
    store.close().await.unwrap();
    assert!(stays.keys("").await.unwrap().is_empty());
    stays.close().await.unwrap();
}

/// However large the values: what is read for a watch at a time, and held for a deletion, is bounded.
#[tokio::test]
async fn large_values_are_read_a_few_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(SledConfig::new(dir.path())).await;
    let mut version = kv_core::Version::ZERO;
    for n in 0..20 {
        version = store.put(format!("large/{n:02}"), vec![n; 1 << 20]).await.unwrap();
    }
    let namespace = Arc::new(Namespace::new(&Prefix::root()).unwrap());
    let snapshots = Snapshots::new(&database(&store), &namespace);
    for wanted_for in [StateFor::Initial, StateFor::Resync] {
        let pages = snapshots.pages(&WatchTarget::Prefix(Prefix::root()), wanted_for);
        let pages: Vec<_> = pages.map(|page| page.unwrap().entries).collect().await;
        assert!(pages.iter().all(|page| page.len() <= 2), "{:?}", pages.iter().map(Vec::len));
        let keys: Vec<Key> = pages.concat().into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, store.keys("").await.unwrap());
    }
    // So much is not held in one batch: the tree is deleted like one of many entries.
    assert_eq!(store.delete_tree("large").await.unwrap(), 20);
    store.close().await.unwrap();
    let store = open(SledConfig::new(dir.path())).await;
    assert!(store.keys("").await.unwrap().is_empty());
    let from = WatchOptions::default().with_from(version);
    let error = store.watch_with(WatchTarget::Prefix(Prefix::root()), from).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
    store.close().await.unwrap();
}

/// One transaction can delete more than is held for those who watch: what is beyond it is told without
/// its value.
#[tokio::test]
async fn a_transaction_that_deletes_large_values_holds_some_of_them() {
    const COUNT: usize = 70;
    let dir = tempfile::tempdir().unwrap();
    let store = open(SledConfig::new(dir.path())).await;
    let keys: Vec<Key> = (0..COUNT).map(|n| key(&format!("large/{n:02}"))).collect();
    for key in &keys {
        store.put_with(key, vec![1; 1 << 20], PutOptions::default()).await.unwrap();
    }
    let ops = keys.iter().map(TxnOp::delete);
    assert!(
        StoreExt::transact(&store, Txn::always().then(ops).with_timeout(Duration::from_secs(60)))
            .await
            .unwrap()
            .succeeded
    );
    assert!(store.keys("").await.unwrap().is_empty());
    // The log of the hub holds about as much.
    let from = WatchOptions::default().with_from(database(&store).hub().oldest());
    let mut watch = store.watch_with(WatchTarget::Prefix(Prefix::root()), from).await.unwrap();
    let end = store.put("end", "").await.unwrap();
    let (mut with, mut without) = (0, 0);
    loop {
        match next(&mut watch).await {
            WatchEvent::Delete(gone) if gone.previous.is_some() => with += 1,
            WatchEvent::Delete(_) => without += 1,
            WatchEvent::Put(entry) if entry.version == end => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(with > 50 && without == COUNT - 64, "{with} with their values, {without} without");
    store.close().await.unwrap();
}
