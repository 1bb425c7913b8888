//! Buffered transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kv_core::{Applied, Error, ErrorKind, Expiry, Key, Operation, Power, Store, StoreExt};
use kv_layers::{Faults, LayerExt};
use kv_recipes::kv_core;
use kv_recipes::{Tx, TxOptions, transaction, transaction_with};

use crate::common::{key, mem, on_both, until, without};

async fn value(store: &Arc<dyn Store>, key: &str) -> String {
    store.get(key).await.unwrap().map(|entry| entry.text().unwrap().to_owned()).unwrap_or_default()
}

fn is_conflict_about(error: &Error, key: &str) -> bool {
    matches!(error.kind(), ErrorKind::PreconditionFailed { .. })
        && error.key() == Some(key)
        && error.applied() == Applied::No
}

#[tokio::test]
async fn own_writes_are_visible_and_nobody_elses_before_the_commit() {
    on_both(|store| async move {
        store.put("a", "1").await.unwrap();
        let tx = Tx::begin(&store);
        assert_eq!(tx.get("a").await.unwrap().unwrap(), "1");
        tx.put("a", "2").unwrap();
        tx.put("b", "3").unwrap();
        tx.delete("a").unwrap();
        tx.put("c", "4").unwrap();
        assert_eq!(tx.get("a").await.unwrap(), None);
        let read = tx.get_many(["c", "a", "b", "d"]).await.unwrap();
        assert_eq!(read, [Some("4".into()), None, Some("3".into()), None]);
        assert_eq!(value(&store, "a").await, "1");
        assert!(!store.exists("b").await.unwrap());
        let committed = tx.commit().await.unwrap();
        assert!(!store.exists("a").await.unwrap());
        let b = store.get("b").await.unwrap().unwrap();
        assert_eq!(committed.versions.get(&key("b")), Some(&b.version));
        assert_eq!(committed.versions.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_abort_and_a_drop_change_nothing() {
    let store = mem();
    let tx = Tx::begin(&store);
    tx.put("a", "1").unwrap();
    tx.abort();
    let tx = Tx::begin(&store);
    tx.put("a", "1").unwrap();
    drop(tx);
    assert!(!store.exists("a").await.unwrap());
}

/// Catches a commit that does not look at keys that were only read, were absent, or have the same value
/// again.
#[tokio::test]
async fn a_commit_fails_when_anything_read_has_changed() {
    on_both(|store| async move {
        store.put("read", "1").await.unwrap();
        for (how, changed) in [("put", "read"), ("create", "absent"), ("same", "read"), ("again", "read")] {
            let tx = Tx::begin(&store);
            tx.get("read").await.unwrap();
            tx.get("absent").await.unwrap();
            tx.put("written", "x").unwrap();
            match how {
                "put" | "create" => drop(store.put(changed, "2").await.unwrap()),
                "same" => drop(store.put(changed, value(&store, changed).await).await.unwrap()),
                _ => {
                    store.delete(changed).await.unwrap();
                    store.put(changed, "2").await.unwrap();
                }
            }
            assert!(is_conflict_about(&tx.prepare().await.unwrap_err(), changed), "{how}");
            let now = store.get(changed).await.unwrap().map(|entry| entry.version);
            let error = tx.commit().await.unwrap_err();
            assert!(is_conflict_about(&error, changed), "{how}: {error}");
            assert_eq!(*error.kind(), ErrorKind::PreconditionFailed { current: now }, "{how}");
            assert!(!store.exists("written").await.unwrap(), "{how}");
            store.delete("absent").await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn get_many_reads_one_moment_and_finds_what_changed_before_it() {
    on_both(|store| async move {
        store.put("a", "1").await.unwrap();
        let tx = Tx::begin(&store);
        tx.get("a").await.unwrap();
        store.put("b", "1").await.unwrap();
        assert_eq!(tx.get_many(["a", "b"]).await.unwrap(), [Some("1".into()), Some("1".into())]);
        store.put("a", "2").await.unwrap();
        store.put("c", "2").await.unwrap();
        let error = tx.get_many(["b", "c"]).await.unwrap_err();
        assert!(is_conflict_about(&error, "a"), "{error}");
        let error = tx.commit().await.unwrap_err();
        assert!(is_conflict_about(&error, "a"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_only_read_is_checked_if_it_read_at_several_moments() {
    let store = mem();
    let tx = Tx::begin(&store);
    tx.get("a").await.unwrap();
    store.put("a", "1").await.unwrap();
    tx.get("b").await.unwrap();
    assert!(is_conflict_about(&tx.commit().await.unwrap_err(), "a"));

    // One read is one moment, whatever happened since.
    let tx = Tx::begin(&store);
    tx.get_many(["a", "b"]).await.unwrap();
    store.put("a", "2").await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_put_keeps_the_expiry_unless_it_brings_one() {
    let store = mem();
    let ttl = Duration::from_secs(100);
    store.put_ttl("kept", "1", ttl).await.unwrap();
    store.put_ttl("ended", "1", ttl).await.unwrap();
    let tx = Tx::begin(&store);
    tx.put("kept", "2").unwrap();
    tx.put_expiring("ended", "2", Expiry::Never).unwrap();
    tx.put_expiring("new", "2", Expiry::Session).unwrap();
    tx.commit().await.unwrap();
    let expiry = async |key: &str| {
        let options = kv_core::GetOptions::default().with_expiry();
        store.get_with(key, options).await.unwrap().unwrap().expiry
    };
    assert!(matches!(expiry("kept").await, Some(kv_core::EntryExpiry::Ttl { .. })));
    assert_eq!(expiry("ended").await, Some(kv_core::EntryExpiry::Never));
    assert_eq!(expiry("new").await, Some(kv_core::EntryExpiry::Session));
}

#[tokio::test]
async fn a_store_without_transactions_takes_one_key() {
    let store = without(mem(), Power::Transactions);
    let add = async |store: &Arc<dyn Store>| {
        transaction(store, async |tx| {
            let n: u64 = tx.get_json("n").await?.unwrap_or(0);
            tx.put_json("n", &(n + 1))
        })
        .await
    };
    add(&store).await.unwrap();
    add(&store).await.unwrap();
    assert_eq!(value(&store, "n").await, "2");

    for named in ["get", "get_many", "put", "delete"] {
        let tx = Tx::begin(&store);
        tx.get("n").await.unwrap();
        let error = match named {
            "get" => tx.get("other").await.unwrap_err(),
            "get_many" => tx.get_many(["n", "other"]).await.unwrap_err(),
            "put" => tx.put("other", "x").unwrap_err(),
            _ => tx.delete("other").unwrap_err(),
        };
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{named}: {error}");
        assert_eq!(error.key(), Some("other"), "{named}");
    }

    for change in ["put", "delete"] {
        let tx = Tx::begin(&store);
        tx.get("n").await.unwrap();
        store.put("n", "7").await.unwrap();
        if change == "put" {
            tx.put("n", "8").unwrap()
        } else {
            tx.delete("n").unwrap()
        }
        assert!(tx.prepare().await.unwrap_err().is_conflict());
        assert!(is_conflict_about(&tx.commit().await.unwrap_err(), "n"), "{change}");
    }
    let tx = Tx::begin(&store);
    tx.get("n").await.unwrap();
    tx.delete("n").unwrap();
    tx.commit().await.unwrap();
    assert!(!store.exists("n").await.unwrap());
}

#[tokio::test]
async fn where_an_expiry_cannot_be_kept_none_is_lost() {
    let store = without(without(mem(), Power::Transactions), Power::KeepExpiry);
    store.put_ttl("n", "1", Duration::from_secs(100)).await.unwrap();
    let tx = Tx::begin(&store);
    tx.put("n", "2").unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert_eq!(value(&store, "n").await, "1");
    store.put("n", "1").await.unwrap();
    let tx = Tx::begin(&store);
    tx.put("n", "2").unwrap();
    tx.commit().await.unwrap();
    assert_eq!(value(&store, "n").await, "2");
}

#[tokio::test]
async fn more_than_a_transaction_takes_is_refused_by_the_call_that_names_it() {
    let store = mem();
    let most = store.capabilities().limits.max_txn_ops;
    let tx = Tx::begin(&store);
    for n in 0..most {
        tx.put(format!("k/{n}"), "x").unwrap();
    }
    let error = tx.put("k/more", "x").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
    let error = tx.get("k/more").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
    tx.put("k/0", "y").unwrap();
    tx.commit().await.unwrap();
    assert_eq!(value(&store, "k/0").await, "y");
}

#[tokio::test]
async fn a_fence_that_is_lost_refuses_the_commit() {
    let store = mem();
    let lock = store.lock("l").await.unwrap();
    let held = Tx::begin(&store);
    held.set_fence(lock.fence()).unwrap();
    held.put("a", "1").unwrap();
    let late = Tx::begin(&store);
    late.set_fence(lock.fence()).unwrap();
    late.put("a", "2").unwrap();
    held.commit().await.unwrap();
    lock.unlock().await.unwrap();
    assert!(matches!(late.commit().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    assert_eq!(value(&store, "a").await, "1");
}

/// Catches a loop that sends a commit again that may have been applied.
#[tokio::test]
async fn an_unknown_outcome_is_never_tried_again() {
    let faults = Faults::seeded(1).lose_answer(Operation::Transact, 1.0);
    let store: Arc<dyn Store> = Arc::new(mem().layered(faults));
    let runs = AtomicU32::new(0);
    let done = transaction(&store, async |tx| {
        runs.fetch_add(1, Ordering::Relaxed);
        let n: u64 = tx.get_json("n").await?.unwrap_or(0);
        tx.put_json("n", &(n + 1))
    })
    .await;
    assert_eq!(done.unwrap_err().applied(), Applied::Unknown);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!(value(&store, "n").await, "1");
}

#[tokio::test]
async fn an_error_of_the_work_changes_nothing_and_is_returned() {
    let store = mem();
    let done = transaction(&store, async |tx| {
        tx.put("a", "1")?;
        Err::<(), _>(Error::invalid_argument("no"))
    })
    .await;
    assert!(matches!(done.unwrap_err().kind(), ErrorKind::InvalidArgument { .. }));
    assert!(!store.exists("a").await.unwrap());
}

/// Catches a loop that believes an error that a torn read led to.
#[tokio::test]
async fn an_error_from_a_state_that_never_was_is_not_believed() {
    let store = mem();
    store.put("a", "1").await.unwrap();
    store.put("b", "1").await.unwrap();
    let runs = AtomicU32::new(0);
    let done = transaction(&store, async |tx| {
        let a = tx.get("a").await?;
        if runs.fetch_add(1, Ordering::Relaxed) == 0 {
            for key in ["a", "b"] {
                store.put(key, "2").await?;
            }
        }
        let b = tx.get("b").await?;
        if a == b { Ok(()) } else { Err(Error::invalid_argument("they are never different")) }
    })
    .await;
    done.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn attempts_and_time_are_bounded() {
    let store = mem();
    let losing = async |options: TxOptions| {
        let runs = AtomicU32::new(0);
        let done = transaction_with(&store, options, async |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.get("n").await?;
            store.put("n", "x").await?;
            tx.put("n", "y")
        })
        .await;
        (done.unwrap_err(), runs.into_inner())
    };
    let (error, runs) = losing(TxOptions::default().with_attempts(5)).await;
    assert!(is_conflict_about(&error, "n"), "{error}");
    assert!(error.to_string().contains("others were faster 5 times"), "{error}");
    assert_eq!(runs, 5);
    let (error, runs) = losing(TxOptions::default().with_deadline(Duration::from_millis(50))).await;
    assert!(is_conflict_about(&error, "n"), "{error}");
    assert!((2..200).contains(&runs), "{runs} attempts");
}

/// Adds one to both keys, `per` times in each of 16 tasks at once. Tells the attempts, in order.
async fn increments(store: &Arc<dyn Store>, per: usize, options: &TxOptions) -> Vec<u32> {
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (store, options) = (Arc::clone(store), options.clone());
            tokio::spawn(async move {
                let mut attempts = Vec::new();
                for _ in 0..per {
                    let done = transaction_with(&store, options.clone(), async |tx| {
                        for key in ["sum/a", "sum/b"] {
                            let n: u64 = tx.get_json(key).await?.unwrap_or(0);
                            tx.put_json(key, &(n + 1))?;
                        }
                        Ok(())
                    });
                    attempts.push(done.await.unwrap().attempts);
                }
                attempts
            })
        })
        .collect();
    let mut attempts = Vec::new();
    for task in tasks {
        attempts.extend(task.await.unwrap());
    }
    attempts.sort_unstable();
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_of_16_tasks_is_lost() {
    let escalating = TxOptions::default().with_escalation(key("sum/.turn"));
    on_both(|store| {
        let escalating = escalating.clone();
        async move {
            for (how, options) in [("plain", TxOptions::default()), ("escalating", escalating)] {
                store.delete_tree("sum").await.unwrap();
                let begun = Instant::now();
                let attempts = increments(&store, 10, &options).await;
                let backend = store.capabilities().backend;
                let (p50, p99) = (attempts[attempts.len() / 2], attempts[attempts.len() * 99 / 100]);
                let most = attempts.last().unwrap();
                #[allow(clippy::print_stdout, reason = "what is measured is told")]
                {
                    println!(
                        "{backend}, {how}: attempts p50 {p50} p99 {p99} max {most}, {:?}",
                        begun.elapsed()
                    );
                }
                assert_eq!(value(&store, "sum/a").await, "160");
                assert_eq!(value(&store, "sum/b").await, "160");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_keeps_losing_takes_the_lock() {
    let store = mem();
    let lock: Key = key("turn");
    let options = TxOptions::default().with_escalation(&lock);
    let runs = AtomicU32::new(0);
    let done = transaction_with(&store, options, async |tx| {
        tx.get("n").await?;
        if store.lock_holder(&lock).await?.is_none() {
            runs.fetch_add(1, Ordering::Relaxed);
            store.put("n", "x").await?;
        }
        tx.put("n", "y")
    })
    .await
    .unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), TxOptions::ESCALATE_AFTER);
    assert_eq!(done.attempts, TxOptions::ESCALATE_AFTER + 1);
    assert_eq!(value(&store, "n").await, "y");
    let free = async || store.lock_holder(&lock).await.unwrap().is_none();
    until("the lock is free", free).await;
}

#[tokio::test]
async fn a_value_that_cannot_be_decoded_is_named_and_not_shown() {
    let store = mem();
    store.put("n", "secret").await.unwrap();
    let tx = Tx::begin(&store);
    let error = tx.get_json::<u64, _>("n").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }));
    assert_eq!(error.key(), Some("n"));
    assert!(!format!("{error:?} {tx:?}").contains("secret"));
}
