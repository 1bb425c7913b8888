//! A list of very many keys takes memory for what was received last, however large the document.
#![allow(clippy::unwrap_used)] // It is a test.
#![allow(clippy::print_stdout)] // It says what it measured.
#![cfg(target_os = "linux")]

mod common;

use common::server;
use kv_testkit::big_tree;

/// What the connection and the parser have at a time; the document is some 35 MB.
const MOST_KIB: u64 = 8 << 10;

#[tokio::test]
async fn a_list_takes_memory_for_what_was_received_last() {
    let Some(server) = server().await else { return };
    let store = server.store().await;
    big_tree::load(&store).await.unwrap();
    let taken = big_tree::peak_of_a_list(&store).await.unwrap();
    println!("the list took {taken} KiB");
    assert!(taken <= MOST_KIB, "the list took {taken} KiB");
}
