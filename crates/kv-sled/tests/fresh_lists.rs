//! A list that runs while the first key below its prefix is being put: whatever it keeps in memory, the
//! next list has the key.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_sled::kv_core::{ListOptions, Prefix, StoreExt};
use kv_sled::{SledConfig, SledStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_put_beside_a_list_is_in_every_later_list() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(SledConfig::new(dir.path())).await.unwrap());
    for round in 0..400 {
        let prefix = Prefix::new(&format!("jobs-{round}")).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let listers: Vec<_> = (0..3)
            .map(|_| {
                let (store, prefix, done) = (Arc::clone(&store), prefix.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        let first = ListOptions::default().with_limit(1);
                        let listing = store.list_with(&prefix, first).await.unwrap();
                        listing.entries().await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        store.put(format!("jobs-{round}/1"), "x").await.unwrap();
        let listed = store.keys(format!("jobs-{round}")).await.unwrap();
        let entries = store.entries(format!("jobs-{round}")).await.unwrap();
        done.store(true, Ordering::Relaxed);
        for lister in listers {
            lister.await.unwrap();
        }
        let later = store.entries(format!("jobs-{round}")).await.unwrap();
        assert_eq!((listed.len(), entries.len(), later.len()), (1, 1, 1), "round {round}");
    }
    store.close().await.unwrap();
}
