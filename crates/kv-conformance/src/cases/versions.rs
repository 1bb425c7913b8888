//! Versions: they only grow, everything agrees on them, and reads see what was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use kv_core::{
    Consistency, ErrorKind, GetOptions, ListItem, ListOptions, Precondition, Prefix, Store, StoreExt, Version,
};

use crate::case::needs::{CAS_DETECTS_RECREATE, LINEARIZABLE_READS, STALE_READS};
use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, key, list, put_if, refused, soon, until};

pub(super) const CASES: &[Case] = &[
    case!(every_write_gets_a_greater_version, "Every successful write gives a key a greater version."),
    case!(identical_value_gets_a_greater_version, "So does a write of an identical value."),
    case!(versions_grow_across_recreation, "Versions grow across delete and re-create."),
    case!(versions_grow_across_handles, "Versions grow across handles, closed and opened again."),
    case!(versions_come_from_one_counter, "All versions of a store come from one counter."),
    case!(everything_agrees_on_a_version, "put, get, list and watch tell the same version of one write."),
    case!(created_is_the_version_of_the_first_write, "`created` is the version of the write that created."),
    case!(recreated_key_is_noticed, "A precondition on a version notices a re-created key."),
    case!(
        recreation_is_noticed_at_any_moment,
        "A precondition on a version notices a re-creation at any moment.",
        CAS_DETECTS_RECREATE
    ),
    case!(
        reads_see_acknowledged_writes,
        "A read sees every write acknowledged before it began.",
        LINEARIZABLE_READS
    ),
    case!(
        reads_never_go_back,
        "A read never answers an older state than a read before it.",
        LINEARIZABLE_READS
    ),
    case!(stale_reads_answer, "A read may opt into Stale.", STALE_READS),
];

async fn every_write_gets_a_greater_version(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut last = Version::ZERO;
    for at in 0..20 {
        let version = store.put("k", format!("{at}")).await?;
        ensure!(version > last, "write {at} got version {version}, after {last}");
        last = version;
    }
    Ok(())
}

/// Catches a plain Consul put: nothing changes there then, and two compare-and-sets pass.
async fn identical_value_gets_a_greater_version(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let first = store.put(&k, "same").await?;
    let second = store.put(&k, "same").await?;
    ensure!(second > first, "the second put got version {second}, after {first}");
    let third = store.compare_and_set(&k, second, "same").await?;
    ensure!(third > second, "the third put got version {third}, after {second}");
    refused!(
        store.compare_and_set(&k, second, "same").await,
        ErrorKind::PreconditionFailed { current: Some(at) } if *at == third,
        "a second compare-and-set at {second}"
    );
    Ok(())
}

/// Catches versions that restart when a key is made again, so that a stale compare-and-set passes.
async fn versions_grow_across_recreation(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut last = Version::ZERO;
    for round in 0..5 {
        let version = store.create("dir/k", "x").await?;
        ensure!(version > last, "re-creation {round} got version {version}, after {last}");
        last = store.put("dir/k", "x").await?;
        match round % 2 {
            0 => ensure!(store.delete("dir/k").await?, "dir/k should exist"),
            _ => ensure_eq!(store.delete_tree("dir").await?, 1, "what delete_tree deleted"),
        }
    }
    Ok(())
}

/// Catches a counter that restarts when a store is opened, or belongs to one handle.
async fn versions_grow_across_handles(fixture: &Fixture) -> Result<()> {
    let mut last = fixture.store.put("k", "0").await?;
    for round in 1..5 {
        let other = fixture.another().await?;
        for store in [&other, &fixture.store, &other] {
            let version = store.put("k", format!("{round}")).await?;
            ensure!(version > last, "round {round}: a put got version {version}, after {last}");
            last = version;
        }
        other.close().await?;
    }
    Ok(())
}

async fn versions_come_from_one_counter(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let mut last = Version::ZERO;
    for (store, name) in [
        (&fixture.store, "a"),
        (&fixture.store, "deep/er/b"),
        (&other, "c"),
        (&fixture.store, "a"),
        (&other, "deep/er/b"),
        (&other, "a"),
    ] {
        let version = store.put(name, "x").await?;
        ensure!(version > last, "the write of {name} got version {version}, after {last}");
        last = version;
    }
    Ok(())
}

/// Catches a put that returns another writer's version, and a list that tells the parent's.
async fn everything_agrees_on_a_version(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut follower = Follower::now(store, Prefix::new("dir")?).await?;
    for value in ["first", "second"] {
        let version = store.put(&k, value).await?;
        store.put("dir/other", "x").await?;
        let found = entry(store, &k).await?;
        ensure_eq!(found.version, version, "the version that get tells");
        let listed = store.entries("dir").await?.into_iter().find(|entry| entry.key == k);
        ensure_eq!(listed.as_ref(), Some(&found), "the entry that list tells");
        follower.until_version(&k, version).await?;
        ensure_eq!(follower.state.get(&k), Some(&found), "the entry that watch tells");
    }
    Ok(())
}

/// Catches a created version that is the version of the last change.
async fn created_is_the_version_of_the_first_write(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let first = store.put(&k, "1").await?;
    ensure_eq!(entry(store, &k).await?.created, first, "created, of a new key");
    store.put(&k, "2").await?;
    store.put("other", "x").await?;
    store.replace(&k, "3").await?;
    ensure_eq!(entry(store, &k).await?.created, first, "created, after two more puts");
    store.delete(&k).await?;
    let again = store.put(&k, "4").await?;
    ensure_eq!(entry(store, &k).await?.created, again, "created, of a key made again");
    Ok(())
}

async fn recreated_key_is_noticed(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let old = store.put(&k, "same").await?;
    store.delete(&k).await?;
    let new = store.put(&k, "same").await?;
    refused!(
        store.compare_and_set(&k, old, "x").await,
        ErrorKind::PreconditionFailed { current: Some(at) } if *at == new,
        "a put at the version before the re-creation"
    );
    refused!(
        store.compare_and_delete(&k, old).await,
        ErrorKind::PreconditionFailed { current: Some(at) } if *at == new,
        "a delete at the version before the re-creation"
    );
    ensure_eq!(entry(store, &k).await?.version, new, "the version afterwards");
    Ok(())
}

/// A put at version v that got version p must come right after v: no other write of the key can lie
/// between them.
async fn recreation_is_noticed_at_any_moment(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..100 {
        let k = key(&format!("k/{round}"))?;
        let seen = store.put(&k, "same").await?;
        let set = {
            let (store, k) = (Arc::clone(store), k.clone());
            at_once(async move {
                // Which of two tasks begins first is the runtime's choice, and often the same one.
                tokio::time::sleep(Duration::from_millis(round % 3)).await;
                match put_if(&store, &k, "set", Precondition::At(seen)).await {
                    Ok(put) => Ok(Some(put.version)),
                    Err(error) if error.is_conflict() => Ok(None),
                    Err(error) => Err(error),
                }
            })
        };
        let recreate = {
            let other = Arc::clone(&other);
            at_once(async move {
                tokio::time::sleep(Duration::from_millis(round % 2 * 2)).await;
                other.delete(&k).await?;
                match other.create(&k, "same").await {
                    Ok(version) => Ok(Some(version)),
                    Err(error) if error.is_conflict() => Ok(None),
                    Err(error) => Err(error),
                }
            })
        };
        if let (Some(set), Some(recreated)) = tokio::try_join!(set, recreate)? {
            ensure!(
                recreated > set,
                "round {round}: a put at {seen} was applied at {set}, after the re-creation at {recreated}"
            );
        }
    }
    Ok(())
}

/// Catches lists that a stale member answers.
async fn reads_see_acknowledged_writes(fixture: &Fixture) -> Result<()> {
    let (one, two) = (&fixture.store, &fixture.another().await?);
    for round in 0..40 {
        let (writer, reader) = if round % 2 == 0 { (one, two) } else { (two, one) };
        let value = Bytes::from(format!("{round}"));
        let version = writer.put("dir/k", value.clone()).await?;
        let found = entry(reader, &key("dir/k")?).await?;
        ensure_eq!((found.version, &found.value), (version, &value), "round {round}: what get saw");
        let listed = reader.entries("dir").await?;
        ensure_eq!(listed, [found], "round {round}: what list saw");
        if round % 4 == 3 {
            writer.delete("dir/k").await?;
            ensure_eq!(reader.get("dir/k").await?, None, "round {round}: what get saw after the delete");
            ensure_eq!(reader.entries("dir").await?, [], "round {round}: what list saw after the delete");
        }
    }
    Ok(())
}

async fn reads_never_go_back(fixture: &Fixture) -> Result<()> {
    let (one, two) = (&fixture.store, &fixture.another().await?);
    one.put("k", "first").await?;
    let newest = Arc::new(AtomicU64::new(0));
    let writer = Arc::clone(one);
    let writing = at_once(async move {
        for at in 0..150 {
            writer.put("k", format!("{at}")).await?;
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        anyhow::Ok(())
    });
    let reading = |store: &Arc<dyn Store>| {
        let (store, newest) = (Arc::clone(store), Arc::clone(&newest));
        at_once(async move {
            loop {
                let before = newest.load(Ordering::SeqCst);
                let found = entry(&store, &key("k")?).await?.version.get();
                if found < before {
                    return anyhow::Ok((found, before));
                }
                newest.fetch_max(found, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        })
    };
    tokio::select! {
        written = writing => written,
        back = reading(one) => back.and_then(|back| bail!("a read told version {} after one told {}", back.0, back.1)),
        back = reading(two) => back.and_then(|back| bail!("a read told version {} after one told {}", back.0, back.1)),
    }
}

async fn stale_reads_answer(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let version = store.put(&k, "x").await?;
    let get = GetOptions::default().with_consistency(Consistency::Stale);
    until(PATIENCE, "a stale get should see the write in the end", || async {
        Ok(store.get_with(&k, get.clone()).await?.is_some_and(|entry| entry.version == version))
    })
    .await?;
    let options = ListOptions::default().with_consistency(Consistency::Stale);
    until(PATIENCE, "a stale list should see the write in the end", || async {
        Ok(match list(store, "dir", options.clone()).await?.as_slice() {
            [ListItem::Entry(entry)] => entry.version == version,
            [] => false,
            other => bail!("a stale list told {other:?}"),
        })
    })
    .await?;
    soon("an absent key, read stale", store.get_with(&key("absent")?, get)).await?.map(|found| {
        ensure_eq!(found, None, "the absent key");
        Ok(())
    })?
}
