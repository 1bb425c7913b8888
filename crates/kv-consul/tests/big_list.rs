//! A list of very many keys takes memory for what was received last, however large the document.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.
#![allow(clippy::print_stdout)] // It says what it measured.
#![cfg(target_os = "linux")]

mod common;

use common::server;
use futures_util::{StreamExt, stream};
use kv_consul::ConsulStore;
use kv_consul::kv_core::{Key, ListItem, StoreExt, Txn, TxnOp};
use kv_testkit::Growth;

const KEYS: usize = 100_000;
/// As many as the store takes in a transaction.
const BATCH: usize = 31;
/// What the connection and the parser have at a time; the document is some 25 MiB.
const MOST_KIB: u64 = 8 << 10;

fn name(n: usize) -> String {
    format!("tree/{:03}/key-{n:07}", n / 1000)
}

async fn load(store: &ConsulStore) {
    let batches = (0..KEYS).step_by(BATCH).map(|begin| {
        let puts = (begin..KEYS.min(begin + BATCH))
            .map(|n| TxnOp::put(Key::new(&name(n)).unwrap(), format!("the value of number {n:050}")));
        store.transact(Txn::always().then(puts))
    });
    let mut batches = stream::iter(batches).buffer_unordered(8);
    while let Some(done) = batches.next().await {
        done.unwrap();
    }
}

async fn read(store: &ConsulStore, prefix: &str) -> usize {
    let mut list = store.list(prefix).await.unwrap();
    let mut count = 0;
    while let Some(item) = list.next().await {
        let ListItem::Entry(entry) = item.unwrap() else { panic!("an entry") };
        assert_eq!(entry.key.as_str(), name(count), "in order, none missing");
        count += 1;
    }
    count
}

#[tokio::test]
async fn a_list_takes_memory_for_what_was_received_last() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    load(&store).await;
    assert_eq!(read(&store, "tree/000").await, 1000);
    let growth = Growth::begin().unwrap();
    assert_eq!(read(&store, "tree").await, KEYS);
    let taken = growth.peak_kib().unwrap();
    println!("a list of {KEYS} keys took {taken} KiB");
    assert!(taken <= MOST_KIB, "a list of {KEYS} keys took {taken} KiB");
}
