//! Changing how a key expires, without it being absent in between.

use std::time::Instant;

use anyhow::{Result, ensure};
use kv_core::{EntryExpiry, Expiry, Key, Prefix, Store, StoreExt, WatchEvent};

use crate::case::needs::{EXPIRY_CHANGE, KEEP_EXPIRY, SESSION_KEYS, TTL};
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
        kept_ttl_is_not_early,
        "A put that keeps the expiry does not end the time to live before its time.",
        TTL,
        KEEP_EXPIRY,
    ),
    case!(kept_ttl_ends, "A key whose puts keep the expiry still ends.", TTL, KEEP_EXPIRY),
    case!(
        kept_session_goes,
        "A key whose puts keep the expiry goes with its session.",
        SESSION_KEYS,
        KEEP_EXPIRY
    ),
    case!(
        keeping_none_makes_permanent,
        "A put that keeps the expiry makes an absent key permanent and leaves a permanent one so.",
        KEEP_EXPIRY,
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

/// Catches an expiry that is forgotten, and one that is taken for a change.
async fn kept_ttl_is_not_early(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.long_ttl());
    put_expiring(store, &k, "0", Expiry::Ttl(ttl)).await?;
    let created = entry(store, &k).await?.created;
    for round in 1..4 {
        put_expiring(store, &k, round.to_string(), Expiry::Keep).await?;
        let found = expiry_of(store, &k).await?;
        ensure!(
            matches!(found, EntryExpiry::Ttl { granted, .. } if granted >= ttl),
            "round {round}: the expiry {found:?} after puts that kept one of {ttl:?}"
        );
    }
    let found = entry(store, &k).await?;
    ensure_eq!(
        (found.created, found.value),
        (created, "3".into()),
        "the entry after puts that kept its expiry"
    );
    Ok(())
}

/// Catches a put that keeps the expiry and makes the key permanent without a word.
async fn kept_ttl_ends(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    let begun = Instant::now();
    put_expiring(store, &k, "0", Expiry::Ttl(ttl)).await?;
    put_expiring(store, &k, "1", Expiry::Keep).await?;
    let kept = Instant::now();
    // A machine that slept too long may have let the key go before the second put, which then made it anew.
    if kept - begun < ttl {
        until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await?;
    }
    Ok(())
}

/// Another handle's put keeps the session of the first.
async fn kept_session_goes(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let other = fixture.another().await?;
    put_expiring(&other, &k, "0", Expiry::Session).await?;
    for (writer, value) in [(&other, "1"), (store, "2"), (&other, "3"), (store, "4")] {
        put_expiring(writer, &k, value, Expiry::Keep).await?;
        ensure_eq!(expiry_of(store, &k).await?, EntryExpiry::Session, "the expiry after a put that kept it");
    }
    other.close().await?;
    until_gone(store, &k, PATIENCE).await
}

async fn keeping_none_makes_permanent(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    for value in ["1", "2"] {
        put_expiring(store, &k, value, Expiry::Keep).await?;
        ensure_eq!(expiry_of(store, &k).await?, EntryExpiry::Never, "the expiry of a key that had none");
    }
    ensure_eq!(entry(store, &k).await?.value, "2", "the value");
    Ok(())
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
