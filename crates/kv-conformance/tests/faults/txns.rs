//! Transactions with half their conditions, in halves, or beyond their limits.

use std::sync::Arc;

use kv_core::{
    Compare, Condition, DeleteOptions, DeleteResult, Expiry, PutOptions, PutResult, Result, Store, StoreExt,
    Test, Txn, TxnOp, TxnOutcome, TxnResult, Version,
};

use super::Fault;
use super::tools::{has_children, pause};

/// A transaction that asks for something else.
fn asked(name: &'static str, caught_by: &'static [&'static str], change: fn(Txn) -> Txn) -> Fault {
    Fault::new(name, caught_by).transact(move |store, txn| async move { store.transact(change(txn)).await })
}

/// A transaction that answers something else.
fn answered(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(TxnResult) -> TxnResult,
) -> Fault {
    Fault::new(name, caught_by)
        .transact(move |store, txn| async move { Ok(change(store.transact(txn).await?)) })
}

/// Conditions that are changed one by one.
fn tested(name: &'static str, caught_by: &'static [&'static str], change: fn(Test) -> Test) -> Fault {
    Fault::new(name, caught_by).transact(move |store, mut txn| async move {
        for condition in &mut txn.conditions {
            condition.test = change(condition.test.clone());
        }
        store.transact(txn).await
    })
}

/// Less and Greater are one.
fn either(compare: Compare) -> Compare {
    match compare {
        Compare::Less | Compare::Greater => Compare::NotEqual,
        other => other,
    }
}

/// Carries out a branch, one operation after the other.
async fn carry_out(store: &Arc<dyn Store>, ops: Vec<TxnOp>) -> Result<Vec<TxnOutcome>> {
    let mut outcomes = Vec::new();
    for op in ops {
        outcomes.push(match op {
            TxnOp::Put { key, value, expiry, .. } => {
                let options = PutOptions::default().with_expiry(expiry);
                TxnOutcome::Put(store.put_with(&key, value, options).await?)
            }
            TxnOp::Delete { key, .. } => {
                TxnOutcome::Delete(store.delete_with(&key, DeleteOptions::default()).await?)
            }
            other => TxnOutcome::Get(store.get(other.key()).await?),
        });
        pause(1).await;
    }
    Ok(outcomes)
}

async fn all_hold(store: &Arc<dyn Store>, conditions: &[Condition]) -> Result<bool> {
    for condition in conditions {
        if !condition.holds(store.get(&condition.key).await?.as_ref()) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        asked("txn_never_runs_then", &["txn_runs_then", "txn_without_conditions"], |mut txn| {
            txn.conditions.push(Condition::present("no/such/key").unwrap());
            txn
        }),
        asked(
            "txn_ignores_conditions",
            &["txn_runs_or_else", "txn_compares_presence", "one_of_many_txns_wins", "txn_reaches_watchers"],
            |mut txn| {
                txn.conditions.clear();
                txn
            },
        ),
        asked("txn_checks_the_first_condition", &["txn_needs_every_condition"], |mut txn| {
            txn.conditions.truncate(1);
            txn
        }),
        asked("txn_puts_are_permanent", &["txn_puts_expire", "txn_puts_live_by_the_session"], |mut txn| {
            for op in txn.then.iter_mut().chain(&mut txn.or_else) {
                if let TxnOp::Put { expiry, .. } = op {
                    *expiry = Expiry::Never;
                }
            }
            txn
        }),
        answered(
            "txn_tells_outcomes_backwards",
            &["txn_tells_each_outcome", "txn_runs_or_else"],
            |mut result| {
                result.outcomes.reverse();
                result
            },
        ),
        answered("txn_versions_are_one", &["txn_versions_grow", "txn_tells_each_outcome"], |mut result| {
            for outcome in &mut result.outcomes {
                if let TxnOutcome::Put(put) = outcome {
                    *put = PutResult::new(Version::new(1));
                }
            }
            result
        }),
        tested("txn_mixes_up_present_and_absent", &["txn_compares_presence"], |test| match test {
            Test::Present => Test::Absent,
            Test::Absent => Test::Present,
            other => other,
        }),
        tested("txn_cannot_tell_less_from_greater_versions", &["txn_compares_versions"], |test| match test {
            Test::Version(compare, version) => Test::Version(either(compare), version),
            other => other,
        }),
        tested("txn_compares_created_with_the_last_version", &["txn_compares_created_versions"], |test| {
            match test {
                Test::Created(compare, version) => Test::Version(compare, version),
                other => other,
            }
        }),
        tested("txn_cannot_tell_less_from_greater_values", &["txn_compares_values"], |test| match test {
            Test::Value(compare, value) => Test::Value(either(compare), value),
            other => other,
        }),
    ];
    faults.extend(absent_keys());
    faults.extend(not_atomic());
    faults.extend(limits());
    faults
}

fn absent_keys() -> [Fault; 2] {
    [
        Fault::new("an_absent_key_compares_as_empty", &["txn_absent_compares_as_absent"]).transact(
            |store, mut txn| async move {
                for condition in &mut txn.conditions {
                    if let Test::Value(compare, value) = &condition.test
                        && !store.exists(&condition.key).await?
                    {
                        condition.test =
                            if compare.holds::<[u8]>(b"", value) { Test::Absent } else { Test::Present };
                    }
                }
                store.transact(txn).await
            },
        ),
        Fault::new("txn_takes_parents_for_entries", &["txn_sees_implicit_parents_as_absent"]).transact(
            |store, mut txn| async move {
                for condition in &mut txn.conditions {
                    if condition.test == Test::Absent && has_children(&store, &condition.key).await? {
                        condition.test = Test::Present;
                    }
                }
                store.transact(txn).await
            },
        ),
    ]
}

fn not_atomic() -> [Fault; 3] {
    [
        Fault::new("txn_checks_and_then_writes", &["one_of_many_txns_wins", "txn_is_isolated"]).transact(
            |store, mut txn| async move {
                let held = all_hold(&store, &txn.conditions).await?;
                pause(1).await;
                txn.conditions.clear();
                if !held {
                    txn.then = std::mem::take(&mut txn.or_else);
                }
                let result = store.transact(txn).await?;
                Ok(TxnResult::new(held, result.outcomes))
            },
        ),
        Fault::new("txn_is_done_one_by_one", &["txn_is_isolated"]).transact(|store, txn| async move {
            let held = all_hold(&store, &txn.conditions).await?;
            let outcomes = carry_out(&store, if held { txn.then } else { txn.or_else }).await?;
            Ok(TxnResult::new(held, outcomes))
        }),
        Fault::new("txn_gets_see_the_state_before", &["txn_reads_its_own_writes"]).transact(
            |store, txn| async move {
                let mut before = Vec::new();
                for op in &txn.then {
                    before.push(TxnOutcome::Get(store.get(op.key()).await?));
                }
                let mut result = store.transact(txn).await?;
                for (outcome, before) in result.outcomes.iter_mut().zip(before) {
                    if matches!(outcome, TxnOutcome::Get(_)) {
                        *outcome = before;
                    }
                }
                Ok(result)
            },
        ),
    ]
}

fn refuses_beyond(
    name: &'static str,
    caught_by: &'static [&'static str],
    beyond: fn(&Txn, &kv_core::Limits) -> bool,
) -> Fault {
    Fault::new(name, caught_by).transact(move |store, txn| async move {
        if beyond(&txn, &store.capabilities().limits) {
            return Err(kv_core::Error::too_large(kv_core::Measured::TxnOps, 0, 0));
        }
        store.transact(txn).await
    })
}

/// A transaction that cuts what is too much.
fn cuts(
    name: &'static str,
    caught_by: &'static [&'static str],
    cut: fn(&mut Txn, &kv_core::Limits),
) -> Fault {
    Fault::new(name, caught_by).transact(move |store, mut txn| async move {
        cut(&mut txn, &store.capabilities().limits);
        store.transact(txn).await
    })
}

fn limits() -> Vec<Fault> {
    vec![
        Fault::new("transactions_are_declared_and_missing", &["transact_power_is_declared"])
            .dishonest()
            .no_transact(),
        cuts("txn_takes_the_last_write", &["txn_writes_no_key_twice"], |txn, _| {
            for branch in [&mut txn.then, &mut txn.or_else] {
                let ops = std::mem::take(branch);
                for (at, op) in ops.iter().enumerate() {
                    if !op.is_write()
                        || !ops[at + 1..].iter().any(|later| later.is_write() && later.key() == op.key())
                    {
                        branch.push(op.clone());
                    }
                }
            }
        }),
        refuses_beyond(
            "txn_writes_a_key_in_one_branch",
            &["txn_may_write_a_key_in_each_branch"],
            |txn, _| {
                txn.then
                    .iter()
                    .any(|op| op.is_write() && txn.or_else.iter().any(|other| other.key() == op.key()))
            },
        ),
        cuts("txn_cuts_operations", &["txn_of_too_many_ops_is_refused"], |txn, limits| {
            let conditions = txn.conditions.len().min(limits.max_txn_ops / 2);
            txn.conditions.truncate(conditions);
            txn.then.truncate(limits.max_txn_ops - conditions);
            txn.or_else.truncate(limits.max_txn_ops - conditions);
        }),
        refuses_beyond("txn_takes_fewer_ops_than_declared", &["txn_of_the_most_ops_works"], |txn, limits| {
            txn.op_count() > limits.max_txn_ops / 2
        }),
        cuts("txn_cuts_bytes", &["txn_of_too_many_bytes_is_refused"], |txn, limits| {
            while txn.byte_count() > limits.max_txn_bytes {
                txn.then.pop();
            }
        }),
        refuses_beyond(
            "txn_takes_fewer_bytes_than_declared",
            &["txn_of_the_most_bytes_works"],
            |txn, limits| txn.byte_count() > limits.max_txn_bytes / 2,
        ),
        cuts("txn_cuts_values", &["txn_value_too_large_is_refused"], |txn, limits| {
            for op in txn.then.iter_mut().chain(&mut txn.or_else) {
                if let TxnOp::Put { value, .. } = op {
                    value.truncate(limits.max_value / 2);
                }
            }
        }),
        cuts("txn_clamps_ttls", &["txn_ttl_outside_the_range_is_refused"], |txn, limits| {
            for op in &mut txn.then {
                if let TxnOp::Put { expiry: Expiry::Ttl(ttl), .. } = op {
                    *ttl = (*ttl).clamp(limits.ttl.min, limits.ttl.max);
                }
            }
        }),
        answered("txn_deletes_always_find", &["txn_tells_each_outcome"], |mut result| {
            for outcome in &mut result.outcomes {
                if let TxnOutcome::Delete(deleted) = outcome {
                    *deleted = DeleteResult::deleted(None);
                }
            }
            result
        }),
    ]
}
