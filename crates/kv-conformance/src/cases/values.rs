//! Values: bytes of any kind and of every allowed size.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use kv_core::{
    Applied, Compare, Condition, DeleteOptions, ErrorKind, ListItem, ListOptions, LockOptions, LockWait,
    Measured, Power, Precondition, StoreExt, Txn, TxnOp,
};

use crate::case::{BeyondReach, Case, case};
use crate::fixture::Fixture;
use crate::steps::{at_once, ensure_eq, entry, key, list, put_if, refused};

pub(super) const CASES: &[Case] = &[
    case!(values_round_trip_byte_for_byte, "Values are bytes, any bytes."),
    case!(empty_value_is_not_absent, "An empty value is allowed and distinct from absent."),
    case!(largest_value_round_trips, "A value of exactly max_value bytes works."),
    case!(larger_value_is_refused, "Above max_value a put is TooLarge and changes nothing."),
    case!(
        larger_owner_or_compared_value_is_refused,
        "Above max_value a lock's owner value, or a value that is only compared, is TooLarge and changes nothing."
    ),
    case!(connection_survives_a_larger_value, "The connection survives a put above max_value."),
    case!(large_values_are_listed, "A list carries large values whole."),
];

/// More than any store here takes, and as much as a test should.
const MOST: usize = 16 << 20;

/// Catches values that are corrupted where they are not UTF-8, or cannot be read back where they hold 0x01.
async fn values_round_trip_byte_for_byte(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let every_byte: Vec<u8> = (0..=255).collect();
    let values: [&[u8]; 9] =
        [&every_byte, b"\0", b"\x01", b"\n", b"\xff\xfe", b"null", b"{\"a\":1}", b"%20+", " ü ".as_bytes()];
    for (at, value) in values.into_iter().enumerate() {
        let k = key(&format!("v/{at}"))?;
        store.put(&k, value.to_vec()).await?;
        ensure_eq!(entry(store, &k).await?.value, Bytes::copy_from_slice(value), "the value of {k:?}");
    }
    for (item, value) in list(store, "v", ListOptions::default()).await?.into_iter().zip(values) {
        let ListItem::Entry(entry) = item else { anyhow::bail!("expected an entry, found {item:?}") };
        ensure_eq!(entry.value, Bytes::copy_from_slice(value), "the listed value of {:?}", entry.key);
    }
    Ok(())
}

/// Catches an empty value that is refused, and an absent key that compares as the empty value.
async fn empty_value_is_not_absent(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    refused!(
        put_if(store, &k, "x", Precondition::Value(Bytes::new())).await,
        ErrorKind::PreconditionFailed { current: None },
        "a put over the empty value of an absent key"
    );
    let version = store.put(&k, "").await?;
    ensure_eq!(entry(store, &k).await?.value, Bytes::new(), "the empty value");
    refused!(store.create(&k, "x").await, ErrorKind::AlreadyExists { .. }, "a create over an empty value");
    ensure_eq!(list(store, "", ListOptions::default()).await?.len(), 1, "the number of entries");
    let over = put_if(store, &k, "", Precondition::Value(Bytes::new())).await?.version;
    ensure!(over > version, "a put over the empty value got version {over}, not above {version}");
    ensure!(store.delete(&k).await?, "an entry with an empty value should exist for delete");
    ensure_eq!(store.get(&k).await?, None, "the deleted entry");
    Ok(())
}

async fn largest_value_round_trips(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let value = random_bytes(fixture, fixture.limits().max_value.min(MOST));
    store.put(&k, value.clone()).await?;
    ensure!(entry(store, &k).await?.value == value, "{} bytes came back changed", value.len());
    put_if(store, &k, "small", Precondition::Value(value)).await?;
    Ok(())
}

fn random_bytes(fixture: &Fixture, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fixture.random().fill(&mut bytes);
    bytes.into()
}

/// Values above the limit: by one byte, and by far.
fn too_large(fixture: &Fixture) -> Result<[Bytes; 2]> {
    let max = fixture.limits().max_value;
    if max > 16 * MOST {
        return Err(BeyondReach(format!("a max_value of {max} bytes is more than a test can exceed")).into());
    }
    Ok([vec![7; max + 1].into(), vec![7; max + (10 << 20)].into()])
}

async fn larger_value_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, max) = (&fixture.store, fixture.limits().max_value);
    store.put("existing", "before").await?;
    let before = entry(store, &key("existing")?).await?;
    for value in too_large(fixture)? {
        for text in ["absent", "existing"] {
            let size = value.len();
            let error = refused!(
                store.put(text, value.clone()).await,
                ErrorKind::TooLarge { of: Measured::Value, size: told, max: limit } if (*told, *limit) == (size, max),
                "a put of {size} bytes where {max} are allowed"
            );
            ensure_eq!(error.applied(), Applied::No, "whether it was applied");
        }
    }
    ensure_eq!(store.get("absent").await?, None, "the absent key");
    ensure_eq!(entry(store, &before.key).await?, before, "the existing entry");
    Ok(())
}

/// Catches a lock that waits for ever because its record breaks the connection, and a limit that only
/// what is stored has to keep.
async fn larger_owner_or_compared_value_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, k, name) = (&fixture.store, key("k")?, key("lock")?);
    store.put(&k, "before").await?;
    let before = entry(store, &k).await?;
    for value in too_large(fixture)? {
        let compared = || Precondition::Value(value.clone());
        let size = value.len();
        refused!(
            put_if(store, &k, "after", compared()).await,
            ErrorKind::TooLarge { of: Measured::ComparedValue, .. },
            "a put compared with {size} bytes"
        );
        let delete = DeleteOptions::default().with_precondition(compared());
        refused!(
            store.delete_with(&k, delete).await,
            ErrorKind::TooLarge { of: Measured::ComparedValue, .. },
            "a delete compared with {size} bytes"
        );
        if fixture.capabilities().has(Power::Transactions) {
            let differs = Condition::value(&k, Compare::NotEqual, value.clone());
            let txn = Txn::when([differs]).then([TxnOp::put(&k, "after")]);
            refused!(
                store.transact(txn).await,
                ErrorKind::TooLarge { of: Measured::ComparedValue, .. },
                "a transaction compared with {size} bytes"
            );
        }
        let locking = LockOptions::default().with_owner(value.clone()).with_wait(LockWait::Try);
        let error = refused!(
            store.lock_with(&name, locking).await,
            ErrorKind::TooLarge { of: Measured::OwnerValue, .. },
            "a lock whose owner value has {size} bytes"
        );
        ensure_eq!(error.applied(), Applied::No, "whether it was applied");
    }
    ensure_eq!(entry(store, &k).await?, before, "the entry");
    ensure_eq!(store.lock_holder(&name).await?, None, "the lock's holder");
    Ok(())
}

/// Catches a transaction above 1 MB that drops the session's connection and every call on it.
async fn connection_survives_a_larger_value(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let guard = crate::steps::lock(store, &key("lock")?).await?;
    let large = too_large(fixture)?;
    let refusals = large.into_iter().map(|value| {
        let store = Arc::clone(store);
        at_once(async move {
            refused!(store.put("large", value).await, ErrorKind::TooLarge { .. }, "a put above max_value");
            Ok(())
        })
    });
    let others = (0..32).map(|at| {
        let store = Arc::clone(store);
        at_once(async move {
            let k = key(&format!("k/{at}"))?;
            let version = store.put(&k, "x").await?;
            ensure_eq!(entry(&store, &k).await?.version, version, "the version of {k:?}");
            Ok(())
        })
    });
    let (others, refusals): (Vec<_>, Vec<_>) = (others.collect(), refusals.collect());
    tokio::try_join!(try_join_all(refusals), try_join_all(others))?;
    ensure!(guard.is_held(), "a lock was lost: {:?}", guard.loss());
    guard.unlock().await?;
    Ok(())
}

async fn large_values_are_listed(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let value = random_bytes(fixture, fixture.limits().max_value.min(512 << 10));
    for at in 0..12 {
        store.put(format!("dir/{at:02}"), value.clone()).await?;
    }
    let entries = store.entries("dir").await?;
    ensure_eq!(entries.len(), 12, "the number of entries");
    ensure!(entries.iter().all(|entry| entry.value == value), "a listed value came back changed");
    Ok(())
}
