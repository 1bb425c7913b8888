//! Cached trees and live values.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kv_core::{Bytes, CodecError, Decode, Key, StoreExt};
use kv_recipes::{Informer, Live};

use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{ensure_eq, key, soon, until};

pub(super) const CASES: &[Case] = &[
    case!(an_informer_equals_the_store, "An informer and its changes come to what a list shows."),
    case!(a_live_value_keeps_the_last_good_one, "A bad update leaves the last good value in use."),
];

async fn an_informer_equals_the_store(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let mut random = fixture.random();
    store.put("dir/before", "x").await?;
    store.put("dirt", "outside").await?;
    let informer = Informer::start(Arc::clone(store), "dir").await?;
    let mut changes = informer.changes();
    for round in 0..60 {
        let key = format!("dir/{}", random.u8(0..8));
        if random.u8(0..3) == 0 {
            other.delete(key).await?;
        } else {
            other.put(key, round.to_string()).await?;
        }
    }
    other.put("dir/last", "x").await?;
    soon("the first state", informer.ready()).await??;
    let listed = other.entries("dir").await?;
    let same = || async { Ok(informer.entries() == listed) };
    until(PATIENCE, "the informer has what a list shows", same).await?;
    // The changes, on top of nothing.
    let mut folded: BTreeMap<Key, Bytes> = BTreeMap::new();
    let listed: BTreeMap<Key, Bytes> = listed.into_iter().map(|entry| (entry.key, entry.value)).collect();
    while folded != listed {
        let change = soon("the next change", changes.next()).await?.context("the changes ended")??;
        let before = folded.get(&change.key);
        ensure_eq!(
            before,
            change.old.as_ref().map(|entry| &entry.value).as_ref().copied(),
            "what was before"
        );
        match change.new {
            Some(entry) => drop(folded.insert(change.key, entry.value)),
            None => drop(folded.remove(&change.key)),
        }
    }
    Ok(())
}

/// Numbers as decimal digits.
struct Number;

impl Decode<u32> for Number {
    fn decode(&self, bytes: &[u8]) -> Result<u32, CodecError> {
        Ok(std::str::from_utf8(bytes)?.parse()?)
    }
}

async fn a_live_value_keeps_the_last_good_one(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let k = key("config/limit")?;
    other.put(&k, "1").await?;
    let mut live: Live<u32> = soon("the first value", Live::start(Arc::clone(store), &k, Number)).await??;
    ensure_eq!(*live.get(), 1, "the first value");
    for bad in [Some("x"), None] {
        match bad {
            Some(value) => drop(other.put(&k, value).await?),
            None => drop(other.delete(&k).await?),
        }
        soon("the word of a bad update", live.changed()).await??;
        ensure!(live.problem().is_some(), "a bad update is not told");
        ensure_eq!(*live.get(), 1, "the value after a bad update");
    }
    let version = other.put(&k, "2").await?;
    soon("the good update", live.changed()).await??;
    ensure_eq!((*live.get(), live.version()), (2, version), "the value after a good update");
    ensure!(live.problem().is_none(), "there is no problem: {:?}", live.problem());
    Ok(())
}
