//! Fenced writes: applied only while their lock is held.

use anyhow::{Result, ensure};
use kv_core::implement::Transact;
use kv_core::{
    Applied, Condition, DeleteOptions, ErrorKind, Fence, Precondition, PutOptions, Store, StoreExt, Txn,
    TxnOp,
};

use crate::case::needs::{FENCED_WRITES, TRANSACTIONS};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{ensure_eq, entry, key, lock, refused, soon};

pub(super) const CASES: &[Case] = &[
    case!(
        fenced_writes_apply_while_held,
        "A fenced put and delete are applied while the lock is held.",
        FENCED_WRITES
    ),
    case!(fenced_writes_are_refused_after_release, "After release a fenced write is NotHeld.", FENCED_WRITES),
    case!(fenced_writes_are_refused_after_removal, "After removal a fenced write is NotHeld.", FENCED_WRITES),
    case!(
        fence_of_the_old_holder_is_refused,
        "The next holder's lock does not let the old fence in.",
        FENCED_WRITES
    ),
    case!(fence_works_on_any_handle, "A fence is worth the same on every handle.", FENCED_WRITES),
    case!(
        fence_works_in_any_namespace,
        "A fence is of its lock, whatever namespace is written to.",
        FENCED_WRITES
    ),
    case!(fence_and_precondition_both_count, "A fenced write needs its precondition too.", FENCED_WRITES),
    case!(fence_refuses_with_close, "When the holder's handle closes, its fence is refused.", FENCED_WRITES),
    case!(
        fenced_transaction_applies_while_held,
        "A fenced transaction is applied only while the lock is held.",
        FENCED_WRITES,
        TRANSACTIONS,
    ),
];

fn put(fence: &Fence) -> PutOptions {
    PutOptions::default().with_fence(fence.clone())
}

fn delete(fence: &Fence) -> DeleteOptions {
    DeleteOptions::default().with_fence(fence.clone())
}

async fn fenced_writes_apply_while_held(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("dir/guarded")?);
    let guard = lock(store, &key("lock")?).await?;
    let version = store.put_with(&k, "1", put(&guard.fence())).await?.version;
    ensure_eq!(entry(store, &k).await?.version, version, "the version of the fenced put");
    let options = put(&guard.fence()).with_precondition(Precondition::At(version));
    let version = store.put_with(&k, "2", options).await?.version;
    let deleted = store.delete_with(&k, delete(&guard.fence()).with_previous()).await?;
    ensure_eq!(deleted.previous.map(|entry| entry.version), Some(version), "what the fenced delete deleted");
    ensure_eq!(store.get(&k).await?, None, "the deleted key");
    ensure!(guard.is_held(), "the lock was lost: {:?}", guard.loss());
    guard.unlock().await?;
    Ok(())
}

/// Neither put nor delete with this fence may be applied.
async fn must_be_refused(fixture: &Fixture, fence: &Fence, what: &str) -> Result<()> {
    let (store, absent, existing) = (&fixture.store, key("dir/absent")?, key("dir/existing")?);
    store.put(&existing, "before").await?;
    let before = entry(store, &existing).await?;
    let errors = [
        refused!(store.put_with(&absent, "x", put(fence)).await, ErrorKind::NotHeld { .. }, "a put {what}"),
        refused!(store.put_with(&existing, "x", put(fence)).await, ErrorKind::NotHeld { .. }, "a put {what}"),
        refused!(
            store.delete_with(&existing, delete(fence)).await,
            ErrorKind::NotHeld { .. },
            "a delete {what}"
        ),
    ];
    for error in errors {
        ensure_eq!(error.applied(), Applied::No, "whether it was applied");
    }
    ensure_eq!(store.get(&absent).await?, None, "the absent key");
    ensure_eq!(entry(store, &existing).await?, before, "the existing entry");
    Ok(())
}

async fn fenced_writes_are_refused_after_release(fixture: &Fixture) -> Result<()> {
    let guard = lock(&fixture.store, &key("lock")?).await?;
    let fence = guard.fence();
    guard.unlock().await?;
    must_be_refused(fixture, &fence, "after release").await
}

async fn fenced_writes_are_refused_after_removal(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    let guard = lock(store, &k).await?;
    other.delete_tree(&k).await?;
    must_be_refused(fixture, &guard.fence(), "after removal").await
}

/// Catches writes of a holder that has lost its lock: holders of Consul locks overlap until each write
/// carries its session.
async fn fence_of_the_old_holder_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("lock")?);
    // Once to another handle, and once to the same.
    for next in [&other, store] {
        let old = lock(store, &k).await?.fence();
        other.delete_tree(&k).await?;
        let new = soon("the lock", next.lock(&k)).await??;
        must_be_refused(fixture, &old, "with the fence of the old holder").await?;
        store.put_with(&key("dir/new")?, "x", put(&new.fence())).await?;
        new.unlock().await?;
    }
    Ok(())
}

async fn fence_works_on_any_handle(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("guarded")?);
    let guard = lock(store, &key("lock")?).await?;
    let fence = guard.fence();
    let version = other.put_with(&k, "x", put(&fence)).await?.version;
    crate::steps::sees(fixture, "the fenced put of the other handle", || async {
        Ok(store.get(&k).await?.is_some_and(|entry| entry.version == version))
    })
    .await?;
    guard.unlock().await?;
    refused!(other.put_with(&k, "y", put(&fence)).await, ErrorKind::NotHeld { .. }, "a put after release");
    Ok(())
}

/// A lock of the same name in the writer's own namespace is another lock.
async fn fence_works_in_any_namespace(fixture: &Fixture) -> Result<()> {
    let (store, below, k) = (&fixture.store, fixture.another_below("below").await?, key("lock")?);
    let of_below = lock(&below, &k).await?;
    let fence = of_below.fence();
    let version = store.put_with(&key("guarded")?, "x", put(&fence)).await?.version;
    ensure_eq!(entry(store, &key("guarded")?).await?.version, version, "the version of the fenced put");
    let own = lock(store, &k).await?;
    below.put_with(&key("guarded")?, "x", put(&own.fence())).await?;
    of_below.unlock().await?;
    must_be_refused(fixture, &fence, "while the writer's own lock of that name is held").await?;
    own.unlock().await?;
    Ok(())
}

async fn fence_and_precondition_both_count(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("guarded")?);
    let guard = lock(store, &key("lock")?).await?;
    let fence = guard.fence();
    let update = put(&fence).with_precondition(Precondition::Present);
    refused!(store.put_with(&k, "x", update).await, ErrorKind::NotFound, "a fenced update");
    let version = store.put(&k, "1").await?;
    let create = put(&fence).with_precondition(Precondition::Absent);
    refused!(
        store.put_with(&k, "x", create).await,
        ErrorKind::AlreadyExists { current: Some(at) } if *at == version,
        "a fenced create over version {version}"
    );
    let other = delete(&fence).with_precondition(Precondition::Value("other".into()));
    refused!(
        store.delete_with(&k, other).await,
        ErrorKind::PreconditionFailed { current: Some(at) } if *at == version,
        "a fenced delete of another value"
    );
    guard.unlock().await?;
    let right = put(&fence).with_precondition(Precondition::At(version));
    refused!(store.put_with(&k, "x", right).await, ErrorKind::NotHeld { .. }, "a fenced put after release");
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    Ok(())
}

async fn fence_refuses_with_close(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let guard = lock(&other, &key("lock")?).await?;
    other.close().await?;
    must_be_refused(fixture, &guard.fence(), "after the holder's close").await
}

async fn fenced_transaction_applies_while_held(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("guarded")?);
    let guard = lock(store, &key("lock")?).await?;
    let fence = guard.fence();
    let txn = |value: &'static str| {
        Txn::when([Condition::absent(&k)])
            .then([TxnOp::put(&k, value)])
            .or_else([TxnOp::delete(&k)])
            .with_fence(fence.clone())
    };
    let Some(transact): Option<&dyn Transact> = store.as_transact() else {
        return Err(
            crate::case::Dishonest("transactions is declared, but as_transact() is None".into()).into()
        );
    };
    ensure!(transact.transact_with(txn("1")).await?.succeeded, "the conditions of the first hold");
    ensure!(!transact.transact_with(txn("2")).await?.succeeded, "the conditions of the second do not");
    ensure_eq!(store.get(&k).await?, None, "the key after both");
    guard.unlock().await?;
    refused!(
        transact.transact_with(txn("3")).await,
        ErrorKind::NotHeld { .. },
        "a transaction after release"
    );
    let version = store.put(&k, "4").await?;
    refused!(transact.transact_with(txn("5")).await, ErrorKind::NotHeld { .. }, "whatever the conditions");
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    Ok(())
}
