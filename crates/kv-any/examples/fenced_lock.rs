//! A lock with a fence: work that only its holder may do, and a late write of an old holder that the
//! store refuses.
//!
//! `cargo run -p kv-any --example fenced_lock [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use kv_any::kv_core::{ErrorKind, Fence, PutOptions, Result, Store, StoreExt};

async fn put(store: &dyn Store, value: &'static str, fence: Fence) -> Result<()> {
    let options = PutOptions::default().with_fence(fence);
    store.put_with("fenced_lock/job", value, options).await.map(drop)
}

/// Returns what the store holds after an old holder woke up and wrote once more.
pub(crate) async fn run(url: &str) -> std::result::Result<String, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    let guard = store.lock("fenced_lock/job").await?;
    let old = guard.fence();
    put(&*store, "done by the first", old.clone()).await?;
    guard.unlock().await?;

    let guard = store.lock("fenced_lock/job").await?;
    put(&*store, "done by the second", guard.fence()).await?;
    // The first one believes that it still holds the lock.
    let late = put(&*store, "done again by the first", old).await;
    if !matches!(late.as_ref().map_err(|error| error.kind()), Err(ErrorKind::NotHeld { .. })) {
        return Err(format!("the late write was not refused: {late:?}").into());
    }
    guard.unlock().await?;
    let value = store.get("fenced_lock/job").await?.ok_or("nothing was done")?.text()?.to_owned();
    store.delete_tree("fenced_lock").await?;
    store.close().await?;
    Ok(value)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("{}", run(&url).await?);
    Ok(())
}
