//! The workloads, and the closed loop that drives them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::subject::{Changes, Subject};

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Get,
    PutNew,
    PutExisting,
    CompareAndSet,
    PutTtl,
    Delete,
    List1k,
    List100k,
    Transact,
    LockUnlock,
    LockContended,
    WatchLatency,
    WatchThroughput,
    Open,
}

impl Kind {
    pub(crate) const ALL: &'static [Self] = &[
        Self::Get,
        Self::PutNew,
        Self::PutExisting,
        Self::CompareAndSet,
        Self::PutTtl,
        Self::Delete,
        Self::List1k,
        Self::List100k,
        Self::Transact,
        Self::LockUnlock,
        Self::LockContended,
        Self::WatchLatency,
        Self::WatchThroughput,
        Self::Open,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::PutNew => "put (new key)",
            Self::PutExisting => "put (existing key)",
            Self::CompareAndSet => "compare-and-set",
            Self::PutTtl => "put with TTL (new key)",
            Self::Delete => "delete",
            Self::List1k => "list 1,000 keys",
            Self::List100k => "list 100,000 keys",
            Self::Transact => "transaction of 4 puts",
            Self::LockUnlock => "lock, unlock",
            Self::LockContended => "contended lock",
            Self::WatchLatency => "watch latency",
            Self::WatchThroughput => "watch events",
            Self::Open => "open, get, close",
        }
    }

    /// Whether the size of the values makes a difference worth measuring.
    pub(crate) fn has_value_sizes(self) -> bool {
        matches!(self, Self::Get | Self::PutExisting)
    }

    /// The numbers of tasks (of watches, for [`Self::WatchThroughput`]) to measure, of those planned.
    pub(crate) fn concurrency(self, planned: &'static [usize]) -> &'static [usize] {
        match self {
            Self::List100k => &[1],
            Self::LockContended => &[16],
            Self::WatchThroughput => &[1, 100, 1000],
            Self::Open => &[1, 16],
            Self::PutTtl | Self::Transact | Self::LockUnlock | Self::WatchLatency => &[1, 64],
            _ => planned,
        }
    }

    /// How many keys a list finds.
    fn listed(self) -> usize {
        match self {
            Self::List1k => 1_000,
            Self::List100k => 100_000,
            _ => 0,
        }
    }

    fn needs_fresh_keys(self) -> bool {
        matches!(self, Self::PutNew | Self::PutTtl | Self::Delete | Self::Transact)
    }

    /// Whether an operation is a fixed number of requests, so that counting its round trips tells
    /// something.
    pub(crate) fn has_round_trips(self) -> bool {
        !matches!(self, Self::List100k | Self::LockContended | Self::WatchThroughput)
    }

    /// How many keys each worker uses.
    fn keys_per_worker(self) -> usize {
        match self {
            Self::Get | Self::PutExisting => 16,
            _ => 1,
        }
    }
}

/// A kind of work at one concurrency and value size.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Workload {
    pub(crate) kind: Kind,
    pub(crate) concurrency: usize,
    pub(crate) value_bytes: usize,
}

impl Workload {
    /// One task, and the smallest values.
    pub(crate) fn is_alone(&self) -> bool {
        self.concurrency == 1 && self.value_bytes <= 64
    }
}

/// What one round of one subject measured.
pub(crate) struct Sample {
    ops: u64,
    elapsed: Duration,
    /// Nanoseconds per operation, sorted.
    latencies: Vec<u64>,
}

impl Sample {
    fn new(ops: u64, elapsed: Duration, mut latencies: Vec<u64>) -> Self {
        latencies.sort_unstable();
        Self { ops, elapsed, latencies }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds that so many of a thousand operations did not exceed.
    #[allow(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
    pub(crate) fn quantile_us(&self, of_1000: usize) -> f64 {
        let at = (self.latencies.len() * of_1000 / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |nanos| *nanos as f64 / 1000.0)
    }
}

/// The time to live of keys nobody is to see expire.
const LONG: Duration = Duration::from_secs(60);
/// How many requests are under way while keys are prepared.
const PREPARING: usize = 64;
/// Puts by one writer, one after the other, before every watch must have seen the last.
const BURST: usize = 50;
const PATIENCE: Duration = Duration::from_secs(10);

/// One subject with its own keys for one workload.
pub(crate) struct Bench<S> {
    subject: S,
    workload: Workload,
    prefix: String,
    value: Bytes,
    /// Numbers new keys, so that no round meets those of another.
    fresh: Arc<AtomicU64>,
    /// What [`Kind::WatchThroughput`] listens to.
    watches: Arc<Mutex<Vec<Changes>>>,
}

impl<S: Subject> Bench<S> {
    /// Makes what the workload needs to find.
    pub(crate) async fn prepare(subject: S, workload: Workload, prefix: String) -> Result<Self> {
        let value = Bytes::from(vec![b'v'; workload.value_bytes]);
        let bench = Self { subject, workload, prefix, value, fresh: Arc::default(), watches: Arc::default() };
        let listed = (0..workload.kind.listed()).map(|n| format!("{}/list/{n:06}", bench.prefix));
        let worked = (0..workload.concurrency)
            .flat_map(|worker| (0..workload.kind.keys_per_worker()).map(move |n| (worker, n)))
            .map(|(worker, n)| bench.key(worker, n));
        let puts = stream::iter(listed.chain(worked)).map(|key| {
            let (subject, value) = (&bench.subject, bench.value.clone());
            async move { subject.put(&key, value).await.map(drop) }
        });
        puts.buffer_unordered(PREPARING).try_collect::<()>().await.context("preparing")?;
        if workload.kind == Kind::WatchThroughput {
            let mut watches = bench.watches.lock().await;
            for _ in 0..workload.concurrency {
                watches.push(bench.subject.watch(&bench.watched(0)).await.context("preparing")?);
            }
        }
        Ok(bench)
    }

    fn key(&self, worker: usize, n: usize) -> String {
        format!("{}/w{worker}/key{n}", self.prefix)
    }

    /// Runs all workers for this long.
    pub(crate) async fn round(&self, duration: Duration) -> Result<Sample> {
        let begin = Instant::now();
        let until = begin + duration;
        if self.workload.kind == Kind::WatchThroughput {
            return self.watch_throughput(until).await;
        }
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..self.workload.concurrency {
            workers.spawn(self.clone_for_worker().run(worker, until));
        }
        let (mut latencies, mut elapsed) = (Vec::new(), Duration::ZERO);
        while let Some(ended) = workers.join_next().await {
            let (of_worker, ended) = ended.context("a worker panicked")??;
            latencies.extend(of_worker);
            elapsed = elapsed.max(ended - begin);
        }
        Ok(Sample::new(latencies.len() as u64, elapsed, latencies))
    }

    /// Removes what was made.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.subject.clear(&self.prefix).await
    }

    fn clone_for_worker(&self) -> Self {
        Self {
            subject: self.subject.clone(),
            workload: self.workload,
            prefix: self.prefix.clone(),
            value: self.value.clone(),
            fresh: Arc::clone(&self.fresh),
            watches: Arc::clone(&self.watches),
        }
    }

    /// What each operation took, and when the last one had ended.
    async fn run(self, worker: usize, until: Instant) -> Result<(Vec<u64>, Instant)> {
        if self.workload.kind == Kind::WatchLatency {
            return self.watch_latency(worker, until).await;
        }
        let mut latencies = Vec::new();
        let keys: Vec<String> =
            (0..self.workload.kind.keys_per_worker()).map(|n| self.key(worker, n)).collect();
        let mut version = match self.workload.kind {
            Kind::CompareAndSet => self.subject.put(&keys[0], self.value.clone()).await?,
            _ => 0,
        };
        let mut turn = 0;
        while Instant::now() < until {
            let key = &keys[turn % keys.len()];
            turn += 1;
            let fresh = if self.workload.kind.needs_fresh_keys() { self.fresh_key() } else { String::new() };
            if self.workload.kind == Kind::Delete {
                self.subject.put(&fresh, self.value.clone()).await?;
            }
            let begin = Instant::now();
            self.operation(key, &fresh, worker, &mut version).await?;
            latencies.push(nanos(begin.elapsed()));
        }
        Ok((latencies, Instant::now()))
    }

    async fn operation(&self, key: &str, fresh: &str, worker: usize, version: &mut u64) -> Result<()> {
        let (subject, value) = (&self.subject, || self.value.clone());
        match self.workload.kind {
            Kind::Get => ensure!(subject.get(key).await? == self.value.len(), "{key} has another value"),
            Kind::PutNew => drop(subject.put(fresh, value()).await?),
            Kind::PutExisting => drop(subject.put(key, value()).await?),
            Kind::CompareAndSet => *version = subject.compare_and_set(key, *version, value()).await?,
            Kind::PutTtl => subject.put_ttl(fresh, value(), LONG).await?,
            Kind::Delete => ensure!(subject.delete(fresh).await?, "{fresh} was gone"),
            Kind::List1k | Kind::List100k => {
                let (listed, expected) =
                    (subject.list(&format!("{}/list", self.prefix)).await?, self.workload.kind.listed());
                ensure!(listed == expected, "{listed} keys in place of {expected}");
            }
            Kind::Transact => {
                let keys = ["a", "b", "c", "d"].map(|name| format!("{fresh}{name}"));
                let [a, b, c, d] = &keys;
                ensure!(subject.transact([a, b, c, d], value()).await?, "the transaction did not run");
            }
            Kind::LockUnlock => subject.lock_unlock(&format!("{}/lock{worker}", self.prefix)).await?,
            Kind::LockContended => subject.lock_unlock(&format!("{}/lock", self.prefix)).await?,
            Kind::Open => subject.open().await?,
            Kind::WatchLatency | Kind::WatchThroughput => bail!("not an operation of its own"),
        }
        Ok(())
    }

    /// Each put carries its number; the watch must deliver that number.
    async fn watch_latency(self, worker: usize, until: Instant) -> Result<(Vec<u64>, Instant)> {
        let mut latencies = Vec::new();
        let mut changes = self.subject.watch(&self.watched(worker)).await?;
        while Instant::now() < until {
            let begin = Instant::now();
            let number = self.put_number(worker).await?;
            seen(&mut changes, &number).await?;
            latencies.push(nanos(begin.elapsed()));
        }
        Ok((latencies, Instant::now()))
    }

    /// Bursts of puts; every watch must have seen the last of a burst before the next one begins. An
    /// operation is one put as one watch sees it; watches that merge changes see fewer events.
    async fn watch_throughput(&self, until: Instant) -> Result<Sample> {
        let (mut latencies, mut ops, begun) = (Vec::new(), 0, Instant::now());
        let mut watches = self.watches.lock().await;
        while Instant::now() < until {
            let begin = Instant::now();
            let mut last = String::new();
            for _ in 0..BURST {
                last = self.put_number(0).await?;
            }
            for watch in watches.iter_mut() {
                seen(watch, &last).await?;
            }
            let events = u32::try_from(BURST * watches.len())?;
            latencies.push(nanos(begin.elapsed() / events));
            ops += u64::from(events);
        }
        Ok(Sample::new(ops, begun.elapsed(), latencies))
    }

    fn watched(&self, worker: usize) -> String {
        format!("{}/watched{worker}", self.prefix)
    }

    async fn put_number(&self, worker: usize) -> Result<String> {
        let number = self.fresh.fetch_add(1, Ordering::Relaxed).to_string();
        self.subject.put(&format!("{}/key", self.watched(worker)), number.clone().into()).await?;
        Ok(number)
    }

    fn fresh_key(&self) -> String {
        format!("{}/new/key{}", self.prefix, self.fresh.fetch_add(1, Ordering::Relaxed))
    }
}

/// Waits until a watch has seen a value.
async fn seen(changes: &mut Changes, number: &str) -> Result<()> {
    let seen = tokio::time::timeout(PATIENCE, async {
        while let Some(value) = changes.recv().await {
            if value == number.as_bytes() {
                return true;
            }
        }
        false
    });
    ensure!(seen.await.with_context(|| format!("no event within {PATIENCE:?}"))?, "the watch ended");
    Ok(())
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
