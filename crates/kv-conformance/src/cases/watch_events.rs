//! What a watch tells: of which keys, which kinds, in which order, and with what.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{DeleteCause, Prefix, StoreExt, Version, WatchEvent, WatchFilter, WatchOptions};

use crate::case::needs::{WATCH_COMPLETE, WATCH_EXPIRY, WATCH_PREVIOUS};
use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, key};

pub(super) const CASES: &[Case] = &[
    case!(watch_of_a_key_is_of_that_key, "A watch of a key tells of that key alone."),
    case!(watch_of_a_prefix_keeps_to_the_boundary, "A watch of `a` tells of `a/b`, never of `ab` or `a`."),
    case!(watch_of_a_prefix_sees_every_level, "A watch of a prefix tells of values at every depth."),
    case!(watch_carries_the_entry, "A put event carries the entry."),
    case!(watch_tells_deletes, "A delete event names the key, after its puts."),
    case!(watch_tells_identical_puts, "A put of an identical value is an event."),
    case!(watch_of_puts_only, "A filter for puts lets no delete through."),
    case!(watch_of_deletes_only, "A filter for deletes lets no put through."),
    case!(watch_tells_in_version_order, "Events of one key come in version order, without duplicates."),
    case!(watch_ends_on_the_final_state, "The last event of a key equals its final state."),
    case!(
        watch_tells_what_comes_and_goes,
        "Keys that come and go are told in version order, and end as they are."
    ),
    case!(watch_tells_when_a_parent_was_created, "An entry put above others is told as get tells it."),
    case!(watch_is_complete, "Every change is delivered.", WATCH_COMPLETE),
    case!(watch_tells_a_short_life, "A key that lived for a moment is told put and deleted.", WATCH_COMPLETE),
    case!(watch_tells_what_was_deleted, "A delete carries the entry that was deleted.", WATCH_PREVIOUS),
    case!(watch_tells_deletes_from_expiries, "A delete by a client is not marked as expiry.", WATCH_EXPIRY),
    case!(unmarked_delete_has_no_wrong_cause, "A delete by a client is never told as an expiry."),
];

async fn watch_of_a_key_is_of_that_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("a/k")?);
    let mut follower = Follower::now(store, k.clone()).await?;
    for text in ["a/k/child", "a/k2", "a", "a/K", "k", "a/k-", "a/k"] {
        store.put(text, "x").await?;
        store.delete(text).await?;
    }
    let version = store.put(&k, "x").await?;
    follower.until_version(&k, version).await?;
    ensure_eq!(follower.named(), ["a/k"], "the keys that were told");
    Ok(())
}

/// Catches a prefix that is compared as text.
async fn watch_of_a_prefix_keeps_to_the_boundary(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("a/b")?);
    let mut follower = Follower::now(store, Prefix::new("a")?).await?;
    for text in ["ab", "a", "ab/c", "a-/b", "b/a/b", "A/b"] {
        store.put(text, "x").await?;
        store.delete(text).await?;
    }
    let version = store.put(&k, "x").await?;
    follower.until_version(&k, version).await?;
    ensure_eq!(follower.named(), ["a/b"], "the keys that were told");
    Ok(())
}

/// Catches a watch that does not see the values of children.
async fn watch_of_a_prefix_sees_every_level(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let texts = ["d/a", "d/a/b", "d/a/b/c/d", "d/x/y/z"];
    for text in texts {
        store.put(text, "1").await?;
    }
    for prefix in ["", "d", "d/a"] {
        let mut follower = Follower::synced(store, Prefix::new(prefix)?).await?;
        for text in texts {
            let k = key(text)?;
            let version = other.put(&k, prefix).await?;
            if Prefix::new(prefix)?.covers(&k) {
                follower.until_version(&k, version).await?;
            }
        }
    }
    Ok(())
}

async fn watch_carries_the_entry(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut follower = Follower::now(store, k.clone()).await?;
    let large = vec![b'x'; fixture.limits().max_value.min(256 << 10)];
    for value in [b"text".as_slice(), b"", b"\xff\0\x01", &large] {
        let version = store.put(&k, value.to_vec()).await?;
        follower.until_version(&k, version).await?;
        let told = follower.state.get(&k).cloned();
        ensure!(told == Some(entry(store, &k).await?), "the entry told at {version} is not what get answers");
    }
    Ok(())
}

/// Catches a delete that ends the watch, is not told, or comes as an empty value.
async fn watch_tells_deletes(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut follower = Follower::now(store, k.parent()).await?;
    for round in 0..5 {
        let version = store.put(&k, "").await?;
        follower.until_version(&k, version).await?;
        store.delete(&k).await?;
        let deletion = follower.until_deleted(&k).await?;
        if let Some(at) = deletion.version {
            ensure!(at > version, "round {round}: deleted at {at}, after the put at {version}");
        }
    }
    Ok(())
}

async fn watch_tells_identical_puts(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    store.put(&k, "same").await?;
    let mut follower = Follower::now(store, k.parent()).await?;
    for _ in 0..3 {
        let version = store.put(&k, "same").await?;
        follower.until_version(&k, version).await?;
    }
    Ok(())
}

async fn watch_of_puts_only(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let options = WatchOptions::default().with_filter(WatchFilter::Puts);
    let mut follower = Follower::start(store, k.parent(), options).await?;
    for round in 0..5 {
        store.put(&k, format!("{round}")).await?;
        store.delete(&k).await?;
    }
    let version = store.put(&k, "last").await?;
    follower.until_version(&k, version).await
}

/// A watch that merges changes tells no deletion of a key whose put it has not seen yet, so each is
/// tried until it does.
async fn watch_of_deletes_only(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    store.put("dir/kept", "x").await?;
    let options = WatchOptions::default().with_filter(WatchFilter::Deletes);
    let mut follower = Follower::start(store, k.parent(), options).await?;
    let deadline = Instant::now() + PATIENCE;
    while follower.named().is_empty() {
        ensure!(Instant::now() < deadline, "no deletion was told");
        store.put(&k, "x").await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        store.delete(&k).await?;
        follower.poll_for(Duration::from_millis(500)).await?;
    }
    ensure_eq!(follower.named(), ["dir/k"], "the keys that were told deleted");
    Ok(())
}

/// Catches a watch that ends on an old value: 19 of 50 bursts did in another library.
async fn watch_tells_in_version_order(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let mut follower = Follower::now(stores[0], Prefix::new("dir")?).await?;
    let writers = (0..6).map(|writer| {
        let store = Arc::clone(stores[writer % 2]);
        at_once(async move {
            for round in 0..40 {
                let name = format!("dir/{}", (writer + round) % 3);
                match round % 5 {
                    4 => drop(store.delete(name).await?),
                    _ => drop(store.put(name, format!("{writer}-{round}")).await?),
                }
            }
            anyhow::Ok(())
        })
    });
    try_join_all(writers.collect::<Vec<_>>()).await?;
    let expected = stores[1].entries("dir").await?;
    follower.until_state(&expected).await
}

/// Catches a watch that ends on an old value, or ends itself after many writes.
async fn watch_ends_on_the_final_state(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    for target in [kv_core::WatchTarget::from(k.parent()), kv_core::WatchTarget::from(k.clone())] {
        let mut follower = Follower::now(store, target).await?;
        for burst in 0..12 {
            let mut last = Version::ZERO;
            for at in 0..20 {
                last = other.put(&k, format!("{burst}-{at}")).await?;
            }
            follower.until_version(&k, last).await?;
        }
    }
    Ok(())
}

/// Catches a reading that is older than what is known and told as a change: a key that lives is told
/// deleted, and put again at the version it had.
async fn watch_tells_what_comes_and_goes(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let mut follower = Follower::now(stores[0], Prefix::new("dir")?).await?;
    let mut seeds = fixture.random();
    let writers = (0..6).map(|writer| {
        let (store, mut random) = (Arc::clone(stores[writer % 2]), seeds.fork());
        at_once(async move {
            for round in 0..150 {
                // Some are above others, and all are written by all.
                let names = ["dir/a", "dir/a/b", "dir/c", "dir/d/e/f", "dir/g", "dir/h"];
                let name = names[random.usize(..names.len())];
                match random.u32(..5) {
                    0 | 1 => drop(store.delete(name).await?),
                    _ => drop(store.put(name, format!("{writer}-{round}")).await?),
                }
            }
            anyhow::Ok(())
        })
    });
    let writers: Vec<_> = writers.collect();
    // It is read while they write, so that it does not fall behind and begin anew.
    let mut writing = Box::pin(try_join_all(writers));
    loop {
        tokio::select! {
            written = &mut writing => break drop(written?),
            event = follower.next("what comes and goes") => drop(event?),
        }
    }
    let expected = stores[1].entries("dir").await?;
    follower.until_state(&expected).await
}

/// Catches an entry whose creation is read from what stood under its key before it was put.
async fn watch_tells_when_a_parent_was_created(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..10 {
        let parent = key(&format!("dir/{round}"))?;
        other.put(parent.join("below")?, "x").await?;
        let mut followers =
            [Follower::now(store, parent.clone()).await?, Follower::now(store, parent.parent()).await?];
        let version = other.create(&parent, "x").await?;
        for follower in &mut followers {
            follower.until_version(&parent, version).await?;
            let told = follower.state.get(&parent);
            ensure_eq!(told.map(|entry| entry.created), Some(version), "round {round}: created, as told");
            ensure_eq!(told, Some(&entry(store, &parent).await?), "round {round}: the entry that was told");
        }
    }
    Ok(())
}

/// Catches a watch that handles the first event of a batch only, or merges changes without declaring it.
async fn watch_is_complete(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let mut follower = Follower::now(stores[0], Prefix::new("dir")?).await?;
    let writers = (0..8).map(|writer| {
        let store = Arc::clone(stores[writer % 2]);
        at_once(async move {
            let mut written = Vec::new();
            for round in 0..40 {
                let name = format!("dir/{}", (writer * round) % 5);
                written.push(store.put(name, format!("{writer}-{round}")).await?);
            }
            anyhow::Ok(written)
        })
    });
    let writers: Vec<_> = writers.collect();
    let written: BTreeSet<Version> = try_join_all(writers).await?.into_iter().flatten().collect();
    follower
        .until("every put", |follower| follower.events.len() >= written.len() || follower.resynced())
        .await?;
    let told: BTreeSet<Version> = follower.put_versions().collect();
    ensure!(!follower.resynced(), "the watch told of a gap, though it was read all the time");
    ensure_eq!(told, written, "the versions that were told");
    Ok(())
}

async fn watch_tells_a_short_life(fixture: &Fixture) -> Result<()> {
    let (store, last) = (&fixture.store, key("dir/last")?);
    let mut follower = Follower::now(store, last.parent()).await?;
    for round in 0..10 {
        store.put(format!("dir/{round}"), "x").await?;
        store.delete(format!("dir/{round}")).await?;
    }
    let version = store.put(&last, "x").await?;
    follower.until_version(&last, version).await?;
    for round in 0..10 {
        let k = key(&format!("dir/{round}"))?;
        let deleted = follower
            .events
            .iter()
            .any(|event| matches!(event, WatchEvent::Delete(deletion) if deletion.key == k));
        ensure!(deleted && follower.versions_of(&k).len() == 1, "{k:?} was not told put and deleted");
    }
    Ok(())
}

async fn watch_tells_what_was_deleted(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut follower = Follower::now(store, k.parent()).await?;
    store.put(&k, "1").await?;
    store.put(&k, "2").await?;
    let before = entry(store, &k).await?;
    follower.until_version(&k, before.version).await?;
    store.delete(&k).await?;
    ensure_eq!(follower.until_deleted(&k).await?.previous, Some(before), "what was deleted");

    store.put("dir/tree/x", "tree").await?;
    let before = entry(store, &key("dir/tree/x")?).await?;
    follower.until_version(&before.key, before.version).await?;
    store.delete_tree("dir/tree").await?;
    ensure_eq!(follower.until_deleted(&before.key).await?.previous, Some(before), "what delete_tree deleted");
    Ok(())
}

async fn watch_tells_deletes_from_expiries(fixture: &Fixture) -> Result<()> {
    for cause in causes_of_deletes(fixture).await? {
        ensure_eq!(cause, DeleteCause::Deleted, "the cause of a delete by a client");
    }
    Ok(())
}

async fn unmarked_delete_has_no_wrong_cause(fixture: &Fixture) -> Result<()> {
    let causes = causes_of_deletes(fixture).await?;
    ensure!(!causes.contains(&DeleteCause::Expired), "told were {causes:?}");
    Ok(())
}

async fn causes_of_deletes(fixture: &Fixture) -> Result<Vec<DeleteCause>> {
    let store = &fixture.store;
    let (plain, compared, tree) = (key("dir/plain")?, key("dir/compared")?, key("dir/tree/x")?);
    let mut follower = Follower::synced(store, Prefix::new("dir")?).await?;
    for k in [&plain, &compared, &tree] {
        let version = store.put(k, "x").await?;
        follower.until_version(k, version).await?;
    }
    let mut causes = Vec::new();
    store.delete(&plain).await?;
    causes.push(follower.until_deleted(&plain).await?.cause);
    let version = entry(store, &compared).await?.version;
    store.compare_and_delete(&compared, version).await?;
    causes.push(follower.until_deleted(&compared).await?.cause);
    store.delete_tree("dir/tree").await?;
    causes.push(follower.until_deleted(&tree).await?.cause);
    Ok(causes)
}
