//! Buffered transactions over the store's.

use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{Key, Store, StoreExt, Txn, TxnOp};
use kv_recipes::{Transacted, Tx, TxOptions, transaction_with};

use crate::case::needs::TRANSACTIONS;
use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{at_once, ensure_eq, key, soon};

pub(super) const CASES: &[Case] = &[
    case!(
        recipe_tx_loses_no_increment,
        "A buffered transaction commits only if nothing that it read has changed.",
        TRANSACTIONS,
    ),
    case!(
        recipe_tx_reads_many_keys_at_one_moment,
        "A buffered transaction reads several keys at one moment.",
        TRANSACTIONS,
    ),
    case!(
        recipe_tx_notices_what_it_found_absent,
        "A buffered transaction also fails when a key that it found absent was created.",
        TRANSACTIONS,
    ),
];

/// Adds one to two keys.
async fn increment(store: &Arc<dyn Store>, options: TxOptions) -> kv_core::Result<Transacted<()>> {
    transaction_with(store, options, async |tx| {
        for name in ["sum/a", "sum/b"] {
            let now: u64 = tx.get_json(name).await?.unwrap_or(0);
            tx.put_json(name, &(now + 1))?;
        }
        Ok(())
    })
    .await
}

/// 16 tasks on four handles. The attempts that the increments took are told on standard error, where
/// `KV_SHOW_ATTEMPTS` is set.
async fn recipe_tx_loses_no_increment(fixture: &Fixture) -> Result<()> {
    const TASKS: usize = 16;
    const EACH: u64 = 5;
    let mut handles = vec![Arc::clone(&fixture.store)];
    for _ in 1..4 {
        handles.push(fixture.another().await?);
    }
    // On a busy machine one of 16 can lose for longer than the default. Nothing may be lost all the same.
    let patient = TxOptions::default().with_deadline(PATIENCE * 4).with_attempts(u32::MAX);
    let escalating = patient.clone().with_escalation(&key("turn")?);
    let tasks = (0..TASKS).map(|n| {
        let store = Arc::clone(&handles[n % handles.len()]);
        // Half of them would take turns.
        let options = if n % 2 == 0 { patient.clone() } else { escalating.clone() };
        at_once(async move {
            let mut attempts = Vec::new();
            for _ in 0..EACH {
                attempts.push(increment(&store, options.clone()).await?.attempts);
            }
            Ok::<_, kv_core::Error>(attempts)
        })
    });
    let mut attempts = try_join_all(tasks).await?.concat();
    attempts.sort_unstable();
    for name in ["sum/a", "sum/b"] {
        let sum = fixture.store.get(name).await?.map(|entry| entry.value);
        ensure_eq!(sum, Some((TASKS as u64 * EACH).to_string().into()), "the sum under {name}");
    }
    show(&attempts);
    Ok(())
}

#[allow(clippy::print_stderr, reason = "for who measures")]
fn show(attempts: &[u32]) {
    if std::env::var_os("KV_SHOW_ATTEMPTS").is_some() {
        let at = |part: usize| attempts.get(attempts.len() * part / 100).or(attempts.last());
        eprintln!("attempts: p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), attempts.last());
    }
}

/// Catches gets that are read one after the other.
async fn recipe_tx_reads_many_keys_at_one_moment(fixture: &Fixture) -> Result<()> {
    const PLACES: usize = 6;
    let places: Vec<Key> = (0..PLACES).map(|at| key(&format!("token/{at}"))).collect::<Result<_>>()?;
    for (at, place) in places.iter().enumerate() {
        fixture.store.put(place, if at == 0 { "T" } else { "" }).await?;
    }
    let moving = {
        let (store, places) = (fixture.another().await?, places.clone());
        async move {
            for at in 0.. {
                let (from, to) = (&places[at % PLACES], &places[(at + 1) % PLACES]);
                let _ =
                    store.transact(Txn::always().then([TxnOp::put(from, ""), TxnOp::put(to, "T")])).await?;
            }
            Ok::<_, kv_core::Error>(())
        }
    };
    let reading = async {
        for _ in 0..40 {
            let read = Tx::begin(&fixture.store).get_many(&places).await?;
            let tokens = read.iter().flatten().filter(|value| *value == "T").count();
            ensure_eq!(tokens, 1, "the tokens read at one moment");
        }
        Ok(())
    };
    tokio::select! {
        read = reading => read,
        moved = moving => Ok(moved?),
    }
}

async fn recipe_tx_notices_what_it_found_absent(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let other = fixture.another().await?;
    for name in ["absent", "dir/absent"] {
        let tx = Tx::begin(store);
        ensure_eq!(soon("a get", tx.get(name)).await??, None, "the value under {name}");
        tx.put("written", name)?;
        other.put(name, "").await?;
        let committed = tx.commit().await;
        ensure!(
            committed.as_ref().is_err_and(kv_core::Error::is_conflict),
            "{name} was created, and the commit answered {committed:?}"
        );
        ensure!(!store.exists("written").await?, "a refused commit has written");
    }
    Ok(())
}
