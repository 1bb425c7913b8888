//! `kv ping`: how long a read takes.

use std::time::{Duration, Instant};

use kv_core::{Consistency, GetOptions, Operation, StoreExt};
use serde::Serialize;

use crate::cli::Ping;
use crate::exit::Failure;
use crate::output::{Format, Output, duration};
use crate::session::Session;

#[derive(Serialize)]
struct Times {
    requests: u32,
    min_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

pub(crate) async fn run(session: &Session, args: Ping) -> Result<(), Failure> {
    let key = super::doctor::scratch_key()?;
    let store = session.store().await?;
    let mut options = GetOptions::default();
    if args.stale {
        options = options.with_consistency(Consistency::Stale);
    }
    options.timeout = session.timeout();
    // The first request of a connection pays for it.
    session.request(Operation::Get, key.as_str(), store.get_with(&key, options.clone())).await?;
    let mut times = Vec::new();
    for _ in 0..args.count {
        let begin = Instant::now();
        store.get_with(&key, options.clone()).await?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let times = Times::new(args.count, &times);
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => out.json(&times)?,
        Some(Format::Table) | None => {
            let Times { requests, min_ms, p50_ms, p99_ms, max_ms } = times;
            let [min, p50, p99, max] =
                [min_ms, p50_ms, p99_ms, max_ms].map(|ms| duration(Duration::from_secs_f64(ms / 1e3)));
            let reads = if requests == 1 { "read" } else { "reads" };
            out.line(&format!("{requests} {reads}: min {min}, p50 {p50}, p99 {p99}, max {max}"))?;
        }
    }
    out.flush()
}

impl Times {
    /// Of the times of this many requests, shortest first.
    fn new(requests: u32, sorted: &[Duration]) -> Self {
        let ms =
            |time: Option<&Duration>| (time.copied().unwrap_or_default().as_secs_f64() * 1e6).round() / 1e3;
        // The time that this share of the requests took at most.
        let share = |percent: usize| ms(sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)));
        Self {
            requests,
            min_ms: ms(sorted.first()),
            p50_ms: share(50),
            p99_ms: share(99),
            max_ms: ms(sorted.last()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_requests() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let Times { min_ms, p50_ms, p99_ms, max_ms, .. } = Times::new(200, &times);
        assert_eq!([min_ms, p50_ms, p99_ms, max_ms], [1.0, 100.0, 198.0, 200.0]);
        let Times { min_ms, p50_ms, p99_ms, max_ms, .. } = Times::new(1, &times[..1]);
        assert_eq!([min_ms, p50_ms, p99_ms, max_ms], [1.0; 4]);
    }
}
