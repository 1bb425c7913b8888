//! What lists and hostile answers take of memory.
//!
//! In a process of its own, and one test at a time, because it measures the memory of its process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // Integration tests.
#![cfg(target_os = "linux")]

#[allow(dead_code)] // It needs a part.
#[path = "consul/common/mod.rs"]
mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_consul::kv_core::ErrorKind;
use kv_testkit::big_tree;

use crate::common::calls::errors_of;
use crate::common::script::{Act, Scripted};
use crate::common::server;

/// Held by the test that measures.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What the connection and the parser have at a time; the document is some 35 MB.
const MOST_KIB: u64 = 8 << 10;

#[tokio::test]
async fn a_list_takes_memory_for_what_was_received_last() {
    let _alone = ALONE.lock().await;
    let Some(server) = server().await else { return };
    let store = server.store().await;
    big_tree::load(&store).await.unwrap();
    let taken = big_tree::peak_of_a_list(&store).await.unwrap();
    println!("the list took {taken} KiB");
    assert!(taken <= MOST_KIB, "the list took {taken} KiB");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off_in_bounded_memory() {
    const PIECE: &[u8] = &[b'x'; 1 << 16];
    let _alone = ALONE.lock().await;
    let before = resident();
    let (done, most) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(before)));
    let sampler = std::thread::spawn({
        let (done, most) = (Arc::clone(&done), Arc::clone(&most));
        move || {
            while !*done.lock().unwrap() {
                let mut most = most.lock().unwrap();
                *most = resident().max(*most);
                drop(most);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    for head in [
        "HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\n\r\n",
        "HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\nContent-Length: 4000000000\r\n\r\n[\"",
        "HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\nContent-Length: 4000000000\r\n\r\n{\"Results\":[\"",
        "HTTP/1.1 409 X\r\n\r\n",
        "HTTP/1.1 500 X\r\n\r\n",
    ] {
        let hostile = Scripted::start(move |_| Act::Flood(head, PIECE)).await;
        for error in errors_of(&hostile.store().await).await {
            assert!(matches!(error.kind(), ErrorKind::Protocol), "{head}: {error}");
        }
    }
    *done.lock().unwrap() = true;
    sampler.join().unwrap();
    let grown = most.lock().unwrap().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before, at some moment");
}
