//! Lists at one version, and deleting subtrees of any size at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it did")]

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use kv_core::{
    Condition, DeleteCause, ErrorKind, Expiry, Key, ListItem, ListOptions, Listing, Prefix, PutOptions,
    StoreExt, Txn, TxnOp, WatchEvent, WatchOptions, WatchTarget,
};
use kv_sled::{SledConfig, SledStore};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn open(dir: &tempfile::TempDir) -> SledStore {
    SledStore::open(SledConfig::new(dir.path())).await.unwrap()
}

/// Puts many keys, a thousand at a time.
async fn load(store: &SledStore, prefix: &str, count: usize, value: &[u8]) {
    let keys: Vec<Key> = (0..count).map(|n| key(&format!("{prefix}/{:03}/{n:07}", n % 1000))).collect();
    for keys in keys.chunks(1000) {
        let puts = keys.iter().map(|key| TxnOp::put(key, value.to_vec()));
        let done = StoreExt::transact(store, Txn::always().then(puts).with_timeout(Duration::from_secs(60)))
            .await
            .unwrap();
        assert!(done.succeeded);
    }
}

async fn collect(listing: Listing) -> Vec<(String, Vec<u8>)> {
    listing
        .map_ok(|item| match item {
            ListItem::Entry(entry) => (entry.key.as_str().to_owned(), entry.value.to_vec()),
            other => panic!("{other:?}"),
        })
        .try_collect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_one_version_while_everything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    load(&store, "a", 3000, &[1; 2000]).await;
    let mut listing = store.list("a").await.unwrap();
    let as_of = listing.as_of().unwrap();
    let before = collect(store.list("a").await.unwrap()).await;
    assert_eq!(before.len(), 3000);

    // Begun, and then read while everything before and behind the reader changes.
    let mut read = Vec::new();
    for _ in 0..700 {
        let ListItem::Entry(entry) = listing.next().await.unwrap().unwrap() else { panic!("an entry") };
        read.push((entry.key.as_str().to_owned(), entry.value.to_vec()));
    }
    let keys: Vec<&String> = before.iter().map(|(key, _)| key).collect();
    for (n, keys) in keys.chunks(300).enumerate() {
        let ops = keys
            .iter()
            .map(|text| if n % 2 == 0 { TxnOp::delete(key(text)) } else { TxnOp::put(key(text), "new") });
        let inserts = keys.iter().take(100).map(|text| TxnOp::put(key(&format!("{text}-more")), "more"));
        assert!(StoreExt::transact(&store, Txn::always().then(ops.chain(inserts))).await.unwrap().succeeded);
    }
    read.extend(collect(listing).await);
    assert_eq!(read, before);
    // And list, then watch from there, loses nothing.
    let mut watch = store
        .watch_with(WatchTarget::Prefix(Prefix::new("a").unwrap()), WatchOptions::default().with_from(as_of))
        .await
        .unwrap();
    let mut state: std::collections::BTreeMap<String, Vec<u8>> = before.into_iter().collect();
    for _ in 0..4000 {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Put(entry) => drop(state.insert(entry.key.as_str().to_owned(), entry.value.to_vec())),
            WatchEvent::Delete(gone) => {
                assert!(state.remove(gone.key.as_str()).is_some());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(state.into_iter().collect::<Vec<_>>(), collect(store.list("a").await.unwrap()).await);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_list_that_falls_too_far_behind_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path()).with_history(10)).await.unwrap();
    load(&store, "a", 3000, b"x").await;
    let mut listing = store.list("a").await.unwrap();
    listing.next().await.unwrap().unwrap();
    // More than a list may be behind, and all of it behind the reader.
    for round in 0..52 {
        load(&store, "a/999", 1000, round.to_string().as_bytes()).await;
    }
    let error = listing.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn levels_limits_and_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    for name in ["a", "a-b", "a/1", "a/2/x", "a/2/y", "a/2-", "a/3", "b"] {
        store.put(name, "v").await.unwrap();
    }
    let paths = async |prefix: &str, options: ListOptions| -> Vec<String> {
        let listing = store.list_with(&Prefix::new(prefix).unwrap(), options).await.unwrap();
        listing.map_ok(|item| item.path().to_owned()).try_collect().await.unwrap()
    };
    let all = ListOptions::default;
    assert_eq!(paths("", all()).await, ["a", "a-b", "a/1", "a/2-", "a/2/x", "a/2/y", "a/3", "b"]);
    assert_eq!(paths("", all().with_one_level()).await, ["a", "a-b", "a", "b"]);
    assert_eq!(paths("a", all().with_one_level()).await, ["a/1", "a/2-", "a/2", "a/3"]);
    assert_eq!(paths("a", all().with_one_level().with_limit(3)).await, ["a/1", "a/2-", "a/2"]);
    assert_eq!(paths("a", all().with_start_after(key("a/2-")).with_limit(2)).await, ["a/2/x", "a/2/y"]);
    assert_eq!(paths("a", all().with_range(key("a/2")..key("a/3"))).await, ["a/2-", "a/2/x", "a/2/y"]);
    assert_eq!(
        paths("a", all().with_range(key("a/2")..=key("a/3"))).await,
        ["a/2-", "a/2/x", "a/2/y", "a/3"]
    );
    assert_eq!(paths("a", all().with_range(key("z")..key("b"))).await, [""; 0]);
    assert_eq!(paths("a", all().with_limit(0)).await, [""; 0]);
    assert_eq!(paths("nothing/here", all()).await, [""; 0]);
    store.close().await.unwrap();
}

/// Larger than what is deleted in one batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_subtree_goes_at_once_and_stays_away() {
    const COUNT: usize = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    load(&store, "gone", COUNT, &[3; 1500]).await;
    let expiring = PutOptions::default().with_expiry(Expiry::Ttl(Duration::from_secs(3600)));
    store.put_with(&key("gone/expiring"), "x", expiring).await.unwrap();
    store.put("gone", "the key itself stays").await.unwrap();
    store.put("gone-not", "neither does a neighbour go").await.unwrap();
    let old = store.list("gone").await.unwrap();
    let mut watch = store.watch_key("gone/expiring").await.unwrap();
    let mut slow = store.watch("gone").await.unwrap();
    let lock = store.lock("gone/lock").await.unwrap();

    let begin = Instant::now();
    let deleted = store.delete_tree("gone").await.unwrap();
    println!("{deleted} entries in {:?}", begin.elapsed());
    assert_eq!(deleted, COUNT as u64 + 1);

    assert!(store.keys("gone").await.unwrap().is_empty());
    assert_eq!(store.keys("").await.unwrap(), [key("gone"), key("gone-not")]);
    assert!(!store.exists("gone/000/0000000").await.unwrap());
    assert!(!lock.is_held());
    match watch.next().await.unwrap().unwrap() {
        WatchEvent::Delete(gone) => {
            assert_eq!((gone.cause, &gone.previous.unwrap().value[..]), (DeleteCause::Deleted, &b"x"[..]));
        }
        other => panic!("{other:?}"),
    }
    // It has more to say than is kept.
    assert_eq!(slow.next().await.unwrap().unwrap(), WatchEvent::Resync);
    assert_eq!(slow.next().await.unwrap().unwrap(), WatchEvent::Synced);
    let error = old.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");

    // What is put below it again is there, as new, whether the old entry is removed yet or not.
    for n in (0..COUNT).step_by(97) {
        let name = key(&format!("gone/{:03}/{n:07}", n % 1000));
        let again = StoreExt::transact(
            &store,
            Txn::when([Condition::absent(&name)]).then([TxnOp::put(&name, "new")]),
        )
        .await;
        assert!(again.unwrap().succeeded, "{name}");
        let entry = store.get(&name).await.unwrap().unwrap();
        assert_eq!((entry.created, &entry.value[..]), (entry.version, &b"new"[..]));
    }
    let new = store.keys("gone").await.unwrap();
    assert_eq!(new.len(), COUNT.div_ceil(97));
    drop((watch, slow, lock));
    // Opening verifies what is there, whether all was removed by then or not.
    for _ in 0..3 {
        store.close().await.unwrap();
        let store = open(&dir).await;
        assert_eq!(store.keys("gone").await.unwrap(), new);
        store.close().await.unwrap();
    }
    let store = open(&dir).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.stats().unwrap().removals > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.keys("gone").await.unwrap(), new);
    assert_eq!(store.delete_tree("").await.unwrap(), new.len() as u64 + 2);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_is_not_read_again_after_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path()).with_small_tree(1)).await.unwrap();
    let value = async |name: &str| store.get(name).await.unwrap().map(|entry| entry.value);
    let names: Vec<String> = (0..50).map(|n| format!("a/{n}")).collect();
    for round in ["one", "two"] {
        for name in &names {
            store.put(name, round).await.unwrap();
            // From the database, then from memory.
            assert_eq!((value(name).await, value(name).await), (Some(round.into()), Some(round.into())));
        }
        store.delete(&names[0]).await.unwrap();
        assert_eq!(value(&names[0]).await, None);
        // The subtree goes as a whole, and what is on the disk later and bit by bit.
        assert_eq!(store.delete_tree("a").await.unwrap(), 49);
        while store.stats().unwrap().removals > 0 {
            for name in &names {
                assert_eq!(value(name).await, None, "{name}");
            }
        }
        assert_eq!(value(&names[1]).await, None);
    }
}

/// Pages of lists stay in memory: every list must still be what a plain map says, on handles of different
/// namespaces, from any place on, whatever is written in between and whichever pages are known.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_listed_before_is_not_listed_again_after_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SledConfig::new(dir.path()).with_small_tree(1);
    let store = SledStore::open(config()).await.unwrap();
    let below = SledStore::open(config().with_namespace(Prefix::new("a").unwrap())).await.unwrap();
    let mut expected = std::collections::BTreeMap::new();
    let puts = (0..1500).map(|n| {
        let name = format!("a/{:04}", n * 2);
        expected.insert(name.clone(), b"first".to_vec());
        let store = &store;
        async move { store.put(name, "first").await.unwrap() }
    });
    futures_util::future::join_all(puts).await;

    // The same choices each time.
    let mut last = 7u64;
    let mut random = |below: u64| {
        last = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (last >> 33) % below
    };
    for round in 0..60u64 {
        let begun = store.list("").await.unwrap();
        let before: Vec<_> = expected.clone().into_iter().collect();
        for _ in 0..random(4) {
            let name = format!("a/{:04}", random(3000));
            match random(3) {
                0 => {
                    store.delete(name.as_str()).await.unwrap();
                    expected.remove(&name);
                }
                _ => {
                    store.put(name.as_str(), format!("{round}")).await.unwrap();
                    expected.insert(name, format!("{round}").into_bytes());
                }
            }
        }
        if round % 20 == 13 {
            store.put(format!("a/{round:04}/x"), "x").await.unwrap();
            store.delete_tree(format!("a/{round:04}")).await.unwrap();
            assert!(store.delete_tree("b").await.unwrap() == 0);
        }
        assert_eq!(collect(begun).await, before, "round {round}: a list that was begun before");
        let now: Vec<_> = expected.clone().into_iter().collect();
        for again in 0..2 {
            assert_eq!(collect(store.list("").await.unwrap()).await, now, "round {round}, list {again}");
            assert_eq!(
                collect(store.list("a").await.unwrap()).await,
                now,
                "round {round}, list {again} of a"
            );
        }
        let inner: Vec<_> = now.iter().map(|(name, value)| (name[2..].to_owned(), value.clone())).collect();
        assert_eq!(collect(below.list("").await.unwrap()).await, inner, "round {round}: below a");
        let (start, end) = (format!("a/{:04}", random(3000)), format!("a/{:04}", random(3000)));
        let limit = usize::try_from(random(1200)).unwrap();
        let options = ListOptions::default().with_range(key(&start)..key(&end)).with_limit(limit);
        let part = now.iter().filter(|(name, _)| *name >= start && *name < end).take(limit).cloned();
        let listed = store.list_with(&Prefix::root(), options).await.unwrap();
        assert_eq!(
            collect(listed).await,
            part.collect::<Vec<_>>(),
            "round {round}: {start} to {end}, {limit}"
        );
        let options = ListOptions::default().with_start_after(key(&start));
        let rest = now.iter().filter(|(name, _)| *name > start).cloned();
        let listed = store.list_with(&Prefix::new("a").unwrap(), options).await.unwrap();
        assert_eq!(collect(listed).await, rest.collect::<Vec<_>>(), "round {round}: behind {start}");
    }
    // What has expired is not listed, also where it was listed before and nobody has deleted it.
    let ttl = PutOptions::default().with_expiry(Expiry::Ttl(Duration::from_millis(300)));
    store.put_with(&key("a/expires"), "x", ttl).await.unwrap();
    assert_eq!(store.entries("a").await.unwrap().len(), expected.len() + 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.entries("a").await.unwrap().len() > expected.len() {
        assert!(Instant::now() < deadline, "an entry that has expired is still listed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(store.delete_tree("a").await.unwrap() == expected.len() as u64);
    assert!(store.entries("").await.unwrap().is_empty() && below.entries("").await.unwrap().is_empty());
    below.close().await.unwrap();
    store.close().await.unwrap();
}
