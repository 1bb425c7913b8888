//! The memory store by itself: how it scales with tasks, scans and watches. No network is in the way
//! here, so this is also what the layer of a store costs: time per operation of the API itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::raw::mem::Mem;
use crate::stats::Spread;
use crate::store::StoreSubject;
use crate::subject::Subject;

const KEYS: usize = 10_000;
const SCANNED: usize = 100_000;
const ROUND: Duration = Duration::from_millis(300);
const WATCHES: usize = 10_000;
const VALUE: Bytes = Bytes::from_static(&[b'v'; 64]);
/// Operations between two looks at the clock; few where each may wait for a whole list.
const STRIDE: usize = 256;
const STRIDE_BESIDE_SCAN: usize = 4;

/// What the tasks do, and what goes on beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    Get,
    Put,
    /// Nine gets, then a put.
    Mixed,
    PutBesideScan,
    PutBesideWatches,
}

impl Work {
    const ALL: &'static [Self] =
        &[Self::Get, Self::Put, Self::Mixed, Self::PutBesideScan, Self::PutBesideWatches];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Mixed => "nine gets, a put",
            Self::PutBesideScan => "put, beside endless lists of 100,000 keys",
            Self::PutBesideWatches => "put, beside 10,000 watches elsewhere",
        }
    }

    fn puts(self, turn: usize) -> bool {
        match self {
            Self::Get => false,
            Self::Mixed => turn % 10 == 9,
            _ => true,
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) tasks: usize,
    pub(crate) map_ops_per_s: f64,
    pub(crate) store_ops_per_s: f64,
    /// Time of one task for one operation.
    pub(crate) store_ns_per_op: f64,
}

/// Measures a locked map and the memory store in turn.
pub(crate) async fn measure(quick: bool, say: impl Fn(&str)) -> Result<Vec<Row>> {
    let rounds = if quick { 3 } else { 9 };
    let mut rows = Vec::new();
    for &work in Work::ALL {
        for tasks in [1, 2, 4] {
            let map = Arena::new(Mem::default(), work).await?;
            let store = Arena::new(StoreSubject::open_url("mem:").await?, work).await?;
            let (mut of_map, mut of_store) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                of_map.push(map.rate(tasks, ROUND).await?);
                of_store.push(store.rate(tasks, ROUND).await?);
            }
            let median = |rates| Spread::of(rates).map(|spread| spread.median).context("no rounds");
            let (map_ops_per_s, store_ops_per_s) = (median(of_map)?, median(of_store)?);
            #[allow(clippy::cast_precision_loss, reason = "a handful of tasks")]
            let store_ns_per_op = 1e9 * tasks as f64 / store_ops_per_s;
            say(&format!(
                "mem      {:42} {tasks} tasks: map {map_ops_per_s:>10.0}/s, store {store_ops_per_s:>10.0}/s",
                work.name()
            ));
            rows.push(Row { work, tasks, map_ops_per_s, store_ops_per_s, store_ns_per_op });
        }
    }
    Ok(rows)
}

/// One subject with its keys.
struct Arena<S> {
    subject: S,
    work: Work,
    keys: Arc<[String]>,
}

impl<S: Subject> Arena<S> {
    async fn new(subject: S, work: Work) -> Result<Self> {
        let keys: Arc<[String]> = (0..KEYS).map(|n| format!("keys/{n:05}")).collect();
        for key in keys.iter() {
            subject.put(key, VALUE).await?;
        }
        if work == Work::PutBesideScan {
            for n in 0..SCANNED {
                subject.put(&format!("scanned/{n:06}"), VALUE).await?;
            }
        }
        Ok(Self { subject, work, keys })
    }

    /// Operations per second of all tasks together.
    async fn rate(&self, tasks: usize, round: Duration) -> Result<f64> {
        let mut watches = Vec::new();
        if self.work == Work::PutBesideWatches {
            for n in 0..WATCHES {
                watches.push(self.subject.watch(&format!("elsewhere/{n}")).await?);
            }
        }
        let ended = Arc::new(AtomicBool::new(false));
        let scan = (self.work == Work::PutBesideScan).then(|| {
            let (subject, ended) = (self.subject.clone(), Arc::clone(&ended));
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    subject.list("scanned").await?;
                }
                anyhow::Ok(())
            })
        });
        let stride = if self.work == Work::PutBesideScan { STRIDE_BESIDE_SCAN } else { STRIDE };
        let (count, begin) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let mut workers = tokio::task::JoinSet::new();
        for task in 0..tasks {
            let (subject, work, keys) = (self.subject.clone(), self.work, Arc::clone(&self.keys));
            let count = Arc::clone(&count);
            workers.spawn(async move {
                // Each task walks through all keys from a place of its own, in no order of theirs.
                let mut turn = task * 2503;
                while begin.elapsed() < round {
                    for _ in 0..stride {
                        let key = &keys[turn * 7919 % KEYS];
                        if work.puts(turn) {
                            subject.put(key, VALUE).await?;
                        } else {
                            subject.get(key).await?;
                        }
                        turn += 1;
                    }
                    count.fetch_add(stride as u64, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker.context("a worker panicked")??;
        }
        let elapsed = begin.elapsed();
        ended.store(true, Ordering::Relaxed);
        if let Some(scan) = scan {
            scan.await.context("the scan panicked")??;
        }
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        Ok(count.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64())
    }
}
