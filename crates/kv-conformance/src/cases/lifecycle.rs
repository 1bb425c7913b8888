//! Handles: opening, closing, deadlines, and futures that are dropped.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::{join_all, try_join_all};
use kv_core::{
    DeleteOptions, DeleteTreeOptions, ErrorKind, GetOptions, ListOptions, LockOptions, LockWait, Prefix,
    PutOptions, Store, StoreExt, Txn, TxnOp, WatchOptions, WatchTarget,
};

use crate::case::{Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::follow::Follower;
use crate::steps::{
    at_once, ensure_eq, entry, key, list, lock, names, refused, settle, soon, try_lock, until, within,
};

pub(super) const CASES: &[Case] = &[
    case!(close_is_idempotent, "close is idempotent, also at the same time."),
    case!(closed_handle_answers_closed, "After close every call is Closed, on every clone."),
    case!(close_ends_watches, "close ends every watch, with Closed as the reason."),
    case!(close_leaves_other_handles, "Closing one handle harms no other."),
    case!(dropped_last_clone_ends_watches, "Dropping the last clone closes in the background."),
    case!(dropping_outside_a_runtime, "Dropping without a runtime does not panic."),
    case!(server_tells_product_and_version, "server() tells product and version."),
    case!(calls_at_once_get_their_own_answers, "Calls at the same time on one handle get their own answers."),
    case!(calls_end_by_their_deadline, "Every request has a deadline, and ends by it."),
    case!(times_without_end_are_taken, "A time too long to count is taken for one without end."),
    case!(dropped_futures_harm_nothing, "Dropping any future leaks nothing and harms no other call."),
    case!(dropped_write_is_whole_or_nothing, "A dropped write is applied fully or not at all."),
    case!(dropped_lock_is_released, "A lock whose future was dropped is nobody's."),
];

async fn close_is_idempotent(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    other.put("k", "x").await?;
    for closed in join_all((0..4).map(|_| other.close())).await {
        closed?;
    }
    other.close().await?;
    Ok(())
}

async fn closed_handle_answers_closed(fixture: &Fixture) -> Result<()> {
    let (other, k) = (fixture.another().await?, key("dir/k")?);
    other.put(&k, "x").await?;
    let clone = Arc::clone(&other);
    other.close().await?;
    let clone = &clone;
    refused!(clone.get(&k).await, ErrorKind::Closed, "get");
    refused!(clone.put(&k, "y").await, ErrorKind::Closed, "put");
    refused!(clone.create(&k, "y").await, ErrorKind::Closed, "create");
    refused!(clone.delete(&k).await, ErrorKind::Closed, "delete");
    refused!(listed(clone).await, ErrorKind::Closed, "list");
    refused!(clone.delete_tree("dir").await, ErrorKind::Closed, "delete_tree");
    refused!(clone.watch("dir").await, ErrorKind::Closed, "watch");
    refused!(clone.watch_key(&k).await, ErrorKind::Closed, "watch of a key");
    refused!(soon("lock", clone.lock(&k)).await?, ErrorKind::Closed, "lock");
    refused!(try_lock(clone, &k).await, ErrorKind::Closed, "a try of a lock");
    refused!(clone.lock_holder(&k).await, ErrorKind::Closed, "lock_holder");
    refused!(clone.server().await, ErrorKind::Closed, "server");
    if let Some(transact) = clone.as_transact() {
        let txn = Txn::always().then([TxnOp::put(&k, "y")]);
        refused!(transact.transact_with(txn).await, ErrorKind::Closed, "transact");
    }
    ensure_eq!(names(&fixture.store, "").await?, ["dir/k"], "what another handle lists");
    Ok(())
}

/// A list's error can come with the call or with the first item.
async fn listed(store: &impl Store) -> kv_core::Result<Vec<kv_core::Key>> {
    store.keys("dir").await
}

/// Catches a stream that ends without its error, and a cancelled one that panics.
async fn close_ends_watches(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let mut watches = Vec::new();
    for target in [WatchTarget::from(key("a")?), Prefix::new("b")?.into(), Prefix::root().into()] {
        watches.push(other.watch_with(target, WatchOptions::default()).await?);
    }
    // Each is waited on before the close and is woken by it.
    let mut ends = join_all(watches.into_iter().map(|mut watch| async move {
        let mut last = None;
        while let Some(event) = watch.next().await {
            last = Some(event);
        }
        last
    }));
    ensure!((&mut ends).now_or_never().is_none(), "watches of nothing ended");
    other.close().await?;
    for end in soon("the end of the watches", ends).await? {
        let Some(end) = end else { anyhow::bail!("a watch ended without saying why") };
        refused!(end, ErrorKind::Closed, "the last item of a watch");
    }
    Ok(())
}

async fn close_leaves_other_handles(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    let guard = lock(store, &key("lock")?).await?;
    let mut follower = Follower::now(store, k.parent()).await?;
    other.put(&k, "x").await?;
    other.close().await?;
    let version = store.put(&k, "y").await?;
    follower.until_version(&k, version).await?;
    ensure_eq!(entry(store, &k).await?.version, version, "the version");
    ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
    guard.unlock().await?;
    fixture.another().await?.put(&k, "z").await?;
    Ok(())
}

async fn dropped_last_clone_ends_watches(fixture: &Fixture) -> Result<()> {
    let dropped = fixture.untracked().await?;
    let mut watch = dropped.watch("").await?;
    let waiting = tokio::spawn(async move {
        let mut last = None;
        while let Some(event) = watch.next().await {
            last = Some(event);
        }
        last
    });
    drop(dropped);
    let end = soon("the end of the watch", waiting).await??;
    let Some(end) = end else { anyhow::bail!("the watch ended without saying why") };
    refused!(end, ErrorKind::Closed, "the last item of the watch");
    Ok(())
}

async fn dropping_outside_a_runtime(fixture: &Fixture) -> Result<()> {
    let dropped = fixture.untracked().await?;
    dropped.put("dir/k", "x").await?;
    let watch = dropped.watch("dir").await?;
    let guard = lock(&dropped, &key("lock")?).await?;
    let listing = dropped.list("dir").await?;
    let lost = guard.lost();
    let thread = std::thread::spawn(move || {
        drop(lost);
        drop(listing);
        drop(watch);
        drop(guard);
        drop(dropped);
    });
    let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
    ensure!(ended.is_ok(), "dropping outside a runtime panicked");
    let bound = fixture.limits().session_bound + PATIENCE;
    let options = LockOptions::default().with_wait(LockWait::UpTo(bound));
    fixture.store.lock_with(&key("lock")?, options).await?.unlock().await?;
    Ok(())
}

async fn server_tells_product_and_version(fixture: &Fixture) -> Result<()> {
    let server = fixture.store.server().await?;
    ensure!(!server.product.trim().is_empty(), "no product is told: {server:?}");
    ensure!(server.version.chars().any(|c| c.is_ascii_digit()), "no version is told: {server:?}");
    Ok(())
}

async fn calls_at_once_get_their_own_answers(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let calls = (0..64).map(|at| {
        let store = Arc::clone(store);
        at_once(async move {
            let k = key(&format!("dir/{at}"))?;
            for round in 0..10 {
                let value = format!("{at}-{round}");
                let version = store.put(&k, value.clone()).await?;
                let found = entry(&store, &k).await?;
                ensure_eq!(
                    (found.key, found.version, found.value),
                    (k.clone(), version, value.into()),
                    "get"
                );
                ensure_eq!(store.get(format!("none/{at}")).await?, None, "an absent key");
            }
            Ok(())
        })
    });
    try_join_all(calls.collect::<Vec<_>>()).await?;
    ensure_eq!(names(store, "dir").await?.len(), 64, "the number of entries");
    Ok(())
}

/// Ends by its deadline; whether it answers in so short a time is another matter.
async fn ends<T>(what: &str, call: impl Future<Output = kv_core::Result<T>>) -> Result<()> {
    match within(GRACE * 3, what, call).await? {
        Ok(_) => Ok(()),
        Err(error) if error.is_transient() => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context(format!("{what} with a short deadline"))),
    }
}

/// Catches calls without a deadline.
async fn calls_end_by_their_deadline(fixture: &Fixture) -> Result<()> {
    let (store, k, root) = (&fixture.store, key("dir/k")?, Prefix::root());
    store.put(&k, "x").await?;
    for short in [Duration::from_nanos(1), Duration::from_millis(1), Duration::from_millis(20)] {
        ends("get", store.get_with(&k, GetOptions::default().with_timeout(short))).await?;
        ends("put", store.put_with(&k, "y", PutOptions::default().with_timeout(short))).await?;
        ends("delete", store.delete_with(&k, DeleteOptions::default().with_timeout(short))).await?;
        ends("list", store.list_with(&root, ListOptions::default().with_timeout(short))).await?;
        let options = DeleteTreeOptions::default().with_timeout(short);
        ends("delete_tree", store.delete_tree_with(&root, options)).await?;
        let options = WatchOptions::default().with_timeout(short);
        ends("watch", store.watch_with(root.clone(), options)).await?;
        let options = LockOptions::default().with_timeout(short).with_wait(LockWait::Try);
        match within(GRACE * 3, "lock", store.lock_with(&key("lock")?, options)).await? {
            Ok(guard) => guard.unlock().await?,
            // What an earlier try could not finish may still be there for a moment.
            Err(error) if error.is_transient() || *error.kind() == ErrorKind::Locked => {}
            Err(error) => return Err(anyhow::Error::new(error).context("lock with a short deadline")),
        }
        if let Some(transact) = store.as_transact() {
            let txn = Txn::always().then([TxnOp::put(&k, "z")]).with_timeout(short);
            ends("transact", transact.transact_with(txn)).await?;
        }
    }
    // What was not known to be applied may be applied after its call ended, but not for long.
    until(GRACE * 3, "a put that stays", || async {
        let version = store.put(&k, "after").await?;
        Ok(store.get(&k).await?.is_some_and(|entry| entry.version == version))
    })
    .await
}

/// Runs a future for a random moment and drops it where it is; every other time as soon as it waits.
async fn drop_early<T>(random: &mut fastrand::Rng, future: impl Future<Output = T>) {
    if random.bool() {
        let _ = future.now_or_never();
        return;
    }
    let _ = tokio::time::timeout(Duration::from_micros(random.u64(0..1500)), future).await;
}

/// The moment such a time ends at cannot be represented.
async fn times_without_end_are_taken(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for (at, long) in [Duration::MAX, Duration::from_secs(1 << 40)].into_iter().enumerate() {
        let (k, l) = (key(&format!("dir/{at}"))?, key(&format!("lock/{at}"))?);
        let options = WatchOptions::default().with_timeout(long);
        let mut follower = Follower::start(store, k.clone(), options).await?;
        let version = store.put_with(&k, "x", PutOptions::default().with_timeout(long)).await?.version;
        follower.until_version(&k, version).await?;
        let found = store.get_with(&k, GetOptions::default().with_timeout(long)).await?;
        ensure_eq!(found.map(|entry| entry.version), Some(version), "the version of {k:?}");
        if let Some(transact) = store.as_transact() {
            let txn = Txn::always().then([TxnOp::get(&k)]).with_timeout(long);
            ensure!(transact.transact_with(txn).await?.succeeded, "a transaction without conditions");
        }
        let listed = list(store, "dir", ListOptions::default().with_timeout(long)).await?;
        ensure_eq!(listed.len(), 1, "how many entries are listed");
        let options =
            LockOptions::default().with_timeout(long).with_wait(LockWait::UpTo(long)).with_max_hold(long);
        let guard = store.lock_with(&l, options.clone()).await?;
        let waiting = at_once({
            let (other, l) = (Arc::clone(&other), l.clone());
            async move { other.lock_with(&l, options).await }
        });
        settle(&other).await?;
        ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
        guard.unlock().await?;
        soon("the released lock", waiting).await??.unlock().await?;
        store.delete_with(&k, DeleteOptions::default().with_timeout(long)).await?;
        let options = DeleteTreeOptions::default().with_timeout(long);
        ensure_eq!(store.delete_tree_with(&Prefix::new("dir")?, options).await?, 0, "what was left to go");
    }
    Ok(())
}

async fn dropped_futures_harm_nothing(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let mut random = fixture.random();
    let guard = lock(store, &key("held")?).await?;
    let mut follower = Follower::synced(store, Prefix::root()).await?;
    for round in 0..60 {
        let (put, other) = (format!("dir/{}", round % 5), format!("dir/{}", (round + 1) % 5));
        drop_early(&mut random, store.put(put, format!("{round}"))).await;
        drop_early(&mut random, store.get(&k)).await;
        drop_early(&mut random, store.delete(other)).await;
        drop_early(&mut random, store.keys("")).await;
        drop_early(&mut random, store.watch("dir")).await;
        drop_early(&mut random, store.lock("held")).await;
        drop_early(&mut random, store.lock_holder(&k)).await;
        drop_early(&mut random, store.server()).await;
        if let Some(transact) = store.as_transact() {
            let txn = Txn::always().then([TxnOp::put(&k, format!("{round}"))]);
            drop_early(&mut random, transact.transact_with(txn)).await;
        }
    }
    ensure!(guard.is_held(), "a lock was lost: {:?}", guard.loss());
    let begun = Instant::now();
    until(PATIENCE, "the state should settle, and a watch tell it", || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (one, two) = (store.entries("").await?, store.entries("").await?);
        Ok(one == two && begun.elapsed() > Duration::from_millis(300))
    })
    .await?;
    let version = store.put(&k, "after").await?;
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    follower.until_version(&k, version).await?;
    follower.until_state(&store.entries("").await?).await?;
    guard.unlock().await?;
    Ok(())
}

async fn dropped_write_is_whole_or_nothing(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let mut random = fixture.random();
    let size = fixture.limits().max_value.min(64 << 10);
    store.put(&k, vec![0; size]).await?;
    for round in 1..60 {
        drop_early(&mut random, store.put(&k, vec![round; size])).await;
        let found = entry(store, &k).await?;
        let first = found.value.first().copied().unwrap_or_default();
        ensure!(
            found.value.len() == size && found.value.iter().all(|byte| *byte == first) && first <= round,
            "round {round}: {} bytes beginning with {first}",
            found.value.len()
        );
    }
    Ok(())
}

async fn dropped_lock_is_released(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut random = fixture.random();
    for round in 0..40 {
        let k = key(&format!("lock/{}", round % 4))?;
        drop_early(&mut random, store.lock(&k)).await;
    }
    for at in 0..4 {
        // Whatever the dropped futures had begun, nobody holds it for good.
        lock(&other, &key(&format!("lock/{at}"))?).await?.unlock().await?;
    }
    Ok(())
}
