//! Where a watch begins, and that nothing falls into the gap before it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use kv_core::{
    ErrorKind, Key, Prefix, Store, StoreExt, Version, WatchEvent, WatchFilter, WatchOptions, WatchTarget,
};

use crate::case::needs::{WATCH_COMPLETE, WATCH_HISTORY};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, is_compacted, key, unless_compacted};

pub(super) const CASES: &[Case] = &[
    case!(watch_sees_what_follows_it, "A watch delivers every change after its call has returned."),
    case!(watch_now_tells_nothing_older, "A watch from now tells nothing that was there before."),
    case!(watch_of_an_absent_key, "A key that does not exist can be watched, and its creation is told."),
    case!(watch_of_an_absent_prefix, "A prefix that does not exist can be watched, and tells no deletion."),
    case!(watch_initial_tells_the_state, "with_initial delivers the entries, then Synced, then changes."),
    case!(watch_initial_of_a_key, "with_initial of a key delivers that key's entry alone."),
    case!(watch_initial_of_nothing, "with_initial of an absent target delivers Synced alone."),
    case!(watch_initial_of_a_large_tree, "with_initial delivers every entry of a large tree."),
    case!(watch_initial_loses_nothing, "with_initial loses and doubles nothing while others write."),
    case!(
        watch_initial_misses_no_version,
        "With complete watches, with_initial goes on with the very next change.",
        WATCH_COMPLETE,
    ),
    case!(watch_from_a_version, "`from: v` delivers changes greater than v, and not v.", WATCH_HISTORY),
    case!(watch_from_a_version_replays_deletes, "`from: v` delivers deletes since.", WATCH_HISTORY),
    case!(watch_from_the_newest_version, "`from` the newest version delivers what follows.", WATCH_HISTORY),
    case!(
        watch_from_long_ago_is_whole_or_compacted,
        "A `from` older than the history is Compacted from the call itself, never a gap.",
        WATCH_HISTORY,
    ),
    case!(watch_from_any_version_ends_right, "A watch from an older version ends on the final state."),
];

/// Catches a put right after the watch began that is never seen: 20 of 100 in another library on etcd, 6 of
/// 100 on ZooKeeper.
async fn watch_sees_what_follows_it(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..40 {
        let k = key(&format!("dir/{}", round % 3))?;
        let target: WatchTarget = if round % 2 == 0 { k.clone().into() } else { k.parent().into() };
        let mut follower = Follower::now(store, target).await?;
        let version = other.put(&k, format!("{round}")).await?;
        follower.until_version(&k, version).await?;
    }
    Ok(())
}

async fn watch_now_tells_nothing_older(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    store.put("dir/old", "x").await?;
    let old = store.put(&k, "old").await?;
    for target in [WatchTarget::from(k.parent()), WatchTarget::from(k.clone())] {
        let mut follower = Follower::now(store, target).await?;
        let new = store.put(&k, "new").await?;
        follower.until_version(&k, new).await?;
        if !follower.resynced() {
            ensure_eq!(follower.versions_of(&k), [new], "what was told, where {old} was before");
            ensure_eq!(follower.named(), ["dir/k"], "the keys that were told");
        }
    }
    Ok(())
}

/// Catches a watch of an absent key that fails or ends silently.
async fn watch_of_an_absent_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("none/below/k")?);
    let mut follower = Follower::now(store, k.clone()).await?;
    for value in ["first", "second"] {
        let version = store.create(&k, value).await?;
        follower.until_version(&k, version).await?;
        store.delete(&k).await?;
        follower.until_deleted(&k).await?;
    }
    Ok(())
}

/// Catches an absent prefix that cannot be watched, or reports a delete that never was.
async fn watch_of_an_absent_prefix(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut follower = Follower::now(store, Prefix::new("none/below")?).await?;
    store.put("none/beside", "x").await?;
    store.put("none/below", "x").await?;
    store.delete("none/below/never").await?;
    let k = key("none/below/k")?;
    let version = store.put(&k, "x").await?;
    follower.until_version(&k, version).await?;
    ensure_eq!(follower.named(), ["none/below/k"], "the keys that were told");
    Ok(())
}

/// Catches a watch that does not say where the state ends and the changes begin.
async fn watch_initial_tells_the_state(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["dir/a", "dir/a/b", "dir/c", "dir", "dir2/x"] {
        store.put(text, "1").await?;
        store.put(text, "2").await?;
    }
    store.put("dir/gone", "x").await?;
    store.delete("dir/gone").await?;
    let expected = store.entries("dir").await?;
    let mut follower = Follower::synced(store, Prefix::new("dir")?).await?;
    let state: Vec<_> = follower.state.entries().cloned().collect();
    ensure_eq!(state, expected, "the state at Synced");
    ensure_eq!(follower.events.len(), expected.len() + 1, "the number of events up to Synced");
    let k = key("dir/c")?;
    let version = store.put(&k, "3").await?;
    follower.until_version(&k, version).await
}

async fn watch_initial_of_a_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    for text in ["dir/k/child", "dir/k2", "dir"] {
        store.put(text, "x").await?;
    }
    store.put(&k, "1").await?;
    let mut follower = Follower::synced(store, k.clone()).await?;
    ensure_eq!(follower.state.get(&k), Some(&entry(store, &k).await?), "the state at Synced");
    ensure_eq!(follower.events.len(), 2, "the number of events up to Synced");
    store.delete(&k).await?;
    follower.until_deleted(&k).await.map(drop)
}

async fn watch_initial_of_nothing(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let k = key("none/k")?;
    for target in [WatchTarget::from(k.clone()), WatchTarget::from(k.parent())] {
        let mut follower = Follower::synced(store, target).await?;
        ensure_eq!(follower.events, [WatchEvent::Synced], "the events at first");
        let version = store.put(&k, "x").await?;
        follower.until_version(&k, version).await?;
        store.delete(&k).await?;
    }
    Ok(())
}

async fn watch_initial_of_a_large_tree(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    crate::steps::fill(store, 1200, |at| (format!("dir/{:02}/{at}", at % 9), "x".to_owned())).await?;
    let follower = Follower::synced(store, Prefix::new("dir")?).await?;
    let expected = store.entries("dir").await?;
    ensure!(
        follower.state.entries().eq(&expected),
        "{} of {} entries were told, or others",
        follower.state.len(),
        expected.len()
    );
    Ok(())
}

/// Catches changes lost between the reading and the watching.
async fn watch_initial_loses_nothing(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..15 {
        // Each key is written once, so that one that is lost stays lost.
        let writing = at_once({
            let other = Arc::clone(&other);
            async move {
                for at in 0..20 {
                    other.put(format!("dir/{round}/{at}"), "x").await?;
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                other.delete(format!("dir/{round}/3")).await.map_err(anyhow::Error::new)
            }
        });
        let (written, follower) = tokio::join!(writing, Follower::synced(store, Prefix::new("dir")?));
        written?;
        follower?.until_state(&other.entries("dir").await?).await?;
    }
    Ok(())
}

async fn watch_initial_misses_no_version(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    let mut written = vec![other.put(&k, "first").await?];
    let key = k.clone();
    let writing = at_once(async move {
        for round in 0..300 {
            written.push(other.put(&key, format!("{round}")).await?);
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        anyhow::Ok(written)
    });
    let starting = async {
        let mut followers = Vec::new();
        for round in 0..15 {
            let target: WatchTarget = if round % 2 == 0 { k.clone().into() } else { k.parent().into() };
            followers.push(Follower::synced(store, target).await?);
        }
        anyhow::Ok(followers)
    };
    let (written, followers) = tokio::try_join!(writing, starting)?;
    for mut follower in followers {
        follower.until_version(&k, written[written.len() - 1]).await?;
        ensure_all_since(&written, &follower, &k)?;
    }
    Ok(())
}

/// The puts that were told must be the last ones written, all of them in order.
fn ensure_all_since(written: &[Version], follower: &Follower, k: &Key) -> Result<()> {
    let told = follower.versions_of(k);
    ensure!(!follower.resynced(), "the watch told of a gap where it should be complete");
    ensure!(written.ends_with(&told), "written were {written:?}, told {told:?}");
    Ok(())
}

/// Catches a start that includes its own version on some backends, and a late watcher that misses changes
/// silently.
async fn watch_from_a_version(fixture: &Fixture) -> Result<()> {
    unless_compacted(|| from_each_version(fixture)).await
}

async fn from_each_version(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut versions = Vec::new();
    for round in 0..6 {
        versions.push(store.put(&k, format!("{round}")).await?);
        store.put(format!("beside/{round}"), "x").await?;
    }
    for at in 0..6 {
        for target in [WatchTarget::from(k.parent()), WatchTarget::from(k.clone())] {
            let options = WatchOptions::default().with_from(versions[at]);
            let mut follower = Follower::start(store, target, options).await?;
            let next = store.put(&k, "next").await?;
            versions.push(next);
            follower.until_version(&k, next).await?;
            ensure_eq!(follower.versions_of(&k), versions[at + 1..], "what was told from {}", versions[at]);
            ensure_eq!(follower.named(), ["dir/k"], "the keys that were told");
        }
    }
    Ok(())
}

async fn watch_from_a_version_replays_deletes(fixture: &Fixture) -> Result<()> {
    unless_compacted(|| replay_deletes(fixture)).await
}

async fn replay_deletes(fixture: &Fixture) -> Result<()> {
    let (store, k, tree) = (&fixture.store, key("dir/k")?, key("dir/tree/x")?);
    let first = store.put(&k, "1").await?;
    store.delete(&k).await?;
    store.put(&k, "2").await?;
    store.put(&tree, "x").await?;
    store.delete_tree("dir/tree").await?;
    let last = store.put(&k, "3").await?;

    let options = WatchOptions::default().with_from(first);
    let mut follower = Follower::start(store, k.parent(), options.clone()).await?;
    follower.until_version(&k, last).await?;
    if !told_of(&follower, &tree).contains(&"delete") {
        follower.until_deleted(&tree).await?;
    }
    ensure_eq!(told_of(&follower, &k), ["delete", "put", "put"], "what was told of {k:?} from {first}");
    ensure_eq!(told_of(&follower, &tree), ["put", "delete"], "what was told of {tree:?} from {first}");

    let options = options.with_filter(WatchFilter::Deletes);
    let mut follower = Follower::start(store, k.parent(), options).await?;
    follower.until_deleted(&tree).await?;
    Ok(())
}

/// What kinds of events were told of a key.
fn told_of(follower: &Follower, k: &Key) -> Vec<&'static str> {
    follower
        .events
        .iter()
        .filter_map(|event| match event {
            WatchEvent::Put(entry) if entry.key == *k => Some("put"),
            WatchEvent::Delete(deletion) if deletion.key == *k => Some("delete"),
            _ => None,
        })
        .collect()
}

async fn watch_from_the_newest_version(fixture: &Fixture) -> Result<()> {
    unless_compacted(|| from_the_newest(fixture)).await
}

async fn from_the_newest(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    for round in 0..10 {
        let newest = store.put(&k, format!("{round}")).await?;
        let options = WatchOptions::default().with_from(newest);
        let mut follower = Follower::start(store, k.parent(), options).await?;
        let next = store.put(&k, "next").await?;
        follower.until_version(&k, next).await?;
        ensure_eq!(follower.versions_of(&k), [next], "what was told from {newest}");
    }
    Ok(())
}

/// Catches a short history that lets a late watcher miss changes silently.
async fn watch_from_long_ago_is_whole_or_compacted(fixture: &Fixture) -> Result<()> {
    const WRITES: usize = 3000;
    let (store, k) = (&fixture.store, key("dir/k")?);
    let first = store.put(&k, "first").await?;
    crate::steps::fill(store, WRITES, |at| (format!("dir/{}", at % 10), format!("{at}"))).await?;
    let last = store.put(&k, "last").await?;
    let mut follower = match Follower::start(store, k.parent(), WatchOptions::default().with_from(first))
        .await
    {
        Ok(follower) => follower,
        Err(error) if is_compacted(&error) => return watchable_from(store, oldest_told(&error), &k).await,
        Err(error) => return Err(error),
    };
    follower.until_version(&k, last).await?;
    if !follower.resynced() {
        ensure_eq!(follower.events.len(), WRITES + 1, "the number of changes told from {first}");
    }
    Ok(())
}

fn oldest_told(error: &anyhow::Error) -> Option<Version> {
    match error.downcast_ref::<kv_core::Error>()?.kind() {
        ErrorKind::Compacted { oldest } => *oldest,
        _ => None,
    }
}

/// What `Compacted` names as the oldest must itself be accepted, unless history has moved on since.
async fn watchable_from(store: &impl Store, oldest: Option<Version>, k: &Key) -> Result<()> {
    let Some(oldest) = oldest else { return Ok(()) };
    let mut follower =
        match Follower::start(store, k.parent(), WatchOptions::default().with_from(oldest)).await {
            Ok(follower) => follower,
            Err(error) if is_compacted(&error) && oldest_told(&error) > Some(oldest) => return Ok(()),
            Err(error) => return Err(error),
        };
    let version = store.put(k, "after").await?;
    follower.until_version(k, version).await
}

async fn watch_from_any_version_ends_right(fixture: &Fixture) -> Result<()> {
    unless_compacted(|| from_any_version(fixture)).await
}

async fn from_any_version(fixture: &Fixture) -> Result<()> {
    let (store, k, last) = (&fixture.store, key("dir/k")?, key("dir/last")?);
    let early = store.put(&k, "1").await?;
    for round in 0..20 {
        store.put(format!("dir/{}", round % 4), format!("{round}")).await?;
    }
    store.delete("dir/2").await?;
    let late = store.put(&k, "2").await?;
    let listed = store.entries("dir").await?;
    for from in [Version::ZERO, early, late] {
        let options = WatchOptions::default().with_from(from);
        let mut follower = match Follower::start(store, k.parent(), options).await {
            // Nobody promises history back to the beginning.
            Err(error) if is_compacted(&error) && from == Version::ZERO => continue,
            started => started?,
        };
        if from == late {
            follower.begin_with(listed.clone());
        }
        store.put(&last, format!("{from}")).await?;
        follower.until_state(&store.entries("dir").await?).await?;
    }
    Ok(())
}
