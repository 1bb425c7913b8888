//! A write whose outcome is unknown: how to write so that it can be decided.
//!
//! `cargo run -p kv-any --example unknown_outcome [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use kv_any::kv_core::{Applied, Result, Settled, Store, StoreExt, Version};

/// Puts a value on top of a version, through answers that are lost. `None`: somebody else wrote. Nobody
/// else writes the same value, so that what is found can be told from what others put.
pub(crate) async fn put_for_certain(
    store: &dyn Store,
    key: &str,
    version: Option<Version>,
    value: &'static str,
) -> Result<Option<Version>> {
    match store.put_if_unchanged(key, version, value).await {
        Ok(version) => Ok(Some(version)),
        Err(error) if error.is_conflict() => Ok(None),
        // The connection broke: the put may or may not have been applied. A put without a condition
        // could only be guessed at now; this one is decided by sending it again.
        Err(error) if error.applied() == Applied::Unknown => match store.settle(key, version, value).await? {
            Settled::Applied(version) => Ok(Some(version)),
            // The first attempt changed the key, or somebody else did.
            Settled::Undecided { current } => {
                Ok(current.filter(|entry| entry.value == value).map(|entry| entry.version))
            }
            _ => Ok(None),
        },
        Err(error) => Err(error),
    }
}

/// Writes twice on top of one version; the second is told that it came too late.
pub(crate) async fn run(url: &str) -> std::result::Result<(bool, bool), Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    let version = store.put("unknown_outcome/a", "old").await?;
    let first = put_for_certain(&*store, "unknown_outcome/a", Some(version), "new").await?;
    let second = put_for_certain(&*store, "unknown_outcome/a", Some(version), "too late").await?;
    store.delete_tree("unknown_outcome").await?;
    store.close().await?;
    Ok((first.is_some(), second.is_some()))
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("{:?}", run(&url).await?);
    Ok(())
}
