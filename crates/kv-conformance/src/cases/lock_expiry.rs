//! Locks that are lost because their holder stood still: what the store does for who may still act.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{ErrorKind, Key, LockLoss, LockOptions, StoreExt};

use crate::case::{BeyondReach, Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::standstill::{Holder, Lapse, LetGo};
use crate::steps::{at_once, key, refused, settle, within};

pub(super) const CASES: &[Case] = &[
    case!(
        expired_lock_is_kept_through_its_grace,
        "After a loss by expiry the store releases nothing before grace() is over."
    ),
    case!(
        letting_go_of_an_expired_lock_ends_its_grace,
        "Dropping the guard, unlock and close end the wait for the end of the grace."
    ),
];

/// A time to live of which the grace is a good part, where it can be chosen.
fn ttl(fixture: &Fixture) -> Duration {
    let range = fixture.limits().lock_ttl;
    Duration::from_secs(10).clamp(range.min, range.max)
}

/// Has another wait for the lock of a holder that stands still until its lock is lost by its clock.
/// Returns the holder, which goes on, how it lost the lock, and when the other will have it.
async fn lapse(
    fixture: &Fixture,
    k: &Key,
) -> Result<(Holder, Lapse, impl Future<Output = kv_core::Result<Instant>> + use<>)> {
    let (store, ttl) = (&fixture.store, ttl(fixture));
    let holder = Holder::lock(fixture, k, LockOptions::default().with_ttl(ttl)).await?;
    let waiting = at_once({
        let (store, k) = (Arc::clone(store), k.clone());
        async move {
            let guard = store.lock(&k).await?;
            let had_at = Instant::now();
            guard.unlock().await?;
            Ok(had_at)
        }
    });
    settle(store).await?;
    match holder.stand_still(ttl + GRACE * 2).await? {
        Some(lapse) => Ok((holder, lapse, waiting)),
        None => Err(BeyondReach("a holder here that stands still keeps its lock".to_owned()).into()),
    }
}

/// How long after such a loss another must have the lock.
fn bound(fixture: &Fixture) -> Duration {
    fixture.limits().session_bound.max(ttl(fixture) * 3) + PATIENCE
}

/// Locks that need no renewal have no grace, and are not lost by the clock.
async fn need_renewal(fixture: &Fixture) -> Result<()> {
    let guard = fixture.store.lock(key("lock")?).await?;
    let grace = guard.grace();
    guard.unlock().await?;
    if grace.is_zero() {
        return Err(BeyondReach("its locks need no renewal: none is lost by the clock".to_owned()).into());
    }
    Ok(())
}

/// Catches a store that sees its own lock expired and gives it away at once, while its holder, which was told
/// this very moment, still acts.
async fn expired_lock_is_kept_through_its_grace(fixture: &Fixture) -> Result<()> {
    need_renewal(fixture).await?;
    let k = key("dir/lock")?;
    let (holder, lapse, waiting) = lapse(fixture, &k).await?;
    ensure!(
        matches!(lapse.loss, LockLoss::Expired | LockLoss::SessionLost),
        "a holder that stood still was told {:?}",
        lapse.loss
    );
    let had_at = within(bound(fixture), "the lock of a holder that stood still", waiting).await??;
    let after = had_at.duration_since(lapse.held_at);
    ensure!(
        after >= lapse.grace,
        "another had the lock {after:?} after its holder still had it, and the grace is {:?}",
        lapse.grace
    );
    holder.end().await
}

/// Catches a lock that stays taken, though its holder has said that it is done.
async fn letting_go_of_an_expired_lock_ends_its_grace(fixture: &Fixture) -> Result<()> {
    need_renewal(fixture).await?;
    let ways = [LetGo::Drop, LetGo::Unlock, LetGo::Close].map(|how| async move {
        let k = key(&format!("dir/{how:?}"))?;
        let (holder, lapse, waiting) = lapse(fixture, &k).await?;
        let answer = holder.let_go(how).await?;
        match how {
            LetGo::Unlock => {
                drop(refused!(answer, ErrorKind::NotHeld { .. }, "an unlock of an expired lock"))
            }
            LetGo::Drop | LetGo::Close => answer?,
        }
        let had_at = within(bound(fixture), "the lock that was let go", waiting).await??;
        let after = had_at.duration_since(lapse.held_at);
        // A shorter one a busy machine may take by itself.
        ensure!(
            after < lapse.grace || lapse.grace < Duration::from_secs(3),
            "{how:?}: another had the lock only {after:?} later, and the grace is {:?}",
            lapse.grace
        );
        holder.end().await
    });
    try_join_all(ways).await.map(drop)
}
