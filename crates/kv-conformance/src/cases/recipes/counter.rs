//! Counters, and ids from them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use kv_recipes::{Counter, IdAllocator};

use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{at_once, ensure_eq};

pub(super) const CASES: &[Case] = &[
    case!(recipe_counter_counts_each_addition, "Every addition that returned was counted once."),
    case!(
        recipe_ids_are_never_handed_out_twice,
        "Ids of several allocators differ, also where taking a block was broken off."
    ),
];

async fn recipe_counter_counts_each_addition(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let tasks = (0..8).map(|n| {
        let store = if n % 2 == 0 { &fixture.store } else { &other };
        let counter = Counter::new(store, "counter");
        at_once(async move {
            let (counter, mut sums) = (counter?, Vec::new());
            for _ in 0..5 {
                sums.push(counter.add(1).await?);
            }
            Ok::<_, kv_core::Error>(sums)
        })
    });
    let sums: BTreeSet<i64> = try_join_all(tasks).await?.into_iter().flatten().collect();
    ensure_eq!(sums, (1..=40).collect(), "the sums that were returned");
    ensure_eq!(Counter::new(&fixture.store, "counter")?.get().await?, 40, "the number at the end");
    Ok(())
}

async fn recipe_ids_are_never_handed_out_twice(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let mut random = fixture.random();
    let tasks = (0..6).map(|n| {
        let store = if n % 2 == 0 { &fixture.store } else { &other };
        let ids = IdAllocator::new(store, "ids").map(|ids| ids.with_block(3));
        let mut random = random.fork();
        at_once(async move {
            let (ids, mut had) = (Arc::new(ids?), Vec::new());
            while had.len() < 15 {
                // Dropped at some point, where it takes longer.
                let patience = Duration::from_micros(random.u64(200..20_000));
                match tokio::time::timeout(patience, ids.next()).await {
                    Ok(id) => had.push(id?),
                    Err(_) => had.push(ids.next().await?),
                }
            }
            Ok::<_, kv_core::Error>(had)
        })
    });
    let had = try_join_all(tasks).await?;
    for ids in &had {
        ensure!(ids.is_sorted(), "one allocator's ids should rise: {ids:?}");
    }
    let different: BTreeSet<u64> = had.iter().flatten().copied().collect();
    ensure_eq!(different.len(), had.iter().map(Vec::len).sum::<usize>(), "how many ids differ");
    Ok(())
}
