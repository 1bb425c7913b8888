//! How watches live together: many, slow, dropped, idle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{Guarantee, Prefix, StoreExt, Version, WatchOptions, WatchTarget};

use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, fill, key, within};

pub(super) const CASES: &[Case] = &[
    case!(two_watches_both_tell, "Two watches of one target both tell everything."),
    case!(overlapping_watches_all_tell, "Watches of a key and of prefixes above it all tell."),
    case!(dropping_a_watch_leaves_others, "Dropping one watch ends no other."),
    case!(dropped_watches_release_everything, "Hundreds of watches begun and dropped leave room for more."),
    case!(many_watches_live_together, "Hundreds of watches live on one handle beside ordinary calls."),
    case!(watch_wakes_for_its_own_only, "A watch tells nothing of a thousand writes elsewhere."),
    case!(slow_consumer_blocks_no_writer, "A consumer that does not read never blocks writers."),
    case!(slow_consumer_ends_on_the_state, "A slow consumer ends on the state: by every change or a Resync."),
    case!(resync_brings_the_whole_state, "After a gap come Resync, the whole state and Synced."),
    case!(next_is_cancel_safe, "Dropping the wait for the next event loses no event."),
    case!(idle_watch_lives_on, "A watch ends by nothing but its own options: not by a request's deadline."),
    case!(watches_of_two_handles_tell, "A watch tells what other handles write, whoever closes."),
];

async fn two_watches_both_tell(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    let mut followers = [
        Follower::now(store, k.parent()).await?,
        Follower::now(store, k.parent()).await?,
        Follower::now(&other, k.parent()).await?,
    ];
    for round in 0..10 {
        let version = store.put(&k, format!("{round}")).await?;
        for follower in &mut followers {
            follower.until_version(&k, version).await?;
        }
    }
    Ok(())
}

async fn overlapping_watches_all_tell(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("a/b/c")?);
    let mut followers = Vec::new();
    for target in [
        WatchTarget::from(k.clone()),
        Prefix::new("a/b")?.into(),
        Prefix::new("a")?.into(),
        Prefix::root().into(),
    ] {
        followers.push(Follower::synced(store, target).await?);
    }
    for round in 0..5 {
        let version = store.put(&k, format!("{round}")).await?;
        for follower in &mut followers {
            follower.until_version(&k, version).await?;
        }
        store.delete(&k).await?;
        for follower in &mut followers {
            follower.until_deleted(&k).await?;
        }
    }
    Ok(())
}

async fn dropping_a_watch_leaves_others(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut kept = Follower::now(store, k.parent()).await?;
    for round in 0..10 {
        let target = if round % 2 == 0 { WatchTarget::from(k.clone()) } else { k.parent().into() };
        let mut dropped = Follower::now(store, target).await?;
        let version = store.put(&k, format!("{round}")).await?;
        dropped.until_version(&k, version).await?;
        drop(dropped);
        let version = store.put(&k, "after").await?;
        kept.until_version(&k, version).await?;
    }
    Ok(())
}

/// Catches tasks that stay behind, and a cancel that takes effect at the next change only.
async fn dropped_watches_release_everything(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    for batch in 0..10 {
        let begun = (0..60).map(|at| async move {
            let k = key(&format!("d{batch}/{at}"))?;
            let mut follower = Follower::now(store, k.clone()).await?;
            // Some are dropped while they wait, some when they have told something.
            if at % 2 == 0 {
                ensure_eq!(follower.poll_for(Duration::ZERO).await?, None, "what was told of {k:?}");
            } else {
                let version = store.put(&k, "x").await?;
                follower.until_version(&k, version).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(begun).await?;
    }
    let mut follower = Follower::now(store, k.clone()).await?;
    let version = store.put(&k, "x").await?;
    follower.until_version(&k, version).await
}

/// More than one server's connections for one client.
async fn many_watches_live_together(fixture: &Fixture) -> Result<()> {
    const WATCHES: usize = 300;
    let (store, other) = (&fixture.store, fixture.another().await?);
    let begun = (0..WATCHES).map(|at| async move {
        let k = key(&format!("{}/{at}", at % 90))?;
        let target: WatchTarget = if at % 3 == 0 { k.as_prefix().into() } else { k.clone().into() };
        let written = if at % 3 == 0 { k.join("below")? } else { k };
        Ok::<_, anyhow::Error>((Follower::now(store, target).await?, written))
    });
    let mut watches = try_join_all(begun).await?;
    store.put("beside", "x").await?;
    ensure!(store.exists("beside").await?, "an ordinary call beside {WATCHES} watches");
    let written: Vec<Version> = try_join_all(watches.iter().map(|(_, k)| other.put(k, "x"))).await?;
    for ((follower, k), version) in watches.iter_mut().zip(written) {
        follower.until_version(k, version).await?;
        ensure_eq!(follower.named(), [k.as_str()], "the keys that were told");
    }
    Ok(())
}

/// Catches a watch of the whole tree for every key.
async fn watch_wakes_for_its_own_only(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("own/k")?);
    let mut of_key = Follower::now(store, k.clone()).await?;
    let mut of_prefix = Follower::now(store, k.parent()).await?;
    fill(&other, 1000, |at| (format!("elsewhere/{}", at % 50), format!("{at}"))).await?;
    let version = store.put(&k, "x").await?;
    for follower in [&mut of_key, &mut of_prefix] {
        follower.until_version(&k, version).await?;
        ensure_eq!(follower.versions_of(&k), [version], "the puts that were told");
        ensure_eq!(follower.named(), ["own/k"], "the keys that were told");
    }
    Ok(())
}

const UNREAD: usize = 4000;

/// Writes far more than any buffer between a server and an idle consumer holds.
async fn write_unread(fixture: &Fixture) -> Result<()> {
    let writing = fill(&fixture.store, UNREAD, |at| (format!("dir/{:02}", at % 20), format!("{at:01000}")));
    within(PATIENCE * 4, "writing while a watch is not read", writing).await?
}

/// Catches a full queue of one subscriber that stops all writers.
async fn slow_consumer_blocks_no_writer(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let unread = Follower::now(store, k.parent()).await?;
    let mut read = Follower::now(store, k.clone()).await?;
    write_unread(fixture).await?;
    let version = store.put(&k, "x").await?;
    read.until_version(&k, version).await?;
    drop(unread);
    store.put(&k, "y").await?;
    Ok(())
}

/// Catches an unread watch that ends silently after many writes.
async fn slow_consumer_ends_on_the_state(fixture: &Fixture) -> Result<()> {
    let (store, last) = (&fixture.store, key("dir/last")?);
    let mut follower = Follower::now(store, last.parent()).await?;
    write_unread(fixture).await?;
    store.delete("dir/07").await?;
    store.put(&last, "x").await?;
    follower.until_state(&store.entries("dir").await?).await
}

/// With history a consumer may get every change instead.
async fn resync_brings_the_whole_state(fixture: &Fixture) -> Result<()> {
    let (store, kept, last) = (&fixture.store, key("dir/kept")?, key("dir/last")?);
    store.put("dir/gone", "x").await?;
    let before = store.put(&kept, "x").await?;
    let mut follower = Follower::synced(store, kept.parent()).await?;
    ensure_eq!(
        follower.state.get(&kept).map(|entry| entry.version),
        Some(before),
        "what was told of dir/kept"
    );
    store.delete("dir/gone").await?;
    write_unread(fixture).await?;
    let version = store.put(&last, "x").await?;
    follower.until_version(&last, version).await?;
    follower.until_state(&store.entries("dir").await?).await?;
    // A consumer forgets at Resync, so what no one touched must have been told again.
    ensure_eq!(follower.state.get(&kept), Some(&entry(store, &kept).await?), "what is told of dir/kept");
    Ok(())
}

async fn next_is_cancel_safe(fixture: &Fixture) -> Result<()> {
    let (store, other, last) = (&fixture.store, fixture.another().await?, key("dir/last")?);
    let mut follower = Follower::synced(store, last.parent()).await?;
    let end = last.clone();
    let writer = Arc::clone(&other);
    let writing = at_once(async move {
        let mut written = Vec::new();
        for round in 0..300 {
            written.push(writer.put(format!("dir/{}", round % 5), format!("{round}")).await?);
            if round % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        written.push(writer.put(&end, "x").await?);
        anyhow::Ok(written)
    });
    let mut random = fixture.random();
    let reading = async {
        for _ in 0..300 {
            follower.poll_for(Duration::from_micros(random.u64(0..600))).await?;
        }
        anyhow::Ok(())
    };
    let (written, ()) = tokio::try_join!(writing, reading)?;
    follower.until_state(&other.entries("dir").await?).await?;
    if fixture.capabilities().guarantees(Guarantee::WatchComplete) {
        let told: BTreeSet<Version> = follower.put_versions().collect();
        ensure_eq!(told, written.into_iter().collect(), "the versions that were told");
    }
    Ok(())
}

/// Catches a watch that ends with a request's timeout, or with the server's idle timeout.
async fn idle_watch_lives_on(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let options = WatchOptions::default().with_timeout(Duration::from_secs(1));
    let mut follower = Follower::start(store, k.parent(), options).await?;
    let told = follower.poll_for(Duration::from_secs(4)).await?;
    ensure_eq!(told, None, "what an idle watch told");
    let version = store.put(&k, "x").await?;
    follower.until_version(&k, version).await
}

async fn watches_of_two_handles_tell(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    let mut own = Follower::now(store, k.clone()).await?;
    let mut others = Follower::now(&other, k.clone()).await?;
    for writer in [store, &other] {
        let version = writer.put(&k, "x").await?;
        own.until_version(&k, version).await?;
        others.until_version(&k, version).await?;
    }
    other.close().await?;
    let version = store.put(&k, "y").await?;
    own.until_version(&k, version).await
}
