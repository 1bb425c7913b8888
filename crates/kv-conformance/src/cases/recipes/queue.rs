//! Queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures_util::future::try_join_all;
use kv_core::{ErrorKind, Store, StoreExt};
use kv_recipes::{Job, Queue, QueueOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::case::{Case, case};
use crate::fixture::{Fixture, PATIENCE};
use crate::steps::{ensure_eq, refused, soon, within};

pub(super) const CASES: &[Case] = &[
    case!(
        recipe_queue_loses_no_job_of_dead_workers,
        "A job is acknowledged once, also if workers die, and comes again no earlier than its timeout."
    ),
    case!(
        recipe_queue_takes_the_last_claim_only,
        "Of all claims of a job only the last can acknowledge, extend or release it."
    ),
    case!(recipe_queue_buries_what_nobody_finishes, "A job without attempts left becomes a dead letter."),
];

/// Short to wait for, and long beside what a claim takes.
const VISIBILITY: Duration = Duration::from_secs(2);

fn worker(store: &Arc<dyn Store>, visibility: Duration) -> kv_core::Result<Queue> {
    let options = QueueOptions::default().with_visibility(visibility).with_max_attempts(100);
    Queue::open_with(store, "queue", options)
}

#[derive(Default)]
struct Books {
    /// By job, when each claim was sent at the earliest, and when it had come.
    claims: BTreeMap<String, Vec<(Instant, Instant)>>,
    acknowledging: BTreeSet<String>,
    acknowledged: BTreeMap<String, u32>,
}

/// Works until it is killed. Each third job is left to the visibility timeout, as by a worker that died.
async fn work(queue: Queue, books: Arc<Mutex<Books>>, mut random: fastrand::Rng) -> Result<()> {
    let note = |noting: &mut dyn FnMut(&mut Books)| {
        noting(&mut books.lock().unwrap_or_else(PoisonError::into_inner))
    };
    loop {
        let job: Job = queue.claim().await?;
        let id = job.id().to_owned();
        let (sent, had) = (job.claimed_until() - VISIBILITY, Instant::now());
        note(&mut |books| books.claims.entry(id.clone()).or_default().push((sent, had)));
        if job.attempt() == 1 && random.u8(..3) == 0 {
            continue;
        }
        note(&mut |books| {
            books.acknowledging.insert(id.clone());
        });
        match job.acknowledge().await {
            Ok(()) => note(&mut |books| *books.acknowledged.entry(id.clone()).or_default() += 1),
            // The machine was slower than the timeout.
            Err(error) if matches!(error.kind(), ErrorKind::NotHeld { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn recipe_queue_loses_no_job_of_dead_workers(fixture: &Fixture) -> Result<()> {
    const JOBS: usize = 60;
    let mut handles = vec![Arc::clone(&fixture.store)];
    for _ in 1..4 {
        handles.push(fixture.another().await?);
    }
    let pushing = worker(&fixture.store, VISIBILITY)?;
    let push = async |n: usize| pushing.push_as(&format!("{n:03}"), n.to_string()).await;
    try_join_all((0..JOBS).map(push)).await?;
    let books = Arc::new(Mutex::new(Books::default()));
    let mut random = fixture.random();
    let mut workers = JoinSet::new();
    let mut begin = |workers: &mut JoinSet<Result<()>>, n: usize| -> Result<_> {
        let queue = worker(&handles[n % handles.len()], VISIBILITY)?;
        Ok(workers.spawn(work(queue, Arc::clone(&books), random.fork())))
    };
    let mut running = Vec::new();
    for n in 0..8 {
        running.push(begin(&mut workers, n)?);
    }
    let killing = async {
        let mut n = 0;
        while !fixture.store.keys("queue/jobs").await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Two live on: the visibility timeout counts from when a worker has seen a claim.
            running[n % 6].abort();
            running[n % 6] = begin(&mut workers, n)?;
            n += 1;
            while let Some(ended) = workers.try_join_next() {
                match ended {
                    Ok(ended) => ended?,
                    Err(end) if end.is_cancelled() => {}
                    Err(end) => bail!("a worker ended: {end}"),
                }
            }
        }
        Ok(())
    };
    within(PATIENCE * 6, "the queue should be empty", killing).await??;
    workers.shutdown().await;
    let books = books.lock().unwrap_or_else(PoisonError::into_inner);
    ensure_eq!(books.claims.len(), JOBS, "the jobs that were claimed");
    for (id, claims) in &books.claims {
        let acknowledged = books.acknowledged.get(id).copied().unwrap_or(0);
        ensure!(acknowledged <= 1, "{id} was acknowledged {acknowledged} times");
        ensure!(
            acknowledged == 1 || books.acknowledging.contains(id),
            "{id} went without being acknowledged"
        );
        let mut claims = claims.clone();
        claims.sort_unstable();
        for two in claims.windows(2) {
            ensure!(two[1].1 - two[0].0 >= VISIBILITY, "{id} was claimed again too early: {claims:?}");
        }
    }
    Ok(())
}

/// Catches an acknowledgement that is carried out whoever asks.
async fn recipe_queue_takes_the_last_claim_only(fixture: &Fixture) -> Result<()> {
    let slow = worker(&fixture.store, VISIBILITY)?;
    let other = worker(&fixture.another().await?, VISIBILITY * 30)?;
    slow.push("x").await?;
    let mut lost = soon("the first claim", slow.claim()).await??;
    let job = soon("the second claim", other.claim()).await??;
    ensure_eq!((job.id(), job.attempt()), (lost.id(), 2), "the job and its attempt");
    refused!(lost.acknowledge().await, ErrorKind::NotHeld { .. }, "a late acknowledgement");
    refused!(lost.extend().await, ErrorKind::NotHeld { .. }, "a late extension");
    refused!(lost.release().await, ErrorKind::NotHeld { .. }, "a late release");
    job.acknowledge().await?;
    ensure!(fixture.store.keys("queue").await?.is_empty(), "an acknowledged job should be gone");
    Ok(())
}

async fn recipe_queue_buries_what_nobody_finishes(fixture: &Fixture) -> Result<()> {
    let options = QueueOptions::default().with_max_attempts(2);
    let queue = Queue::open_with(&fixture.store, "queue", options)?;
    queue.push_as("poison", "x").await?;
    for attempt in 1..=2 {
        let job = soon("a claim", queue.claim()).await??;
        ensure_eq!(job.attempt(), attempt, "the attempt");
        job.release().await?;
    }
    let again = soon("a try", queue.try_claim()).await??;
    ensure!(again.is_none(), "it had no attempt left: {again:?}");
    let dead: Vec<String> = queue.dead().await?.into_iter().map(|job| job.id).collect();
    ensure_eq!(dead, ["poison"], "the dead letters");
    ensure!(fixture.store.keys("queue/jobs").await?.is_empty(), "it is in the queue still");
    Ok(())
}
