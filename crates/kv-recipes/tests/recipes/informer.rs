//! Cached trees.

use std::sync::Arc;

use futures_util::FutureExt;
use kv_recipes::kv_core::{DeleteCause, ErrorKind, Expiry, Key, Store, StoreExt};
use kv_recipes::{Change, Changes, Informer};

use crate::common::{Cut, handles, soon, until};

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

async fn next(changes: &mut Changes) -> Change {
    soon("the next change", changes.next()).await.unwrap().unwrap()
}

/// A change in short: the values before and after, and how it was found.
fn show(change: &Change) -> String {
    let value = |entry: &Option<kv_recipes::kv_core::Entry>| {
        entry.as_ref().map_or("-".to_owned(), |entry| entry.text().unwrap().to_owned())
    };
    let marks = [(change.relisted, " relisted"), (change.merged, " merged")];
    let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
    format!("{} {}>{}{marks}", change.key, value(&change.old), value(&change.new))
}

async fn started(store: &Arc<dyn Store>) -> Informer {
    let informer = Informer::start(Arc::clone(store), "dir").await.unwrap();
    soon("the first state", informer.ready()).await.unwrap();
    informer
}

#[tokio::test]
async fn it_has_the_state_and_follows_it() {
    let [store] = handles::<1>();
    for (key, value) in [("dir/a", "1"), ("dir/b/c", "2"), ("dir", "own"), ("dirt", "other")] {
        store.put(key, value).await.unwrap();
    }
    let informer = started(&store).await;
    assert_eq!(informer.entries(), store.entries("dir").await.unwrap());
    assert_eq!(informer.get(&key("dir")), None);
    let mut changes = informer.changes();
    assert_eq!(show(&next(&mut changes).await), "dir/a ->1");
    assert_eq!(show(&next(&mut changes).await), "dir/b/c ->2");
    store.put("dir/a", "3").await.unwrap();
    assert_eq!(show(&next(&mut changes).await), "dir/a 1>3");
    store.delete("dir/b/c").await.unwrap();
    let deleted = next(&mut changes).await;
    assert_eq!((show(&deleted).as_str(), deleted.cause), ("dir/b/c 2>-", Some(DeleteCause::Deleted)));
    assert_eq!(informer.get(&key("dir/a")).unwrap().value, "3");
    assert_eq!((informer.len(), informer.is_empty()), (1, false));
}

#[tokio::test]
async fn what_a_slow_reader_missed_is_merged_by_key() {
    let [store] = handles::<1>();
    store.put("dir/a", "0").await.unwrap();
    store.put("dir/b", "0").await.unwrap();
    let informer = started(&store).await;
    let mut changes = informer.changes();
    for _ in 0..2 {
        next(&mut changes).await;
    }
    for n in 1..=3 {
        store.put("dir/b", n.to_string()).await.unwrap();
        store.put("dir/new", n.to_string()).await.unwrap();
        store.put("dir/short", "x").await.unwrap();
        store.delete("dir/short").await.unwrap();
    }
    store.delete("dir/a").await.unwrap();
    until("the last change", || async { informer.get(&key("dir/a")).is_none() }).await;
    let told = [next(&mut changes).await, next(&mut changes).await, next(&mut changes).await];
    assert_eq!(
        told.each_ref().map(show),
        ["dir/b 0>3 merged", "dir/new ->3 merged", "dir/a 0>-"],
        "in the order in which they changed first; what came and went is not told"
    );
    assert!(changes.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_changed_in_a_gap_is_found_and_marked() {
    let [store] = handles::<1>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    for (key, value) in [("dir/a", "1"), ("dir/b", "1"), ("dir/c", "1")] {
        store.put(key, value).await.unwrap();
    }
    let informer = started(&behind).await;
    let mut changes = informer.changes();
    for _ in 0..3 {
        next(&mut changes).await;
    }
    for kind in [ErrorKind::Unavailable, ErrorKind::Compacted { oldest: None }] {
        cut.cut(kind.clone());
        until("the problem", || async { informer.problem().is_some_and(|error| *error.kind() == kind) })
            .await;
        store.delete("dir/a").await.unwrap();
        store.put("dir/b", "2").await.unwrap();
        store.put("dir/d", "2").await.unwrap();
        assert_eq!(informer.len(), 3, "the last complete state stays");
        cut.mend();
        let told = [next(&mut changes).await, next(&mut changes).await, next(&mut changes).await];
        assert_eq!(
            told.each_ref().map(show),
            ["dir/a 1>- relisted", "dir/b 1>2 relisted", "dir/d ->2 relisted"]
        );
        assert_eq!(told[0].cause, None);
        assert!(informer.problem().is_none());
        // Not marked any more; and back to where it began.
        for (key, value) in [("dir/a", "1"), ("dir/b", "1")] {
            store.put(key, value).await.unwrap();
            assert!(!next(&mut changes).await.relisted);
        }
        store.delete("dir/d").await.unwrap();
        assert!(!next(&mut changes).await.relisted);
    }
}

#[tokio::test]
async fn an_error_that_does_not_pass_ends_it_and_is_told_to_all() {
    let [store] = handles::<1>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    store.put("dir/a", "1").await.unwrap();
    let informer = started(&behind).await;
    let mut early = informer.changes();
    next(&mut early).await;
    cut.cut(ErrorKind::PermissionDenied);
    let error = soon("the end", early.next()).await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::PermissionDenied);
    assert!(early.next().await.is_none());
    let mut late = informer.changes();
    assert_eq!(show(&next(&mut late).await), "dir/a ->1");
    assert!(late.next().await.unwrap().is_err());
    assert_eq!(*informer.problem().unwrap().kind(), ErrorKind::PermissionDenied);
    assert_eq!(informer.len(), 1, "the last state stays readable");
    informer.ready().await.unwrap();
    // And one that had never begun.
    let refused = Informer::start(behind, "dir").await.unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn an_index_follows() {
    let [store] = handles::<1>();
    let put = |key: &'static str, value: &'static str| {
        let store = Arc::clone(&store);
        async move { store.put(key, value).await.unwrap() }
    };
    put("dir/a", "x y").await;
    put("dir/b", "x").await;
    let informer = started(&store).await;
    let words = informer.index(|entry| entry.text().unwrap().split(' ').map(str::to_owned).collect());
    let mut changes = informer.changes();
    let keys = |word: &str| -> Vec<String> {
        words.get(&word.to_owned()).iter().map(|entry| entry.key.to_string()).collect()
    };
    assert_eq!(
        (keys("x"), keys("y")),
        (vec!["dir/a".to_owned(), "dir/b".to_owned()], vec!["dir/a".to_owned()])
    );
    put("dir/a", "y z").await;
    store.delete("dir/b").await.unwrap();
    while !next(&mut changes).await.is_delete() {}
    assert_eq!(words.values(), ["y", "z"]);
    assert_eq!(keys("x"), Vec::<String>::new());
}

#[tokio::test]
async fn the_watch_ends_with_the_last_handle() {
    let [store] = handles::<1>();
    store.put_with(&key("dir/a"), "x", Default::default()).await.unwrap();
    let informer = started(&store).await;
    let mut changes = informer.clone().changes();
    let words = informer.index(|entry| vec![entry.value.clone()]);
    drop(informer);
    next(&mut changes).await;
    // The changes keep it going.
    store.touch("dir/a", Expiry::Session).await.unwrap();
    next(&mut changes).await;
    drop(changes);
    store.put("dir/a", "y").await.unwrap();
    until("the index", || async { words.get(&"y".into()).len() == 1 }).await;
    drop(words);
    until("the end of the task", || async { Arc::strong_count(&store) == 1 }).await;
}
