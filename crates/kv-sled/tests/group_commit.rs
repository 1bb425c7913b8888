//! Writers that come together share a flush, and none is answered before it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use kv_core::StoreExt;
use kv_sled::{Durability, SledConfig, SledStore};
use tokio::task::JoinSet;

const WRITERS: u64 = 64;
const WRITES: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_one_flush_for_ten_writes_of_64_writers() {
    for durability in [Durability::Process, Durability::Power] {
        let dir = tempfile::tempdir().unwrap();
        let config = SledConfig::new(dir.path()).with_durability(durability);
        let store = Arc::new(SledStore::open(config).await.unwrap());
        let before = store.stats().unwrap();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                for n in 0..WRITES {
                    store.put(format!("k{writer}/{n}"), "v").await.unwrap();
                }
            });
        }
        writers.join_all().await;
        let after = store.stats().unwrap();
        let (changes, flushes) = (after.changes - before.changes, after.flushes - before.flushes);
        assert_eq!(changes, WRITERS * WRITES);
        assert!(
            flushes > 0 && flushes * 10 <= changes,
            "{durability:?}: {flushes} flushes, {changes} writes"
        );
        // One writer alone waits for a flush at each write.
        for n in 0..5 {
            store.put("alone", n.to_string()).await.unwrap();
        }
        assert!(store.stats().unwrap().flushes - after.flushes >= 5);
        store.close().await.unwrap();
    }
}
