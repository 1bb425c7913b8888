//! What a list of a large tree takes. Alone in its process, so that nobody else's memory is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use common::fresh;
use futures_util::TryStreamExt;
use kv_mem::kv_core::StoreExt;

const ENTRIES: usize = 200_000;

/// Resident memory, where the system tells.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

/// Collected, the entries would take some thirty megabytes.
#[test]
fn a_list_takes_no_memory_for_what_it_has_not_reached() {
    futures_executor::block_on(async {
        let store = fresh();
        for number in 0..ENTRIES {
            store.put(format!("dir/{:02}/{number}", number % 100), "").await.unwrap();
        }
        let before = resident();
        let mut listing = store.list("").await.unwrap();
        let (mut listed, mut most) = (0, before);
        while listing.try_next().await.unwrap().is_some() {
            listed += 1;
            if listed % 1000 == 0 {
                most = most.max(resident());
            }
        }
        assert_eq!(listed, ENTRIES);
        if let (Some(before), Some(most)) = (before, most) {
            let grown = most.saturating_sub(before);
            assert!(grown < 8 << 20, "a list of {ENTRIES} entries took {grown} bytes");
        }
    });
}
