//! The past of a store: what is read of it, and how it is forgotten.

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use kv_core::{
    AdminExt, CallOptions, Entry, ErrorKind, History, ListItem, ListOptions, Prefix, Store, StoreExt,
    Version, WatchOptions, WatchTarget,
};

use crate::case::needs::{HISTORY, WATCH_HISTORY};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{ensure_eq, key, refused};

pub(super) const CASES: &[Case] = &[
    case!(history_reads_a_key_as_it_was, "A key is read as it was at a version.", HISTORY),
    case!(history_lists_a_deleted_subtree, "A deleted subtree is listed at the version before.", HISTORY),
    case!(
        history_lists_one_version,
        "A list at a version takes the options of a list and shows it alone.",
        HISTORY
    ),
    case!(
        history_tells_the_versions_of_a_key,
        "Each put and deletion of a key is told, oldest first.",
        HISTORY
    ),
    case!(history_ends_at_the_newest_version, "A version that is yet to come is refused.", HISTORY),
    case!(
        compaction_forgets_what_was_before,
        "Compaction forgets each older state, for reads and watches, and leaves the rest.",
        HISTORY,
        WATCH_HISTORY
    )
    .alone(),
];

fn history(store: &impl Store) -> Result<&dyn History> {
    store.as_history().context("history is declared, and as_history() has none")
}

/// The value of an entry as text, and a dash for none.
fn text(entry: Option<&Entry>) -> String {
    entry.map_or_else(|| "-".to_owned(), |entry| String::from_utf8_lossy(&entry.value).into_owned())
}

/// A version that no write of this test gets: far ahead of the newest.
async fn far_ahead(store: &impl Store) -> kv_core::Result<Version> {
    Ok(Version::new(store.put("newest", "x").await?.get() + 1_000_000_000))
}

async fn history_reads_a_key_as_it_was(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let k = key("dir/k")?;
    let before = store.put("other", "x").await?;
    let first = store.create(&k, "1").await?;
    let between = store.put("other", "y").await?;
    let second = store.put(&k, "2").await?;
    ensure!(store.delete(&k).await?, "the key was there");
    let gone = store.put("other", "z").await?;
    let again = store.create(&k, "3").await?;
    for (at, expected) in [
        (before, None),
        (first, Some(("1", first, first))),
        (between, Some(("1", first, first))),
        (second, Some(("2", second, first))),
        (gone, None),
        (again, Some(("3", again, again))),
    ] {
        let found = store.get_at(&k, at).await?;
        let found = found.as_ref().map(|entry| (entry.text().unwrap_or("?"), entry.version, entry.created));
        ensure_eq!(found, expected, "the entry at {at}");
    }
    // Another namespace sees the same past under its own names.
    let below = fixture.another_below("dir").await?;
    ensure_eq!(text(below.get_at("k", between).await?.as_ref()), "1", "the value as seen from below");
    Ok(())
}

async fn history_lists_a_deleted_subtree(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for at in 0..20 {
        store.put(format!("tree/{at:02}"), format!("{at}")).await?;
    }
    let kept = store.put("tree-kept", "x").await?;
    let before = store.entries("tree").await?;
    ensure_eq!(store.delete_tree("tree").await?, 20, "deleted entries");
    store.put("tree/05", "new").await?;
    let found = store.list_at("tree", kept).await?.entries().await?;
    ensure_eq!(found, before, "the subtree at the version before its deletion");
    Ok(())
}

async fn history_lists_one_version(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for path in ["d/a", "d/b", "d/c/1", "d/c/2", "d/e"] {
        store.put(path, "old").await?;
    }
    store.delete("d/b").await?;
    let at = store.put("elsewhere", "x").await?;
    store.put("d/a", "new").await?;
    store.put("d/b", "new").await?;
    store.put("d/d", "new").await?;
    store.delete("d/e").await?;
    let power = history(store)?;
    let expiries = power.list_at_with(&Prefix::new("d")?, at, ListOptions::default().with_expiry()).await;
    refused!(expiries, ErrorKind::Unsupported { .. }, "a list of expiries that were");
    let (dir, below) = (Prefix::new("d")?, |path: &str| key(path));
    for (options, expected) in [
        (ListOptions::default(), vec!["d/a", "d/c/1", "d/c/2", "d/e"]),
        (ListOptions::default().with_keys_only(), vec!["d/a", "d/c/1", "d/c/2", "d/e"]),
        (ListOptions::default().with_one_level(), vec!["d/a", "d/c", "d/e"]),
        (ListOptions::default().with_limit(2), vec!["d/a", "d/c/1"]),
        (ListOptions::default().with_range(below("d/b")?..below("d/c/2")?), vec!["d/c/1"]),
    ] {
        let listing = power.list_at_with(&dir, at, options.clone()).await?;
        ensure_eq!(listing.as_of(), Some(at), "the version of a list at {at}");
        let items: Vec<ListItem> = listing.try_collect().await?;
        let paths: Vec<_> = items.iter().map(ListItem::path).collect();
        ensure_eq!(paths, expected, "the list at {at} with {options:?}");
        for entry in items.iter().filter_map(|item| match item {
            ListItem::Entry(entry) => Some(entry),
            _ => None,
        }) {
            ensure_eq!(entry.value, "old", "the value of {:?} at {at}", entry.key);
            ensure!(entry.version <= at, "{:?} is of {}, after {at}", entry.key, entry.version);
        }
    }
    Ok(())
}

async fn history_tells_the_versions_of_a_key(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let (k, untouched) = (key("k")?, key("untouched")?);
    ensure_eq!(store.key_versions(&k).await?, vec![], "the versions of a key that never was");
    store.put(&untouched, "x").await?;
    let mut puts = Vec::new();
    for text in ["1", "2"] {
        puts.push(store.put(&k, text).await?);
    }
    store.put("k/below", "x").await?;
    store.delete(&k).await?;
    store.put("kk", "x").await?;
    puts.push(store.create(&k, "3").await?);
    let told = store.key_versions(&k).await?;
    let seen: Vec<_> = told.iter().map(|one| text(one.entry.as_ref())).collect();
    ensure_eq!(seen, ["1", "2", "-", "3"], "the versions of the key");
    let versions: Vec<_> = told.iter().map(|one| one.version).collect();
    ensure!(versions.is_sorted_by(|a, b| a < b), "the versions are out of order: {versions:?}");
    ensure_eq!([versions[0], versions[1], versions[3]], puts[..], "the versions of the puts");
    for one in &told {
        ensure_eq!(store.get_at(&k, one.version).await?, one.entry, "the key at {}", one.version);
    }
    store.delete(&k).await?;
    let newest = history(store)?.versions_with(&k, kv_core::VersionsOptions::default().with_limit(2)).await?;
    let seen: Vec<_> = newest.iter().map(|one| text(one.entry.as_ref())).collect();
    ensure_eq!(seen, ["3", "-"], "the two newest versions");
    Ok(())
}

async fn history_ends_at_the_newest_version(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let first = store.put("k", "x").await?;
    let ahead = far_ahead(store).await?;
    refused!(store.get_at("k", ahead).await, ErrorKind::InvalidArgument { .. }, "a get of the future");
    refused!(store.list_at("", ahead).await, ErrorKind::InvalidArgument { .. }, "a list of the future");
    let compacted = history(store)?.compact_with(ahead, CallOptions::default()).await;
    let error = refused!(compacted, ErrorKind::InvalidArgument { .. }, "a compaction of the future");
    ensure_eq!(error.applied(), kv_core::Applied::No, "whether a refused compaction was made");
    ensure!(store.get_at("k", first).await?.is_some(), "a refused compaction forgot something");
    Ok(())
}

async fn compaction_forgets_what_was_before(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let first = store.put("dir/k", "1").await?;
    let second = store.put("dir/k", "2").await?;
    store.put("dir/other", "x").await?;
    store.delete("dir/k").await?;
    let last = store.put("dir/other", "y").await?;
    let oldest = store.compact(second).await?;
    ensure_eq!(oldest, second, "the oldest version after compacting up to {second}");
    let compacted = |found: &ErrorKind| *found == ErrorKind::Compacted { oldest: Some(second) };
    refused!(store.get_at("dir/k", first).await, kind if compacted(kind), "a get of what is forgotten");
    refused!(store.list_at("dir", first).await, kind if compacted(kind), "a list of what is forgotten");
    let watch = |from| {
        let options = WatchOptions::default().with_from(from);
        store.watch_with(WatchTarget::below(Prefix::root()), options)
    };
    refused!(watch(first).await, ErrorKind::Compacted { .. }, "a watch from what is forgotten");
    drop(watch(second).await?);
    ensure_eq!(text(store.get_at("dir/k", second).await?.as_ref()), "2", "the oldest state");
    ensure_eq!(store.list_at("dir", last).await?.entries().await?.len(), 1, "entries of the newest state");
    let told = store.key_versions("dir/k").await?;
    let seen: Vec<_> = told.iter().map(|one| text(one.entry.as_ref())).collect();
    ensure_eq!(seen, ["2", "-"], "the versions that are left of the key");
    // Again, and lower: nothing happens, and both are told what is left.
    ensure_eq!(store.compact(second).await?, second, "the oldest version after the same compaction");
    ensure_eq!(store.compact(first).await?, second, "the oldest version after a lower compaction");
    ensure_eq!(store.compact(last).await?, last, "the oldest version after the last compaction");
    ensure_eq!(store.get("dir/other").await?.map(|entry| entry.version), Some(last), "what is there now");
    Ok(())
}
