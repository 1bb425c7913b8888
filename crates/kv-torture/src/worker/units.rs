//! Moves units between keys by transactions, and reads all of them at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kv_any::kv_core::{
    Compare, Condition, Entry, Error, ErrorKind, Guarantee, Key, Result as StoreResult, StoreExt, Txn, TxnOp,
    TxnOutcome,
};

use super::caller::Caller;
use super::work::Work;
use crate::history::{Answer, Call};

pub(super) async fn run(work: Arc<Work>, caller: Caller, task: u64) -> Result<()> {
    let mut random = work.random(caller.client(), task);
    let snapshot = caller.store().capabilities().guarantees(Guarantee::ListSnapshot);
    let keys = work.args.unit_keys;
    while work.goes_on() {
        match random.u8(..4) {
            0 => {
                caller.noted(&Call::Total { at_once: snapshot }, listed(&caller)).await?;
            }
            1 => {
                caller.noted(&Call::Total { at_once: true }, read_at_once(&caller, keys)).await?;
            }
            _ => {
                let from = random.u64(..keys);
                let to = (from + random.u64(1..keys)) % keys;
                let (from, to): (Key, Key) = (unit_key(from)?, unit_key(to)?);
                let call = Call::Transfer { from: from.to_string(), to: to.to_string() };
                caller.noted(&call, transfer(&caller, &from, &to)).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(20..120))).await;
    }
    Ok(())
}

/// The key with this number that holds units.
///
/// # Errors
/// None: the text is a key.
pub(crate) fn unit_key(number: u64) -> Result<Key, Error> {
    format!("unit/{number}").parse()
}

async fn transfer(caller: &Caller, from: &Key, to: &Key) -> StoreResult<Answer> {
    let (Some(loses), Some(gains)) = (caller.store().get(from).await?, caller.store().get(to).await?) else {
        // The checker finds the units that are missing.
        return Ok(Answer::Refused);
    };
    let (less, more) = (units(&loses)?, units(&gains)?);
    if less == 0 {
        return Ok(Answer::Refused);
    }
    let txn = Txn::when([
        Condition::version(from.clone(), Compare::Equal, loses.version),
        Condition::version(to.clone(), Compare::Equal, gains.version),
    ])
    .then([TxnOp::put(from.clone(), (less - 1).to_string()), TxnOp::put(to.clone(), (more + 1).to_string())]);
    let result = caller.store().transact(txn).await?;
    Ok(if result.succeeded { Answer::Done } else { Answer::Refused })
}

async fn listed(caller: &Caller) -> StoreResult<Answer> {
    sum(caller.store().entries("unit").await?.iter())
}

async fn read_at_once(caller: &Caller, keys: u64) -> StoreResult<Answer> {
    let keys: Vec<_> = (0..keys).map(unit_key).collect::<StoreResult<_>>()?;
    let result = caller.store().transact(Txn::always().then(keys.into_iter().map(TxnOp::get))).await?;
    let entries = result.outcomes.iter().filter_map(|outcome| match outcome {
        TxnOutcome::Get(entry) => entry.as_ref(),
        _ => None,
    });
    sum(entries)
}

fn sum<'a>(entries: impl Iterator<Item = &'a Entry>) -> StoreResult<Answer> {
    let (mut sum, mut keys) = (0, 0);
    for entry in entries {
        sum += units(entry)?;
        keys += 1;
    }
    Ok(Answer::Sum { sum, keys })
}

fn units(entry: &Entry) -> StoreResult<u64> {
    entry.text()?.parse().map_err(|_| {
        Error::new(ErrorKind::InvalidValue { reason: "it is not a number of units".into() })
            .with_key(entry.key.as_str())
    })
}
