//! Lists against the plainest way to make them, and while everything changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use common::{fresh, key, open, prefix, seeded};
use futures_util::StreamExt;
use kv_mem::MemConfig;
use kv_mem::kv_core::{AdminExt, ErrorKind, Key, ListItem, ListOptions, Prefix, StoreExt, Txn, TxnOp};

/// Names that sort before, at and behind the slash, and nest.
fn any_key(random: &mut fastrand::Rng) -> Key {
    let segments: Vec<_> = (0..random.usize(1..4))
        .map(|_| *random.choice(&["a", "a-", "a b", "a0", "b", "ü"]).unwrap())
        .collect();
    key(&segments.join("/"))
}

fn any_bound(random: &mut fastrand::Rng) -> Bound<Key> {
    match random.u8(..4) {
        0 => Bound::Included(any_key(random)),
        1 => Bound::Excluded(any_key(random)),
        _ => Bound::Unbounded,
    }
}

/// The paths a list should have, in order; prefixes with their slash.
fn expected(keys: &BTreeSet<Key>, below: &Prefix, options: &ListOptions) -> Vec<String> {
    let mut paths = Vec::new();
    for key in keys.iter().filter(|key| below.covers(key) && options.in_range(key)) {
        let rest = below.relative(key).unwrap();
        let path = match rest.find('/') {
            Some(slash) if options.one_level => {
                key.as_str()[..key.as_str().len() - rest.len() + slash + 1].to_owned()
            }
            _ => key.to_string(),
        };
        if paths.last() != Some(&path) {
            paths.push(path);
        }
    }
    paths.truncate(options.limit.unwrap_or(usize::MAX));
    paths
}

#[test]
fn lists_have_what_was_asked_for_in_order() {
    let mut random = seeded();
    for round in 0..100 {
        let config = MemConfig::new().with_namespace(prefix(if round % 2 == 0 { "" } else { "deep/down" }));
        let store = open(config);
        let keys: BTreeSet<Key> = (0..random.usize(..400)).map(|_| any_key(&mut random)).collect();
        futures_executor::block_on(async {
            for key in &keys {
                store.put(key, "x").await.unwrap();
            }
            for _ in 0..20 {
                let below = if random.bool() { Prefix::root() } else { any_key(&mut random).as_prefix() };
                let mut options =
                    ListOptions::default().with_range((any_bound(&mut random), any_bound(&mut random)));
                options.one_level = random.bool();
                options.keys_only = random.bool();
                options.limit = random.bool().then(|| random.usize(..200));
                let listing = store.list_with(&below, options.clone()).await.unwrap();
                let items: Vec<_> = listing.map(Result::unwrap).collect().await;
                let paths: Vec<_> = items
                    .iter()
                    .map(|item| match item {
                        ListItem::Prefix(prefix) => format!("{prefix}/"),
                        ListItem::Key(_) => {
                            assert!(options.keys_only);
                            item.path().to_owned()
                        }
                        _ => {
                            assert!(!options.keys_only);
                            item.path().to_owned()
                        }
                    })
                    .collect();
                assert_eq!(paths, expected(&keys, &below, &options), "{below:?} {options:?} of {keys:?}");
            }
        });
    }
}

#[test]
fn an_end_before_the_beginning_is_an_empty_list() {
    let store = fresh();
    futures_executor::block_on(async {
        store.put("b", "x").await.unwrap();
        let backwards = (Bound::Excluded(key("c")), Bound::Excluded(key("a")));
        for (start, end) in [backwards, (Bound::Excluded(key("b")), Bound::Excluded(key("b")))] {
            let options = ListOptions::default().with_range((start, end));
            let listing = store.list_with(&Prefix::root(), options).await.unwrap();
            assert_eq!(listing.count().await, 0);
        }
    });
}

/// Two keys that always have the same value, written in one transaction: a list, which is read a bit
/// at a time, never shows half of one, and what follows it begins at its version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_one_version_while_writers_go_on() {
    let store = fresh();
    for number in 0..1000 {
        store.put(format!("m/{number:03}"), "x").await.unwrap();
    }
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for number in 0_u32.. {
                let value = number.to_be_bytes().to_vec();
                let txn =
                    Txn::always().then([TxnOp::put(key("a"), value.clone()), TxnOp::put(key("z"), value)]);
                assert!(store.transact(txn).await.unwrap().succeeded);
                tokio::task::yield_now().await;
            }
        }
    });
    while store.get("z").await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        let mut listing = store.list("").await.unwrap();
        let as_of = listing.as_of().unwrap();
        let mut entries = BTreeMap::new();
        while let Some(item) = listing.next().await {
            if let ListItem::Entry(entry) = item.unwrap() {
                assert!(entry.version <= as_of);
                entries.insert(entry.key.to_string(), entry);
            }
        }
        assert_eq!(entries.len(), 1002);
        assert_eq!(entries["a"].value, entries["z"].value);
        assert_eq!(entries["a"].version, entries["z"].version);
    }
    writing.abort();
}

/// A key that is put over and over: of its values history keeps 64 MiB and no more, those that were
/// replaced included.
#[tokio::test]
async fn the_past_takes_bounded_memory_however_large_what_was_replaced() {
    const MEBIBYTE: usize = 1 << 20;
    let store = fresh();
    let mut puts = Vec::new();
    for round in 0..100_u8 {
        puts.push(store.put("large", vec![round; MEBIBYTE]).await.unwrap());
        puts.push(store.put("large", "small").await.unwrap());
    }
    // Each pair keeps its large value twice: as what was put, and as what was replaced.
    let readable = async |at: usize| match store.get_at("large", puts[at]).await {
        Ok(entry) => entry.is_some(),
        Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    let mut kept = 0;
    for at in 0..puts.len() {
        kept += usize::from(readable(at).await);
    }
    assert!((40..=66).contains(&kept), "{kept} versions can be read");
    assert!(readable(puts.len() - 1).await && !readable(0).await);
}
