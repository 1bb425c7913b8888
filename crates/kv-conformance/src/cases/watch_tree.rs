//! Watches of a key together with what lies below it.

use anyhow::{Result, ensure};
use kv_core::{Key, Store, StoreExt, Version, WatchOptions, WatchTarget};

use crate::case::needs::WATCH_HISTORY;
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{ensure_eq, entry, key};

pub(super) const CASES: &[Case] = &[
    case!(watch_tree_tells_the_key_and_what_is_below, "A watch of a tree tells its key and what is below."),
    case!(watch_tree_initial_tells_both, "with_initial of a tree delivers the key's entry and those below."),
    case!(watch_tree_of_nothing, "A tree of which nothing exists can be watched, and its creation is told."),
    case!(
        watch_tree_from_a_version,
        "A watch of a tree from a version delivers the changes of both since.",
        WATCH_HISTORY,
    ),
];

/// What looks like the tree of `a` and is not: some of it lies between `a` and `a/b` in byte order.
const BESIDE: [&str; 5] = ["a-", "a-b/c", "a.b", "a0", "ab"];
const TREE: [&str; 4] = ["a", "a/-", "a/b", "a/b/c"];

async fn put_beside(store: &impl Store) -> Result<()> {
    for text in BESIDE {
        store.put(text, "x").await?;
    }
    Ok(())
}

/// Puts the tree, and the version of each key.
async fn put_tree(store: &impl Store) -> Result<Vec<(Key, Version)>> {
    let mut put = Vec::new();
    for text in TREE {
        put.push((key(text)?, store.put(text, "x").await?));
    }
    Ok(put)
}

/// Puts and deletes of the key and of keys below; nothing of what lies beside.
async fn follow_changes(store: &impl Store, follower: &mut Follower) -> Result<()> {
    put_beside(store).await?;
    for (k, version) in put_tree(store).await? {
        follower.until_version(&k, version).await?;
    }
    for text in BESIDE.into_iter().chain(TREE) {
        store.delete(text).await?;
    }
    for text in TREE {
        let k = key(text)?;
        follower.until("the deletion", |follower| follower.state.get(&k).is_none()).await?;
    }
    Ok(())
}

/// Catches a watch of either half, and one of all names that begin with the key.
async fn watch_tree_tells_the_key_and_what_is_below(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    put_tree(store).await?;
    let mut follower = Follower::now(store, WatchTarget::tree(key("a")?)).await?;
    follow_changes(store, &mut follower).await?;
    // Once more, when the key itself is absent.
    let version = store.put("a/b", "again").await?;
    follower.until_version(&key("a/b")?, version).await
}

/// Catches a state of either half, and entries from beside it.
async fn watch_tree_initial_tells_both(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    put_beside(store).await?;
    put_tree(store).await?;
    let mut follower = Follower::synced(store, WatchTarget::tree(key("a")?)).await?;
    ensure_eq!(follower.named(), TREE, "the keys that were told at first");
    for text in TREE {
        let k = key(text)?;
        ensure_eq!(follower.state.get(&k), Some(&entry(store, &k).await?), "what was told of {k:?}");
    }
    store.delete("a").await?;
    follower.until_deleted(&key("a")?).await?;
    let below = Follower::synced(store, WatchTarget::tree(key("a")?)).await?;
    ensure_eq!(below.named(), TREE[1..], "the keys that were told where the first is absent");
    let one = Follower::synced(store, WatchTarget::tree(key("a/b/c")?)).await?;
    ensure_eq!(one.named(), ["a/b/c"], "the keys of a tree of one");
    Ok(())
}

async fn watch_tree_of_nothing(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    put_beside(store).await?;
    let mut follower = Follower::synced(store, WatchTarget::tree(key("a")?)).await?;
    ensure!(follower.state.is_empty(), "{:?} was told of nothing", follower.named());
    follow_changes(store, &mut follower).await
}

async fn watch_tree_from_a_version(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let start = store.put("a", "before").await?;
    put_beside(store).await?;
    let put = put_tree(store).await?;
    store.delete("a/b").await?;
    let options = WatchOptions::default().with_from(start);
    let mut follower = Follower::start(store, WatchTarget::tree(key("a")?), options).await?;
    for (k, version) in put {
        follower.until("the put", |follower| follower.versions_of(&k).contains(&version)).await?;
    }
    follower
        .until("the deletion", |follower| !follower.state.entries().any(|entry| entry.key.as_str() == "a/b"))
        .await
}
