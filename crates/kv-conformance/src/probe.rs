//! Refusals: what a store declares absent it must refuse, with `Unsupported` and before any change.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, ensure};
use kv_core::{
    Access, AdminExt, Applied, Condition, Consistency, DeleteOptions, ErrorKind, Expiry, GetOptions, Key,
    ListOptions, Power, Precondition, Prefix, PutOptions, Store, StoreExt, Txn, TxnOp, WatchEvent,
    WatchOptions,
};

use crate::case::Dishonest;
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{delete_if, entry, key, lock, put_expiring, put_if, until_gone};

/// Checks that the store refuses `power`, which it declares absent.
pub(crate) async fn refuses(fixture: &Fixture, power: Power) -> Result<()> {
    match power {
        Power::Transactions => transactions(fixture).await,
        Power::Ttl => expiry(fixture, power, Expiry::Ttl(fixture.short_ttl())).await,
        Power::SessionKeys => expiry(fixture, power, Expiry::Session).await,
        Power::ExpiryChange => expiry_change(fixture).await,
        Power::KeepExpiry => expiry(fixture, power, Expiry::Keep).await,
        Power::ExpiryWithChildren => expiry_with_children(fixture).await,
        Power::FencedWrites => fenced_writes(fixture).await,
        Power::WatchHistory => watch_history(fixture).await,
        Power::StaleReads => stale_reads(fixture).await,
        Power::ListExpiry => list_expiry(fixture).await,
        Power::LockView => lock_view(fixture).await,
        Power::History => history(fixture).await,
        Power::Cluster => cluster(fixture).await,
        Power::Storage => storage(fixture).await,
        Power::Access => access(fixture).await,
        other => Err(anyhow::anyhow!("this suite does not know the power {}: update it", other.name())),
    }
}

/// The call must be `Unsupported` and sure that nothing was applied.
async fn unsupported<T: Debug>(
    power: Power,
    what: &str,
    call: impl Future<Output = kv_core::Result<T>>,
) -> Result<()> {
    let name = power.name();
    match call.await {
        Ok(answer) => {
            Err(Dishonest(format!("{name} is declared absent, but {what} worked: {answer:?}")).into())
        }
        Err(error) if !matches!(error.kind(), ErrorKind::Unsupported { .. }) => {
            Err(Dishonest(format!("{name} is declared absent, but {what} was not Unsupported: {error}"))
                .into())
        }
        Err(error) if error.applied() != Applied::No => {
            Err(Dishonest(format!("{what} was refused, but may have been applied: {error}")).into())
        }
        Err(_) => Ok(()),
    }
}

/// The refused call must have left `key` alone.
async fn unchanged(store: &impl Store, key: &Key, before: Option<&kv_core::Entry>, what: &str) -> Result<()> {
    let after = store.get(key).await?;
    if after.as_ref() == before {
        return Ok(());
    }
    Err(Dishonest(format!("{what} was refused and changed {key:?} from {before:?} to {after:?}")).into())
}

async fn transactions(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::Transactions);
    let k = key("refused")?;
    let txn = Txn::when([Condition::absent(&k)]).then([TxnOp::put(&k, "x")]);
    if store.as_transact().is_some() {
        return Err(Dishonest("transactions is declared absent, but as_transact() has them".into()).into());
    }
    unsupported(power, "a transaction", store.transact(txn)).await?;
    unchanged(store, &k, None, "a transaction").await
}

/// On an absent and on an existing key.
async fn expiry(fixture: &Fixture, power: Power, expiry: Expiry) -> Result<()> {
    let store = &fixture.store;
    let (absent, existing) = (key("absent")?, key("existing")?);
    store.put(&existing, "before").await?;
    let before = entry(store, &existing).await?;
    for (k, before) in [(&absent, None), (&existing, Some(&before))] {
        let what = format!("a put with {expiry:?} on {k:?}");
        unsupported(power, &what, put_expiring(store, k, "x", expiry)).await?;
        unchanged(store, k, before, &what).await?;
    }
    Ok(())
}

/// The ways an entry can expire here.
fn expiries(fixture: &Fixture, ttl: Duration) -> Vec<Expiry> {
    let capabilities = fixture.capabilities();
    let session = capabilities.has(Power::SessionKeys).then_some(Expiry::Session);
    let ttl = capabilities.has(Power::Ttl).then_some(Expiry::Ttl(ttl));
    session.into_iter().chain(ttl).collect()
}

/// Expiring keys must not become permanent, nor permanent ones expiring.
async fn expiry_change(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::ExpiryChange);
    for (at, expiry) in expiries(fixture, fixture.long_ttl()).into_iter().enumerate() {
        let (expiring, permanent) = (key(&format!("expiring-{at}"))?, key(&format!("permanent-{at}"))?);
        put_expiring(store, &expiring, "before", expiry).await?;
        let before = entry(store, &expiring).await?;
        let what = format!("a permanent put over one with {expiry:?}");
        unsupported(power, &what, store.put(&expiring, "x")).await?;
        unchanged(store, &expiring, Some(&before), &what).await?;

        store.put(&permanent, "before").await?;
        let before = entry(store, &permanent).await?;
        let what = format!("a put with {expiry:?} over a permanent one");
        unsupported(power, &what, put_expiring(store, &permanent, "x", expiry)).await?;
        unchanged(store, &permanent, Some(&before), &what).await?;
    }
    Ok(())
}

/// Neither a put below an expiring key, nor an expiring put on a key with others below it.
async fn expiry_with_children(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::ExpiryWithChildren);
    for (at, expiry) in expiries(fixture, fixture.long_ttl()).into_iter().enumerate() {
        let (parent, child) = (key(&format!("expiring-{at}"))?, key(&format!("expiring-{at}/child"))?);
        put_expiring(store, &parent, "x", expiry).await?;
        let what = format!("a put below a key with {expiry:?}");
        unsupported(power, &what, store.put(&child, "x")).await?;
        unchanged(store, &child, None, &what).await?;

        let (parent, child) = (key(&format!("parent-{at}"))?, key(&format!("parent-{at}/child"))?);
        store.put(&child, "x").await?;
        let what = format!("a put with {expiry:?} above an existing key");
        unsupported(power, &what, put_expiring(store, &parent, "x", expiry)).await?;
        unchanged(store, &parent, None, &what).await?;
    }
    Ok(())
}

async fn fenced_writes(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::FencedWrites);
    let guard = lock(store, &key("lock")?).await?;
    let k = key("guarded")?;
    let put = PutOptions::default().with_fence(guard.fence());
    unsupported(power, "a fenced put", store.put_with(&k, "x", put)).await?;
    unchanged(store, &k, None, "a fenced put").await?;

    store.put(&k, "before").await?;
    let before = entry(store, &k).await?;
    let delete = DeleteOptions::default().with_fence(guard.fence());
    unsupported(power, "a fenced delete", store.delete_with(&k, delete)).await?;
    unchanged(store, &k, Some(&before), "a fenced delete").await?;

    if let Some(transact) = store.as_transact() {
        let txn = Txn::always().then([TxnOp::put(&k, "x")]).with_fence(guard.fence());
        unsupported(power, "a fenced transaction", transact.transact_with(txn)).await?;
        unchanged(store, &k, Some(&before), "a fenced transaction").await?;
    }
    Ok(())
}

/// Without history a watch from an older version is not refused: it delivers `Resync`, the state and
/// `Synced`.
async fn watch_history(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let (kept, gone) = (key("dir/kept")?, key("dir/gone")?);
    let start = store.put(&kept, "1").await?;
    store.put(&gone, "1").await?;
    let last = store.put(&kept, "2").await?;
    delete_if(store, &gone, Precondition::Any).await?;
    // Where reads are not linearizable the state is read when it has arrived.
    until_gone(store, &gone, crate::fixture::PATIENCE).await?;

    let options = WatchOptions::default().with_from(start);
    let mut follower = Follower::start(store, Prefix::new("dir")?, options).await?;
    let first = follower.next("Resync").await?;
    if first != WatchEvent::Resync {
        let why = format!("watch_history is declared absent, but a watch from {start} began with {first:?}");
        return Err(Dishonest(why).into());
    }
    follower.until("Synced", |follower| !follower.syncing).await?;
    let state: Vec<_> = follower.state.entries().map(|entry| (entry.key.as_str(), entry.version)).collect();
    ensure!(
        state == [("dir/kept", last)],
        "after Resync the whole state should have come, which is {kept:?} at {last}, not {state:?}"
    );
    let next = put_if(store, &kept, "3", Precondition::Any).await?.version;
    follower.until_version(&kept, next).await
}

async fn stale_reads(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::StaleReads);
    let k = key("k")?;
    store.put(&k, "x").await?;
    let get = GetOptions::default().with_consistency(Consistency::Stale);
    unsupported(power, "a stale get", store.get_with(&k, get)).await?;
    let list = ListOptions::default().with_consistency(Consistency::Stale);
    unsupported(power, "a stale list", store.list_with(&Prefix::root(), list)).await
}

async fn list_expiry(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("dir/k", "x").await?;
    let telling = ListOptions::default().with_expiry();
    unsupported(
        Power::ListExpiry,
        "a list that tells expiries",
        store.list_with(&Prefix::new("dir")?, telling),
    )
    .await
}

async fn lock_view(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::LockView);
    if store.as_lock_view().is_some() {
        return Err(Dishonest("lock_view is declared absent, but as_lock_view() has it".into()).into());
    }
    let k = key("lock")?;
    let guard = lock(store, &k).await?;
    unsupported(power, "a lock watch", store.watch_lock(&k)).await?;
    unsupported(power, "a list of locks", store.locks("")).await?;
    unsupported(power, "breaking a lock", store.break_lock(&k, guard.token())).await?;
    ensure!(guard.is_held(), "breaking a lock was refused, and it is lost: {:?}", guard.loss());
    Ok(())
}

async fn history(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::History);
    if store.as_history().is_some() {
        return Err(Dishonest("history is declared absent, but as_history() has it".into()).into());
    }
    let at = store.put("k", "x").await?;
    unsupported(power, "a get of the past", store.get_at("k", at)).await?;
    unsupported(power, "a list of the past", store.list_at("", at)).await?;
    unsupported(power, "the versions of a key", store.key_versions("k")).await?;
    unsupported(power, "a compaction", store.compact(at)).await
}

/// Such a power must not be reachable.
fn unreachable(power: Power, is_there: bool) -> Result<()> {
    let name = power.name();
    if is_there {
        return Err(Dishonest(format!("{name} is declared absent, but as_{name}() has it")).into());
    }
    Ok(())
}

async fn cluster(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::Cluster);
    unreachable(power, store.as_cluster().is_some())?;
    unsupported(power, "a list of the members", store.members()).await?;
    unsupported(power, "a change of endpoints", store.set_endpoints(["127.0.0.1:1"])).await?;
    unsupported(power, "the removal of a member", store.remove_member_named("nobody")).await
}

async fn storage(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::Storage);
    unreachable(power, store.as_storage().is_some())?;
    unsupported(power, "a look at sizes", store.sizes()).await
}

async fn access(fixture: &Fixture) -> Result<()> {
    let (store, power) = (&fixture.store, Power::Access);
    unreachable(power, store.as_access().is_some())?;
    unsupported(power, "a list of the users", store.users()).await?;
    unsupported(power, "a right", store.grant("nobody", Access::Read, "")).await
}
