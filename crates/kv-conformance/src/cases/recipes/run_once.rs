//! Firings of a schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use kv_core::{EntryExpiry, ErrorKind, Store, StoreExt};
use kv_recipes::RunOnce;

use crate::case::needs::{EXPIRY_CHANGE, TTL};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{at_once, ensure_eq, expiry_of, key, refused, soon};

pub(super) const CASES: &[Case] = &[
    case!(a_firing_is_run_once, "One of many instances runs a firing.", TTL, EXPIRY_CHANGE),
    case!(
        a_late_instance_does_not_run_it,
        "After its end a firing is kept for the minimum hold.",
        TTL,
        EXPIRY_CHANGE
    ),
    case!(work_without_its_claim_is_dropped, "Work whose claim is lost is dropped.", TTL, EXPIRY_CHANGE),
];

fn schedule(fixture: &Fixture, store: &Arc<dyn Store>) -> Result<RunOnce> {
    Ok(RunOnce::new(Arc::clone(store), "jobs/nightly", fixture.long_ttl())?)
}

async fn a_firing_is_run_once(fixture: &Fixture) -> Result<()> {
    let stores = [Arc::clone(&fixture.store), fixture.another().await?, fixture.another().await?];
    for firing in ["1", "2"] {
        let runs = Arc::new(AtomicUsize::new(0));
        let mut instances = Vec::new();
        for store in stores.iter().chain(&stores) {
            let (schedule, runs) = (schedule(fixture, store)?, Arc::clone(&runs));
            instances.push(at_once(async move {
                schedule.run(firing, async { runs.fetch_add(1, Ordering::SeqCst) }).await
            }));
        }
        let ran = soon("all instances", try_join_all(instances)).await??;
        ensure_eq!(runs.load(Ordering::SeqCst), 1, "how often firing {firing} ran");
        ensure_eq!(ran.iter().flatten().count(), 1, "how many instances ran firing {firing}");
    }
    Ok(())
}

async fn a_late_instance_does_not_run_it(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (schedule, late) = (schedule(fixture, store)?, schedule(fixture, &other)?);
    soon("the work", schedule.run("1", async {})).await??.context("nobody runs it")?;
    ensure_eq!(soon("a late run", late.run("1", async {})).await??, None, "a late instance");
    let expiry = expiry_of(store, &key("jobs/nightly/1")?).await?;
    let least = fixture.long_ttl();
    ensure!(
        matches!(expiry, EntryExpiry::Ttl { granted, .. } if granted >= least),
        "it is kept for {expiry:?}, not for {least:?}"
    );
    // One that is given up can be run again.
    let firing = schedule.claim("2").await?.context("nobody claims it")?;
    firing.release().await?;
    ensure!(late.claim("2").await?.is_some(), "a firing that was given up is claimed");
    Ok(())
}

async fn work_without_its_claim_is_dropped(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let schedule = schedule(fixture, store)?;
    let firing = key("jobs/nightly/1")?;
    let running = at_once(async move { schedule.run("1", std::future::pending::<()>()).await });
    let claimed = other.wait_for(&firing, |entry| entry.is_some());
    soon("the claim", claimed).await??;
    other.delete(&firing).await?;
    refused!(
        soon("the end of the work", running).await?,
        ErrorKind::NotHeld { .. },
        "work without its claim"
    );
    Ok(())
}
