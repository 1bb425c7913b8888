//! Registrations and members.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kv_core::{EntryExpiry, Key, Store, StoreExt};
use kv_recipes::{
    EntryLoss, Lifetime, MemberChange, Members, OnLoss, Registration, RegistrationOptions, RegistrationState,
};

use crate::case::needs::{EXPIRY_CHANGE, SESSION_KEYS, TTL};
use crate::case::{BeyondReach, Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::steps::{ensure_eq, entry, expiry_of, key, soon, until, until_gone};

pub(super) const CASES: &[Case] = &[
    case!(
        a_registration_goes_with_its_handle,
        "A registration is there until it leaves or its handle is closed.",
        SESSION_KEYS
    ),
    case!(
        a_deleted_registration_is_made_again,
        "A registration that is deleted is made again.",
        SESSION_KEYS
    ),
    case!(
        a_registration_ends_when_it_is_replaced,
        "Another value in its place ends a registration and is not touched.",
        SESSION_KEYS,
        EXPIRY_CHANGE
    ),
    case!(
        a_registration_by_ttl_is_renewed,
        "A registration by a time to live outlives that time, and not its process.",
        TTL,
        EXPIRY_CHANGE
    ),
    case!(
        a_registration_is_made_again_under_a_new_session,
        "A registration whose session ended in an outage is made again under a new one.",
        SESSION_KEYS
    ),
    case!(members_follow_registrations, "Members tell who joins, changes and leaves.", SESSION_KEYS),
];

fn service() -> Result<Key> {
    key("services/web/1")
}

async fn register(
    store: &Arc<dyn Store>,
    value: &'static str,
    options: RegistrationOptions,
) -> Result<Registration> {
    soon("the registration", Registration::start(Arc::clone(store), service()?, value, options))
        .await?
        .context("registering")
}

async fn a_registration_goes_with_its_handle(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = service()?;
    let options = RegistrationOptions::default();
    let registration = register(&other, "1", options).await?;
    ensure_eq!(entry(store, &k).await?.value, "1", "the value");
    soon("the update", registration.update("2")).await??;
    ensure_eq!(entry(store, &k).await?.value, "2", "the value after an update");
    ensure_eq!(expiry_of(store, &k).await?, EntryExpiry::Session, "how it expires after an update");
    ensure!(registration.is_registered(), "it is {:?}", registration.state());
    soon("leaving", registration.leave()).await??;
    ensure!(store.get(&k).await?.is_none(), "a registration that has left is there");
    let _registration = register(&other, "3", options).await?;
    other.close().await?;
    ensure!(store.get(&k).await?.is_none(), "a registration of a closed handle is there");
    Ok(())
}

async fn a_deleted_registration_is_made_again(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = service()?;
    let registration = register(&other, "1", RegistrationOptions::default()).await?;
    for _ in 0..2 {
        let before = entry(store, &k).await?.version;
        store.delete(&k).await?;
        until(PATIENCE, "the registration is made again", || async {
            Ok(store.get(&k).await?.is_some_and(|entry| entry.value == "1" && entry.version > before))
        })
        .await?;
    }
    soon("leaving", registration.leave()).await??;
    // And one that is to end.
    let options = RegistrationOptions::default().with_on_loss(OnLoss::Stop);
    let mut registration = register(&other, "1", options).await?;
    store.delete(&k).await?;
    let state = soon("the end", registration.changed()).await?.context("no state is told")?;
    ensure!(matches!(state, RegistrationState::Ended(EntryLoss::Removed)), "it is {state:?}");
    ensure!(store.get(&k).await?.is_none(), "a registration that ended is there");
    Ok(())
}

async fn a_registration_ends_when_it_is_replaced(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = service()?;
    let options = RegistrationOptions::default();
    let mut old = register(&other, "old", options).await?;
    let new = register(store, "new", options).await?;
    let state = soon("the end of the old one", old.changed()).await?.context("no state is told")?;
    ensure!(matches!(state, RegistrationState::Ended(EntryLoss::Replaced)), "it is {state:?}");
    drop(old);
    other.close().await?;
    ensure_eq!(entry(store, &k).await?.value, "new", "the value");
    ensure!(new.is_registered(), "it is {:?}", new.state());
    Ok(())
}

async fn a_registration_by_ttl_is_renewed(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = service()?;
    let ttl = fixture.short_ttl() * 2;
    // It is not put again, so that one that went for a moment is noticed.
    let options = RegistrationOptions::default().with_lifetime(Lifetime::Ttl(ttl)).with_on_loss(OnLoss::Stop);
    let registration = register(&other, "1", options).await?;
    let end = Instant::now() + fixture.latest_end(ttl) + GRACE;
    while Instant::now() < end {
        ensure!(store.get(&k).await?.is_some(), "it is gone while its process lives");
        tokio::time::sleep(ttl / 10).await;
    }
    ensure!(registration.is_registered(), "it is {:?}", registration.state());
    // Its process does not renew it any more.
    other.close().await?;
    until_gone(store, &k, fixture.latest_end(ttl) + GRACE).await
}

async fn a_registration_is_made_again_under_a_new_session(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, service()?);
    if fixture.limits().session_bound.is_zero() {
        return Err(BeyondReach("a session ends with its handle and not before".to_owned()).into());
    }
    let Some((behind, line)) = fixture.on_a_line().await? else {
        return Err(BeyondReach("nothing here can cut a handle off from its servers".to_owned()).into());
    };
    let mut registration = register(&behind, "1", RegistrationOptions::default()).await?;
    let before = entry(store, &k).await?.version;
    line.cut();
    until_gone(store, &k, fixture.limits().session_bound + PATIENCE).await?;
    ensure!(!registration.is_registered(), "it is {:?} without its session", registration.state());
    line.mend();
    until(PATIENCE * 3, "the registration is made again", || async {
        Ok(store.get(&k).await?.is_some_and(|entry| entry.value == "1" && entry.version > before))
    })
    .await?;
    ensure_eq!(expiry_of(store, &k).await?, EntryExpiry::Session, "how it expires");
    soon("the word that it is registered", async {
        while !registration.is_registered() {
            registration.changed().await.context("the registration ended")?;
        }
        anyhow::Ok(())
    })
    .await??;
    Ok(soon("leaving", registration.leave()).await??)
}

async fn members_follow_registrations(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let members = Members::watch(Arc::clone(store), "services/web").await?;
    soon("the first state", members.ready()).await??;
    let mut changes = members.changes();
    let mut next = async |what: &str| -> Result<MemberChange> {
        Ok(soon(what, changes.next()).await?.context("the changes ended")??)
    };
    let registration = register(&other, "a", RegistrationOptions::default()).await?;
    let change = next("who joined").await?;
    ensure!(
        matches!(&change, MemberChange::Joined { name, value, .. } if name == "1" && value == "a"),
        "who joined: {change:?}"
    );
    soon("the update", registration.update("b")).await??;
    let change = next("who changed").await?;
    ensure!(
        matches!(&change, MemberChange::Updated { old, new, .. } if old == "a" && new == "b"),
        "who changed: {change:?}"
    );
    ensure_eq!(members.all(), vec![("1".to_owned(), "b".into())], "the members");
    other.close().await?;
    let change = next("who left").await?;
    ensure!(
        matches!(&change, MemberChange::Left { name, value, .. } if name == "1" && value == "b"),
        "who left: {change:?}"
    );
    ensure!(members.is_empty(), "who has left is a member: {:?}", members.all());
    Ok(())
}
