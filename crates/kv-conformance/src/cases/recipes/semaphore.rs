//! Semaphores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{ErrorKind, Store, StoreExt};
use kv_recipes::{Permit, Semaphore};

use crate::case::needs::SESSION_KEYS;
use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{at_once, ensure_eq, refused, soon, until, within};

pub(super) const CASES: &[Case] = &[
    case!(
        a_semaphore_never_exceeds_its_limit,
        "A semaphore has no more holders than its limit, and no permit is lost under load.",
        SESSION_KEYS
    ),
    case!(
        another_limit_is_refused,
        "The limit of a semaphore is stored, and another is refused.",
        SESSION_KEYS
    ),
    case!(permits_end_with_their_handle, "A permit ends with its handle and wakes a waiter.", SESSION_KEYS),
    case!(a_permit_taken_away_is_lost, "A permit that is taken away is told as lost.", SESSION_KEYS),
];

const LIMIT: u32 = 2;

async fn open(store: &Arc<dyn Store>) -> Result<Semaphore> {
    Semaphore::open(Arc::clone(store), "limit", LIMIT).await.context("opening the semaphore")
}

async fn a_semaphore_never_exceeds_its_limit(fixture: &Fixture) -> Result<()> {
    let stores = [Arc::clone(&fixture.store), fixture.another().await?, fixture.another().await?];
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for store in &stores {
        let semaphore = open(store).await?;
        for _ in 0..2 {
            let (semaphore, now, most) = (semaphore.clone(), Arc::clone(&now), Arc::clone(&most));
            tasks.push(at_once(async move {
                for _ in 0..4 {
                    let permit = semaphore.acquire().await?;
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    ensure!(permit.is_held(), "a permit is lost: {:?}", permit.loss());
                    now.fetch_sub(1, Ordering::SeqCst);
                    permit.release().await?;
                }
                Ok(())
            }));
        }
    }
    within(PATIENCE * 4, "all tasks have their permits", try_join_all(tasks)).await??;
    let most = most.load(Ordering::SeqCst);
    ensure!(most <= LIMIT as usize, "{most} at one time, with a limit of {LIMIT}");
    ensure_eq!(open(&stores[0]).await?.taken().await?, 0, "the permits that are held in the end");
    Ok(())
}

async fn another_limit_is_refused(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    open(&fixture.store).await?;
    open(&other).await?;
    refused!(
        Semaphore::open(other, "limit", LIMIT + 1).await,
        ErrorKind::InvalidArgument { .. },
        "another limit"
    );
    Ok(())
}

async fn all(semaphore: &Semaphore) -> Result<Vec<Permit>> {
    let mut permits = Vec::new();
    while permits.len() < LIMIT as usize {
        permits.push(soon("a free permit", semaphore.acquire()).await??);
    }
    Ok(permits)
}

async fn permits_end_with_their_handle(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (semaphore, theirs) = (open(store).await?, open(&other).await?);
    let permits = all(&theirs).await?;
    ensure!(semaphore.try_acquire().await?.is_none(), "more permits than the limit");
    let waiter = semaphore.clone();
    let waiting = at_once(async move { waiter.acquire().await });
    until(PATIENCE, "the waiter is first in line", || async {
        Ok(store.lock_holder("limit/turn").await?.is_some())
    })
    .await?;
    other.close().await?;
    let permit = soon("a permit of the closed handle", waiting).await??;
    ensure!(permit.is_held(), "the permit is lost: {:?}", permit.loss());
    for lost in &permits {
        soon("the word that a permit is lost", lost.lost()).await?;
    }
    soon("the release", permit.release()).await??;
    ensure_eq!(semaphore.taken().await?, 0, "the permits that are held in the end");
    Ok(())
}

async fn a_permit_taken_away_is_lost(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let permits = all(&open(store).await?).await?;
    ensure!(other.delete(permits[0].slot()).await?, "the slot of a permit is no entry");
    let loss = soon("the word that it is lost", permits[0].lost()).await?;
    ensure!(!permits[0].is_held(), "a permit that is lost ({loss}) is held");
    ensure!(permits[1].is_held(), "the other permit is lost too: {:?}", permits[1].loss());
    Ok(())
}
