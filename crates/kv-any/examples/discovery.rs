//! Service discovery: an address lives as long as the handle of the process that put it, and others
//! follow who is there.
//!
//! `cargo run -p kv-any --example discovery [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use kv_any::kv_core::{Prefix, StoreExt, WatchOptions, WatchState, WatchTarget};

/// Two services register, one of them ends; returns who was seen at each step.
pub(crate) async fn run(url: &str) -> Result<Vec<Vec<String>>, Box<dyn Error>> {
    let [first, second] = [kv_any::open(url).await?, kv_any::open(url).await?];
    first.put_session("discovery/web/1", "10.0.0.1:80").await?;
    second.put_session("discovery/web/2", "10.0.0.2:80").await?;

    let observer = kv_any::open(url).await?;
    let services = WatchTarget::below(Prefix::new("discovery/web")?);
    let mut watch = observer.watch_with(services, WatchOptions::default().with_initial()).await?;
    let mut state = WatchState::new();
    let mut seen = Vec::new();
    for wanted in [2, 1] {
        // The state is kept from the events, gaps included.
        while let Some(event) = watch.next().await {
            state.apply(event?);
            if state.is_complete() && state.entries().count() == wanted {
                break;
            }
        }
        seen.push(state.entries().filter_map(|entry| entry.text().ok().map(str::to_owned)).collect());
        // Its addresses go at once; those of a process that dies, within the store's bound.
        second.close().await?;
    }
    first.close().await?;
    observer.close().await?;
    Ok(seen)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:discovery".to_owned());
    for there in run(&url).await? {
        println!("{there:?}");
    }
    Ok(())
}
