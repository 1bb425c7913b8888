//! Selecting entries: a list is a stream, and what other stores have callbacks for are its adaptors.
//!
//! `cargo run -p kv-any --example select [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use futures_util::{StreamExt, TryStreamExt, future};
use kv_any::kv_core::{Entry, Store, StoreExt};

/// The running jobs, at most `most` of them. The list fetches as it is read, so that what comes behind
/// the last one wanted is never asked for.
pub(crate) async fn running(store: &dyn Store, most: usize) -> kv_any::kv_core::Result<Vec<String>> {
    let items = store.list("select/jobs").await?;
    // Keys and sub-prefixes, which only other lists have, are no entries.
    let entries = items.try_filter_map(|item| future::ready(Ok(item.into_entry())));
    let is_running = |entry: &Entry| future::ready(entry.value.starts_with(b"running"));
    let names = entries.try_filter(is_running).map_ok(|entry| entry.key.to_string());
    names.take(most).try_collect().await
}

/// Puts a few jobs into the store behind `url` and selects among them.
pub(crate) async fn run(url: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    for (job, state) in [("a", "queued"), ("b", "running on n1"), ("c", "running on n2"), ("d", "done")] {
        store.put(format!("select/jobs/{job}"), state).await?;
    }
    let found = running(&*store, 10).await?;
    store.delete_tree("select").await?;
    store.close().await?;
    Ok(found)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("running: {:?}", run(&url).await?);
    Ok(())
}
