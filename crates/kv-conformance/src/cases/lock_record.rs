//! What a lock leaves on the server: no part of the data.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kv_core::{Applied, ErrorKind, Power, Precondition, Prefix, StoreExt, Txn, TxnOp};

use crate::case::{BeyondReach, Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{at_once, delete_if, ensure_eq, key, lock, names, put_if, refused, settle};

pub(super) const CASES: &[Case] = &[
    case!(lock_records_are_invisible, "Lock records are invisible to get, list and watch."),
    case!(lock_records_do_not_count, "Lock records are no entries: delete_tree does not count them."),
    case!(lock_records_refuse_writes, "A put or a delete of a lock's record is InvalidKey."),
];

/// Catches records of locks that lists and watches show.
async fn lock_records_are_invisible(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/k")?);
    for text in ["dir/k/child", "dir/___lock", "dir/lock"] {
        store.put(text, "x").await?;
    }
    let mut followers = Vec::new();
    for target in [Prefix::root(), Prefix::new("dir")?, k.as_prefix()] {
        followers.push(Follower::synced(store, target).await?);
    }
    let guard = lock(store, &k).await?;
    let waiting = at_once({
        let (other, k) = (Arc::clone(&other), k.clone());
        async move { other.lock(&k).await }
    });
    // While one holds and one waits.
    settle(&other).await?;
    ensure_eq!(names(store, "").await?, ["dir/___lock", "dir/k/child", "dir/lock"], "the list");
    ensure_eq!(names(store, "dir/k").await?, ["dir/k/child"], "the list below the lock");
    let level: Vec<String> =
        store.children("dir/k").await?.iter().map(|item| item.path().to_owned()).collect();
    ensure_eq!(level, ["dir/k/child"], "one level below the lock");
    let level: Vec<String> = store.children("dir").await?.iter().map(|item| item.path().to_owned()).collect();
    ensure_eq!(level, ["dir/___lock", "dir/k", "dir/lock"], "one level above the lock");
    let seen = Follower::synced(store, k.as_prefix()).await?;
    ensure_eq!(seen.named(), ["dir/k/child"], "what a watch tells at first");
    drop(waiting);
    guard.unlock().await?;
    let child = key("dir/k/child")?;
    let version = store.put(&child, "y").await?;
    for follower in &mut followers {
        follower.until_version(&child, version).await?;
        let changes: Vec<String> =
            follower.named().into_iter().filter(|name| name != "dir/k/child").collect();
        ensure!(
            changes.iter().all(|name| name == "dir/___lock" || name == "dir/lock"),
            "a watch told of {changes:?}"
        );
    }
    Ok(())
}

async fn lock_records_do_not_count(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/k")?);
    let _guard = lock(store, &k).await?;
    let _alone = lock(store, &key("alone/k")?).await?;
    store.put("dir/k/child", "x").await?;
    store.put("dir/x", "x").await?;
    ensure_eq!(store.delete_tree("alone").await?, 0, "how many entries went where only a lock was");
    ensure_eq!(store.delete_tree("dir").await?, 2, "how many entries went");
    Ok(())
}

/// A fence carries the store's own name of what holds the lock. Where that is a record below the lock's
/// key, it has a key too.
async fn lock_records_refuse_writes(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("dir/lock")?);
    let guard = lock(store, &k).await?;
    let fence = guard.fence();
    let Some(record) = fixture.key_within(fence.record()).filter(|record| k.as_prefix().covers(record))
    else {
        return Err(BeyondReach("its fences name no record below the lock's key".to_owned()).into());
    };
    ensure_eq!(store.get(&record).await?, None, "what is under the record's key");
    for store in [store, &other] {
        let mut errors = Vec::new();
        for precondition in [Precondition::Any, Precondition::Absent, Precondition::Present] {
            let put = put_if(store, &record, "x", precondition.clone()).await;
            errors.push(refused!(put, ErrorKind::InvalidKey { .. }, "a put of the record, {precondition:?}"));
            let delete = delete_if(store, &record, precondition.clone()).await;
            errors.push(refused!(
                delete,
                ErrorKind::InvalidKey { .. },
                "a delete of the record, {precondition:?}"
            ));
        }
        if fixture.capabilities().has(Power::Transactions) {
            for op in [TxnOp::put(&record, "x"), TxnOp::delete(&record)] {
                let txn = store.transact(Txn::always().then([op])).await;
                errors.push(refused!(
                    txn,
                    ErrorKind::InvalidKey { .. },
                    "a transaction that writes the record"
                ));
            }
        }
        for error in errors {
            ensure_eq!(error.applied(), Applied::No, "whether it was applied");
        }
    }
    ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
    guard.unlock().await?;
    Ok(())
}
