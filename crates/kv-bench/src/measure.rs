//! Raw client and store in turn, within one run, on the same server.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::Spread;
use crate::store::StoreSubject;
use crate::subject::Subject;
use crate::workload::{Bench, Kind, Sample, Workload};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) concurrency: &'static [usize],
    pub(crate) value_bytes: &'static [usize],
}

impl Plan {
    pub(crate) const QUICK: Self =
        Self { rounds: 5, round: Duration::from_millis(300), concurrency: &[1, 64], value_bytes: &[64] };
    pub(crate) const FULL: Self = Self {
        rounds: 12,
        round: Duration::from_millis(800),
        concurrency: &[1, 16, 64, 256],
        value_bytes: &[64, 1024, 64 * 1024],
    };

    /// The workloads, each at the sizes that make a difference to it.
    fn workloads(self) -> impl Iterator<Item = Workload> {
        Kind::ALL.iter().flat_map(move |&kind| {
            self.concurrency.iter().flat_map(move |&concurrency| {
                let sizes = if kind.has_value_sizes() { self.value_bytes } else { &self.value_bytes[..1] };
                sizes.iter().map(move |&value_bytes| Workload { kind, concurrency, value_bytes })
            })
        })
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) backend: String,
    pub(crate) workload: &'static str,
    pub(crate) concurrency: usize,
    pub(crate) value_bytes: usize,
    pub(crate) raw_ops_per_s: f64,
    pub(crate) store_ops_per_s: f64,
    pub(crate) raw_p50_us: f64,
    pub(crate) store_p50_us: f64,
    pub(crate) raw_p99_us: f64,
    pub(crate) store_p99_us: f64,
    /// Throughput of the store over that of the raw client, pair by pair: the claim.
    pub(crate) ratio: f64,
    pub(crate) ratio_low: f64,
    pub(crate) ratio_high: f64,
    /// Median latency of the store over that of the raw client, likewise.
    pub(crate) latency_ratio: f64,
    /// The largest amount of memory this process has used so far.
    pub(crate) peak_memory_bytes: u64,
}

/// Measures every workload of a plan. A workload the raw client cannot do is left out, and said so.
pub(crate) async fn measure<R: Subject>(
    backend: &str,
    raw: R,
    store: StoreSubject,
    plan: Plan,
    wanted: impl Fn(Kind) -> bool,
    say: impl Fn(&str),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, workload) in plan.workloads().filter(|workload| wanted(workload.kind)).enumerate() {
        match pair(backend, &raw, &store, workload, plan, number).await {
            Ok(row) => {
                say(&format!(
                    "{backend:8} {:22} c={:<3} {:>6} B  ratio {:.2} ({:.2}-{:.2})  latency x{:.2}",
                    row.workload,
                    row.concurrency,
                    row.value_bytes,
                    row.ratio,
                    row.ratio_low,
                    row.ratio_high,
                    row.latency_ratio
                ));
                rows.push(row);
            }
            Err(error) => say(&format!("{backend:8} {:22} left out: {error:#}", workload.kind.name())),
        }
    }
    Ok(rows)
}

async fn pair<R: Subject>(
    backend: &str,
    raw: &R,
    store: &StoreSubject,
    workload: Workload,
    plan: Plan,
    number: usize,
) -> Result<Row> {
    let raw =
        Bench::prepare(raw.clone(), workload, format!("bench/raw{number}")).await.context("raw client")?;
    let store =
        Bench::prepare(store.clone(), workload, format!("bench/store{number}")).await.context("store")?;
    // One round of each that does not count: connections, caches, branch predictors.
    raw.round(plan.round / 2).await.context("raw client")?;
    store.round(plan.round / 2).await.context("store")?;
    let mut pairs = Vec::with_capacity(plan.rounds);
    for round in 0..plan.rounds {
        // Who goes first alternates, so that a drift of the machine favours nobody.
        let both = if round % 2 == 0 {
            let raw = raw.round(plan.round).await.context("raw client")?;
            (raw, store.round(plan.round).await.context("store")?)
        } else {
            let store = store.round(plan.round).await.context("store")?;
            (raw.round(plan.round).await.context("raw client")?, store)
        };
        pairs.push(both);
    }
    raw.clean_up().await.context("raw client")?;
    store.clean_up().await.context("store")?;
    summarise(backend, workload, &pairs).context("no rounds were measured")
}

fn summarise(backend: &str, workload: Workload, pairs: &[(Sample, Sample)]) -> Option<Row> {
    let spread = |of: &dyn Fn(&(Sample, Sample)) -> f64| Spread::of(pairs.iter().map(of).collect());
    let ratio = spread(&|(raw, store)| store.per_second() / raw.per_second())?;
    Some(Row {
        backend: backend.to_owned(),
        workload: workload.kind.name(),
        concurrency: workload.concurrency,
        value_bytes: workload.value_bytes,
        raw_ops_per_s: spread(&|(raw, _)| raw.per_second())?.median,
        store_ops_per_s: spread(&|(_, store)| store.per_second())?.median,
        raw_p50_us: spread(&|(raw, _)| raw.quantile_us(0.5))?.median,
        store_p50_us: spread(&|(_, store)| store.quantile_us(0.5))?.median,
        raw_p99_us: spread(&|(raw, _)| raw.quantile_us(0.99))?.median,
        store_p99_us: spread(&|(_, store)| store.quantile_us(0.99))?.median,
        ratio: ratio.median,
        ratio_low: ratio.low,
        ratio_high: ratio.high,
        latency_ratio: spread(&|(raw, store)| store.quantile_us(0.5) / raw.quantile_us(0.5))?.median,
        peak_memory_bytes: peak_memory(),
    })
}

/// The high-water mark of this process, zero where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
