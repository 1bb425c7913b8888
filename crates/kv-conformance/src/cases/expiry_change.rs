//! Changing how a key expires, without it being absent in between.

use std::time::Instant;

use anyhow::{Result, ensure};
use kv_core::{EntryExpiry, Expiry, Key, Prefix, Store, StoreExt, WatchEvent};

use crate::case::needs::{EXPIRY_CHANGE, SESSION_KEYS, TTL};
use crate::case::{Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::follow::Follower;
use crate::steps::{ensure_eq, entry, expiry_of, key, put_expiring, sees, sleep_until, until_gone};

pub(super) const CASES: &[Case] = &[
    case!(same_ttl_again_renews, "A put with the same time to live begins it anew.", TTL),
    case!(put_makes_permanent, "A later put without expiry makes a key permanent.", TTL, EXPIRY_CHANGE),
    case!(put_makes_expiring, "A later put with a time to live ends a permanent key.", TTL, EXPIRY_CHANGE),
    case!(longer_ttl_replaces, "A later put with a longer time to live replaces it.", TTL, EXPIRY_CHANGE),
    case!(shorter_ttl_replaces, "A later put with a shorter time to live replaces it.", TTL, EXPIRY_CHANGE),
    case!(
        change_of_expiry_leaves_no_gap,
        "When its expiry changes, a key is not absent in between.",
        TTL,
        EXPIRY_CHANGE,
    ),
    case!(
        session_key_made_permanent_stays,
        "A session key put without expiry outlives the session.",
        SESSION_KEYS,
        EXPIRY_CHANGE,
    ),
    case!(
        permanent_key_made_session_goes,
        "A permanent key put with the session goes with it.",
        SESSION_KEYS,
        EXPIRY_CHANGE,
    ),
    case!(
        session_key_goes_with_its_last_writer,
        "A session key lives by the session of the last put that set it.",
        SESSION_KEYS,
        EXPIRY_CHANGE,
    ),
];

/// Waits until a key put at `begun` with the short time to live would be gone for sure; it must not be.
async fn survives(fixture: &Fixture, k: &Key, begun: Instant) -> Result<()> {
    sleep_until(begun + fixture.latest_end(fixture.short_ttl()) + GRACE).await;
    ensure!(fixture.store.exists(k).await?, "{k:?} ended with the time to live it no longer had");
    Ok(())
}

/// Catches an old timer that removes the newer value, and a changed time to live that is ignored.
async fn same_ttl_again_renews(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    let mut begun = Instant::now();
    put_expiring(store, &k, "1", Expiry::Ttl(ttl)).await?;
    sleep_until(begun + ttl * 3 / 4).await;
    for round in 0..3 {
        // Each put comes before the end of the one before, and is asked about behind it. A machine that
        // slept too long has let the key go by itself; then there is nothing to renew.
        begun = Instant::now();
        put_expiring(store, &k, format!("{round}"), Expiry::Ttl(ttl)).await?;
        sleep_until(begun + ttl * 3 / 4).await;
        let found = store.get(&k).await?;
        let asked = begun.elapsed();
        ensure!(found.is_some() || asked >= ttl, "round {round}: gone {asked:?} after a put with {ttl:?}");
    }
    until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
}

/// Catches a key that stays ephemeral after a put without expiry.
async fn put_makes_permanent(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let begun = Instant::now();
    put_expiring(store, &k, "1", Expiry::Ttl(fixture.short_ttl())).await?;
    store.put(&k, "2").await?;
    ensure_eq!(expiry_of(store, &k).await?, EntryExpiry::Never, "the expiry after a put without one");
    survives(fixture, &k, begun).await
}

/// Catches a time to live that is ignored on an existing key.
async fn put_makes_expiring(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    store.put(&k, "1").await?;
    put_expiring(store, &k, "2", Expiry::Ttl(ttl)).await?;
    until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
}

async fn longer_ttl_replaces(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let begun = Instant::now();
    put_expiring(store, &k, "1", Expiry::Ttl(fixture.short_ttl())).await?;
    put_expiring(store, &k, "2", Expiry::Ttl(fixture.long_ttl())).await?;
    survives(fixture, &k, begun).await
}

async fn shorter_ttl_replaces(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    put_expiring(store, &k, "1", Expiry::Ttl(fixture.long_ttl())).await?;
    put_expiring(store, &k, "2", Expiry::Ttl(ttl)).await?;
    until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
}

/// A key that was absent in between is created anew, and a watch may see it go.
async fn change_of_expiry_leaves_no_gap(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let created = store.put(&k, "x").await?;
    let mut follower = Follower::now(store, Prefix::new("dir")?).await?;
    let (long, longer) = (fixture.long_ttl(), fixture.long_ttl() + fixture.limits().ttl.granularity);
    let mut last = created;
    for expiry in [
        Expiry::Ttl(long),
        Expiry::Ttl(longer.min(fixture.limits().ttl.max)),
        Expiry::Never,
        Expiry::Ttl(long),
        Expiry::Ttl(long),
        Expiry::Never,
    ] {
        last = put_expiring(store, &k, "x", expiry).await?.version;
        ensure_eq!(entry(store, &k).await?.created, created, "created, after a put with {expiry:?}");
    }
    follower.until_version(&k, last).await?;
    let deleted = follower.events.iter().find(|event| matches!(event, WatchEvent::Delete(_)));
    ensure_eq!(deleted, None, "a deletion that the watch told");
    Ok(())
}

async fn session_key_made_permanent_stays(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("k")?);
    put_expiring(&other, &k, "1", Expiry::Session).await?;
    let version = other.put(&k, "2").await?;
    ensure_eq!(expiry_of(&other, &k).await?, EntryExpiry::Never, "the expiry after a put without one");
    other.close().await?;
    stays(fixture, store, &k, version).await
}

/// After the close of a handle: `k` must not go late either.
async fn stays(fixture: &Fixture, store: &impl Store, k: &Key, version: kv_core::Version) -> Result<()> {
    sees(fixture, &format!("{k:?} at {version}"), || async {
        Ok(store.get(k).await?.is_some_and(|entry| entry.version == version))
    })
    .await?;
    sleep_until(Instant::now() + GRACE * 2).await;
    ensure_eq!(entry(store, k).await?.version, version, "the version of {k:?}, a while after the close");
    Ok(())
}

async fn permanent_key_made_session_goes(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("k")?);
    store.put(&k, "1").await?;
    put_expiring(&other, &k, "2", Expiry::Session).await?;
    other.close().await?;
    until_gone(store, &k, PATIENCE).await
}

async fn session_key_goes_with_its_last_writer(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let (first, second) = (fixture.another().await?, fixture.another().await?);
    put_expiring(&first, &k, "1", Expiry::Session).await?;
    let version = put_expiring(&second, &k, "2", Expiry::Session).await?.version;
    first.close().await?;
    stays(fixture, store, &k, version).await?;
    second.close().await?;
    until_gone(store, &k, PATIENCE).await
}
