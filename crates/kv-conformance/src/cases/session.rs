//! Session keys and the session's states.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{DeleteCause, EntryExpiry, Expiry, Prefix, SessionState, Store, StoreExt, WatchOptions};

use crate::case::needs::{SESSION_KEYS, WATCH_EXPIRY};
use crate::case::{Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::follow::Follower;
use crate::steps::{
    ensure_eq, entry, expiry_of, key, put_expiring, sees, sleep_until, soon, until, until_gone,
};

pub(super) const CASES: &[Case] = &[
    case!(session_key_goes_at_close, "A session key is gone at once on close.", SESSION_KEYS),
    case!(
        session_key_goes_at_close_with_live_watches,
        "So it is while watches of the handle live.",
        SESSION_KEYS
    ),
    case!(session_key_lives_with_its_handle, "A session key lives while its handle does.", SESSION_KEYS),
    case!(closing_spares_other_sessions, "Closing a handle ends no other handle's session.", SESSION_KEYS),
    case!(closing_spares_permanent_keys, "Closing a handle ends no other key.", SESSION_KEYS),
    case!(closing_spares_a_recreated_key, "Closing spares a key that was made again since.", SESSION_KEYS),
    case!(session_key_is_told_when_asked, "A get tells that a key lives by a session.", SESSION_KEYS),
    case!(
        session_key_is_told_to_every_handle,
        "Every handle is told that a key lives by a session.",
        SESSION_KEYS
    ),
    case!(dropped_handle_ends_its_session, "Dropping the last clone ends the session.", SESSION_KEYS),
    case!(session_is_held_once_used, "The session is Held once a key lives by it.", SESSION_KEYS),
    case!(session_states_begin_with_the_present, "The states of a session begin with the present one."),
    case!(session_states_end_with_the_handle, "The states of a session end when the handle is closed."),
    case!(session_end_reaches_watchers, "The end of a session reaches watchers as deletes.", SESSION_KEYS),
    case!(
        session_end_is_marked,
        "A watch marks the deletes that ended with a session.",
        SESSION_KEYS,
        WATCH_EXPIRY,
    ),
];

/// What "at once" may take on a busy machine; every backend's session lives longer.
const AT_ONCE: Duration = Duration::from_secs(4);

async fn session_key_goes_at_close(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let keys = [key("a")?, key("dir/b")?];
    for k in &keys {
        put_expiring(&other, k, "x", Expiry::Session).await?;
        sees(fixture, "the session key should be there", || async { Ok(store.exists(k).await?) }).await?;
    }
    other.close().await?;
    for k in &keys {
        until_gone(store, k, AT_ONCE).await?;
    }
    Ok(())
}

/// Catches a connection that lives as long as one of its watches, and with it the session. Whether it does can
/// be a matter of chance, so several handles try.
async fn session_key_goes_at_close_with_live_watches(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let handles = (0..8).map(|at| async move {
        let (other, k) = (fixture.another().await?, key(&format!("dir/{at}"))?);
        let unread = other.watch("").await?;
        let mut follower = Follower::now(&other, k.parent()).await?;
        let of_the_key = other.watch_with(k.clone(), WatchOptions::default()).await?;
        let version = put_expiring(&other, &k, "x", Expiry::Session).await?.version;
        follower.until_version(&k, version).await?;
        sees(fixture, "the session key should be there", || async { Ok(store.exists(&k).await?) }).await?;
        soon("the close of a handle with live watches", other.close()).await??;
        until_gone(store, &k, AT_ONCE).await?;
        drop((unread, follower, of_the_key));
        Ok(())
    });
    try_join_all(handles).await.map(drop)
}

/// Longer than a session lives that nobody renews.
async fn session_key_lives_with_its_handle(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("k")?);
    let version = put_expiring(&other, &k, "x", Expiry::Session).await?.version;
    let bound = fixture.limits().session_bound.clamp(Duration::from_secs(2), Duration::from_secs(25));
    let end = Instant::now() + bound + GRACE;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let found = other.get(&k).await?;
        ensure!(
            found.is_some_and(|entry| entry.version == version),
            "the session key was gone while its handle lived"
        );
    }
    ensure_eq!(other.session(), SessionState::Held, "the session's state");
    ensure_eq!(entry(store, &k).await?.version, version, "the version another handle sees");
    Ok(())
}

async fn closing_spares_other_sessions(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (own, others) = (key("own")?, key("others")?);
    let version = put_expiring(store, &own, "x", Expiry::Session).await?.version;
    put_expiring(&other, &others, "x", Expiry::Session).await?;
    other.close().await?;
    until_gone(store, &others, AT_ONCE).await?;
    tokio::time::sleep(GRACE).await;
    ensure_eq!(entry(store, &own).await?.version, version, "the version of this handle's own key");
    ensure_eq!(store.session(), SessionState::Held, "the state of this handle's session");
    Ok(())
}

async fn closing_spares_permanent_keys(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (session, permanent) = (key("dir/session")?, key("dir/permanent")?);
    put_expiring(&other, &session, "x", Expiry::Session).await?;
    let version = other.put(&permanent, "x").await?;
    other.close().await?;
    until_gone(store, &session, AT_ONCE).await?;
    ensure_eq!(entry(store, &permanent).await?.version, version, "the version of the permanent key");
    Ok(())
}

async fn closing_spares_a_recreated_key(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("k")?);
    put_expiring(&other, &k, "1", Expiry::Session).await?;
    ensure!(store.delete(&k).await?, "the session key should exist for its delete");
    let version = store.create(&k, "2").await?;
    other.close().await?;
    sleep_until(Instant::now() + GRACE * 2).await;
    ensure_eq!(entry(store, &k).await?.version, version, "the version of the key made again");
    Ok(())
}

async fn session_key_is_told_when_asked(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    put_expiring(store, &k, "x", Expiry::Session).await?;
    ensure_eq!(expiry_of(store, &k).await?, EntryExpiry::Session, "the expiry");
    ensure_eq!(entry(store, &k).await?.expiry, None, "the expiry, not asked for");
    Ok(())
}

/// Catches a session of another handle that is told as a time to live.
async fn session_key_is_told_to_every_handle(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    // A handle with a session of its own, and one without.
    put_expiring(&other, &key("own")?, "x", Expiry::Session).await?;
    let third = fixture.another().await?;
    put_expiring(store, &k, "x", Expiry::Session).await?;
    for (name, reader) in [("a handle with a session", &other), ("a handle without a session", &third)] {
        sees(fixture, &format!("{name} should see the key"), || async { Ok(reader.exists(&k).await?) })
            .await?;
        ensure_eq!(expiry_of(reader, &k).await?, EntryExpiry::Session, "the expiry that {name} is told");
    }
    Ok(())
}

/// Catches a dropped handle that goes on renewing, so that its session keys stay.
async fn dropped_handle_ends_its_session(fixture: &Fixture) -> Result<()> {
    let (store, dropped, k) = (&fixture.store, fixture.untracked().await?, key("k")?);
    put_expiring(&dropped, &k, "x", Expiry::Session).await?;
    drop(dropped);
    until_gone(store, &k, fixture.limits().session_bound + PATIENCE).await
}

async fn session_is_held_once_used(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let before = store.session();
    ensure!(
        matches!(before, SessionState::Idle | SessionState::Held),
        "a new handle's session is {before:?}"
    );
    put_expiring(store, &key("k")?, "x", Expiry::Session).await?;
    ensure_eq!(store.session(), SessionState::Held, "the session's state");
    Ok(())
}

async fn session_states_begin_with_the_present(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut states = store.session_states();
    let first = soon("the first state", states.next()).await?.context("the states ended at once")?;
    ensure!(matches!(first, SessionState::Idle | SessionState::Held), "a new handle's session is {first:?}");
    ensure_eq!(store.session(), first, "the state the store tells");
    if !fixture.capabilities().has(kv_core::Power::SessionKeys) || first == SessionState::Held {
        return Ok(());
    }
    put_expiring(store, &key("k")?, "x", Expiry::Session).await?;
    let next = soon("the next state", states.next()).await?.context("the states ended")?;
    ensure_eq!(next, SessionState::Held, "the state after a session put");
    Ok(())
}

async fn session_states_end_with_the_handle(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let mut states = other.session_states();
    soon("the first state", states.next()).await?;
    other.close().await?;
    soon("the end of the states", async {
        while let Some(state) = states.next().await {
            ensure!(state != SessionState::Held, "a closed handle's session is told Held");
        }
        Ok(())
    })
    .await?
}

async fn session_end_reaches_watchers(fixture: &Fixture) -> Result<()> {
    watch_session_end(fixture).await.map(drop)
}

async fn session_end_is_marked(fixture: &Fixture) -> Result<()> {
    ensure_eq!(watch_session_end(fixture).await?, DeleteCause::Expired, "the cause that was told");
    Ok(())
}

async fn watch_session_end(fixture: &Fixture) -> Result<DeleteCause> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    let mut follower = Follower::now(store, Prefix::new("dir")?).await?;
    let version = put_expiring(&other, &k, "x", Expiry::Session).await?.version;
    follower.until_version(&k, version).await?;
    other.close().await?;
    let deletion = follower.until_deleted(&k).await?;
    until(PATIENCE, "the key should be gone", || async { Ok(!store.exists(&k).await?) }).await?;
    Ok(deletion.cause)
}
