//! A list and what happens after it: together they lose nothing.
//!
//! `cargo run -p kv-any --example snapshot [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::collections::BTreeMap;
use std::error::Error;

use kv_any::kv_core::{Prefix, StoreExt, WatchEvent, WatchOptions, WatchTarget};

/// Lists, changes, and follows the changes up to the last one; returns the state that comes of it.
pub(crate) async fn run(url: &str) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    for key in ["a", "b"] {
        store.put(format!("snapshot/{key}"), "before").await?;
    }
    let mut state = BTreeMap::new();
    let listing = store.list("snapshot").await?;
    let as_of = listing.as_of().ok_or("the list has no version")?;
    for entry in listing.entries().await? {
        state.insert(entry.key.to_string(), entry.text()?.to_owned());
    }

    store.put("snapshot/b", "after").await?;
    store.delete("snapshot/a").await?;
    store.put("snapshot/z", "last").await?;

    let below = WatchTarget::below(Prefix::new("snapshot")?);
    let mut watch = store.watch_with(below, WatchOptions::default().with_from(as_of)).await?;
    while let Some(event) = watch.next().await {
        match event? {
            WatchEvent::Put(entry) => {
                state.insert(entry.key.to_string(), entry.text()?.to_owned());
            }
            WatchEvent::Delete(deletion) => {
                state.remove(deletion.key.as_str());
            }
            // A store without history tells the whole state anew.
            WatchEvent::Resync => state.clear(),
            _ => {}
        }
        if state.contains_key("snapshot/z") && !state.contains_key("snapshot/a") {
            break;
        }
    }
    store.delete_tree("snapshot").await?;
    store.close().await?;
    Ok(state)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("{:?}", run(&url).await?);
    Ok(())
}
