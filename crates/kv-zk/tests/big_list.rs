//! A list of very many keys takes memory for the directories it is in and what it asked ahead, however
//! large the tree.
#![allow(clippy::unwrap_used)] // It is a test.
#![allow(clippy::print_stdout)] // It says what it measured.
#![cfg(target_os = "linux")]

mod common;

use common::{CLIENTS, is_tested, namespace, server};
use kv_testkit::big_tree;

/// The names of a directory, answers to 1,024 requests, and what the client crate keeps of them.
const MOST_KIB: u64 = 12 << 10;

/// One test for both client crates: memory is that of the process.
#[tokio::test]
async fn a_list_takes_memory_for_its_widest_directory_however_large_the_tree() {
    let Some(server) = server().await else { return };
    for client in CLIENTS.iter().filter(|client| is_tested(client)) {
        let store = server.open(client, &namespace(), "timeout=120s").await;
        big_tree::load(&store).await.unwrap();
        let taken = big_tree::peak_of_a_list(&store).await.unwrap();
        println!("{client}: the list took {taken} KiB");
        assert!(taken <= MOST_KIB, "{client}: the list took {taken} KiB");
    }
}
