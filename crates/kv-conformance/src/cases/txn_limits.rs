//! Transactions that are refused, before any I/O, and the largest that are not.

use anyhow::{Result, ensure};
use bytes::Bytes;
use kv_core::{Applied, Condition, Error, ErrorKind, Expiry, Measured, StoreExt, Txn, TxnOp, TxnResult};

use crate::case::needs::{TRANSACTIONS, TTL};
use crate::case::{BeyondReach, Case, Dishonest, case};
use crate::fixture::Fixture;
use crate::steps::{ensure_eq, entry, key, names, refused};

pub(super) const CASES: &[Case] = &[
    case!(transact_power_is_declared, "as_transact() is there if and only if transactions are declared."),
    case!(txn_writes_no_key_twice, "A key written twice in one branch is refused.", TRANSACTIONS),
    case!(txn_may_write_a_key_in_each_branch, "A key may be written once in each branch.", TRANSACTIONS),
    case!(txn_of_too_many_ops_is_refused, "More than max_txn_ops is TooLarge.", TRANSACTIONS),
    case!(txn_of_the_most_ops_works, "A transaction of exactly max_txn_ops works.", TRANSACTIONS),
    case!(txn_of_too_many_bytes_is_refused, "More than max_txn_bytes is TooLarge.", TRANSACTIONS),
    case!(txn_of_the_most_bytes_works, "A transaction of exactly max_txn_bytes works.", TRANSACTIONS),
    case!(
        txn_value_too_large_is_refused,
        "A value above max_value is TooLarge in a transaction.",
        TRANSACTIONS
    ),
    case!(
        txn_ttl_outside_the_range_is_refused,
        "A time to live outside the range is TtlOutOfRange in a transaction.",
        TRANSACTIONS,
        TTL,
    ),
];

/// The most that a test sends or builds.
const MOST: usize = 64 << 20;

async fn transact_power_is_declared(fixture: &Fixture) -> Result<()> {
    let declared = TRANSACTIONS.is_met(fixture.capabilities());
    let there = fixture.store.as_transact().is_some();
    if declared != there {
        return Err(
            Dishonest(format!("transactions declared: {declared}, as_transact() there: {there}")).into()
        );
    }
    Ok(())
}

/// The key that no refused transaction may touch.
async fn untouched(fixture: &Fixture) -> Result<()> {
    ensure_eq!(names(&fixture.store, "").await?, [""; 0], "the list after refused transactions");
    Ok(())
}

fn definite(error: &Error) -> Result<()> {
    ensure_eq!(error.applied(), Applied::No, "whether it was applied");
    Ok(())
}

async fn txn_writes_no_key_twice(fixture: &Fixture) -> Result<()> {
    let (store, k, other) = (&fixture.store, key("k")?, key("other")?);
    let twice = [
        [TxnOp::put(&k, "1"), TxnOp::put(&k, "2")],
        [TxnOp::put(&k, "1"), TxnOp::delete(&k)],
        [TxnOp::delete(&k), TxnOp::put(&k, "1")],
    ];
    for [first, second] in twice {
        let ops = [first, TxnOp::put(&other, "x"), second];
        let branches = [
            Txn::always().then(ops.clone()),
            Txn::when([Condition::present(&k)]).or_else(ops.clone()),
            // Also in the branch that would not run.
            Txn::always().then([TxnOp::put(&other, "x")]).or_else(ops),
        ];
        for txn in branches {
            let what = format!("{txn:?}");
            let error = refused!(store.transact(txn).await, ErrorKind::InvalidArgument { .. }, "{what}");
            definite(&error)?;
        }
    }
    untouched(fixture).await
}

async fn txn_may_write_a_key_in_each_branch(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let txn = || {
        Txn::when([Condition::absent(&k)])
            .then([TxnOp::get(&k), TxnOp::put(&k, "then"), TxnOp::get(&k)])
            .or_else([TxnOp::put(&k, "else")])
    };
    for expected in ["then", "else"] {
        let _ = store.transact(txn()).await?;
        ensure_eq!(entry(store, &k).await?.value, Bytes::from(expected), "the value");
    }
    Ok(())
}

fn gets(count: usize) -> Result<Vec<TxnOp>> {
    (0..count).map(|at| Ok(TxnOp::get(format!("{at}"))?)).collect()
}

/// The declared limit, unless a test cannot reach it.
fn max_ops(fixture: &Fixture) -> Result<usize> {
    let max = fixture.limits().max_txn_ops;
    match max {
        ..=20_000 => Ok(max),
        _ => Err(BeyondReach(format!("a max_txn_ops of {max} is more than a test builds")).into()),
    }
}

async fn txn_of_too_many_ops_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, max, k) = (&fixture.store, max_ops(fixture)?, key("k")?);
    let put = [TxnOp::put(&k, "x")];
    let too_many = [
        Txn::always().then(put.clone()).then(gets(max)?),
        Txn::when([Condition::absent(&k)]).then(put.clone()).or_else(gets(max)?),
        Txn::when(vec![Condition::absent(&k); max]).then(put),
    ];
    for txn in too_many {
        let error = refused!(
            store.transact(txn).await,
            ErrorKind::TooLarge { of: Measured::TxnOps, size, max: limit } if (*size, *limit) == (max + 1, max),
            "a transaction of {} where {max} are allowed", max + 1
        );
        definite(&error)?;
    }
    untouched(fixture).await
}

async fn txn_of_the_most_ops_works(fixture: &Fixture) -> Result<()> {
    let (store, max) = (&fixture.store, max_ops(fixture)?);
    let conditions = max / 3;
    let absent = (0..conditions).map(|at| Ok(Condition::absent(key(&format!("none/{at}"))?)));
    let puts = (conditions..max).map(|at| Ok(TxnOp::put(key(&format!("dir/{at}"))?, "x")));
    let txn = Txn::when(absent.collect::<Result<Vec<_>>>()?).then(puts.collect::<Result<Vec<_>>>()?);
    let bytes = txn.byte_count();
    if bytes > fixture.limits().max_txn_bytes {
        return Err(
            BeyondReach(format!("{max} operations take {bytes} bytes, more than max_txn_bytes")).into()
        );
    }
    let result = store.transact(txn).await?;
    ensure!(result.succeeded, "the conditions hold");
    ensure_eq!(result.outcomes.len(), max - conditions, "the number of outcomes");
    ensure_eq!(names(store, "").await?.len(), max - conditions, "the number of entries");
    Ok(())
}

/// Puts that make up `bytes` bytes of keys and values, as far as operations go.
fn puts_of(fixture: &Fixture, bytes: usize) -> Result<Txn> {
    let limits = fixture.limits();
    let (mut ops, mut left) = (Vec::new(), bytes);
    while left > 0 && ops.len() < limits.max_txn_ops {
        let k = key(&format!("dir/{:05}", ops.len()))?;
        let room = left.saturating_sub(k.as_str().len());
        let value = vec![b'x'; room.min(limits.max_value)];
        left -= (k.as_str().len() + value.len()).min(left);
        ops.push(TxnOp::put(k, value)?);
    }
    Ok(Txn::always().then(ops))
}

async fn txn_of_too_many_bytes_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, max) = (&fixture.store, fixture.limits().max_txn_bytes);
    let txn = if max > MOST { Txn::always() } else { puts_of(fixture, max + 16)? };
    if txn.byte_count() <= max {
        return Err(BeyondReach(format!("a max_txn_bytes of {max} is more than other limits allow")).into());
    }
    let error = refused!(
        store.transact(txn).await,
        ErrorKind::TooLarge { of: Measured::TxnBytes, max: limit, .. } if *limit == max,
        "a transaction of more than {max} bytes"
    );
    definite(&error)?;
    untouched(fixture).await
}

async fn txn_of_the_most_bytes_works(fixture: &Fixture) -> Result<()> {
    let (store, max) = (&fixture.store, fixture.limits().max_txn_bytes.min(MOST / 4));
    let txn = puts_of(fixture, max)?;
    let (bytes, puts) = (txn.byte_count(), txn.then.len());
    ensure!(bytes <= max, "the suite built {bytes} bytes where {max} were meant");
    let TxnResult { succeeded, outcomes, .. } = store.transact(txn).await?;
    ensure!(succeeded && outcomes.len() == puts, "{} outcomes of {puts} puts", outcomes.len());
    let entries = store.entries("dir").await?;
    let stored: usize = entries.iter().map(|entry| entry.key.as_str().len() + entry.value.len()).sum();
    ensure_eq!(stored, bytes, "how many bytes were stored");
    Ok(())
}

async fn txn_value_too_large_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, limits, k) = (&fixture.store, fixture.limits(), key("k")?);
    if limits.max_value > MOST {
        return Err(
            BeyondReach(format!("a max_value of {} is more than a test builds", limits.max_value)).into()
        );
    }
    let value = vec![b'x'; limits.max_value + 1];
    for txn in [
        Txn::always().then([TxnOp::put(&k, value.clone())]),
        Txn::when([Condition::present(&k)]).or_else([TxnOp::put(&k, value.clone())]),
    ] {
        let error =
            refused!(store.transact(txn).await, ErrorKind::TooLarge { .. }, "a value above max_value");
        definite(&error)?;
    }
    store.put("after", "x").await?;
    store.delete("after").await?;
    untouched(fixture).await
}

async fn txn_ttl_outside_the_range_is_refused(fixture: &Fixture) -> Result<()> {
    let (store, range) = (&fixture.store, fixture.limits().ttl);
    let (k, other) = (key("k")?, key("other")?);
    for ttl in [std::time::Duration::ZERO, range.max.saturating_add(std::time::Duration::from_nanos(1))] {
        if ttl == range.max {
            continue;
        }
        let ops = [TxnOp::put(&other, "x"), TxnOp::put_expiring(&k, "x", Expiry::Ttl(ttl))];
        let error = refused!(
            store.transact(Txn::always().then(ops)).await,
            ErrorKind::TtlOutOfRange { min, max } if (*min, *max) == (range.min, range.max),
            "a put with {ttl:?} in a transaction"
        );
        definite(&error)?;
    }
    untouched(fixture).await
}
