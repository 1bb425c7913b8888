//! A list of very many keys: page by page, in memory that does not grow with the tree.
//!
//! 100,000 keys on every run, 1,000,000 with `KV_TIER=nightly`. Memory is that of a process of its own,
//! this test binary again, running [`reader`] alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it did")]
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kv_core::{Key, ListItem, StoreExt, Txn, TxnOp};
use kv_sled::{Durability, SledConfig, SledStore};
use kv_testkit::{Growth, is_nightly};

fn key(n: usize) -> Key {
    Key::new(&format!("tree/{:03}/{:07}", n / 10_000, n)).unwrap()
}

async fn load(dir: &Path, count: usize) {
    let interval = Durability::Interval(Duration::from_millis(500));
    let store = SledStore::open(SledConfig::new(dir).with_durability(interval)).await.unwrap();
    for begin in (0..count).step_by(1000) {
        let puts = (begin..count.min(begin + 1000)).map(|n| TxnOp::put(key(n), format!("value {n}")));
        let txn = Txn::always().then(puts).with_timeout(Duration::from_secs(60));
        assert!(StoreExt::transact(&store, txn).await.unwrap().succeeded);
    }
    store.close().await.unwrap();
}

async fn read_all(store: &SledStore) -> usize {
    let mut list = store.list("tree").await.unwrap();
    let mut count = 0;
    while let Some(item) = list.next().await {
        let ListItem::Entry(entry) = item.unwrap() else { panic!("an entry") };
        assert_eq!(entry.key, key(count), "in order, none missing");
        count += 1;
    }
    count
}

/// Not a test: lists everything and says what that took.
#[test]
fn reader() {
    let Some(dir) = std::env::var_os("KV_SLED_READER") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(SledConfig::new(dir).with_cache_mib(16)).await.unwrap();
        // The first one fills the engine's cache, in the memory of the threads that lists run on.
        read_all(&store).await;
        let growth = Growth::begin().unwrap();
        let begin = Instant::now();
        let count = read_all(&store).await;
        let took = begin.elapsed();
        let more = growth.peak_kib().unwrap();
        println!("\nlisted {count} {more} {}", took.as_millis());
        store.close().await.unwrap();
    });
}

/// The KiB of memory a list of everything took, and its time.
fn list(dir: &Path, count: usize) -> (u64, Duration) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader", "--nocapture", "--test-threads=1"])
        .env("KV_SLED_READER", dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("listed "));
    let line = line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!(numbers[0], count as u64);
    (numbers[1], Duration::from_millis(numbers[2]))
}

#[tokio::test]
async fn a_list_takes_memory_for_a_page_however_large_the_tree() {
    let large = if is_nightly() { 1_000_000 } else { 100_000 };
    let mut taken = Vec::new();
    for count in [large / 20, large] {
        let dir = tempfile::tempdir().unwrap();
        let begin = Instant::now();
        load(dir.path(), count).await;
        let loaded = begin.elapsed();
        let (memory, time) = list(dir.path(), count);
        println!("{count} keys put in {loaded:?}, listed in {time:?} with {memory} KiB more memory");
        taken.push(memory);
    }
    // A page is 1 MiB at most; what the engine caches moves by a few more.
    assert!(taken[1] <= taken[0] + (16 << 10), "the memory of a list grows with the tree: {taken:?} KiB");
    assert!(taken[1] <= 24 << 10, "{taken:?} KiB");
}
