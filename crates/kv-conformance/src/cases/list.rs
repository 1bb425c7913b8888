//! list: what belongs to it, how it stands to concurrent writes, and large trees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt};
use kv_core::{Entry, ErrorKind, ListItem, ListOptions, Listing, Power, Prefix, StoreExt, WatchOptions};

use crate::case::needs::LIST_SNAPSHOT;
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, fill, list, names, refused, unless_compacted};

pub(super) const CASES: &[Case] = &[
    case!(list_is_recursive, "A list has every entry below the prefix, with its whole key."),
    case!(list_keeps_to_the_path_boundary, "`a` covers `a/b`, never `ab`, never `a` itself."),
    case!(empty_prefix_is_the_whole_namespace, "The empty prefix is the whole namespace."),
    case!(absent_prefix_lists_nothing, "An absent prefix is an empty list."),
    case!(list_follows_every_write, "A list has what was put and not what was deleted."),
    case!(
        listed_version_can_be_compared,
        "A list's versions are the entries' own: compare-and-set takes them."
    ),
    case!(large_list_is_whole, "A list has every entry of a large tree, once, in order."),
    case!(list_while_writing_keeps_the_rest, "What no one touches is listed once while others write."),
    case!(list_is_one_version, "One list is one version.", LIST_SNAPSHOT),
    case!(
        snapshot_lists_see_no_half_rounds,
        "A list shows no write without the one before it.",
        LIST_SNAPSHOT
    ),
    case!(list_then_watch_loses_nothing, "A list, then a watch from its as_of, loses nothing."),
    case!(dropped_list_is_harmless, "Dropping a list half-read harms no other call."),
];

/// Catches a list of one level only, and bare names in place of keys.
async fn list_is_recursive(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let tree = ["a/1", "a/b/2", "a/b/c/3", "a/b/c/d/e/4", "a/x"];
    for text in tree {
        store.put(text, text).await?;
    }
    let entries = store.entries("a").await?;
    let found: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    ensure_eq!(found, tree, "the keys");
    ensure!(entries.iter().all(|entry| entry.value == entry.key.as_str()), "a value is not its key's");
    for listed in entries {
        ensure_eq!(listed, entry(store, &listed.key).await?, "the listed entry, against get");
    }
    Ok(())
}

/// Catches a prefix that is compared as text, and a list that includes the prefix's own key.
async fn list_keeps_to_the_path_boundary(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["a", "a/b", "a/b/c", "ab", "ab/c", "a-/b", "a0", "b/a/b"] {
        store.put(text, "x").await?;
    }
    ensure_eq!(names(store, "a").await?, ["a/b", "a/b/c"], "the list of a");
    ensure_eq!(names(store, "a/b").await?, ["a/b/c"], "the list of a/b");
    ensure_eq!(names(store, "a/b/c").await?, [""; 0], "the list of a/b/c");
    Ok(())
}

/// Catches a panic for the empty prefix.
async fn empty_prefix_is_the_whole_namespace(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    ensure_eq!(names(store, "").await?, [""; 0], "the list of an empty namespace");
    for text in ["a", "b/c", "é"] {
        store.put(text, "x").await?;
    }
    ensure_eq!(names(store, "").await?, ["a", "b/c", "é"], "the list");
    Ok(())
}

/// Catches a raw error for an absent prefix.
async fn absent_prefix_lists_nothing(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("a", "x").await?;
    for prefix in ["a", "none", "none/below", "a/b/c"] {
        ensure_eq!(list(store, prefix, ListOptions::default()).await?, [], "the list of {prefix:?}");
    }
    Ok(())
}

async fn list_follows_every_write(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut expected = BTreeSet::new();
    let mut random = fixture.random();
    for round in 0..60 {
        let name = format!("dir/{}", random.u8(..12));
        if random.bool() {
            store.put(name.as_str(), format!("{round}")).await?;
            expected.insert(name);
        } else {
            store.delete(name.as_str()).await?;
            expected.remove(&name);
        }
        let found: BTreeSet<String> = names(store, "dir").await?.into_iter().collect();
        ensure_eq!(found, expected, "the list in round {round}");
    }
    Ok(())
}

/// Catches a list that tells the parent's version, with which a compare-and-set fails.
async fn listed_version_can_be_compared(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["dir/a", "dir/a/b", "dir/c"] {
        store.put(text, "1").await?;
        store.put(text, "2").await?;
    }
    for listed in store.entries("dir").await? {
        let new = store.compare_and_set(&listed.key, listed.version, "3").await?;
        refused!(
            store.compare_and_set(&listed.key, listed.version, "4").await,
            ErrorKind::PreconditionFailed { current: Some(at) } if *at == new,
            "a second compare-and-set of {:?}",
            listed.key
        );
    }
    Ok(())
}

/// More than any page of any backend.
const LARGE: usize = 1200;

fn name_of(at: usize) -> String {
    format!("dir/{:02}/{at:04}", at % 7)
}

async fn plant_large(fixture: &Fixture) -> Result<Vec<String>> {
    fill(&fixture.store, LARGE, |at| (name_of(at), "before".to_owned())).await?;
    let mut names: Vec<String> = (0..LARGE).map(name_of).collect();
    names.sort();
    Ok(names)
}

async fn rest_of(listing: Listing) -> Result<Vec<Entry>> {
    let entries = listing.map(|item| match item? {
        ListItem::Entry(entry) => Ok(entry),
        other => anyhow::bail!("a list of entries delivered {other:?}"),
    });
    entries.try_collect().await
}

fn keys_of(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

/// Catches a list in one answer that is larger than the client's limit.
async fn large_list_is_whole(fixture: &Fixture) -> Result<()> {
    let expected = plant_large(fixture).await?;
    let entries = rest_of(fixture.store.list("dir").await?).await?;
    ensure!(keys_of(&entries) == expected, "{} of {LARGE} entries, or not in order", entries.len());
    let keys = names(&fixture.store, "dir").await?;
    ensure!(keys == expected, "{} of {LARGE} keys, or not in order", keys.len());
    Ok(())
}

async fn list_while_writing_keeps_the_rest(fixture: &Fixture) -> Result<()> {
    let expected = plant_large(fixture).await?;
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut listing = store.list("dir").await?;
    let first = listing.next().await.context("the list is empty")??;
    // Before, between and behind what is listed, for as long as that takes.
    let writing = at_once(async move {
        for at in 0..2000 {
            other.put(format!("dir/00/-extra-{at}"), "x").await?;
            other.put(format!("dir/{:02}/extra-{at}", at % 7), "x").await?;
            other.delete(format!("dir/00/-extra-{}", at / 2)).await?;
        }
        std::future::pending::<Result<()>>().await
    });
    let rest = async {
        let mut paths = vec![first.path().to_owned()];
        while let Some(item) = listing.next().await {
            paths.push(item?.path().to_owned());
        }
        anyhow::Ok(paths)
    };
    let paths = tokio::select! {
        paths = rest => paths?,
        failed = writing => return failed,
    };
    ensure!(paths.is_sorted(), "the list is not in order");
    let mut untouched: Vec<&str> = paths.iter().map(String::as_str).collect();
    untouched.retain(|path| !path.contains("extra"));
    ensure!(untouched == expected, "{} of {LARGE} untouched entries", untouched.len());
    Ok(())
}

/// Changes made when the first item has been read must not show, also not in later pages.
async fn list_is_one_version(fixture: &Fixture) -> Result<()> {
    let expected = plant_large(fixture).await?;
    let (store, other) = (&fixture.store, fixture.another().await?);
    let last = expected.last().context("nothing was planted")?.clone();
    let before = store.put("other", "x").await?;
    let mut listing = store.list("dir").await?;
    let as_of = listing.as_of().context("a snapshot should tell its version")?;
    ensure!(as_of >= before, "the list is as of {as_of}, before the acknowledged write at {before}");
    let first = listing.next().await.context("the list is empty")??;
    other.put(last.as_str(), "after").await?;
    other.delete(expected[LARGE - 2].as_str()).await?;
    other.put(format!("{last}-new"), "x").await?;
    let entries = rest_of(listing).await?;
    let mut found = vec![first.path()];
    found.extend(keys_of(&entries));
    ensure!(found == expected, "{} entries, or others than at the beginning", found.len());
    for entry in &entries {
        ensure!(entry.version <= as_of, "{:?} is at {}, after {as_of}", entry.key, entry.version);
        ensure_eq!(entry.value, "before", "the value of {:?}", entry.key);
    }
    Ok(())
}

/// One writer goes through the keys in order, round after round. At any version each key is in the
/// round of the key before it, or one behind.
async fn snapshot_lists_see_no_half_rounds(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    fill(store, 20, |at| (format!("dir/{at:02}"), "0".to_owned())).await?;
    let writing = at_once(async move {
        for round in 1.. {
            for at in 0..20 {
                other.put(format!("dir/{at:02}"), format!("{round}")).await?;
            }
        }
        anyhow::Ok(())
    });
    let reading = async {
        for _ in 0..40 {
            // A writer on the same thread gets its turn.
            tokio::time::sleep(Duration::from_micros(100)).await;
            let entries = store.entries("dir").await?;
            let rounds: Vec<u32> = entries
                .iter()
                .map(|entry| Ok(std::str::from_utf8(&entry.value)?.parse()?))
                .collect::<Result<_>>()?;
            let (first, last) = (rounds.first().copied(), rounds.last().copied());
            ensure!(
                rounds.len() == 20
                    && rounds.is_sorted_by(|a, b| a >= b)
                    && first.zip(last).is_some_and(|(first, last)| first - last <= 1),
                "no version ever had these rounds: {rounds:?}"
            );
        }
        Ok(())
    };
    tokio::select! {
        read = reading => read,
        written = writing => written,
    }
}

/// Catches changes lost between the reading and the watching.
async fn list_then_watch_loses_nothing(fixture: &Fixture) -> Result<()> {
    unless_compacted(|| list_then_watch(fixture)).await
}

async fn list_then_watch(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..8 {
        // Each key is written once, so that one that is lost stays lost.
        let writing = at_once({
            let other = Arc::clone(&other);
            async move {
                for at in 0..40 {
                    other.put(format!("dir/{round}/{at:02}"), "x").await?;
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                anyhow::Ok(())
            }
        });
        let listing = store.list("dir").await?;
        let as_of = listing.as_of();
        let listed = rest_of(listing).await?;
        writing.await?;
        other.delete(format!("dir/{round}/07")).await?;
        let expected = other.entries("dir").await?;
        let options = match as_of {
            Some(version) => WatchOptions::default().with_from(version),
            // A store without versions to watch from cannot tell one; its consumers begin anew.
            None if !fixture.capabilities().has(Power::WatchHistory) => {
                WatchOptions::default().with_initial()
            }
            None => bail!("the list does not tell the version to watch from"),
        };
        let mut follower = Follower::start(store, Prefix::new("dir")?, options).await?;
        follower.begin_with(listed);
        follower.until_state(&expected).await?;
    }
    Ok(())
}

async fn dropped_list_is_harmless(fixture: &Fixture) -> Result<()> {
    let expected = plant_large(fixture).await?;
    let store = &fixture.store;
    for read in 0..20 {
        let mut listing = store.list("dir").await?;
        for _ in 0..read {
            listing.next().await.context("the list ended early")??;
        }
    }
    ensure!(names(store, "dir").await? == expected, "a list after dropped ones is not whole");
    Ok(())
}
