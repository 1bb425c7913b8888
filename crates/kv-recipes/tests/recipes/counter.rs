//! Counters and id allocators.

use std::collections::BTreeSet;
use std::sync::Arc;

use kv_layers::{Faults, LayerExt};
use kv_recipes::kv_core::{Applied, ErrorKind, Operation, Power, StoreExt};
use kv_recipes::{Counter, IdAllocator};

use crate::common::{mem, on_both, without};

#[tokio::test(flavor = "multi_thread")]
async fn every_addition_counts_once() {
    on_both(|store| async move {
        let counter = Counter::new(&store, "n").unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let counter = counter.clone();
                tokio::spawn(async move {
                    let mut sums = Vec::new();
                    for _ in 0..10 {
                        sums.push(counter.add(3).await.unwrap());
                    }
                    sums
                })
            })
            .collect();
        let mut sums = BTreeSet::new();
        for task in tasks {
            sums.extend(task.await.unwrap());
        }
        assert_eq!(sums, (1..=80).map(|n| n * 3).collect());
        assert_eq!(counter.get().await.unwrap(), 240);
        assert_eq!(counter.add(-241).await.unwrap(), -1);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_number_is_refused_and_left_alone() {
    let store = mem();
    let counter = Counter::new(&store, "n").unwrap();
    for (value, amount) in [("secret", 1), ("9223372036854775807", 1), ("-9223372036854775808", -1)] {
        store.put("n", value).await.unwrap();
        let error = counter.add(amount).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
        assert_eq!((error.key(), error.applied()), (Some("n"), Applied::No));
        assert!(!format!("{error:?}").contains("secret"));
        assert_eq!(store.get("n").await.unwrap().unwrap().value, value);
    }
}

/// Every second answer is lost: a gap, never a repeat.
#[tokio::test(flavor = "multi_thread")]
async fn no_id_is_handed_out_twice() {
    for store in [mem(), without(mem(), Power::Transactions)] {
        let losing = Faults::seeded(7)
            .lose_answer(Operation::Transact, 0.5)
            .lose_answer(Operation::Put, 0.5)
            .refuse(Operation::Get, 0.1);
        let store = Arc::new(store.layered(losing)) as Arc<dyn kv_recipes::kv_core::Store>;
        let tasks: Vec<_> = (1..=8)
            .map(|block| {
                let ids = IdAllocator::new(&store, "ids").unwrap().with_block(block);
                tokio::spawn(async move {
                    let (mut had, mut failed) = (Vec::new(), 0);
                    while had.len() < 50 {
                        match ids.next().await {
                            Ok(id) => had.push(id),
                            Err(_) => failed += 1,
                        }
                    }
                    assert!(had.is_sorted(), "{had:?}");
                    (had, failed)
                })
            })
            .collect();
        let (mut all, mut count, mut failed) = (BTreeSet::new(), 0, 0);
        for task in tasks {
            let (had, fails) = task.await.unwrap();
            count += had.len();
            failed += fails;
            all.extend(had);
        }
        assert_eq!((all.len(), all.first().is_some_and(|id| *id > 0)), (count, true));
        assert!(failed > 0);
    }
}

#[tokio::test]
async fn a_block_is_one_write() {
    let store = mem();
    let ids = IdAllocator::new(&store, "ids").unwrap().with_block(10);
    for id in 1..=25 {
        assert_eq!(ids.next().await.unwrap(), id);
    }
    assert_eq!(store.get("ids").await.unwrap().unwrap().version.get(), 3);
    store.put("ids", "-5").await.unwrap();
    let other = IdAllocator::new(&store, "ids").unwrap().with_block(10);
    assert!(matches!(other.next().await.unwrap_err().kind(), ErrorKind::InvalidValue { .. }));
}
