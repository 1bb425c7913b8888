//! A tree with more in it than a list may hold, and what listing it takes at its peak.

use anyhow::{Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use kv_core::{Key, ListItem, Store, StoreExt};

use crate::memory::Growth;

/// In directories of [`DIRECTORY`] keys, with values of [`VALUE`] bytes: 25 MB.
const KEYS: usize = 25_000;
const DIRECTORY: usize = 1000;
const VALUE: usize = 1000;
/// How many puts are under way at a time.
const WRITERS: usize = 256;

fn name(n: usize) -> String {
    format!("tree/{:03}/key-{n:07}", n / DIRECTORY)
}

/// Puts the keys, whose values are 25 MB.
///
/// # Errors
/// That of the first put that fails.
pub async fn load(store: &impl Store) -> Result<()> {
    let puts = (0..KEYS).map(|n| store.put(name(n), vec![b'v'; VALUE]));
    stream::iter(puts).buffer_unordered(WRITERS).try_for_each(async |_| Ok(())).await?;
    Ok(())
}

/// Lists all that [`load`] has put, and tells how much memory this process took for it, in KiB.
///
/// # Errors
/// If the list fails, or is not what was put in the order of the keys.
pub async fn peak_of_a_list(store: &impl Store) -> Result<u64> {
    // What is made once is there before it counts.
    ensure!(read(store, "tree/000").await? == DIRECTORY, "a directory is not whole");
    let growth = Growth::begin()?;
    ensure!(read(store, "tree").await? == KEYS, "the tree is not whole");
    growth.peak_kib()
}

async fn read(store: &impl Store, prefix: &str) -> Result<usize> {
    let mut list = store.list(prefix).await?;
    let mut count = 0;
    while let Some(item) = list.next().await {
        let ListItem::Entry(entry) = item? else { bail!("an item that is no entry") };
        let expected = Key::new(&name(count))?;
        ensure!(entry.key == expected, "{} is where {expected} should be", entry.key);
        count += 1;
    }
    Ok(count)
}
