//! A list of very many keys takes memory for the directories it is in and what it asked ahead, however
//! large the tree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.
#![allow(clippy::print_stdout)] // It says what it measured.
#![cfg(target_os = "linux")]

mod common;

use common::{is_tested, namespace, server};
use futures_util::{StreamExt, stream};
use kv_testkit::{Growth, is_nightly};
use kv_zk::ZkStore;
use kv_zk::kv_core::{ListItem, StoreExt};

const DIRECTORY: usize = 1000;
const VALUE: usize = 1000;
/// The names of a directory, answers to 1,024 requests, and what the client crate keeps of them.
const MOST_KIB: u64 = 12 << 10;

fn name(n: usize) -> String {
    format!("tree/{:03}/key-{n:07}", n / DIRECTORY)
}

async fn load(store: &ZkStore, keys: usize) {
    let puts = (0..keys).map(|n| store.put(name(n), vec![b'v'; VALUE]));
    let mut puts = stream::iter(puts).buffer_unordered(256);
    while let Some(done) = puts.next().await {
        done.unwrap();
    }
}

async fn read(store: &ZkStore, prefix: &str) -> usize {
    let mut list = store.list(prefix).await.unwrap();
    let mut count = 0;
    while let Some(item) = list.next().await {
        let ListItem::Entry(entry) = item.unwrap() else { panic!("an entry") };
        assert_eq!(entry.key.as_str(), name(count), "in order, none missing");
        count += 1;
    }
    count
}

/// One test for both client crates: memory is that of the process.
#[tokio::test]
async fn a_list_takes_memory_for_its_widest_directory_however_large_the_tree() {
    let Some(server) = server().await else { return };
    let keys = if is_nightly() { 100_000 } else { 25_000 };
    let namespace = namespace();
    let mut loaded = false;
    for client in CLIENTS.iter().filter(|client| is_tested(client)) {
        let store = server.open(client, &namespace, "timeout=120s").await;
        if !std::mem::replace(&mut loaded, true) {
            load(&store, keys).await;
        }
        assert_eq!(read(&store, "tree/000").await, DIRECTORY);
        let growth = Growth::begin().unwrap();
        assert_eq!(read(&store, "tree").await, keys);
        let taken = growth.peak_kib().unwrap();
        println!("{client}: a list of {keys} keys took {taken} KiB");
        assert!(taken <= MOST_KIB, "{client}: a list of {keys} keys took {taken} KiB");
    }
}

#[cfg(feature = "zookeeper-client")]
const CLIENTS: &[&str] = &["zookeeper-async", "zookeeper-client"];
#[cfg(not(feature = "zookeeper-client"))]
const CLIENTS: &[&str] = &["zookeeper-async"];
