//! Seeing locks: what is listed and watched of them, and how a hold is ended from outside.

use anyhow::{Context, Result, ensure};
use kv_core::{FencingToken, LockChanges, LockHolder, LockLoss, LockOptions, LockState, Store, StoreExt};

use crate::case::needs::LOCK_VIEW;
use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{at_once, ensure_eq, key, lock, settle, soon, until};

pub(super) const CASES: &[Case] = &[
    case!(lock_watch_begins_with_the_holder, "A lock watch tells the present holder first.", LOCK_VIEW),
    case!(
        lock_watch_tells_holders_and_vacancies,
        "A lock watch tells every change of hands and every lasting vacancy; tokens never fall.",
        LOCK_VIEW
    ),
    case!(lock_watch_ends_with_close, "A lock watch ends with Closed when its handle is closed.", LOCK_VIEW),
    case!(held_locks_are_listed, "The locks below a prefix are listed with owner and token.", LOCK_VIEW),
    case!(
        waiters_are_listed_in_turn,
        "Waiters are listed in their turn where the server keeps them.",
        LOCK_VIEW
    ),
    case!(break_lock_ends_one_hold, "break_lock ends the hold with this token and nothing else.", LOCK_VIEW),
    case!(break_lock_of_an_old_token_changes_nothing, "An old token breaks no lock.", LOCK_VIEW),
];

/// The next change of a lock watch.
async fn next(changes: &mut LockChanges, what: &str) -> Result<Option<LockHolder>> {
    let change = soon(what, changes.next()).await?;
    Ok(change.with_context(|| format!("{what}: the watch ended"))??)
}

/// Reads on until the wanted holder is told; every token on the way must not fall.
async fn until_holder(
    changes: &mut LockChanges,
    last: &mut u64,
    wanted: Option<FencingToken>,
    what: &str,
) -> Result<()> {
    loop {
        let holder = next(changes, what).await?;
        if let Some(holder) = &holder {
            ensure!(holder.token.get() >= *last, "{what}: the token {} came after {last}", holder.token);
            *last = holder.token.get();
        }
        if holder.map(|holder| holder.token) == wanted {
            return Ok(());
        }
    }
}

async fn lock_watch_begins_with_the_holder(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (free, held) = (key("free")?, key("held")?);
    let options = LockOptions::default().with_owner("somebody");
    let guard = store.lock_with(&held, options).await?;
    let mut changes = other.watch_lock(&held).await?;
    let holder = next(&mut changes, "the present holder").await?.context("nobody is told as the holder")?;
    ensure_eq!(holder.owner, "somebody", "the owner");
    ensure_eq!(holder.token, guard.token(), "the token");
    let mut changes = other.watch_lock(&free).await?;
    ensure_eq!(next(&mut changes, "the vacancy").await?, None, "the holder of a free lock");
    guard.unlock().await?;
    Ok(())
}

async fn lock_watch_tells_holders_and_vacancies(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("dir/lock")?;
    let mut changes = fixture.another().await?.watch_lock(&k).await?;
    ensure_eq!(next(&mut changes, "the vacancy before").await?, None, "the holder of a free lock");
    let mut last = 0;
    for round in 0..4 {
        let guard = lock(stores[round % 2], &k).await?;
        until_holder(&mut changes, &mut last, Some(guard.token()), "the new holder").await?;
        if round % 2 == 0 {
            guard.unlock().await?;
        } else {
            drop(guard);
        }
        until_holder(&mut changes, &mut last, None, "the vacancy after a release").await?;
    }
    // Handed over without a vacancy that must be seen.
    let first = lock(stores[0], &k).await?;
    let waiting = at_once({
        let (store, k) = (stores[1].clone(), k.clone());
        async move { store.lock(&k).await }
    });
    until_holder(&mut changes, &mut last, Some(first.token()), "the first of two").await?;
    settle(stores[1]).await?;
    first.unlock().await?;
    let second = soon("the second of two", waiting).await??;
    until_holder(&mut changes, &mut last, Some(second.token()), "the second of two").await
}

async fn lock_watch_ends_with_close(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = key("lock")?;
    let mut changes = other.watch_lock(&k).await?;
    ensure_eq!(next(&mut changes, "the vacancy").await?, None, "the holder of a free lock");
    other.close().await?;
    let end = soon("the end of the watch", changes.next()).await?;
    let error = end.context("the watch ended without an error")?.err().context("a closed watch went on")?;
    ensure_eq!(*error.kind(), kv_core::ErrorKind::Closed, "the error the watch ended with");
    ensure!(changes.next().await.is_none(), "a watch that ended with an error goes on");
    lock(store, &k).await?.unlock().await?;
    Ok(())
}

/// The locks below a prefix, and the tokens of their holders.
async fn locks(store: &impl Store, prefix: &str) -> Result<Vec<LockState>> {
    let mut listing = store.locks(prefix).await?;
    let mut locks = Vec::new();
    while let Some(lock) = listing.next().await {
        locks.push(lock?);
    }
    Ok(locks)
}

async fn held_locks_are_listed(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut guards = Vec::new();
    for (at, text) in ["a", "a/b", "a/b/c", "a/d e", "ab", "z"].into_iter().enumerate() {
        let owner = if at % 2 == 0 { store } else { &other };
        let options = LockOptions::default().with_owner(format!("owner of {text}"));
        guards.push(owner.lock_with(&key(text)?, options).await?);
    }
    // An entry, and one whose lock was released, are no locks.
    store.put("a/entry", "x").await?;
    lock(store, &key("a/free")?).await?.unlock().await?;
    let wanted: Vec<_> = guards
        .iter()
        .map(|guard| (guard.key().to_string(), format!("owner of {}", guard.key()), guard.token()))
        .collect();
    for (prefix, wanted) in [("a", &wanted[1..4]), ("", &wanted[..]), ("nothing", &[])] {
        until(PATIENCE, &format!("the locks below {prefix:?} should be {wanted:?}"), || async {
            let found = locks(&other, prefix).await?;
            let found: Vec<_> = found
                .into_iter()
                .filter_map(|lock| {
                    let holder = lock.holder?;
                    Some((
                        lock.key.to_string(),
                        String::from_utf8_lossy(&holder.owner).into_owned(),
                        holder.token,
                    ))
                })
                .collect();
            Ok(found == wanted)
        })
        .await?;
    }
    Ok(())
}

async fn waiters_are_listed_in_turn(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = key("dir/lock")?;
    let guard = store.lock_with(&k, LockOptions::default().with_owner("holder")).await?;
    let mut waiting = Vec::new();
    for name in ["first", "second"] {
        let (waiter, k) = (other.clone(), k.clone());
        waiting.push(at_once(
            async move { waiter.lock_with(&k, LockOptions::default().with_owner(name)).await },
        ));
        settle(&other).await?;
    }
    let found = locks(store, "dir").await?;
    ensure_eq!(found.len(), 1, "the number of locks: {found:?}");
    ensure_eq!(found[0].key, k, "the lock's name");
    let holder = found[0].holder.as_ref().context("no holder is listed")?;
    ensure_eq!((holder.owner.as_ref(), holder.token), (b"holder".as_slice(), guard.token()), "the holder");
    if let Some(waiters) = &found[0].waiters {
        let owners: Vec<_> = waiters.iter().map(|waiter| waiter.owner.as_ref()).collect();
        ensure_eq!(owners, [b"first".as_slice(), b"second"], "the waiters, the next one first");
    }
    guard.unlock().await?;
    for waiting in waiting {
        soon("a waiter's turn", waiting).await??.unlock().await?;
    }
    until(PATIENCE, "no lock should be left", || async { Ok(locks(store, "dir").await?.is_empty()) }).await
}

async fn break_lock_ends_one_hold(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (k, beside, below) = (key("lock")?, key("lock2")?, key("lock/below")?);
    store.put(&k, "the entry").await?;
    let spared = [lock(store, &beside).await?, lock(store, &below).await?];
    let guard = lock(store, &k).await?;
    let waiting = at_once({
        let (other, k) = (other.clone(), k.clone());
        async move { other.lock(&k).await }
    });
    settle(&other).await?;
    ensure!(other.break_lock(&k, guard.token()).await?, "a lock that is held was not broken");
    let loss = soon("the loss of a broken lock", guard.lost()).await?;
    ensure_eq!(loss, LockLoss::Removed, "the loss of a broken lock");
    let next = soon("the next holder", waiting).await??;
    ensure!(next.token() > guard.token(), "the token fell from {} to {}", guard.token(), next.token());
    drop(guard);
    ensure!(next.is_held(), "the next holder lost it too: {:?}", next.loss());
    ensure!(spared.iter().all(kv_core::LockGuard::is_held), "another lock was lost: {spared:?}");
    ensure!(store.exists(&k).await?, "the entry of the lock's name is gone");
    Ok(())
}

async fn break_lock_of_an_old_token_changes_nothing(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = key("lock")?;
    let old = lock(store, &k).await?;
    let token = old.token();
    old.unlock().await?;
    ensure!(!other.break_lock(&k, token).await?, "a free lock was broken");
    let guard = lock(store, &k).await?;
    ensure!(!other.break_lock(&k, token).await?, "a lock was broken by the token of an older hold");
    ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
    guard.unlock().await?;
    Ok(())
}
