//! delete_tree: what goes, what stays, and how many.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kv_core::{Entry, Prefix, StoreExt, Version};

use crate::case::needs::{DELETE_TREE_ATOMIC, LIST_SNAPSHOT};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, fill, key, names, soon};

pub(super) const CASES: &[Case] = &[
    case!(delete_tree_keeps_to_the_path_boundary, "delete_tree of `foo` keeps `foo` and `foobar`."),
    case!(delete_tree_takes_every_level, "delete_tree deletes every level below the prefix."),
    case!(delete_tree_counts_entries, "delete_tree returns how many entries went; parents are none."),
    case!(delete_tree_of_nothing_is_zero, "delete_tree of an absent prefix deletes nothing."),
    case!(delete_tree_of_the_namespace, "delete_tree of the empty prefix empties the namespace."),
    case!(delete_tree_of_a_large_tree, "delete_tree deletes a large tree whole."),
    case!(deleted_tree_can_be_written_again, "What delete_tree deleted can be created again."),
    case!(delete_tree_reaches_watchers, "A watch tells each deletion of delete_tree, under its own key."),
    case!(delete_tree_ends_while_others_write, "delete_tree ends while others write below the prefix."),
    case!(
        delete_tree_is_all_or_nothing,
        "No list shows a tree that is half deleted.",
        DELETE_TREE_ATOMIC,
        LIST_SNAPSHOT,
    ),
];

/// Catches a `delete_tree` of `foo` that removes `foobar`.
async fn delete_tree_keeps_to_the_path_boundary(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["foo", "foo/a", "foo/a/b", "foobar", "foobar/a", "foo-/a", "foo.a", "fo", "a/foo/a"] {
        store.put(text, "x").await?;
    }
    ensure_eq!(store.delete_tree("foo").await?, 2, "how many went");
    let left = ["a/foo/a", "fo", "foo", "foo-/a", "foo.a", "foobar", "foobar/a"];
    ensure_eq!(names(store, "").await?, left, "what is left");
    Ok(())
}

/// Catches one level only, and failures on nested trees.
async fn delete_tree_takes_every_level(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["d/a", "d/a/b", "d/a/b/c/d/e/f", "d/x/y", "d/x/z/1"] {
        store.put(text, "x").await?;
    }
    store.delete_tree("d").await?;
    ensure_eq!(names(store, "").await?, [""; 0], "what is left");
    ensure_eq!(store.get("d/a/b/c/d/e/f").await?, None, "the deepest key");
    Ok(())
}

async fn delete_tree_counts_entries(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("d/a/b/c", "x").await?;
    ensure_eq!(store.delete_tree("d").await?, 1, "how many of one deep entry went");
    for text in ["d", "d/1", "d/2", "d/2/3"] {
        store.put(text, "").await?;
    }
    store.put("d/2", "again").await?;
    store.put("d/4", "x").await?;
    store.delete("d/4").await?;
    ensure_eq!(store.delete_tree("d").await?, 3, "how many went");
    ensure_eq!(store.delete_tree("d").await?, 0, "how many went when none was left");
    Ok(())
}

/// Catches a raw error for an absent prefix.
async fn delete_tree_of_nothing_is_zero(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    ensure_eq!(store.delete_tree("").await?, 0, "how many went from an empty namespace");
    store.put("a", "x").await?;
    for prefix in ["a", "none", "none/below/it"] {
        ensure_eq!(store.delete_tree(prefix).await?, 0, "how many went below {prefix:?}");
    }
    ensure_eq!(names(store, "").await?, ["a"], "what is left");
    Ok(())
}

async fn delete_tree_of_the_namespace(fixture: &Fixture) -> Result<()> {
    let (store, inner) = (&fixture.store, fixture.another_below("inner").await?);
    for text in ["a", "b/c", "b/d"] {
        inner.put(text, "x").await?;
    }
    store.put("inner2", "x").await?;
    ensure_eq!(inner.delete_tree("").await?, 3, "how many went");
    ensure_eq!(names(&inner, "").await?, [""; 0], "what is left in the namespace");
    ensure_eq!(names(store, "").await?, ["inner2"], "what is left beside it");
    Ok(())
}

/// Catches one transaction that is too large for the connection.
async fn delete_tree_of_a_large_tree(fixture: &Fixture) -> Result<()> {
    const LARGE: usize = 1500;
    let store = &fixture.store;
    fill(store, LARGE, |at| (format!("d/{:02}/{at}", at % 11), "x".repeat(1000))).await?;
    store.put("d2", "x").await?;
    ensure_eq!(store.delete_tree("d").await?, LARGE as u64, "how many went");
    ensure_eq!(names(store, "").await?, ["d2"], "what is left");
    Ok(())
}

async fn deleted_tree_can_be_written_again(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut last = Version::ZERO;
    for round in 0..3 {
        for text in ["d/a", "d/a/b"] {
            let version = store.create(text, "x").await?;
            ensure!(version > last, "round {round}: {text:?} got version {version}, after {last}");
            ensure_eq!(entry(store, &key(text)?).await?.created, version, "created, of {text:?}");
            last = version;
        }
        ensure_eq!(store.delete_tree("d").await?, 2, "round {round}: how many went");
    }
    Ok(())
}

/// Catches deletes reported under the prefix in place of the key, and for an absent prefix.
async fn delete_tree_reaches_watchers(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["d", "d/a", "d/a/b", "d/c/d", "d2"] {
        store.put(text, "x").await?;
    }
    let mut follower = Follower::synced(store, Prefix::root()).await?;
    store.delete_tree("none").await?;
    store.delete_tree("d").await?;
    let left: Vec<Entry> = store.entries("").await?;
    follower.until_state(&left).await?;
    let mut deleted: Vec<String> = Vec::new();
    for event in &follower.events {
        if let kv_core::WatchEvent::Delete(deletion) = event {
            deleted.push(deletion.key.to_string());
        }
    }
    deleted.sort();
    if !follower.resynced() {
        ensure_eq!(deleted, ["d/a", "d/a/b", "d/c/d"], "the keys told deleted");
    }
    Ok(())
}

async fn delete_tree_ends_while_others_write(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    fill(store, 300, |at| (format!("d/{at}"), "x".to_owned())).await?;
    store.put("kept", "x").await?;
    let writing = at_once(async move {
        for at in 0..400 {
            other.put(format!("d/new/{at}"), "x").await?;
        }
        anyhow::Ok(())
    });
    let deleting = async {
        for _ in 0..4 {
            soon("delete_tree while others write", store.delete_tree("d")).await??;
        }
        Ok(())
    };
    tokio::try_join!(writing, deleting)?;
    soon("delete_tree afterwards", store.delete_tree("d")).await??;
    ensure_eq!(names(store, "").await?, ["kept"], "what is left");
    Ok(())
}

async fn delete_tree_is_all_or_nothing(fixture: &Fixture) -> Result<()> {
    const COUNT: usize = 200;
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..8 {
        fill(store, COUNT, |at| (format!("d/{:02}/{at}", at % 5), "x".to_owned())).await?;
        let listing = {
            let other = Arc::clone(&other);
            at_once(async move {
                for _ in 0..500 {
                    match names(&other, "d").await?.len() {
                        0 => break,
                        COUNT => {}
                        some => anyhow::bail!("round {round}: a list shows {some} of {COUNT} entries"),
                    }
                }
                Ok(())
            })
        };
        let deleting = async { anyhow::Ok(store.delete_tree("d").await?) };
        let (deleted, ()) = tokio::try_join!(deleting, listing)?;
        ensure_eq!(deleted, COUNT as u64, "how many went");
    }
    Ok(())
}
