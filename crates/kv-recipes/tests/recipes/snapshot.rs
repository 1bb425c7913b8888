//! Snapshots.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kv_layers::{Call, LayerExt, Next, Policy};
use kv_recipes::kv_core::{
    Capabilities, ErrorKind, Guarantee, Key, ListItem, Listing, Result, Store, StoreExt, Txn, TxnOp, Version,
};
use kv_recipes::{Consistent, Snapshot, SnapshotOptions};

use crate::common::{key, mem, on_both};

/// Reads each entry when the list comes to it, as a store without snapshots does.
#[derive(Debug)]
struct Torn(Arc<dyn Store>);

impl Policy for Torn {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        next().await
    }

    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        inner.clone().without_guarantee(Guarantee::ListSnapshot)
    }

    fn listing(&self, listing: Listing) -> Listing {
        let store = Arc::clone(&self.0);
        let items = listing.filter_map(move |item| {
            let store = Arc::clone(&store);
            async move {
                tokio::task::yield_now().await;
                let key = item.unwrap().key().unwrap().clone();
                store.get(&key).await.unwrap().map(|entry| Ok(ListItem::Entry(entry)))
            }
        });
        Listing::new(Some(Version::new(1)), items)
    }
}

fn torn(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Arc::clone(store).layered(Torn(Arc::clone(store))))
}

/// Moves a token from key to key by transactions until it is told to stop.
struct Mover {
    stop: Arc<AtomicBool>,
    moves: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

const PLACES: usize = 40;

fn place(at: usize) -> Key {
    key(&format!("token/{:03}", at % PLACES))
}

impl Mover {
    async fn begin(store: &Arc<dyn Store>, pause: Duration) -> Self {
        for at in 0..PLACES {
            store.put(&place(at), if at == 0 { "T" } else { "" }).await.unwrap();
        }
        let (stop, moves) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = {
            let (store, stop, moves) = (Arc::clone(store), Arc::clone(&stop), Arc::clone(&moves));
            tokio::spawn(async move {
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    let to = at + 17;
                    let txn = Txn::always().then([TxnOp::put(place(at), ""), TxnOp::put(place(to), "T")]);
                    let _ = store.transact(txn).await.unwrap();
                    at = to;
                    moves.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
            })
        };
        Self { stop, moves, task }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.moves.load(Ordering::Relaxed)
    }
}

fn tokens(snapshot: &Snapshot) -> usize {
    snapshot.entries().iter().filter(|entry| entry.value == "T").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_moves_is_in_each_snapshot_once() {
    on_both(|store| async move {
        let mover = Mover::begin(&store, Duration::ZERO).await;
        for _ in 0..100 {
            let snapshot = Snapshot::take(&store, ["token"]).await.unwrap();
            assert!(matches!(snapshot.consistency(), Consistent::AtVersion(_)));
            assert_eq!(tokens(&snapshot), 1);
            assert_eq!(snapshot.entries().len(), PLACES);
        }
        assert!(mover.end().await > 0);
    })
    .await;
}

/// Catches a store whose list is not one version being believed after one list.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_list_can_be_torn_two_must_agree() {
    let store = mem();
    let torn = torn(&store);
    let mover = Mover::begin(&store, Duration::from_millis(1)).await;
    let options = SnapshotOptions::default().with_lists(1000);
    for _ in 0..100 {
        let snapshot = Snapshot::take_with(&torn, ["token"], options.clone()).await.unwrap();
        assert_eq!(snapshot.consistency(), Consistent::Confirmed);
        assert_eq!(tokens(&snapshot), 1);
    }
    mover.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_two_lists_that_agree_it_is_refused_or_fuzzy_where_asked_for() {
    let store = mem();
    let torn = torn(&store);
    let mover = Mover::begin(&store, Duration::ZERO).await;
    let two = SnapshotOptions::default().with_lists(2);
    let mut refused = 0;
    for _ in 0..100 {
        match Snapshot::take_with(&torn, ["token"], two.clone()).await {
            Ok(snapshot) => assert_eq!(snapshot.consistency(), Consistent::Confirmed),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::PreconditionFailed { .. }), "{error}");
                assert_eq!(error.key(), Some("token"));
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    let mut fuzzy = 0;
    for _ in 0..100 {
        let snapshot = Snapshot::take_with(&torn, ["token"], two.clone().allow_fuzzy()).await.unwrap();
        fuzzy += u32::from(snapshot.consistency() == Consistent::Fuzzy);
    }
    assert!(fuzzy > 0);
    mover.end().await;
}

#[tokio::test]
async fn several_prefixes_are_one_moment_and_nothing_else_is_in_it() {
    on_both(|store| async move {
        for name in ["a/1", "a", "ab/1", "b/1", "b/2/3", "c/1", "a-b/1", "zz"] {
            store.put(name, name).await.unwrap();
        }
        let snapshot = Snapshot::take(&store, ["b", "a", "b/2", "c/x"]).await.unwrap();
        let names: Vec<_> = snapshot.entries().iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(names, ["a/1", "b/1", "b/2/3"]);
        let prefixes: Vec<_> = snapshot.prefixes().iter().map(|prefix| prefix.as_str()).collect();
        assert_eq!(prefixes, ["a", "b", "c/x"]);
        assert_eq!(snapshot.get(&key("b/1")).unwrap().value, "b/1");
        assert!(snapshot.get(&key("c/1")).is_none());
        assert_eq!(Snapshot::take(&store, [""]).await.unwrap().entries().len(), 8);
        let error = Snapshot::take(&store, Vec::<&str>::new()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }));
    })
    .await;
}

async fn filled() -> (Arc<dyn Store>, Snapshot) {
    let store = mem();
    store.put("a/text", "line\nend \u{1b}[2J ü").await.unwrap();
    store.put("a/empty", "").await.unwrap();
    store.put("a/bytes", &b"\xff\x00"[..]).await.unwrap();
    store.put("b/1", "1").await.unwrap();
    store.put("a/text", "again").await.unwrap();
    let snapshot = Snapshot::take(&store, ["a", "b"]).await.unwrap();
    (store, snapshot)
}

#[tokio::test]
async fn a_diff_tells_what_was_put_and_what_went() {
    let (store, before) = filled().await;
    store.put("a/text", "new").await.unwrap();
    store.put("a/more", "1").await.unwrap();
    store.delete("b/1").await.unwrap();
    store.put("b/1", "1").await.unwrap();
    store.delete("a/empty").await.unwrap();
    let after = Snapshot::take(&store, ["a", "b"]).await.unwrap();
    let told: Vec<_> = before
        .diff(&after)
        .into_iter()
        .map(|change| (change.key.to_string(), change.old.is_some(), change.new.is_some()))
        .collect();
    let change = |key: &str, old, new| (key.to_owned(), old, new);
    assert_eq!(
        told,
        [
            change("a/empty", true, false),
            change("a/more", false, true),
            change("a/text", true, true),
            change("b/1", true, true),
        ]
    );
    assert!(after.diff(&after).is_empty());
}

#[tokio::test]
async fn a_file_gives_back_what_was_written() {
    let (_, snapshot) = filled().await;
    for snapshot in [snapshot, Snapshot::take(&mem(), ["none"]).await.unwrap()] {
        let mut file = Vec::new();
        snapshot.write(&mut file).unwrap();
        assert!(!file.contains(&0x1b), "nothing acts on a terminal");
        assert_eq!(Snapshot::read(&file[..]).unwrap(), snapshot);
    }
}

/// Every cut and every changed bit is found.
#[tokio::test]
async fn a_file_that_was_cut_changed_or_lengthened_is_refused() {
    let (_, snapshot) = filled().await;
    let mut file = Vec::new();
    snapshot.write(&mut file).unwrap();
    let refused = |file: &[u8], what: &str| {
        let error = Snapshot::read(file).expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
        assert!(error.to_string().contains("snapshot, line "), "{what}: {error}");
    };
    for end in 0..file.len() {
        refused(&file[..end], &format!("cut at {end}"));
    }
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            refused(&flipped, &format!("bit {bit} of byte {at}"));
        }
    }
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    for without in 0..lines.len() {
        let mut lines = lines.clone();
        lines.remove(without);
        refused(&lines.concat(), &format!("without line {without}"));
    }
    refused(&[&file[..], b"{}\n"].concat(), "lengthened");
    refused(&[&file[..], &file[..]].concat(), "twice");
    refused(b"hello\n", "something else");
}

#[tokio::test]
async fn a_snapshot_goes_into_another_store_in_the_order_of_its_versions() {
    on_both(|store| async move {
        let (_, snapshot) = filled().await;
        store.put("a/other", "stays").await.unwrap();
        assert_eq!(snapshot.put_into(&store).await.unwrap(), 4);
        let mut copied = store.entries("").await.unwrap();
        copied.sort_by_key(|entry| entry.version);
        let names: Vec<_> = copied.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(names, ["a/other", "a/empty", "a/bytes", "b/1", "a/text"]);
    })
    .await;
}

#[cfg(feature = "mem")]
#[tokio::test]
async fn a_snapshot_becomes_a_store_with_the_same_versions() {
    let (_, snapshot) = filled().await;
    let newest = snapshot.newest().unwrap();
    let store = snapshot.clone().into_store().unwrap();
    assert_eq!(store.entries("").await.unwrap(), snapshot.entries());
    let again = Snapshot::take(&store, ["a", "b"]).await.unwrap();
    assert!(snapshot.diff(&again).is_empty());
    assert_eq!(again.as_of(), Some(newest));
    assert!(store.put("a/text", "x").await.unwrap() > newest);
}
