//! What is there when a store is opened again, by this process or by another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use kv_backend::{ManualClock, Timestamp};
use kv_core::{
    AdminExt, Bytes, DeleteCause, EntryExpiry, ErrorKind, Expiry, GetOptions, Key, LockLoss, LockOptions,
    PutOptions, SessionState, Store, StoreExt, Version, WatchEvent, WatchOptions, WatchTarget,
};
use kv_sled::{Durability, SledConfig, SledStore, Verify};

const SECOND: Duration = Duration::from_secs(1);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn config(dir: &tempfile::TempDir) -> SledConfig {
    SledConfig::new(dir.path())
}

async fn open(dir: &tempfile::TempDir) -> SledStore {
    SledStore::open(config(dir)).await.unwrap()
}

#[tokio::test]
async fn everything_is_still_there() {
    for durability in [Durability::Process, Durability::Power, Durability::Interval(SECOND)] {
        for verify in [Verify::Open, Verify::Read] {
            assert_everything_is_still_there(durability, verify).await;
        }
    }
}

async fn assert_everything_is_still_there(durability: Durability, verify: Verify) {
    let dir = tempfile::tempdir().unwrap();
    let config = || config(&dir).with_durability(durability).with_verify(verify);
    let store = SledStore::open(config()).await.unwrap();
    let large = vec![7u8; 200_000];
    let first = store.put("a", "1").await.unwrap();
    store.put("a/b", "").await.unwrap();
    store.put("large", large.clone()).await.unwrap();
    let second = store.put("a", "2").await.unwrap();
    store.close().await.unwrap();

    let store = SledStore::open(config()).await.unwrap();
    let a = store.get("a").await.unwrap().unwrap();
    assert_eq!((&a.value[..], a.version, a.created), (&b"2"[..], second, first));
    assert_eq!(store.get("a/b").await.unwrap().unwrap().value.len(), 0);
    assert_eq!(store.get("large").await.unwrap().unwrap().value, large);
    assert!(store.put("b", "3").await.unwrap() > second);
    assert_eq!(store.keys("").await.unwrap(), ["a", "a/b", "b", "large"].map(key));
    store.close().await.unwrap();
}

#[tokio::test]
async fn versions_and_tokens_grow_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut last, mut last_token) = (Version::ZERO, 0);
    for round in 0..4 {
        let store = open(&dir).await;
        let version = store.put("a", "x").await.unwrap();
        assert!(version > last, "round {round}: {version} after {last}");
        let guard = store.lock("lock").await.unwrap();
        assert!(guard.token().get() > last_token, "round {round}");
        last_token = guard.token().get();
        assert!(store.delete("a").await.unwrap());
        last = store.put("a", "y").await.unwrap();
        guard.unlock().await.unwrap();
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_time_to_live_goes_on_over_a_restart_and_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::from_millis(1_000_000_000_000);
    let clock = ManualClock::new(begin);
    let config = || config(&dir).with_clock(Arc::new(clock.clone()));
    let store = SledStore::open(config()).await.unwrap();
    for (name, ttl) in [("short", 10 * SECOND), ("long", 100 * SECOND)] {
        let options = PutOptions::default().with_expiry(Expiry::Ttl(ttl));
        store.put_with(&key(name), Bytes::new(), options).await.unwrap();
    }
    clock.advance(4 * SECOND);
    store.close().await.unwrap();

    clock.advance(20 * SECOND);
    let store = SledStore::open(config()).await.unwrap();
    assert!(!store.exists("short").await.unwrap(), "it expired while nobody had it open");
    let long = store.get_with(&key("long"), GetOptions::default().with_expiry()).await.unwrap().unwrap();
    assert_eq!(long.expiry, Some(EntryExpiry::ttl(100 * SECOND, Some(76 * SECOND))));
    let mut watch = store.watch("").await.unwrap();
    clock.advance(76 * SECOND);
    match watch.next().await.unwrap().unwrap() {
        WatchEvent::Delete(gone) => {
            assert_eq!((gone.key, gone.cause), (key("long"), DeleteCause::Expired));
        }
        other => panic!("{other:?}"),
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_wall_clock_set_back_while_closed_prolongs_nothing_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hour = 3600 * SECOND;
    let begin = Timestamp::from_millis(1_000_000_000_000);
    let before = ManualClock::new(begin);
    let store = SledStore::open(config(&dir).with_clock(Arc::new(before.clone()))).await.unwrap();
    let options = PutOptions::default().with_expiry(Expiry::Ttl(60 * SECOND));
    store.put_with(&key("a"), Bytes::new(), options).await.unwrap();
    before.advance(10 * SECOND);
    store.put("b", "later").await.unwrap();
    store.close().await.unwrap();

    let back = Timestamp::from_epoch(begin.since_epoch() - hour);
    let after = ManualClock::new(back);
    let store = SledStore::open(config(&dir).with_clock(Arc::new(after.clone()))).await.unwrap();
    let a = store.get_with(&key("a"), GetOptions::default().with_expiry()).await.unwrap().unwrap();
    // Store time never goes back: it goes on from the last change.
    assert_eq!(a.expiry, Some(EntryExpiry::ttl(60 * SECOND, Some(50 * SECOND))));
    let mut watch = store.watch_key("a").await.unwrap();
    after.advance(50 * SECOND);
    assert!(matches!(watch.next().await.unwrap().unwrap(), WatchEvent::Delete(_)));
    store.close().await.unwrap();
}

#[tokio::test]
async fn session_keys_go_with_their_handle_and_only_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (open(&dir).await, open(&dir).await);
    let session = || PutOptions::default().with_expiry(Expiry::Session);
    assert_eq!(first.session(), SessionState::Idle);
    first.put_with(&key("one"), Bytes::new(), session()).await.unwrap();
    second.put_with(&key("two"), Bytes::new(), session()).await.unwrap();
    assert_eq!(first.session(), SessionState::Held);
    let mut watch = second.watch("").await.unwrap();
    first.close().await.unwrap();
    assert_eq!(second.keys("").await.unwrap(), [key("two")]);
    match watch.next().await.unwrap().unwrap() {
        WatchEvent::Delete(gone) => assert_eq!((gone.key, gone.cause), (key("one"), DeleteCause::Expired)),
        other => panic!("{other:?}"),
    }
    assert_eq!(first.get("two").await.unwrap_err().kind(), &ErrorKind::Closed);
    second.close().await.unwrap();
    let third = open(&dir).await;
    assert!(third.keys("").await.unwrap().is_empty());
    third.close().await.unwrap();
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_before_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = || config(&dir).with_history(100);
    let store = SledStore::open(config()).await.unwrap();
    let large = vec![1u8; 50_000];
    let first = store.put("a", "1").await.unwrap();
    let second = store.put("a", large.clone()).await.unwrap();
    store.delete("a").await.unwrap();
    let last = store.put("b", "4").await.unwrap();
    store.close().await.unwrap();

    let store = SledStore::open(config()).await.unwrap();
    let from = |version| WatchOptions::default().with_from(version);
    let all = || WatchTarget::Prefix(kv_core::Prefix::root());
    let mut watch = store.watch_with(all(), from(first)).await.unwrap();
    match watch.next().await.unwrap().unwrap() {
        WatchEvent::Put(entry) => assert_eq!((entry.version, entry.value.len()), (second, large.len())),
        other => panic!("{other:?}"),
    }
    match watch.next().await.unwrap().unwrap() {
        WatchEvent::Delete(gone) => {
            assert_eq!(gone.cause, DeleteCause::Deleted);
            assert_eq!(gone.previous.unwrap().value, large);
        }
        other => panic!("{other:?}"),
    }
    match watch.next().await.unwrap().unwrap() {
        WatchEvent::Put(entry) => assert_eq!((entry.key, entry.version), (key("b"), last)),
        other => panic!("{other:?}"),
    }
    for number in 0..300 {
        store.put("c", number.to_string()).await.unwrap();
    }
    drop(watch);
    store.close().await.unwrap();

    let store = SledStore::open(config()).await.unwrap();
    match store.watch_with(all(), from(last)).await.unwrap_err().kind() {
        ErrorKind::Compacted { oldest: Some(oldest) } => {
            let mut watch = store.watch_with(all(), from(*oldest)).await.unwrap();
            for _ in 0..100 {
                assert!(matches!(watch.next().await.unwrap().unwrap(), WatchEvent::Put(_)));
            }
        }
        other => panic!("{other:?}"),
    }
    store.close().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn handles_share_a_directory_by_whatever_name() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let first = SledStore::open(SledConfig::new(&real)).await.unwrap();
    let second = SledStore::open(SledConfig::new(&link)).await.unwrap();
    first.put("a", "1").await.unwrap();
    assert_eq!(&second.get("a").await.unwrap().unwrap().value[..], b"1");
    // Two handles of one process exclude each other.
    let guard = first.lock("lock").await.unwrap();
    assert!(second.try_lock("lock").await.unwrap().is_none());
    guard.unlock().await.unwrap();
    assert!(second.try_lock("lock").await.unwrap().is_some());
    let other = SledConfig::new(&real).with_durability(Durability::Power);
    let error = SledStore::open(other).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    // The database lives until the last one has gone.
    first.close().await.unwrap();
    assert!(second.exists("a").await.unwrap());
    second.close().await.unwrap();
}

#[tokio::test]
async fn namespaces_are_apart_and_the_whole_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let namespace = |text: &str| config(&dir).with_namespace(kv_core::Prefix::new(text).unwrap());
    let app = SledStore::open(namespace("app")).await.unwrap();
    let apple = SledStore::open(namespace("apple")).await.unwrap();
    let whole = open(&dir).await;
    app.put("a", "1").await.unwrap();
    apple.put("a", "2").await.unwrap();
    assert_eq!(app.keys("").await.unwrap(), [key("a")]);
    assert_eq!(whole.keys("").await.unwrap(), [key("app/a"), key("apple/a")]);
    assert_eq!(app.delete_tree("").await.unwrap(), 1);
    assert_eq!(whole.keys("").await.unwrap(), [key("apple/a")]);
    for store in [app, apple, whole] {
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn dropping_the_last_handle_closes_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let store = open(&dir).await;
        store.put("round", round.to_string()).await.unwrap();
        drop(store);
    }
    let store = open(&dir).await;
    assert_eq!(&store.get("round").await.unwrap().unwrap().value[..], b"4");
    store.close().await.unwrap();
    store.close().await.unwrap();
}

#[test]
fn dropping_without_a_runtime_does_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let store = runtime.block_on(open(&dir));
    let guard = runtime.block_on(store.lock("a")).unwrap();
    drop(runtime);
    drop(guard);
    drop(store);
}

#[tokio::test]
async fn a_directory_with_something_else_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = SledStore::open(config(&dir)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().contains("letter.txt"), "{error}");
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "letter.txt" || name == "kv-sled.lock"), "{names:?}");
    let error = SledStore::open(SledConfig::new(dir.path().join("letter.txt"))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert_eq!(error.endpoint(), Some(&*dir.path().join("letter.txt").display().to_string()));
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_directory_that_cannot_be_made_is_not_taken_for_damage() {
    let error = SledStore::open(SledConfig::new("/proc/kv/store")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().contains("/proc/kv/store cannot be made"), "{error}");
}

#[tokio::test]
async fn locks_that_name_no_maximum_hold_have_the_one_of_their_store() {
    let dir = tempfile::tempdir().unwrap();
    let max_hold = Duration::from_millis(200);
    let store = SledStore::open(config(&dir).with_lock_max_hold(max_hold)).await.unwrap();
    let longer = LockOptions::default().with_max_hold(1000 * SECOND);
    let begin = std::time::Instant::now();
    let (guard, named) = (store.lock("a").await.unwrap(), store.lock_with(&key("b"), longer).await.unwrap());
    let loss = tokio::time::timeout(60 * SECOND, guard.lost()).await;
    assert_eq!(loss.unwrap(), LockLoss::HeldTooLong);
    assert!(begin.elapsed() >= max_hold);
    assert!(named.is_held());
    drop((guard, named));
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_past_and_its_compaction_are_still_there() {
    let dir = tempfile::tempdir().unwrap();
    // Too large for one record: what history shares and what it lets go are the parts.
    let value = |round: u8| vec![round; 100_000];
    let mut puts = Vec::new();
    {
        let store = open(&dir).await;
        for round in 0..20 {
            puts.push(store.put("dir/large", value(round)).await.unwrap());
        }
        store.delete_tree("dir").await.unwrap();
        store.close().await.unwrap();
    }
    let store = open(&dir).await;
    for (round, version) in (0..).zip(&puts) {
        let entry = store.get_at("dir/large", *version).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.version), (value(round).into(), *version));
    }
    assert_eq!(store.key_versions("dir/large").await.unwrap().len(), puts.len() + 1);
    // A list that is being read keeps its version, whatever is compacted.
    for at in 0..2000 {
        store.put(format!("many/{at}"), "x").await.unwrap();
    }
    let mut reading = store.list_at("dir", puts[5]).await.unwrap();
    assert_eq!(store.compact(puts[10]).await.unwrap(), puts[10]);
    match reading.next().await {
        Some(Ok(item)) => assert_eq!(item.path(), "dir/large"),
        Some(Err(error)) => assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}"),
        None => panic!("the list of a version that was there is empty"),
    }
    drop(reading);
    store.close().await.unwrap();

    let store = open(&dir).await;
    let gone = store.get_at("dir/large", puts[9]).await.unwrap_err();
    assert_eq!(*gone.kind(), ErrorKind::Compacted { oldest: Some(puts[10]) });
    assert_eq!(store.get_at("dir/large", puts[10]).await.unwrap().unwrap().value, value(10));
    let versions = store.key_versions("dir/large").await.unwrap();
    let kept: Vec<_> = versions.iter().map(|one| one.entry.is_some().then_some(one.version)).collect();
    let expected: Vec<_> = puts[10..].iter().copied().map(Some).chain([None]).collect();
    assert_eq!(kept, expected);
    store.close().await.unwrap();
}
