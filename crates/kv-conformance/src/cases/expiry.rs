//! Time to live: not too early, not too late, told as granted, refused outside the range.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use kv_core::{
    Applied, DeleteCause, EntryExpiry, ErrorKind, Expiry, ListOptions, Power, Precondition, Prefix,
    PutOptions, Store, StoreExt,
};

use crate::case::needs::{EXPIRY_WITH_CHILDREN, LIST_EXPIRY, TTL, WATCH_EXPIRY};
use crate::case::{Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::follow::Follower;
use crate::steps::{
    ensure_eq, entry, expiry_of, key, list, names, put_expiring, put_if, refused, sees, sleep_until,
    until_gone,
};

pub(super) const CASES: &[Case] = &[
    case!(ttl_is_not_early, "A key disappears no earlier than its time to live after its put.", TTL),
    case!(ttl_is_not_late, "A key disappears by the store's stated bound.", TTL),
    case!(many_ttls_end, "Many keys with times to live all disappear in time.", TTL),
    case!(ttl_outlives_its_handle, "A time to live does not end with the handle that set it.", TTL),
    case!(expired_key_is_absent_everywhere, "An expired key is absent for every call.", TTL),
    case!(expired_key_can_be_created, "An expired key can be created, with a greater version.", TTL),
    case!(deleted_ttl_spares_the_next_value, "The time to live of a deleted key ends nothing later.", TTL),
    case!(ttl_with_precondition, "A conditional put takes a time to live too.", TTL),
    case!(refused_put_keeps_the_ttl, "A refused put does not touch the time to live.", TTL),
    case!(granted_ttl_is_rounded_up, "Rounding is up, at most to the backend's granularity.", TTL),
    case!(ttl_outside_the_range_is_refused, "A time to live outside the range is TtlOutOfRange.", TTL),
    case!(ttl_is_told_when_asked, "A get shows expiry when asked, and only then.", TTL),
    case!(list_tells_expiries, "A list tells how its entries expire when asked, and only then.", LIST_EXPIRY),
    case!(expiry_reaches_watchers, "Expiry reaches watchers as a delete.", TTL),
    case!(expiry_is_marked, "A watch marks the deletes that were expiries.", TTL, WATCH_EXPIRY),
    case!(
        expiring_key_can_have_children,
        "An expiring key can have keys below it, which stay when it goes.",
        TTL,
        EXPIRY_WITH_CHILDREN,
    ),
];

/// Catches half the time asked for, and an old timer that removes the newer value.
async fn ttl_is_not_early(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    let begun = Instant::now();
    put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?;
    alive_until(store, &k, begun + ttl).await
}

/// Every read that ends before `end` must find the key.
async fn alive_until(store: &impl Store, k: &kv_core::Key, end: Instant) -> Result<()> {
    let begun = Instant::now();
    loop {
        let found = store.get(k).await?;
        let now = Instant::now();
        if now >= end {
            return Ok(());
        }
        ensure!(
            found.is_some(),
            "{k:?} was gone after {:?}, {:?} before its time",
            now.duration_since(begun),
            end.duration_since(now)
        );
        tokio::time::sleep((end - now).min(Duration::from_millis(25))).await;
    }
}

/// Catches a time to live that is ignored, or a timer that is lost.
async fn ttl_is_not_late(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?;
    until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
}

async fn many_ttls_end(fixture: &Fixture) -> Result<()> {
    let (store, ttl) = (&fixture.store, fixture.short_ttl());
    let puts = (0..20).map(|at| async move {
        let k = key(&format!("dir/{at}"))?;
        let begun = Instant::now();
        put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?;
        alive_until(store, &k, begun + ttl).await?;
        until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
    });
    try_join_all(puts).await?;
    ensure_eq!(names(store, "dir").await?, [""; 0], "what is left");
    Ok(())
}

async fn ttl_outlives_its_handle(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (k, ttl) = (key("k")?, fixture.short_ttl());
    let begun = Instant::now();
    let version = put_expiring(&other, &k, "x", Expiry::Ttl(ttl)).await?.version;
    sees(fixture, "the key should be there", || async {
        Ok(store.get(&k).await?.is_some_and(|entry| entry.version == version))
    })
    .await?;
    other.close().await?;
    alive_until(store, &k, begun + ttl).await?;
    until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
}

async fn expired_key_is_absent_everywhere(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    expire(fixture, &k).await?;
    ensure_eq!(names(store, "").await?, [""; 0], "the list");
    refused!(store.replace(&k, "x").await, ErrorKind::NotFound, "a replace of the expired key");
    ensure!(!store.delete(&k).await?, "a delete should find nothing");
    ensure_eq!(store.delete_tree("dir").await?, 0, "what delete_tree found");
    let follower = Follower::synced(store, Prefix::new("dir")?).await?;
    ensure_eq!(follower.named(), [""; 0], "what a watch told at first");
    Ok(())
}

/// Puts a key that expires and waits until it has; its version.
async fn expire(fixture: &Fixture, k: &kv_core::Key) -> Result<kv_core::Version> {
    let (store, ttl) = (&fixture.store, fixture.short_ttl());
    let version = put_expiring(store, k, "x", Expiry::Ttl(ttl)).await?.version;
    until_gone(store, k, fixture.latest_end(ttl) + GRACE).await?;
    Ok(version)
}

async fn expired_key_can_be_created(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let old = expire(fixture, &k).await?;
    let new = store.create(&k, "again").await?;
    ensure!(new > old, "the new key got version {new}, after {old}");
    let found = entry(store, &k).await?;
    ensure_eq!((found.version, found.created), (new, new), "version and created of the new key");
    Ok(())
}

/// Catches an old timer that removes the newer value.
async fn deleted_ttl_spares_the_next_value(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?;
    store.delete(&k).await?;
    let version = store.create(&k, "permanent").await?;
    sleep_until(Instant::now() + fixture.latest_end(ttl) + GRACE).await;
    ensure_eq!(entry(store, &k).await?.version, version, "the version of the permanent key");
    Ok(())
}

/// Catches a compare-and-set that ignores the time to live.
async fn ttl_with_precondition(fixture: &Fixture) -> Result<()> {
    let (store, ttl) = (&fixture.store, fixture.short_ttl());
    let options =
        |precondition| PutOptions::default().with_expiry(Expiry::Ttl(ttl)).with_precondition(precondition);
    let (created, replaced) = (key("created")?, key("replaced")?);
    store.put_with(&created, "x", options(Precondition::Absent)).await?;
    let version = store.put_with(&replaced, "1", options(Precondition::Absent)).await?.version;
    store.put_with(&replaced, "2", options(Precondition::At(version))).await?;
    let late = fixture.latest_end(ttl) + GRACE;
    tokio::try_join!(until_gone(store, &created, late), until_gone(store, &replaced, late))?;
    Ok(())
}

async fn refused_put_keeps_the_ttl(fixture: &Fixture) -> Result<()> {
    let (store, k, ttl) = (&fixture.store, key("k")?, fixture.short_ttl());
    put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?;
    let end = Instant::now() + fixture.latest_end(ttl) + GRACE;
    for precondition in [Precondition::Absent, Precondition::Value("other".into())] {
        sleep_until(Instant::now() + ttl / 4).await;
        let options = PutOptions::default().with_expiry(Expiry::Ttl(ttl)).with_precondition(precondition);
        refused!(
            store.put_with(&k, "y", options).await,
            ErrorKind::AlreadyExists { .. } | ErrorKind::PreconditionFailed { .. },
            "a put with the same time to live"
        );
    }
    until_gone(store, &k, end.saturating_duration_since(Instant::now())).await
}

/// Catches times that are halved, doubled, or cut to whole seconds, silently.
async fn granted_ttl_is_rounded_up(fixture: &Fixture) -> Result<()> {
    let (store, range) = (&fixture.store, fixture.limits().ttl);
    for (at, extra) in
        [Duration::ZERO, Duration::from_nanos(1), range.granularity / 2].into_iter().enumerate()
    {
        let ttl = fixture.short_ttl() + extra;
        let k = key(&format!("k/{at}"))?;
        let granted = put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?.granted_ttl;
        let granted = granted.with_context(|| format!("no granted time to live was told for {ttl:?}"))?;
        ensure!(
            granted >= ttl && granted - ttl <= range.granularity,
            "{ttl:?} became {granted:?}, the granularity is {:?}",
            range.granularity
        );
        ensure_eq!(expiry_granted(store, &k).await?, granted, "what get tells was granted");
    }
    let none = put_if(store, &key("permanent")?, "x", Precondition::Any).await?.granted_ttl;
    ensure_eq!(none, None, "the time to live granted to a permanent put");
    Ok(())
}

async fn expiry_granted(store: &impl Store, k: &kv_core::Key) -> Result<Duration> {
    match expiry_of(store, k).await? {
        EntryExpiry::Ttl { granted, remaining, .. } => {
            if let Some(remaining) = remaining {
                ensure!(remaining <= granted, "{remaining:?} remain of {granted:?}");
            }
            Ok(granted)
        }
        other => bail!("{k:?} expires {other:?} and not after a time to live"),
    }
}

/// Catches a range that is ignored, or reported as an error of the session.
async fn ttl_outside_the_range_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, range) = (&fixture.store, fixture.limits().ttl);
    put_expiring(store, &key("existing")?, "x", Expiry::Ttl(fixture.long_ttl())).await?;
    let before = entry(store, &key("existing")?).await?;
    let outside = [
        Some(Duration::ZERO),
        range.min.checked_sub(Duration::from_nanos(1)),
        range.max.checked_add(Duration::from_nanos(1)),
        (range.max < Duration::MAX).then_some(Duration::MAX),
    ];
    // Another time to live on an existing key is a power of its own.
    let changes = fixture.capabilities().has(Power::ExpiryChange);
    let texts = if changes { &["absent", "existing"][..] } else { &["absent"] };
    for ttl in outside.into_iter().flatten() {
        for text in texts {
            let error = refused!(
                put_expiring(store, &key(text)?, "y", Expiry::Ttl(ttl)).await,
                ErrorKind::TtlOutOfRange { min, max } if (*min, *max) == (range.min, range.max),
                "a put with {ttl:?}, the range is {range:?}"
            );
            ensure_eq!(error.applied(), Applied::No, "whether it was applied");
        }
    }
    ensure_eq!(store.get("absent").await?, None, "the absent key");
    ensure_eq!(entry(store, &before.key).await?, before, "the existing entry");
    Ok(())
}

async fn ttl_is_told_when_asked(fixture: &Fixture) -> Result<()> {
    let (store, ttl) = (&fixture.store, fixture.long_ttl());
    let (expiring, permanent) = (key("expiring")?, key("permanent")?);
    put_expiring(store, &expiring, "x", Expiry::Ttl(ttl)).await?;
    store.put(&permanent, "x").await?;
    ensure!(expiry_granted(store, &expiring).await? >= ttl, "less than {ttl:?} was granted");
    ensure_eq!(expiry_of(store, &permanent).await?, EntryExpiry::Never, "the expiry of a permanent key");
    for k in [&expiring, &permanent] {
        ensure_eq!(entry(store, k).await?.expiry, None, "the expiry of {k:?}, not asked for");
    }
    Ok(())
}

/// Catches an option that is ignored, and the expiry of a neighbour.
async fn list_tells_expiries(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let has = |power| fixture.capabilities().has(power);
    let mut expiries = vec![Expiry::Never];
    expiries.extend(has(Power::Ttl).then(|| Expiry::Ttl(fixture.long_ttl())));
    expiries.extend(has(Power::SessionKeys).then_some(Expiry::Session));
    for (at, expiry) in expiries.iter().cycle().take(expiries.len() * 2).enumerate() {
        put_expiring(store, &key(&format!("dir/{at}"))?, "x", *expiry).await?;
        store.put(format!("dir/{at}-below/k"), "x").await?;
    }
    let telling = ListOptions::default().with_expiry();
    for options in [telling.clone(), telling.clone().with_one_level(), telling.clone().with_limit(3)] {
        let mut told = 0;
        for item in list(store, "dir", options).await? {
            let Some(entry) = item.into_entry() else { continue };
            let listed =
                entry.expiry.with_context(|| format!("the expiry of {:?} was not told", entry.key))?;
            let asked = expiry_of(store, &entry.key).await?;
            ensure!(is_same(listed, asked), "{:?} expires {asked:?}, and was listed {listed:?}", entry.key);
            told += 1;
        }
        ensure!(told >= 2, "{told} entries were listed");
    }
    for entry in store.entries("dir").await? {
        ensure_eq!(entry.expiry, None, "what was told without being asked of {:?}", entry.key);
    }
    let keys = telling.with_keys_only();
    let refused = refused!(
        store.list_with(&Prefix::new("dir")?, keys).await,
        ErrorKind::InvalidArgument { .. },
        "the expiries of a list of keys only"
    );
    ensure_eq!(refused.applied(), Applied::No, "the refusal");
    Ok(())
}

/// Whether what a list told of an expiry is what a get tells a little later.
fn is_same(listed: EntryExpiry, asked: EntryExpiry) -> bool {
    match (listed, asked) {
        (
            EntryExpiry::Ttl { granted, remaining, .. },
            EntryExpiry::Ttl { granted: of, remaining: later, .. },
        ) => {
            granted == of
                && remaining.is_some() == later.is_some()
                && remaining >= later
                && remaining <= Some(of)
        }
        (listed, asked) => listed == asked,
    }
}

/// Catches an expiry that watchers are never told of.
async fn expiry_reaches_watchers(fixture: &Fixture) -> Result<()> {
    watch_expiry(fixture).await.map(drop)
}

async fn expiry_is_marked(fixture: &Fixture) -> Result<()> {
    ensure_eq!(watch_expiry(fixture).await?, Some(DeleteCause::Expired), "the cause that was told");
    Ok(())
}

/// The cause a watch tells of an expiry; `None` if it told of a gap instead.
async fn watch_expiry(fixture: &Fixture) -> Result<Option<DeleteCause>> {
    let (store, k, ttl) = (&fixture.store, key("dir/k")?, fixture.short_ttl());
    let mut follower = Follower::now(store, Prefix::new("dir")?).await?;
    let version = put_expiring(store, &k, "x", Expiry::Ttl(ttl)).await?.version;
    follower.until_version(&k, version).await?;
    let deadline = Instant::now() + fixture.latest_end(ttl) + PATIENCE;
    while follower.state.get(&k).is_some() || follower.syncing {
        ensure!(Instant::now() < deadline, "the watch did not tell of the expiry by {deadline:?}");
        follower.poll_for(Duration::from_millis(200)).await?;
    }
    ensure_eq!(store.get(&k).await?, None, "the key whose expiry was told");
    Ok(follower.events.iter().find_map(|event| match event {
        kv_core::WatchEvent::Delete(deletion) => Some(deletion.cause),
        _ => None,
    }))
}

async fn expiring_key_can_have_children(fixture: &Fixture) -> Result<()> {
    let (store, ttl) = (&fixture.store, fixture.short_ttl());
    let (before, after) = (key("before")?, key("after")?);
    put_expiring(store, &before, "x", Expiry::Ttl(ttl)).await?;
    store.put("before/child", "x").await?;
    store.put("after/child", "x").await?;
    put_expiring(store, &after, "x", Expiry::Ttl(ttl)).await?;
    let late = fixture.latest_end(ttl) + GRACE;
    tokio::try_join!(until_gone(store, &before, late), until_gone(store, &after, late))?;
    ensure_eq!(names(store, "").await?, ["after/child", "before/child"], "what is left");
    Ok(())
}
