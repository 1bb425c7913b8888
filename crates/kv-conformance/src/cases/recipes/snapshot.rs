//! Snapshots, and collectors on top of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{Entry, Guarantee, Key, Store, StoreExt, Txn, TxnOp};
use kv_recipes::{Collected, Collector, Consistent, Snapshot, SnapshotOptions};

use crate::case::needs::TRANSACTIONS;
use crate::case::{BeyondReach, Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{at_once, ensure_eq, key, within};

pub(super) const CASES: &[Case] = &[
    case!(
        recipe_snapshot_holds_a_moving_token_once,
        "A snapshot that is no fuzzy one shows one moment.",
        TRANSACTIONS,
    ),
    case!(
        recipe_snapshot_and_replay_are_a_later_list,
        "A snapshot with what a collector recorded on top of it is a later state."
    ),
    case!(
        recipe_collector_outlives_an_outage,
        "What changes while a collector is cut off is recorded when it is back."
    ),
];

async fn recipe_snapshot_holds_a_moving_token_once(fixture: &Fixture) -> Result<()> {
    const PLACES: usize = 24;
    let place = |at: usize| key(&format!("token/{:02}", at % PLACES));
    for at in 0..PLACES {
        fixture.store.put(&place(at)?, if at == 0 { "T" } else { "" }).await?;
    }
    let is_snapshot = fixture.capabilities().guarantees(Guarantee::ListSnapshot);
    let moving = {
        let store = fixture.another().await?;
        async move {
            // From each place to the seventh behind it, so that it goes in both directions of a list.
            for at in (0..).step_by(7) {
                let (from, to) = (place(at)?, place(at + 7)?);
                let _ =
                    store.transact(Txn::always().then([TxnOp::put(from, ""), TxnOp::put(to, "T")])).await?;
                if !is_snapshot {
                    // Two lists in a row agree only if nothing moved in between.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            Ok::<_, anyhow::Error>(())
        }
    };
    let taking = async {
        for _ in 0..20 {
            let options = SnapshotOptions::default().with_lists(200);
            let snapshot = Snapshot::take_with(&fixture.store, ["token"], options).await?;
            let is_exact = matches!(snapshot.consistency(), Consistent::AtVersion(_));
            ensure_eq!(is_exact, is_snapshot, "whether {:?} is exact", snapshot.consistency());
            let tokens = snapshot.entries().iter().filter(|entry| entry.value == "T").count();
            ensure_eq!(tokens, 1, "the tokens in {snapshot:?}");
            ensure_eq!(snapshot.entries().len(), PLACES, "the places in {snapshot:?}");
        }
        Ok(())
    };
    tokio::select! {
        taken = taking => taken,
        moved = moving => moved,
    }
}

const PREFIXES: [&str; 2] = ["log/a", "log/b/c"];

/// The entries of a snapshot, with the recorded changes on top of them, each of which must fit.
fn replayed(base: &Snapshot, collected: &Collected) -> Result<Vec<Entry>> {
    let mut entries: BTreeMap<Key, Entry> =
        base.entries().iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
    let mut misfit = None;
    collected.replay(base.prefixes(), |recorded| {
        let change = &recorded.change;
        if entries.get(&change.key) != change.old.as_ref() {
            misfit = Some(format!("{change:?} was recorded over {:?}", entries.get(&change.key)));
            return ControlFlow::Break(());
        }
        match &change.new {
            Some(entry) => drop(entries.insert(change.key.clone(), entry.clone())),
            None => drop(entries.remove(&change.key)),
        }
        ControlFlow::Continue(())
    })?;
    ensure!(misfit.is_none(), "{}", misfit.unwrap_or_default());
    Ok(entries.into_values().collect())
}

/// Puts and deletes at random, below the prefixes and beside them, until told to stop.
async fn write(store: Arc<dyn Store>, mut random: fastrand::Rng, stop: Arc<AtomicBool>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let below = ["log/a", "log/b/c", "log/b", "log"][random.usize(..4)];
        let key = format!("{below}/{}", random.u32(..12));
        if random.f32() < 0.6 {
            store.put(&key, random.u32(..).to_string()).await?;
        } else {
            store.delete(&key).await?;
        }
    }
    Ok(())
}

/// What was collected, with a put of its own behind it, must lead to the list that follows.
async fn leads_to_the_list(fixture: &Fixture, base: &Snapshot, collector: Collector) -> Result<()> {
    // Greater than every version of what went.
    fixture.store.put("log/a/last", "x").await?;
    let options = SnapshotOptions::default().with_lists(200);
    let later = Snapshot::take_with(&fixture.store, PREFIXES, options).await?;
    within(PATIENCE * 2, "recording what a later snapshot shows", collector.catch_up(&later)).await??;
    let collected = collector.stop();
    ensure_eq!(replayed(base, &collected)?, later.entries(), "the state replayed, and the list");
    Ok(())
}

async fn recipe_snapshot_and_replay_are_a_later_list(fixture: &Fixture) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let other = fixture.another().await?;
    let mut random = fixture.random();
    let writers = (0..8).map(|n| {
        let store = Arc::clone(if n % 2 == 0 { &fixture.store } else { &other });
        at_once(write(store, random.fork(), Arc::clone(&stop)))
    });
    let writers = try_join_all(writers);
    let collecting = async {
        let fuzzy = SnapshotOptions::default().with_lists(2).allow_fuzzy();
        let base = Snapshot::take_with(&fixture.store, PREFIXES, fuzzy).await?;
        let collector = Collector::start(&fixture.store, &base).await.context("starting the collector")?;
        let enough = async {
            while collector.len() < 50 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let recorded = within(PATIENCE * 4, "50 changes", enough).await;
        stop.store(true, Ordering::Relaxed);
        recorded.map(|()| (base, collector))
    };
    let (written, collected) = futures_util::future::join(writers, collecting).await;
    written.context("writing")?;
    let (base, collector) = collected?;
    leads_to_the_list(fixture, &base, collector).await
}

async fn recipe_collector_outlives_an_outage(fixture: &Fixture) -> Result<()> {
    let Some((store, line)) = fixture.on_a_line().await? else {
        return Err(BeyondReach("nothing here can cut a handle off from its servers".to_owned()).into());
    };
    for n in 0..10 {
        fixture.store.put(format!("log/a/{n}"), "before").await?;
    }
    let base = Snapshot::take(&store, PREFIXES).await?;
    let collector = Collector::start(&store, &base).await.context("starting the collector")?;
    line.cut();
    for n in 0..10 {
        let (gone, changed) = (format!("log/a/{n}"), format!("log/b/c/{n}"));
        if n % 2 == 0 {
            fixture.store.delete(gone).await?;
        }
        fixture.store.put(changed, "meanwhile").await?;
    }
    line.mend();
    leads_to_the_list(fixture, &base, collector).await
}
