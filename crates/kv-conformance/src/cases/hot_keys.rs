//! Many writers of one key at once: each gets its turn, and each delete says what it deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use kv_core::{DeleteOptions, Entry, PutOptions, StoreExt, Version};

use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{at_once, ensure_eq, entry, key, sees};

pub(super) const CASES: &[Case] = &[
    case!(puts_of_one_key_at_once_all_succeed, "A put without a precondition cannot lose to another put."),
    case!(a_busy_handle_starves_no_other, "A writer gets its turn beside a handle that writes all the time."),
    case!(
        each_delete_tells_what_it_deleted,
        "Two deletes never return the same entry, whoever puts meanwhile."
    ),
];

/// Catches a put that is decided on a reading, tried again when another writer came first, and given up.
async fn puts_of_one_key_at_once_all_succeed(fixture: &Fixture) -> Result<()> {
    const PUTS: usize = 250;
    let (store, k) = (&fixture.store, key("hot")?);
    let puts = (0..PUTS).map(|at| {
        let (store, k) = (Arc::clone(store), k.clone());
        at_once(async move {
            // They go one after the other: a slow machine takes its time for so many.
            let options = PutOptions::default().with_timeout(PATIENCE);
            let put = store.put_with(&k, format!("{at}"), options).await;
            put.map(|put| put.version).with_context(|| format!("put {at} of {PUTS}"))
        })
    });
    let puts: Vec<_> = puts.collect();
    let versions = try_join_all(puts).await?;
    let different: BTreeSet<Version> = versions.iter().copied().collect();
    ensure_eq!(different.len(), PUTS, "the number of different versions");
    let last = different.last().copied();
    sees(fixture, "the last put should be what is read", || async {
        let found = entry(store, &k).await?;
        let at = versions.iter().position(|version| *version == found.version).context("nobody's version")?;
        ensure_eq!(found.value, Bytes::from(format!("{at}")), "the value at version {}", found.version);
        Ok(Some(found.version) == last)
    })
    .await
}

/// Catches handles that answer a conflict by trying again at once, so that the faster one always wins.
async fn a_busy_handle_starves_no_other(fixture: &Fixture) -> Result<()> {
    let (busy, other, k) = (&fixture.store, fixture.another().await?, key("hot")?);
    let writers = (0..8).map(|writer| {
        let (busy, k) = (Arc::clone(busy), k.clone());
        at_once(async move {
            loop {
                let put = busy.put(&k, format!("busy {writer}")).await;
                if put.is_err() {
                    return put.map(drop);
                }
            }
        })
    });
    let writing = futures_util::future::select_all(writers.map(Box::pin));
    let waiting = async {
        for at in 0..20 {
            other.put(&k, format!("other {at}")).await.with_context(|| format!("put {at} of the other"))?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        waited = waiting => waited,
        (ended, ..) = writing => ended.context("a put of the busy handle"),
    }
}

/// Catches a delete that returns what it had read before, and entries put together from two readings.
async fn each_delete_tells_what_it_deleted(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = key("dir/hot")?;
    let writers = (0..4).map(|writer| {
        let (store, k) = (Arc::clone(stores[writer % 2]), k.clone());
        at_once(async move {
            let mut put = Vec::new();
            for round in 0..40 {
                let value = Bytes::from(format!("{writer}-{round}"));
                put.push((store.put(&k, value.clone()).await?, value));
            }
            anyhow::Ok(put)
        })
    });
    let deleters = (0..4).map(|deleter| {
        let (store, k) = (Arc::clone(stores[deleter % 2]), k.clone());
        at_once(async move {
            let mut deleted = Vec::new();
            for _ in 0..40 {
                let answer = store.delete_with(&k, DeleteOptions::default().with_previous()).await?;
                ensure_eq!(answer.previous.is_some(), answer.existed, "whether there is a previous entry");
                deleted.extend(answer.previous);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            anyhow::Ok(deleted)
        })
    });
    let (writers, deleters): (Vec<_>, Vec<_>) = (writers.collect(), deleters.collect());
    let (put, deleted) = tokio::try_join!(try_join_all(writers), try_join_all(deleters))?;
    let put: BTreeMap<Version, Bytes> = put.into_iter().flatten().collect();
    let mut deleted: Vec<Entry> = deleted.into_iter().flatten().collect();
    deleted.sort_by_key(|entry| entry.version);
    for entry in &deleted {
        let value = put.get(&entry.version);
        ensure!(value == Some(&entry.value), "{entry:?} was deleted, and what was put then was {value:?}");
        ensure!(
            put.contains_key(&entry.created),
            "{entry:?} was deleted, and nothing was put at its creation"
        );
    }
    for pair in deleted.windows(2) {
        let (first, second) = (&pair[0], &pair[1]);
        ensure!(first.version != second.version, "two deletes returned {first:?}");
        ensure!(
            second.created > first.version,
            "{second:?} was created before {first:?}, which it replaced, was deleted"
        );
    }
    Ok(())
}
