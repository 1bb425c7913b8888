//! Handing a store around: an `Arc<dyn Store>` is a store, clones of it are one handle, and tasks that
//! count together lose nothing.
//!
//! `cargo run -p kv-any --example shared [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::sync::Arc;

use kv_any::kv_core::{Entry, Result, Store, StoreExt};

/// A part of a program that neither knows nor cares what is behind its store.
#[derive(Debug)]
struct Counter {
    store: Arc<dyn Store>,
}

impl Counter {
    /// Adds one. Of those who do so at once each is asked again until nobody was in between.
    async fn add_one(&self) -> Result<()> {
        let next = |entry: Option<&Entry>| {
            let before: u64 = entry.and_then(|entry| entry.text().ok()?.parse().ok()).unwrap_or(0);
            Some((before + 1).to_string().into())
        };
        self.store.update("shared/counter", next).await.map(drop)
    }
}

/// Counts with many tasks in the store behind `url`, and tells what came of it.
pub(crate) async fn run(url: &str) -> std::result::Result<String, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    store.delete("shared/counter").await?;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let counter = Counter { store: Arc::clone(&store) };
            tokio::spawn(async move { counter.add_one().await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let counted = store.get("shared/counter").await?.ok_or("nobody has counted")?;
    store.delete_tree("shared").await?;
    store.close().await?;
    Ok(String::from_utf8_lossy(&counted.value).into_owned())
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("counted: {}", run(&url).await?);
    Ok(())
}
