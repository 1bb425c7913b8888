//! A list of very many keys takes memory for its pages, however large the tree.
//!
//! A program of its own: it measures the memory of its process.
#![allow(clippy::unwrap_used)] // It is a test.
#![allow(clippy::print_stdout)] // It says what it measured.
#![cfg(target_os = "linux")]

#[path = "etcd/common/mod.rs"]
mod common;

use common::{namespace, server};
use kv_testkit::big_tree;

/// A page of 2 MiB, the next one on its way, and what HTTP/2 has under way.
const MOST_KIB: u64 = 12 << 10;

#[tokio::test]
async fn a_list_takes_memory_for_its_pages_however_large_the_tree() {
    let Some(server) = server().await else { return };
    let store = server.open(&namespace(), "?timeout=20s").await;
    big_tree::load(&store).await.unwrap();
    let taken = big_tree::peak_of_a_list(&store).await.unwrap();
    println!("the list took {taken} KiB");
    assert!(taken <= MOST_KIB, "the list took {taken} KiB");
}
