//! Typed values: a struct goes in and comes out as JSON, and a change by another writer is noticed.
//!
//! `cargo run -p kv-any --features serde --example typed [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use kv_any::kv_core::{StoreExt, TypedExt};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) requests: u32,
    pub(crate) burst: u32,
}

/// Raises the limits of a service, unless somebody else changes them meanwhile.
pub(crate) async fn run(url: &str) -> Result<Limits, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    let limits = store.typed::<Limits>("typed")?;
    limits.put("web", &Limits { requests: 100, burst: 10 }).await?;

    // Tried again when somebody else was faster.
    limits.update("web", |old| old.map(|old| Limits { burst: old.burst * 2, ..old })).await?;

    // What is no JSON of this type is an error that names the key, and never the value.
    store.put("typed/broken", "{").await?;
    let broken = limits.get("broken").await.err().ok_or("it was decoded")?;
    println!("{broken}");

    let raised = limits.get("web").await?.ok_or("the limits are gone")?.value;
    store.delete_tree("typed").await?;
    store.close().await?;
    Ok(raised)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("{:?}", run(&url).await?);
    Ok(())
}
