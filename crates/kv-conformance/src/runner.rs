//! Runs the cases: many at a time, each in a namespace of its own and with a time limit.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use kv_core::{DeleteTreeOptions, ErrorKind, Power, Prefix, Store, StoreExt};

use crate::case::{BeyondReach, Case, Dishonest, Need};
use crate::factory::Factory;
use crate::fixture::Fixture;
use crate::probe;
use crate::report::{CaseReport, Declared, Outcome, Report};

/// Where everything the suite writes lies: `conformance/SEED/CASE/…`.
const ROOT: &str = "conformance";

/// How long opening or cleaning up may take.
const AROUND: Duration = Duration::from_secs(90);

/// What a report repeats of a failure, which can quote large values.
const MAX_DETAIL: usize = 2000;

/// How to run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunOptions {
    /// What every random choice is derived from; the same seed makes the same choices.
    pub seed: u64,
    /// How many cases run at a time. Cases that wait for an expiry only sleep most of the time.
    pub concurrency: usize,
    /// The cases to run.
    pub cases: Vec<Case>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { seed: fastrand::u64(..), concurrency: 8, cases: crate::cases() }
    }
}

impl RunOptions {
    /// The same with this seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same with this many cases at a time.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// The same with these cases.
    #[must_use]
    pub fn with_cases(mut self, cases: impl IntoIterator<Item = Case>) -> Self {
        self.cases = cases.into_iter().collect();
        self
    }
}

/// Runs the suite on the stores of this factory. Needs a multi-threaded tokio runtime, so that a case
/// that blocks its thread holds up no other. Calls `each` as a case ends.
///
/// What the cases wrote is deleted afterwards.
pub async fn run(
    factory: Arc<dyn Factory>,
    options: &RunOptions,
    mut each: impl FnMut(&Case, &CaseReport),
) -> Report {
    let mut report = Report {
        suite: env!("CARGO_PKG_VERSION").to_owned(),
        backend: factory.label(),
        server: String::new(),
        declared: Declared::default(),
        seed: options.seed,
        cases: Vec::new(),
    };
    if let Some(why) = factory.unavailable() {
        let required = std::env::var_os("KV_REQUIRE").is_some_and(|value| value == "1");
        let (outcome, detail) = match required {
            true => (Outcome::Failed, format!("KV_REQUIRE=1 forbids to skip: {why}")),
            false => (Outcome::Skipped, why),
        };
        report.cases = all_ended(&options.cases, outcome, &detail);
        return report;
    }
    let root = match guarded(AROUND, reach(Arc::clone(&factory))).await {
        Ok((root, server)) => {
            report.server = server;
            report.declared = Declared::new(root.capabilities());
            root
        }
        Err(error) => {
            let detail = format!("the store cannot be reached: {error:#}");
            report.cases = all_ended(&options.cases, Outcome::Failed, &detail);
            return report;
        }
    };
    report.cases = run_cases(&factory, &root, options, &mut each).await;
    // What single cases left is named in their reports; this takes what none of them owns.
    let _ = guarded(AROUND, clean(Arc::clone(&root), format!("{:016x}", options.seed))).await;
    let _ = guarded(AROUND, async move { Ok(root.close().await?) }).await;
    report
}

/// A handle above all cases' namespaces, and what runs behind it.
async fn reach(factory: Arc<dyn Factory>) -> Result<(Arc<dyn Store>, String)> {
    let root = factory.open(&Prefix::new(ROOT)?).await?;
    let server = root.server().await?;
    Ok((root, format!("{} {}", server.product, server.version)))
}

fn all_ended(cases: &[Case], outcome: Outcome, detail: &str) -> Vec<CaseReport> {
    let ended = |case: &Case| CaseReport { name: case.name.into(), outcome, ms: 0, detail: detail.into() };
    cases.iter().map(ended).collect()
}

async fn run_cases(
    factory: &Arc<dyn Factory>,
    root: &Arc<dyn Store>,
    options: &RunOptions,
    each: &mut impl FnMut(&Case, &CaseReport),
) -> Vec<CaseReport> {
    let mut queue: Vec<(usize, Case)> = options.cases.iter().copied().enumerate().collect();
    // Expiries take longest and cost least: begun first, they end while the others work.
    queue.sort_by_key(|(_, case)| !case.needs.contains(&Need::Power(Power::Ttl)));
    let (alone, together): (Vec<_>, Vec<_>) = queue.into_iter().partition(|(_, case)| case.alone);
    let run_one = |(at, case): (usize, Case)| async move {
        let begun = Instant::now();
        let (outcome, detail) = run_case(&case, factory, root, options.seed).await;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (at, case, CaseReport { name: case.name.into(), outcome, ms, detail: shortened(detail) })
    };
    let mut running = stream::iter(together)
        .map(run_one)
        .buffer_unordered(options.concurrency.max(1))
        .chain(stream::iter(alone).then(run_one))
        .boxed();
    let mut ended = Vec::new();
    while let Some((at, case, report)) = running.next().await {
        each(&case, &report);
        ended.push((at, report));
    }
    ended.sort_by_key(|(at, _)| *at);
    ended.into_iter().map(|(_, report)| report).collect()
}

async fn run_case(
    case: &Case,
    factory: &Arc<dyn Factory>,
    root: &Arc<dyn Store>,
    seed: u64,
) -> (Outcome, String) {
    let path = format!("{seed:016x}/{}", case.name);
    let opening = {
        let (factory, path, seed) = (Arc::clone(factory), path.clone(), seed ^ hash(case.name));
        async move {
            let namespace = Prefix::new(&format!("{ROOT}/{path}"))?;
            Fixture::open(factory, namespace, seed).await
        }
    };
    let fixture = match guarded(AROUND, opening).await {
        Ok(fixture) => Arc::new(fixture),
        Err(error) => return (Outcome::Failed, format!("{error:#}")),
    };
    let (outcome, mut detail) = judge(case, &fixture).await;

    let closing = Arc::clone(&fixture);
    let mut left = match guarded(AROUND, async move { Ok(closing.close().await) }).await {
        Ok(problems) => problems,
        Err(error) => vec![format!("closing the handles: {error:#}")],
    };
    if let Err(error) = guarded(AROUND, clean(Arc::clone(root), path)).await {
        left.push(format!("deleting what the case wrote: {error:#}"));
    }
    for problem in left {
        if !detail.is_empty() {
            detail.push_str("; ");
        }
        detail.push_str(&problem);
    }
    (outcome, detail)
}

/// Runs the case, or in its place the probe of what the store declares absent.
async fn judge(case: &Case, fixture: &Arc<Fixture>) -> (Outcome, String) {
    let limit = fixture.time_limit();
    let missing = case.needs.iter().find(|need| !need.is_met(fixture.capabilities())).copied();
    let running = Arc::clone(fixture);
    let (found, kept) = match missing {
        None => {
            let check = case.check;
            let found = guarded(limit, async move { check(&running).await }).await;
            (found, (Outcome::Passed, String::new()))
        }
        Some(need) => {
            let found = match need {
                Need::Power(power) => {
                    guarded(limit, async move { probe::refuses(&running, power).await }).await
                }
                _ => Ok(()),
            };
            (found, (Outcome::NotApplicable, format!("{need} is declared absent")))
        }
    };
    let Err(error) = found else { return kept };
    let detail = format!("{error:#}");
    if error.is::<BeyondReach>() {
        return (Outcome::NotApplicable, detail);
    }
    let declared = case.needs.iter().any(|need| matches!(need, Need::Power(_)));
    if error.is::<Dishonest>() || (declared && missing.is_none() && is_unsupported(&error)) {
        return (Outcome::Dishonest, detail);
    }
    (Outcome::Failed, detail)
}

fn is_unsupported(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<kv_core::Error>()
        .is_some_and(|error| matches!(error.kind(), ErrorKind::Unsupported { .. }))
}

async fn clean(root: Arc<dyn Store>, path: String) -> Result<()> {
    let options = DeleteTreeOptions::default().with_timeout(AROUND);
    root.delete_tree_with(&Prefix::new(&path)?, options).await?;
    Ok(())
}

/// What comes of `work`, with a panic or an overrun as an error too. Runs as a task of its own, so
/// that neither harms another case.
async fn guarded<T: Send + 'static>(
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut task = tokio::spawn(work);
    match tokio::time::timeout(limit, &mut task).await {
        Ok(Ok(done)) => done,
        Ok(Err(failed)) => match failed.try_into_panic() {
            Ok(panic) => Err(anyhow::anyhow!("it panicked: {}", panic_text(&*panic))),
            Err(failed) => Err(failed).context("its task was stopped"),
        },
        Err(_) => {
            task.abort();
            Err(anyhow::anyhow!("not done within {limit:?}"))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The same number for the same text on every machine and version, which a repeated seed needs.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn shortened(mut detail: String) -> String {
    if let Some((at, _)) = detail.char_indices().nth(MAX_DETAIL) {
        detail.truncate(at);
        detail.push('…');
    }
    detail
}
