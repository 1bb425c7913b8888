//! `kv conformance`: the contract of every store, tried on this one.

use std::sync::Arc;

use kv_conformance::{Case, CaseReport, Outcome, Report, RunOptions, UrlFactory};
use kv_core::StoreExt;

use crate::cli::Conformance;
use crate::commands::import::count;
use crate::exit::{self, Failure};
use crate::output::{Format, Output, escaped_lines, say};
use crate::progress::{Progress, Unfinished};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: Conformance) -> Result<(), Failure> {
    let cases = chosen(&args)?;
    if args.list {
        return list(session, &cases);
    }
    let driver = session.bare_driver()?;
    // A store that cannot be reached is told once, in place of once for each case.
    let store = session.store().await?;
    let server = store.server();
    session.in_time(kv_core::Operation::Server, server).await?;
    session.close().await;

    let mut options = RunOptions::default().with_cases(cases);
    if let Some(seed) = args.seed {
        options = options.with_seed(seed);
    }
    if let Some(concurrency) = args.concurrency {
        options = options.with_concurrency(concurrency);
    }
    let (total, seed) = (options.cases.len() as u64, options.seed);
    say(&format!(
        "kv: {} on {}, below conformance/{seed:016x}; --seed {seed} makes the same choices again",
        count(total, "case"),
        session.shown_url()?
    ));
    let factory = UrlFactory::new(driver, session.url());
    let unfinished = Unfinished::begin(format!(
        "what the cases wrote may be left: kv del --tree conformance/{seed:016x} deletes it"
    ));
    let mut progress = Progress::begin("tried", true).of(total);
    let report = kv_conformance::run(Arc::new(factory), &options, |case, ended| {
        if ended.outcome.is_failure() {
            progress.say(&failure(case, ended, seed));
        }
        progress.done(0);
    })
    .await;
    drop(progress);
    unfinished.finish();
    if let Some(path) = &args.report {
        let failed = |error| Failure::io(format!("cannot write {path:?}"), error);
        let json = serde_json::to_string_pretty(&report).map_err(|error| failed(error.into()))?;
        std::fs::write(path, json + "\n").map_err(failed)?;
    }
    show(session, &report)?;
    if !report.is_failure() {
        return Ok(());
    }
    let broken = report.cases.iter().filter(|case| case.outcome.is_failure()).count();
    Err(Failure::Incomplete {
        message: format!("{} not kept, listed above", count(broken as u64, "promise")),
        code: exit::OTHER,
    })
}

/// The cases that were asked for; a filter that chooses none is a mistake.
fn chosen(args: &Conformance) -> Result<Vec<Case>, Failure> {
    let all = kv_conformance::cases();
    for filter in &args.filter {
        if !all.iter().any(|case| case.name.contains(filter.as_str())) {
            return Err(Failure::Usage(format!("no case has {filter:?} in its name; --list prints them")));
        }
    }
    let wanted = |case: &Case| {
        let named = |part: &String| case.name.contains(part.as_str());
        (args.filter.is_empty() || args.filter.iter().any(named)) && !args.skip.iter().any(named)
    };
    Ok(all.into_iter().filter(wanted).collect())
}

fn list(session: &Session, cases: &[Case]) -> Result<(), Failure> {
    let mut out = Output::stdout();
    for case in cases {
        match session.output() {
            Some(Format::Json | Format::Jsonl) => {
                let needs: Vec<_> = case.needs.iter().map(ToString::to_string).collect();
                out.json(&serde_json::json!({"name": case.name, "promise": case.promise, "needs": needs}))?;
            }
            Some(Format::Table) | None => out.line(&format!("{}: {}", case.name, case.promise))?,
        }
    }
    out.flush()
}

fn failure(case: &Case, ended: &CaseReport, seed: u64) -> String {
    let detail = escaped_lines(&ended.detail).replace('\n', " ");
    format!(
        "kv: {} {}: {}\n  seen: {detail}\n  again: --filter {} --seed {seed}",
        ended.outcome, case.name, case.promise, case.name
    )
}

fn show(session: &Session, report: &Report) -> Result<(), Failure> {
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => out.json(report)?,
        Some(Format::Table) | None => {
            out.line(&format!("kv-conformance {} on {} ({})", report.suite, report.backend, report.server))?;
            let failed = report.cases.iter().filter(|case| case.outcome.is_failure()).count();
            out.line(&format!(
                "{} passed, {failed} failed, {} do not apply, {} skipped",
                report.count(Outcome::Passed),
                report.count(Outcome::NotApplicable),
                report.count(Outcome::Skipped)
            ))?;
        }
    }
    out.flush()
}
