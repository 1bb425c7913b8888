//! Raw client and store in turn, within one run, on the same server.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

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
    /// Whether lists of 100,000 keys are measured: making the keys takes longer than all the rest.
    pub(crate) large_lists: bool,
}

impl Plan {
    pub(crate) const QUICK: Self = Self {
        rounds: 6,
        round: Duration::from_millis(300),
        concurrency: &[1, 64],
        value_bytes: &[64],
        large_lists: false,
    };
    /// Many short rounds: the machine drifts over seconds, and a pair of rounds sees only what drifts
    /// within it.
    pub(crate) const FULL: Self = Self {
        rounds: 24,
        round: Duration::from_millis(80),
        concurrency: &[1, 16, 64, 256],
        value_bytes: &[64, 1024, 64 * 1024],
        large_lists: true,
    };

    /// The workloads, each at the sizes that make a difference to it.
    fn workloads(self) -> impl Iterator<Item = Workload> {
        let kinds = Kind::ALL.iter().filter(move |kind| self.large_lists || **kind != Kind::List100k);
        kinds.flat_map(move |&kind| {
            kind.concurrency(self.concurrency).iter().flat_map(move |&concurrency| {
                let all_sizes = kind.has_value_sizes() && matches!(concurrency, 1 | 64);
                let sizes = if all_sizes { self.value_bytes } else { &self.value_bytes[..1] };
                sizes.iter().map(move |&value_bytes| Workload { kind, concurrency, value_bytes })
            })
        })
    }
}

/// How many rounds there are of operations so slow that all rounds would take too long, and when that
/// is so. An interval of the median takes six.
const FEWEST_ROUNDS: usize = 6;
const LONG_ENOUGH: Duration = Duration::from_secs(15);

/// The raw client beside itself, which shows how much of a ratio is noise.
const CONTROLS: &[(Kind, &str)] =
    &[(Kind::Get, "control: raw get twice"), (Kind::PutExisting, "control: raw put twice")];

/// A raw client and a store with the same data behind them.
pub(crate) struct Pair<R> {
    pub(crate) raw: R,
    pub(crate) store: StoreSubject,
    /// The same two through a slow link, where there is a network: it makes round trips countable.
    pub(crate) slow: Option<Slow<R>>,
}

/// Clients behind a link on which a round trip takes this long.
pub(crate) struct Slow<R> {
    pub(crate) raw: R,
    pub(crate) store: StoreSubject,
    pub(crate) round_trip: Duration,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) backend: String,
    pub(crate) workload: String,
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
    /// Round trips a caller waits for, by the time an operation takes over a slow link.
    pub(crate) raw_round_trips: Option<f64>,
    pub(crate) store_round_trips: Option<f64>,
    /// The largest amount of memory this process has used so far.
    pub(crate) peak_memory_bytes: u64,
}

/// Measures every workload of a plan. A workload the raw client cannot do is left out, and said so.
pub(crate) async fn measure<R: Subject>(
    backend: &str,
    subjects: &Pair<R>,
    plan: Plan,
    wanted: impl Fn(Kind) -> bool,
    say: impl Fn(&str),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // Whatever these differ from 1 by is noise.
    for (number, &(kind, name)) in CONTROLS.iter().filter(|(kind, _)| wanted(*kind)).enumerate() {
        for concurrency in [1, 64] {
            let workload = Workload { kind, concurrency, value_bytes: plan.value_bytes[0] };
            let prefix = format!("bench/control{number}");
            let row = pair(backend, &subjects.raw, &subjects.raw, workload, plan, &prefix).await?;
            let row = Row { workload: name.to_owned(), ..row };
            say(&row.to_string());
            rows.push(row);
        }
    }
    for (number, workload) in plan.workloads().filter(|workload| wanted(workload.kind)).enumerate() {
        let row =
            match pair(backend, &subjects.raw, &subjects.store, workload, plan, &format!("bench/{number}"))
                .await
            {
                Ok(row) => row,
                Err(error) => {
                    let Workload { kind, concurrency, .. } = workload;
                    say(&format!("{backend:8} {:22} c={concurrency:<4} left out: {error:#}", kind.name()));
                    continue;
                }
            };
        let (raw_round_trips, store_round_trips) = match &subjects.slow {
            Some(slow) if workload.is_alone() && workload.kind.has_round_trips() => (
                Some(round_trips(&slow.raw, slow.round_trip, workload, number).await.context("raw client")?),
                Some(round_trips(&slow.store, slow.round_trip, workload, number).await.context("store")?),
            ),
            _ => (None, None),
        };
        let row = Row { raw_round_trips, store_round_trips, ..row };
        say(&row.to_string());
        rows.push(row);
    }
    Ok(rows)
}

/// How many round trips an operation waits for, one after the other.
async fn round_trips<S: Subject>(
    slow: &S,
    round_trip: Duration,
    workload: Workload,
    number: usize,
) -> Result<f64> {
    let bench = Bench::prepare(slow.clone(), workload, format!("bench/slow{number}")).await?;
    let sample = bench.round(round_trip * 20).await?;
    bench.clean_up().await?;
    Ok(sample.quantile_us(500) / 1e6 / round_trip.as_secs_f64())
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, workload, concurrency, value_bytes, ratio, ratio_low, ratio_high, .. } = self;
        write!(f, "{backend:8} {workload:22} c={concurrency:<4} {value_bytes:>6} B  ")?;
        write!(f, "ratio {ratio:.2} ({ratio_low:.2}-{ratio_high:.2})  latency x{:.2}", self.latency_ratio)?;
        if let (Some(raw), Some(store)) = (self.raw_round_trips, self.store_round_trips) {
            write!(f, "  round trips {raw:.1} and {store:.1}")?;
        }
        Ok(())
    }
}

async fn pair<R: Subject, S: Subject>(
    backend: &str,
    raw: &R,
    store: &S,
    workload: Workload,
    plan: Plan,
    prefix: &str,
) -> Result<Row> {
    // Names of one length, so that nobody carries more.
    let raw = Bench::prepare(raw.clone(), workload, format!("{prefix}-a")).await.context("raw client")?;
    let store = Bench::prepare(store.clone(), workload, format!("{prefix}-b")).await.context("store")?;
    // One round of each that does not count: connections, caches, branch predictors.
    raw.round(plan.round / 2).await.context("raw client")?;
    store.round(plan.round / 2).await.context("store")?;
    let (mut pairs, begin) = (Vec::with_capacity(plan.rounds), Instant::now());
    for round in 0..plan.rounds {
        // Where one operation outlasts a round by far.
        if round >= FEWEST_ROUNDS && begin.elapsed() > LONG_ENOUGH {
            break;
        }
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
        workload: workload.kind.name().to_owned(),
        concurrency: workload.concurrency,
        value_bytes: workload.value_bytes,
        raw_ops_per_s: spread(&|(raw, _)| raw.per_second())?.median,
        store_ops_per_s: spread(&|(_, store)| store.per_second())?.median,
        raw_p50_us: spread(&|(raw, _)| raw.quantile_us(500))?.median,
        store_p50_us: spread(&|(_, store)| store.quantile_us(500))?.median,
        raw_p99_us: spread(&|(raw, _)| raw.quantile_us(990))?.median,
        store_p99_us: spread(&|(_, store)| store.quantile_us(990))?.median,
        ratio: ratio.median,
        ratio_low: ratio.low,
        ratio_high: ratio.high,
        latency_ratio: spread(&|(raw, store)| store.quantile_us(500) / raw.quantile_us(500))?.median,
        raw_round_trips: None,
        store_round_trips: None,
        peak_memory_bytes: peak_memory(),
    })
}

/// The high-water mark of this process, zero where the system does not tell.
fn peak_memory() -> u64 {
    kv_testkit::peak_kib().unwrap_or_default() * 1024
}
