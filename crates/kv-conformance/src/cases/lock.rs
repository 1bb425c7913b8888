//! Locks: who has one, what its guard and others are told, and what it leaves alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use kv_core::{Applied, ErrorKind, LockLoss, LockOptions, LockTtl, Precondition, Store, StoreExt, TtlRange};

use crate::case::{Case, Need, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{
    at_once, ensure_eq, entry, key, lock, names, put_if, refused, sees, soon, try_lock, until, within,
};

pub(super) const CASES: &[Case] = &[
    case!(lock_excludes_other_handles, "By the server's account two holders never exist."),
    case!(lock_excludes_tasks_of_one_handle, "Two tasks of one process exclude each other."),
    case!(lock_excludes_under_contention, "Many tasks of two handles hold a lock one at a time."),
    case!(locks_of_other_names_are_free, "Locks of different names do not touch each other."),
    case!(locks_of_nested_names_are_free, "Locks of `a` and `a/b` do not touch each other."),
    case!(lock_tokens_grow, "The fencing token is strictly increasing per key."),
    case!(guard_tells_what_it_holds, "The guard tells key, token and whether it is held."),
    case!(loss_is_told_on_release, "The future of a guard's loss resolves on release, and not before."),
    case!(unlock_frees_at_once, "When unlock returns, another can have the lock."),
    case!(dropped_guard_releases, "Dropping the guard releases the lock."),
    case!(lock_holder_is_told, "lock_holder tells owner value and token, or nobody."),
    case!(lock_owner_is_any_bytes, "The owner value is any bytes."),
    case!(lock_spares_its_entry, "k itself may hold an entry, untouched by the lock."),
    case!(lock_makes_no_entry, "A lock on an absent key leaves the key absent, also for conditions."),
    case!(lock_ttl_outside_the_range_is_refused, "A lock's time to live outside the range is TtlOutOfRange."),
    case!(
        lock_ttl_of_the_session_is_fixed,
        "Where locks live by the session, another time to live is TtlOutOfRange.",
        Need::LockTtl(LockTtl::PerSession),
    ),
    case!(
        lock_grace_is_within_its_ttl,
        "The grace there is after an expiry is shorter than the time to live."
    ),
    case!(lock_is_renewed, "Renewal is automatic."),
    case!(max_hold_ends_the_hold, "Holding longer than the maximum is reported and ends the hold."),
];

async fn must_be_locked(store: &impl Store, k: &kv_core::Key, what: &str) -> Result<()> {
    let error = refused!(try_lock(store, k).await, ErrorKind::Locked, "a try while {what} holds it");
    ensure_eq!(error.applied(), Applied::No, "whether it was applied");
    Ok(())
}

async fn lock_excludes_other_handles(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("dir/lock")?;
    for round in 0..6 {
        let (holder, rival) = (stores[round % 2], stores[1 - round % 2]);
        let guard = lock(holder, &k).await?;
        must_be_locked(rival, &k, "another handle").await?;
        ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
        guard.unlock().await?;
    }
    Ok(())
}

/// Catches one session or lease that acquires twice, and exclusion that only a mutex in the handle gives.
async fn lock_excludes_tasks_of_one_handle(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("lock")?);
    let guard = lock(store, &k).await?;
    must_be_locked(store, &k, "another task").await?;
    let clone = Arc::clone(store);
    must_be_locked(&clone, &k, "a clone").await?;
    guard.unlock().await?;
    lock(store, &k).await?.unlock().await?;
    Ok(())
}

/// Catches two holders at once.
async fn lock_excludes_under_contention(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("lock")?;
    let held = Arc::new(AtomicBool::new(false));
    let tasks = (0..8).map(|task| {
        let (store, k, held) = (Arc::clone(stores[task % 2]), k.clone(), Arc::clone(&held));
        at_once(async move {
            for _ in 0..5 {
                // Nobody promises whose turn it is, so one may wait for all others.
                let guard = within(PATIENCE * 4, "the lock", store.lock(&k)).await??;
                if held.swap(true, Ordering::SeqCst) {
                    bail!("two tasks hold the lock at once");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                held.store(false, Ordering::SeqCst);
                guard.unlock().await?;
            }
            Ok(())
        })
    });
    try_join_all(tasks.collect::<Vec<_>>()).await?;
    Ok(())
}

async fn locks_of_other_names_are_free(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut guards = Vec::new();
    for (at, text) in ["lock", "lock2", "loc", "dir/lock", "Lock"].into_iter().enumerate() {
        let owner = if at % 2 == 0 { store } else { &other };
        guards.push(try_lock(owner, &key(text)?).await.with_context(|| format!("the lock {text:?}"))?);
    }
    ensure!(guards.iter().all(kv_core::LockGuard::is_held), "a lock was lost: {guards:?}");
    Ok(())
}

async fn locks_of_nested_names_are_free(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for order in [["a", "a/b"], ["c/d", "c"]] {
        let (first, second) = (key(order[0])?, key(order[1])?);
        let one = lock(store, &first).await?;
        let two =
            try_lock(&other, &second).await.with_context(|| format!("{second:?} while {first:?} is held"))?;
        must_be_locked(&other, &first, "the first handle").await?;
        must_be_locked(store, &second, "the second handle").await?;
        one.unlock().await?;
        ensure!(two.is_held(), "{second:?} was lost: {:?}", two.loss());
        must_be_locked(store, &second, "the second handle").await?;
        two.unlock().await?;
        lock(store, &second).await?.unlock().await?;
    }
    Ok(())
}

async fn lock_tokens_grow(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("lock")?);
    let mut last = None;
    for round in 0..4 {
        let other = fixture.another().await?;
        for store in [store, &other, store] {
            let guard = lock(store, &k).await?;
            let token = guard.token();
            ensure!(last.is_none_or(|last| token > last), "round {round}: token {token} after {last:?}");
            last = Some(token);
            guard.unlock().await?;
            store.put(&k, "x").await?;
            store.delete(&k).await?;
        }
        store.delete_tree(&k).await?;
        other.close().await?;
    }
    Ok(())
}

async fn guard_tells_what_it_holds(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/lock")?);
    let guard = lock(store, &k).await?;
    ensure_eq!(guard.key(), &k, "the guard's key");
    ensure!(guard.is_held() && guard.loss().is_none(), "a new guard says {:?}", guard.loss());
    let fence = guard.fence();
    ensure_eq!((fence.key(), fence.token()), (&k, guard.token()), "the fence's key and token");
    ensure_eq!(fence, fence.clone(), "a clone of the fence");
    guard.unlock().await?;
    Ok(())
}

async fn loss_is_told_on_release(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("lock")?);
    for dropped in [false, true] {
        let guard = lock(store, &k).await?;
        let mut lost = Box::pin(guard.lost());
        tokio::time::sleep(Duration::from_millis(300)).await;
        ensure_eq!((&mut lost).now_or_never(), None, "the loss of a lock that is held");
        match dropped {
            true => drop(guard),
            false => guard.unlock().await?,
        }
        ensure_eq!(soon("the loss", lost).await?, LockLoss::Released, "the loss, with dropped {dropped}");
    }
    Ok(())
}

/// Catches an unlock that ignores the error of its delete, and a mutex that stays held.
async fn unlock_frees_at_once(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    for round in 0..10 {
        lock(store, &k).await?.unlock().await?;
        let guard = try_lock(&other, &k).await;
        guard.with_context(|| format!("round {round}: a try after unlock has returned"))?.unlock().await?;
    }
    Ok(())
}

async fn dropped_guard_releases(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    for _ in 0..5 {
        drop(lock(store, &k).await?);
        lock(&other, &k).await?.unlock().await?;
    }
    Ok(())
}

async fn lock_holder_is_told(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/lock")?);
    ensure_eq!(store.lock_holder(&k).await?, None, "the holder of a lock nobody took");
    for owner in ["first", "second"] {
        let guard = store.lock_with(&k, LockOptions::default().with_owner(owner)).await?;
        for (name, store) in [("its own", store), ("another", &other)] {
            sees(fixture, &format!("{name} handle should be told of {owner}"), || async {
                let holder = store.lock_holder(&k).await?;
                Ok(holder.is_some_and(|holder| holder.owner == owner && holder.token == guard.token()))
            })
            .await?;
        }
        guard.unlock().await?;
        sees(fixture, "nobody should hold the released lock", || async {
            Ok(other.lock_holder(&k).await?.is_none())
        })
        .await?;
    }
    Ok(())
}

/// Catches an owner value with a control byte that cannot be read back.
async fn lock_owner_is_any_bytes(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let owners: [&[u8]; 4] = [b"", b"\xff\0\x01\n", "ü".as_bytes(), &[b'x'; 1000]];
    for (at, owner) in owners.into_iter().enumerate() {
        let k = key(&format!("lock/{at}"))?;
        let guard = store.lock_with(&k, LockOptions::default().with_owner(owner.to_vec())).await?;
        let holder = store.lock_holder(&k).await?.context("nobody holds it")?;
        ensure_eq!(holder.owner, Bytes::copy_from_slice(owner), "the owner value");
        guard.unlock().await?;
    }
    Ok(())
}

/// Catches a lock whose value stays after unlock, and one held on the key itself that a plain put frees.
async fn lock_spares_its_entry(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    store.put(&k, "before").await?;
    let before = entry(store, &k).await?;
    let guard = lock(store, &k).await?;
    ensure_eq!(entry(store, &k).await?, before, "the entry while the lock is held");
    let version = other.compare_and_set(&k, before.version, "during").await?;
    must_be_locked(&other, &k, "the first handle").await?;
    ensure!(other.delete(&k).await?, "the entry should exist for its delete");
    must_be_locked(&other, &k, "the first handle").await?;
    other.put("dir/k/child", "x").await?;
    let last = other.create(&k, "after").await?;
    ensure!(last > version, "the entry got version {last}, after {version}");
    guard.unlock().await?;
    ensure_eq!(entry(&other, &k).await?.version, last, "the version after the unlock");
    ensure_eq!(names(&other, "").await?, ["dir/k", "dir/k/child"], "the list");
    Ok(())
}

async fn lock_makes_no_entry(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let guard = lock(store, &k).await?;
    ensure_eq!(store.get(&k).await?, None, "the key of the lock");
    ensure!(!store.delete(&k).await?, "a delete should find nothing");
    refused!(put_if(store, &k, "x", Precondition::Present).await, ErrorKind::NotFound, "an update");
    guard.unlock().await?;
    ensure_eq!(store.get(&k).await?, None, "the key after the unlock");
    let guard = lock(store, &k).await?;
    put_if(store, &k, "x", Precondition::Absent).await?;
    guard.unlock().await?;
    Ok(())
}

async fn lock_ttl_outside_the_range_is_refused(fixture: &Fixture) -> Result<()> {
    let range = fixture.limits().lock_ttl;
    let outside = [
        Some(Duration::ZERO),
        range.min.checked_sub(Duration::from_nanos(1)),
        range.max.checked_add(Duration::from_secs(1)),
    ];
    refuse_ttls(fixture, outside.into_iter().flatten(), range).await
}

async fn lock_ttl_of_the_session_is_fixed(fixture: &Fixture) -> Result<()> {
    let range = fixture.limits().lock_ttl;
    let others = [range.min / 2, range.max * 2, range.max + Duration::from_secs(1)];
    refuse_ttls(fixture, others, range).await
}

async fn refuse_ttls(
    fixture: &Fixture,
    ttls: impl IntoIterator<Item = Duration>,
    range: TtlRange,
) -> Result<()> {
    let (store, k) = (&fixture.store, key("lock")?);
    for ttl in ttls {
        let error = refused!(
            store.lock_with(&k, LockOptions::default().with_ttl(ttl)).await,
            ErrorKind::TtlOutOfRange { min, max } if (*min, *max) == (range.min, range.max),
            "a lock with {ttl:?}, the range is {range:?}"
        );
        ensure_eq!(error.applied(), Applied::No, "whether it was applied");
    }
    ensure_eq!(store.lock_holder(&k).await?, None, "the holder after refusals");
    store.lock_with(&k, LockOptions::default().with_ttl(range.min)).await?.unlock().await?;
    Ok(())
}

async fn lock_grace_is_within_its_ttl(fixture: &Fixture) -> Result<()> {
    let (store, k, range) = (&fixture.store, key("lock")?, fixture.limits().lock_ttl);
    for ttl in [range.min, (range.min * 3).min(range.max)] {
        let guard = store.lock_with(&k, LockOptions::default().with_ttl(ttl)).await?;
        let grace = guard.grace();
        ensure!(grace < ttl, "a lock with {ttl:?} to live has {grace:?} when it is lost");
        guard.unlock().await?;
    }
    Ok(())
}

/// Catches a lock that nobody renews, and one that a single failed renewal loses.
async fn lock_is_renewed(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let ttl = fixture.limits().lock_ttl.min.max(Duration::from_secs(1));
    let guard = store.lock_with(&k, LockOptions::default().with_ttl(ttl)).await?;
    let end = std::time::Instant::now() + (ttl * 5 / 2).min(Duration::from_secs(40));
    while std::time::Instant::now() < end {
        ensure!(guard.is_held(), "lost while it should be renewed: {:?}", guard.loss());
        must_be_locked(&other, &k, "the first handle").await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    guard.unlock().await?;
    Ok(())
}

/// Catches a hold that runs over its maximum and is not ended.
async fn max_hold_ends_the_hold(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let hold = Duration::from_secs(1);
    let begun = std::time::Instant::now();
    let guard = store.lock_with(&k, LockOptions::default().with_max_hold(hold)).await?;
    let loss = soon("the end of the hold", guard.lost()).await?;
    ensure!(begun.elapsed() >= hold, "the hold ended after {:?} of {hold:?}", begun.elapsed());
    ensure_eq!(loss, LockLoss::HeldTooLong, "why it ended");
    ensure!(!guard.is_held(), "the guard says it is held");
    until(PATIENCE, "another should get the lock", || async {
        match try_lock(&other, &k).await {
            Ok(guard) => Ok(guard.is_held()),
            Err(error) if *error.kind() == ErrorKind::Locked => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    refused!(guard.unlock().await, ErrorKind::NotHeld { .. }, "an unlock after the hold has ended");
    Ok(())
}
