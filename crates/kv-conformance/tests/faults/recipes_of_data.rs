//! Stores on which transactions, snapshots, queues and counters break their promises.

use futures_util::StreamExt;
use kv_core::{
    Compare, DeleteOptions, Key, ListItem, Listing, Precondition, PutOptions, StoreExt, Test, TxnOp,
    TxnOutcome, TxnResult, Watch, WatchEvent,
};

use super::Fault;
use super::tools::pause;

/// A transaction that does not look at the versions of entries.
fn blind() -> Fault {
    let caught_by = &[
        "recipe_tx_loses_no_increment",
        "recipe_counter_counts_each_addition",
        "recipe_ids_are_never_handed_out_twice",
    ];
    Fault::new("txn_overwrites_what_changed", caught_by).transact(|store, mut txn| async move {
        for condition in &mut txn.conditions {
            if matches!(condition.test, Test::Version(Compare::Equal, _)) {
                condition.test = Test::Present;
            }
        }
        // Over a network others come in between.
        pause(1).await;
        store.transact(txn).await
    })
}

/// A transaction whose gets are carried out one after the other.
fn torn_gets() -> Fault {
    Fault::new("txn_reads_one_by_one", &["recipe_tx_reads_many_keys_at_one_moment"]).transact(
        |store, txn| async move {
            if txn.then.is_empty() || txn.then.iter().any(TxnOp::is_write) {
                return store.transact(txn).await;
            }
            let mut outcomes = Vec::new();
            for op in &txn.then {
                outcomes.push(TxnOutcome::Get(store.get(op.key()).await?));
                pause(1).await;
            }
            Ok(TxnResult::new(true, outcomes))
        },
    )
}

/// A transaction that takes a key for absent which was absent once.
fn absent_once() -> Fault {
    Fault::new("txn_condition_absent_holds_always", &["recipe_tx_notices_what_it_found_absent"]).transact(
        |store, mut txn| async move {
            txn.conditions.retain(|condition| condition.test != Test::Absent);
            store.transact(txn).await
        },
    )
}

/// A list that claims to be one version and reads each entry when it comes to it.
fn torn_list() -> Fault {
    Fault::new("list_reads_entries_one_by_one", &["recipe_snapshot_holds_a_moving_token_once"]).list(
        |store, prefix, options| async move {
            let listing = store.list_with(&prefix, options).await?;
            let as_of = listing.as_of();
            let items = listing.filter_map(move |item| {
                let store = store.clone();
                async move {
                    tokio::task::yield_now().await;
                    let key: Key = item.ok()?.key()?.clone();
                    store.get(&key).await.transpose().map(|entry| entry.map(ListItem::Entry))
                }
            });
            Ok(Listing::new(as_of, Box::pin(items)))
        },
    )
}

/// A watch that loses a deletion now and then.
fn forgetful_watch() -> Fault {
    let caught_by = &["recipe_snapshot_and_replay_are_a_later_list", "recipe_collector_outlives_an_outage"];
    Fault::new("watch_loses_a_deletion_in_two", caught_by).watch(|store, target, options| async move {
        let mut lost = false;
        let told = store.watch_with(target, options).await?.filter(move |event| {
            if matches!(event, Ok(WatchEvent::Delete(_))) {
                lost = !lost;
            }
            std::future::ready(!(lost && matches!(event, Ok(WatchEvent::Delete(_)))))
        });
        Ok(Watch::new(told))
    })
}

/// Writes that do not look at the version.
fn versionless() -> [Fault; 2] {
    let any = |precondition: Precondition| match precondition {
        Precondition::At(_) => Precondition::Any,
        other => other,
    };
    [
        Fault::new("put_at_a_version_takes_any", &["recipe_queue_loses_no_job_of_dead_workers"]).put(
            move |store, key, value, options: PutOptions| async move {
                let precondition = any(options.precondition.clone());
                store.put_with(&key, value, options.with_precondition(precondition)).await
            },
        ),
        Fault::new("delete_at_a_version_takes_any", &["recipe_queue_takes_the_last_claim_only"]).delete(
            move |store, key, options: DeleteOptions| async move {
                let precondition = any(options.precondition.clone());
                store.delete_with(&key, options.with_precondition(precondition)).await
            },
        ),
    ]
}

/// A delete that says that it was done.
fn idle_delete() -> Fault {
    let caught_by = &["recipe_queue_buries_what_nobody_finishes"];
    Fault::new("delete_at_a_version_does_nothing", caught_by).delete(|store, key, options| async move {
        match options.precondition {
            Precondition::At(_) => Ok(kv_core::DeleteResult::deleted(None)),
            _ => store.delete_with(&key, options).await,
        }
    })
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![blind(), torn_gets(), absent_once(), torn_list(), forgetful_watch(), idle_delete()];
    faults.extend(versionless());
    faults
}
