//! A queue: workers take jobs in order, each job is taken by one of them.
//!
//! `cargo run -p kv-any --example queue [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::sync::Arc;

use kv_any::kv_core::{ListOptions, Prefix, Result, Store, StoreExt};

/// Takes the first job; `None` when there is none. A worker that dies afterwards has lost the job: one
/// that must not be lost is moved aside in a transaction, under the worker's name, until it is done.
async fn take(store: &dyn Store) -> Result<Option<String>> {
    loop {
        let first = ListOptions::default().with_limit(1);
        let mut jobs = store.list_with(&Prefix::new("queue/jobs")?, first).await?;
        let Some(job) = jobs.next().await else { return Ok(None) };
        let Some(job) = job?.into_entry() else { return Ok(None) };
        match store.compare_and_delete(&job.key, job.version).await {
            Ok(()) => return Ok(Some(job.text()?.to_owned())),
            // Another worker was faster.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets four workers do twenty jobs, and returns how many each did and what was done.
pub(crate) async fn run(url: &str) -> std::result::Result<Vec<String>, Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    for number in 0..20 {
        // The number is what jobs are taken by.
        store.create(format!("queue/jobs/{number:010}"), format!("job {number}")).await?;
    }
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut done = Vec::new();
                while let Some(job) = take(&*store).await? {
                    done.push(job);
                }
                Ok::<_, kv_any::kv_core::Error>(done)
            })
        })
        .collect();
    let mut done = Vec::new();
    for worker in workers {
        let jobs = worker.await??;
        println!("a worker did {} jobs", jobs.len());
        done.extend(jobs);
    }
    store.close().await?;
    Ok(done)
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("done: {}", run(&url).await?.len());
    Ok(())
}
