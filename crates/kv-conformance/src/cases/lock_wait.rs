//! Waiting for a lock: how long, in which order, and what a wait that ended leaves behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use kv_core::{ErrorKind, LockOptions, LockWait, StoreExt};
use tokio::task::JoinSet;

use crate::case::needs::LOCK_FIFO;
use crate::case::{Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::steps::{at_once, ensure_eq, key, lock, refused, settle, soon, try_lock, until, within};

pub(super) const CASES: &[Case] = &[
    case!(try_lock_answers_at_once, "A try does not wait."),
    case!(lock_waits_for_the_release, "A wait without end gets the lock when it is released."),
    case!(wait_up_to_ends_in_time, "A wait up to d ends after d, with Locked."),
    case!(wait_up_to_gets_a_released_lock, "A wait up to d gets a lock that is released before."),
    case!(wait_outlives_a_request_deadline, "A lock wait ends only by its own option."),
    case!(waiters_are_woken_by_the_release, "Waiters are woken by the release, not by polling."),
    case!(cancelled_wait_leaves_no_trace, "A cancelled wait leaves no trace."),
    case!(cancelled_among_many_leave_no_trace, "Of many waiters, the cancelled leave the others theirs."),
    case!(ended_wait_leaves_no_trace, "A wait that has ended with Locked leaves no trace."),
    case!(waiters_get_it_in_order, "Waiters get the lock in the order they asked.", LOCK_FIFO),
    case!(wait_ends_when_the_handle_closes, "Closing the handle ends its waits with Closed."),
    case!(waiter_survives_removed_records, "A waiter whose record is removed gets the lock all the same."),
    case!(locked_waits_on_many_names, "Many locks are waited for at once on one handle."),
];

async fn try_lock_answers_at_once(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let begun = Instant::now();
    for _ in 0..5 {
        refused!(try_lock(&other, &k).await, ErrorKind::Locked, "a try of a held lock");
    }
    ensure!(begun.elapsed() < Duration::from_secs(10), "5 tries took {:?}", begun.elapsed());
    guard.unlock().await?;
    // What the tries left must not be in the way.
    lock(store, &k).await?.unlock().await?;
    Ok(())
}

async fn lock_waits_for_the_release(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let mut waiting = Box::pin(other.lock(&k));
    let early = tokio::time::timeout(Duration::from_millis(700), &mut waiting).await;
    ensure!(early.is_err(), "the wait ended while the lock was held: {early:?}");
    let token = guard.token();
    guard.unlock().await?;
    let next = soon("the released lock", waiting).await??;
    ensure!(next.token() > token, "token {} after {token}", next.token());
    Ok(())
}

fn up_to(wait: Duration) -> LockOptions {
    LockOptions::default().with_wait(LockWait::UpTo(wait))
}

/// Catches an aborted wait that returns neither a lock nor an error.
async fn wait_up_to_ends_in_time(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    for wait in [Duration::from_millis(100), Duration::from_millis(1200)] {
        let begun = Instant::now();
        let waited = within(wait + GRACE * 5, "the end of the wait", other.lock_with(&k, up_to(wait)));
        refused!(waited.await?, ErrorKind::Locked, "a wait of {wait:?} for a held lock");
        ensure!(begun.elapsed() >= wait, "a wait of {wait:?} ended after {:?}", begun.elapsed());
    }
    ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
    Ok(())
}

async fn wait_up_to_gets_a_released_lock(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let waiting = at_once({
        let (other, k) = (Arc::clone(&other), k.clone());
        async move { other.lock_with(&k, up_to(PATIENCE * 2)).await }
    });
    settle(&other).await?;
    guard.unlock().await?;
    let next = soon("the released lock", waiting).await??;
    ensure!(next.is_held(), "the lock was lost: {:?}", next.loss());
    Ok(())
}

async fn wait_outlives_a_request_deadline(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let options = LockOptions::default().with_timeout(Duration::from_secs(1));
    let mut waiting = Box::pin(other.lock_with(&k, options));
    let early = tokio::time::timeout(Duration::from_secs(3), &mut waiting).await;
    ensure!(early.is_err(), "the wait ended by a request's deadline: {early:?}");
    guard.unlock().await?;
    drop(soon("the released lock", waiting).await??);
    Ok(())
}

/// Catches waiters that nobody wakes, or that sleep for seconds between tries.
async fn waiters_are_woken_by_the_release(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("lock")?;
    // What a lock takes here without anybody waiting: a busy machine makes both slow.
    let mut alone = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        lock(stores[0], &k).await?.unlock().await?;
        alone.push(begun.elapsed());
    }
    let mut guard = lock(stores[0], &k).await?;
    let mut handovers = Vec::new();
    for round in 1..=15 {
        let mut waiting = Box::pin(stores[round % 2].lock(&k));
        let early = tokio::time::timeout(Duration::from_millis(120), &mut waiting).await;
        ensure!(early.is_err(), "round {round}: the wait ended while the lock was held: {early:?}");
        let begun = Instant::now();
        let (released, next) = tokio::join!(guard.unlock(), soon("the released lock", waiting));
        released?;
        guard = next??;
        handovers.push(begun.elapsed());
    }
    let (handover, alone) = (median(handovers), median(alone));
    ensure!(
        handover < Duration::from_millis(300) + alone * 5,
        "half of the handovers took more than {handover:?}; a free lock takes {alone:?}"
    );
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Catches a cancelled waiter that stays in the queue for good.
async fn cancelled_wait_leaves_no_trace(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    for millis in [0, 1, 5, 20, 100, 400] {
        let waiting = tokio::time::timeout(Duration::from_millis(millis), other.lock(&k)).await;
        ensure!(waiting.is_err(), "the lock was had while another held it");
    }
    ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
    guard.unlock().await?;
    nobody_has(fixture, &k).await
}

/// The lock must be free for everybody, and stay so.
async fn nobody_has(fixture: &Fixture, k: &kv_core::Key) -> Result<()> {
    let third = fixture.another().await?;
    lock(&third, k).await?.unlock().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for store in [&fixture.store, &third] {
        lock(store, k).await?.unlock().await?;
    }
    crate::steps::sees(fixture, "nobody should hold the lock", || async {
        Ok(third.lock_holder(k).await?.is_none())
    })
    .await
}

async fn cancelled_among_many_leave_no_trace(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("lock")?;
    let guard = lock(stores[0], &k).await?;
    let mut waiters = JoinSet::new();
    let mut cancelled = Vec::new();
    let mut random = fixture.random();
    for at in 0..20 {
        let (store, k) = (Arc::clone(stores[at % 2]), k.clone());
        let waiter = waiters.spawn(async move {
            let guard = store.lock(&k).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
            guard.unlock().await
        });
        if random.bool() {
            cancelled.push(waiter);
        }
    }
    for store in stores {
        settle(store).await?;
    }
    for waiter in &cancelled {
        waiter.abort();
    }
    guard.unlock().await?;
    let mut served = 0;
    while let Some(ended) = soon("the next waiter's turn", waiters.join_next()).await? {
        match ended {
            Ok(turn) => {
                turn?;
                served += 1;
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure_eq!(served, 20 - cancelled.len(), "how many waiters got the lock");
    nobody_has(fixture, &k).await
}

async fn ended_wait_leaves_no_trace(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let waits = (0..8).map(|at| other.lock_with(&k, up_to(Duration::from_millis(at * 60))));
    for waited in join_all(waits).await {
        refused!(waited, ErrorKind::Locked, "a wait for a held lock");
    }
    guard.unlock().await?;
    nobody_has(fixture, &k).await
}

async fn waiters_get_it_in_order(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("lock")?;
    let guard = lock(stores[0], &k).await?;
    let turns = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for at in 0..6 {
        let (store, k, turns) = (Arc::clone(stores[at % 2]), k.clone(), Arc::clone(&turns));
        waiters.spawn(async move {
            let guard = store.lock(&k).await?;
            turns.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(at);
            guard.unlock().await
        });
        // Each must have asked before the next one asks.
        settle(stores[at % 2]).await?;
    }
    guard.unlock().await?;
    while let Some(ended) = soon("the next waiter's turn", waiters.join_next()).await? {
        ended??;
    }
    let turns = turns.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    ensure_eq!(*turns, [0, 1, 2, 3, 4, 5], "the order of turns");
    Ok(())
}

async fn wait_ends_when_the_handle_closes(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    let waiting = tokio::spawn({
        let (other, k) = (Arc::clone(&other), k.clone());
        async move { other.lock(&k).await }
    });
    settle(&other).await?;
    other.close().await?;
    let waited = soon("the end of the wait", waiting).await??;
    refused!(waited, ErrorKind::Closed, "a wait on a closed handle");
    guard.unlock().await?;
    nobody_has(fixture, &k).await
}

/// delete_tree takes a waiter's own record along with the holder's.
async fn waiter_survives_removed_records(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/lock")?);
    let third = fixture.another().await?;
    let guard = lock(store, &k).await?;
    let waiting = tokio::spawn({
        let (other, k) = (Arc::clone(&other), k.clone());
        async move { other.lock(&k).await }
    });
    settle(&other).await?;
    third.delete_tree(&k).await?;
    let next = soon("the lock of the removed holder", waiting).await???;
    ensure!(next.is_held(), "the waiter lost it at once: {:?}", next.loss());
    refused!(try_lock(&third, &k).await, ErrorKind::Locked, "a try while the waiter has it");
    soon("the loss of the removed holder", guard.lost()).await?;
    next.unlock().await?;
    Ok(())
}

async fn locked_waits_on_many_names(fixture: &Fixture) -> Result<()> {
    const NAMES: usize = 60;
    let (store, other) = (&fixture.store, fixture.another().await?);
    let names = (0..NAMES).map(|at| key(&format!("lock/{at}"))).collect::<Result<Vec<_>>>()?;
    let guards = join_all(names.iter().map(|k| lock(store, k))).await;
    let guards = guards.into_iter().collect::<Result<Vec<_>>>()?;
    let mut waiters = JoinSet::new();
    for k in names {
        let other = Arc::clone(&other);
        waiters.spawn(async move { other.lock(&k).await });
    }
    settle(&other).await?;
    other.put("beside", "x").await?;
    ensure!(other.exists("beside").await?, "an ordinary call beside {NAMES} waits");
    for unlocked in join_all(guards.into_iter().map(kv_core::LockGuard::unlock)).await {
        unlocked?;
    }
    let mut had = 0;
    while let Some(waited) = soon("the next of the released locks", waiters.join_next()).await? {
        let guard = waited?.context("a wait")?;
        ensure!(guard.is_held(), "{:?} was lost: {:?}", guard.key(), guard.loss());
        had += 1;
    }
    ensure_eq!(had, NAMES, "how many locks were had");
    until(GRACE * 10, "all locks should be free again", || async {
        Ok(other.lock_holder(&key("lock/0")?).await?.is_none())
    })
    .await
}
