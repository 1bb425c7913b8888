//! Losing a lock: told in time, and without harm to the next holder.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use kv_core::{ErrorKind, LockLoss, LockOptions, Store, StoreExt};

use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{ensure_eq, key, lock, refused, sees, soon, try_lock};

pub(super) const CASES: &[Case] = &[
    case!(removed_lock_is_told_lost, "When its record is removed from outside, the holder is told."),
    case!(delete_tree_above_takes_locks, "delete_tree removes lock records at every depth below it."),
    case!(delete_tree_beside_spares_locks, "delete_tree spares locks that do not lie below its prefix."),
    case!(unlock_after_loss_is_not_held, "Unlock after loss says NotHeld and touches nobody else's lock."),
    case!(dropping_a_lost_guard_spares_the_next, "Dropping a lost guard touches nobody else's lock."),
    case!(max_hold_spares_the_next, "A guard that was held too long touches nobody else's lock."),
    case!(closing_releases_locks, "close releases all locks, and their guards say so."),
    case!(closing_spares_other_locks, "close of one handle spares the locks of others."),
    case!(dropped_handle_releases_locks, "A lock whose guard and handle are dropped together is released."),
    case!(loss_outlives_its_guard, "The future of a loss is independent of the guard's lifetime."),
];

/// Catches a loss that is never reported, or seconds late: two leaders for good.
async fn removed_lock_is_told_lost(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/lock")?);
    store.put(&k, "entry").await?;
    let guard = lock(store, &k).await?;
    ensure_eq!(other.delete_tree(&k).await?, 0, "how many entries went");
    let loss = soon("the loss", guard.lost()).await?;
    ensure!(matches!(loss, LockLoss::Removed | LockLoss::SessionLost), "it was told lost by {loss:?}");
    ensure!(!guard.is_held() && guard.loss().is_some(), "the guard says it is held");
    ensure!(store.exists(&k).await?, "the entry under the lock's key should stay");
    let next = lock(&other, &k).await?;
    ensure!(next.token() > guard.token(), "token {} after {}", next.token(), guard.token());
    Ok(())
}

async fn delete_tree_above_takes_locks(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut guards = Vec::new();
    for text in ["dir/lock", "dir/a/b/lock", "dir/lock/below"] {
        guards.push(lock(store, &key(text)?).await?);
    }
    store.put("dir/a/x", "x").await?;
    ensure_eq!(other.delete_tree("dir").await?, 1, "how many entries went");
    for guard in &guards {
        soon(&format!("the loss of {:?}", guard.key()), guard.lost()).await?;
        lock(&other, guard.key()).await?.unlock().await?;
    }
    Ok(())
}

async fn delete_tree_beside_spares_locks(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut guards = Vec::new();
    for text in ["dir", "dir2/lock", "dir-/lock", "d"] {
        guards.push(lock(store, &key(text)?).await?);
    }
    other.put("dir/x/y", "x").await?;
    other.delete_tree("dir/x").await?;
    other.delete_tree("none").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for guard in guards {
        ensure!(guard.is_held(), "{:?} was lost: {:?}", guard.key(), guard.loss());
        refused!(try_lock(&other, guard.key()).await, ErrorKind::Locked, "a try of {:?}", guard.key());
        guard.unlock().await?;
    }
    Ok(())
}

/// Removes the lock of `holder` and gives it to `next`.
async fn pass_on(
    holder: &impl Store,
    next: &impl Store,
    k: &kv_core::Key,
) -> Result<[kv_core::LockGuard; 2]> {
    let old = lock(holder, k).await?;
    next.delete_tree(k).await?;
    let new = lock(next, k).await?;
    Ok([old, new])
}

async fn still_has(fixture: &Fixture, guard: &kv_core::LockGuard) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(guard.is_held(), "the next holder lost it: {:?}", guard.loss());
    refused!(try_lock(&fixture.store, guard.key()).await, ErrorKind::Locked, "a try while the next has it");
    sees(fixture, "the next holder should be told as holder", || async {
        let holder = fixture.store.lock_holder(guard.key()).await?;
        Ok(holder.is_some_and(|holder| holder.token == guard.token()))
    })
    .await
}

/// Catches an unlock after the loss that hangs, or deletes the next holder's record, or panics the second
/// time.
async fn unlock_after_loss_is_not_held(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let [old, new] = pass_on(store, &other, &k).await?;
    let unlocked = soon("the unlock of a lost lock", old.unlock()).await?;
    refused!(unlocked, ErrorKind::NotHeld { loss: Some(_) }, "an unlock after loss");
    still_has(fixture, &new).await?;
    new.unlock().await?;
    Ok(())
}

async fn dropping_a_lost_guard_spares_the_next(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let [old, new] = pass_on(store, &other, &k).await?;
    drop(old);
    still_has(fixture, &new).await?;
    new.unlock().await?;
    Ok(())
}

async fn max_hold_spares_the_next(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let options = LockOptions::default().with_max_hold(Duration::from_millis(500));
    let old = store.lock_with(&k, options).await?;
    let new = lock(&other, &k).await?;
    refused!(
        old.unlock().await,
        ErrorKind::NotHeld { loss: Some(LockLoss::HeldTooLong) },
        "an unlock after the hold has ended"
    );
    still_has(fixture, &new).await?;
    new.unlock().await?;
    Ok(())
}

async fn closing_releases_locks(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let keys = [key("a/lock")?, key("b")?, key("c/d/e")?];
    let mut guards = Vec::new();
    for k in &keys {
        guards.push(lock(&other, k).await?);
    }
    other.close().await?;
    for guard in guards {
        let loss = soon("the loss", guard.lost()).await?;
        ensure_eq!(loss, LockLoss::Closed, "why {:?} was lost", guard.key());
        lock(store, guard.key()).await?.unlock().await?;
        let unlocked = guard.unlock().await;
        ensure!(
            unlocked
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), ErrorKind::NotHeld { .. } | ErrorKind::Closed)),
            "an unlock after the close answered {unlocked:?}"
        );
    }
    Ok(())
}

async fn closing_spares_other_locks(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let guard = lock(store, &key("own")?).await?;
    let _others = lock(&other, &key("others")?).await?;
    other.close().await?;
    lock(store, &key("others")?).await?.unlock().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(guard.is_held(), "the lock of another handle was lost: {:?}", guard.loss());
    guard.unlock().await?;
    Ok(())
}

/// The release in the background must not be lost with the handle it goes through.
async fn dropped_handle_releases_locks(fixture: &Fixture) -> Result<()> {
    let (store, dropped, k) = (&fixture.store, fixture.untracked().await?, key("lock")?);
    let guard = lock(&dropped, &k).await?;
    drop(guard);
    drop(dropped);
    let bound = fixture.limits().session_bound + PATIENCE;
    let options = LockOptions::default().with_wait(kv_core::LockWait::UpTo(bound));
    store.lock_with(&k, options).await?.unlock().await?;
    Ok(())
}

async fn loss_outlives_its_guard(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let lost = tokio::spawn(guard.lost());
    let again = tokio::spawn(guard.lost());
    drop(guard);
    ensure_eq!(soon("the loss", lost).await??, LockLoss::Released, "why it was lost");
    ensure_eq!(soon("the loss, told twice", again).await??, LockLoss::Released, "why it was lost");
    lock(&Arc::clone(&other), &k).await?.unlock().await?;
    Ok(())
}
