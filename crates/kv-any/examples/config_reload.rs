//! Reloading configuration: follow one key, and keep the last good value when a bad one is put.
//!
//! `cargo run -p kv-any --example config_reload [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use kv_any::kv_core::{Key, StoreExt, WatchEvent, WatchOptions, WatchTarget};

/// Follows a limit while it is changed, and tells each one that was taken over.
pub(crate) async fn run(url: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    let key: Key = "config_reload/limit".parse()?;
    store.put(&key, "10").await?;

    // The value that is there comes first; nothing between it and the changes is lost.
    let options = WatchOptions::default().with_initial();
    let mut watch = store.watch_with(WatchTarget::key(&key), options).await?;
    let mut taken = Vec::new();
    for next in ["20", "many", "30"] {
        // A backend may merge changes, so each is awaited before the next one is made.
        while let Some(event) = watch.next().await {
            match event? {
                WatchEvent::Put(entry) => match entry.text()?.parse() {
                    Ok(limit) => {
                        taken.push(limit);
                        break;
                    }
                    Err(bad) => {
                        println!("{}: {bad}; the limit stays {:?}", entry.text()?, taken.last());
                        break;
                    }
                },
                WatchEvent::Delete(_) => println!("it was deleted; the limit stays {:?}", taken.last()),
                // After a gap the present value follows as a put.
                _ => {}
            }
        }
        store.put(&key, next).await?;
    }
    let last = store.wait_for(&key, |entry| entry.is_some_and(|entry| entry.value == "30")).await?;
    taken.extend(last.and_then(|entry| entry.text().ok()?.parse::<u32>().ok()));
    store.delete_tree("config_reload").await?;
    store.close().await?;
    Ok(taken)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("taken over: {:?}", run(&url).await?);
    Ok(())
}
