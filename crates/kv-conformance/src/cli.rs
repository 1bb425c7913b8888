//! The command line of a conformance test: its arguments, what it prints and its exit code.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lexopt::{Arg, ValueExt};

use crate::case::Case;
use crate::factory::Factory;
use crate::report::{CaseReport, Outcome, Report};
use crate::runner::{RunOptions, run};

const HELP: &str = "\
Runs the contract of the kv-core API on a store.

  --filter S         only the case named S, or, if there is none, those whose name contains S
  --skip S           not those whose name contains S
  --seed N           make the same random choices again, decimal or 0x…
  --concurrency N    how many cases run at a time (8)
  --report FILE      write what was found as JSON
  --list             print the cases and what they need, and run none
  --exact            filters are whole names

Arguments of cargo's own test harness are accepted; those that make no sense here do nothing.
Exit code: 0 if nothing failed, 1 if something did, 2 for wrong arguments.";

/// Runs the suite as a test of its own: the `main` of a `[[test]]` with `harness = false`.
///
/// Prints one line for each case that did not pass, and as the last line
/// `N passed, N failed, N skipped`. Dishonest cases count as failed; cases that do not apply are
/// named on a line before.
pub fn main(factory: impl Factory) -> ExitCode {
    let mut out = io::stdout();
    let parsed = Args::parse(lexopt::Parser::from_env()).and_then(|args| args.check().map(|()| args));
    let outcome = match parsed {
        Ok(Args { help: true, .. }) => writeln!(out, "{HELP}").map(|()| false).map_err(Into::into),
        Ok(args) if args.list => list(&args, &mut out).map(|()| false),
        Ok(args) => test(Arc::new(factory), &args, &mut out),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Default)]
struct Args {
    /// Given by name: must match something.
    filters: Vec<String>,
    /// Given as by `cargo test NAME`, which names a test of any binary.
    names: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    seed: Option<u64>,
    concurrency: Option<usize>,
    report: Option<PathBuf>,
    list: bool,
    terse: bool,
    ignored: bool,
    help: bool,
}

impl Args {
    fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let mut args = Self::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("filter") => args.filters.push(parser.value()?.string()?),
                Arg::Long("skip") => args.skips.push(parser.value()?.string()?),
                Arg::Long("seed") => args.seed = Some(parser.value()?.parse_with(parse_seed)?),
                Arg::Long("concurrency" | "test-threads") => {
                    args.concurrency = Some(parser.value()?.parse()?);
                }
                Arg::Long("report") => args.report = Some(parser.value()?.into()),
                Arg::Long("list") => args.list = true,
                Arg::Long("exact") => args.exact = true,
                Arg::Long("help") | Arg::Short('h') => args.help = true,
                Arg::Value(name) => args.names.push(name.string()?),
                Arg::Long("format") => args.terse = parser.value()? == "terse",
                // No case is ever ignored, so there is none to run or to list.
                Arg::Long("ignored") => args.ignored = true,
                Arg::Long("color" | "logfile" | "shuffle-seed") | Arg::Short('Z') => {
                    parser.value()?;
                }
                Arg::Long(
                    "nocapture"
                    | "no-capture"
                    | "show-output"
                    | "quiet"
                    | "include-ignored"
                    | "test"
                    | "bench"
                    | "report-time"
                    | "ensure-time"
                    | "shuffle"
                    | "force-run-in-process"
                    | "exclude-should-panic"
                    | "fail-fast",
                )
                | Arg::Short('q') => {
                    let _ = parser.optional_value();
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(args)
    }

    fn check(&self) -> Result<()> {
        if let Some(filter) =
            self.filters.iter().find(|filter| !crate::cases().iter().any(|case| self.named(case, filter)))
        {
            bail!("no case matches --filter {filter}; --list prints them");
        }
        Ok(())
    }

    fn named(&self, case: &Case, filter: &str) -> bool {
        let exact = self.exact || crate::cases().iter().any(|case| case.name == filter);
        if exact { case.name == filter } else { case.name.contains(filter) }
    }

    fn cases(&self) -> Vec<Case> {
        let wanted = |case: &Case| {
            let mut filters = self.filters.iter().chain(&self.names).peekable();
            let chosen = filters.peek().is_none() || filters.any(|filter| self.named(case, filter));
            chosen && !self.ignored && !self.skips.iter().any(|skip| case.name.contains(skip))
        };
        crate::cases().into_iter().filter(wanted).collect()
    }
}

fn parse_seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

fn list(args: &Args, out: &mut impl Write) -> Result<()> {
    for case in args.cases() {
        if args.terse {
            writeln!(out, "{}: test", case.name)?;
            continue;
        }
        writeln!(out, "{}: {}", case.name, case.promise)?;
        for need in case.needs {
            writeln!(out, "    needs {need}")?;
        }
    }
    Ok(())
}

/// Runs, prints and writes the report; whether something failed.
fn test(factory: Arc<dyn Factory>, args: &Args, out: &mut impl Write) -> Result<bool> {
    let mut options = RunOptions::default().with_cases(args.cases());
    if let Some(seed) = args.seed {
        options = options.with_seed(seed);
    }
    if let Some(concurrency) = args.concurrency {
        options = options.with_concurrency(concurrency);
    }
    writeln!(out, "{}: {} cases, seed {}", factory.label(), options.cases.len(), options.seed)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut printed = Ok(());
    let report = runtime.block_on(run(factory, &options, |case, ended| {
        if ended.outcome.is_failure() {
            let line = print_failure(case, ended, options.seed, out);
            printed = std::mem::replace(&mut printed, Ok(())).and(line);
        }
    }));
    // A case that was stopped may have left a thread that never ends.
    runtime.shutdown_timeout(Duration::from_secs(5));
    printed?;
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    print_summary(&report, out)?;
    Ok(report.is_failure())
}

fn print_failure(case: &Case, ended: &CaseReport, seed: u64, out: &mut impl Write) -> io::Result<()> {
    let detail = ended.detail.replace('\n', " ");
    let (name, promise) = (case.name, case.promise);
    writeln!(out, "{} {name}: {promise} Seen: {detail} (again: --filter {name} --seed {seed})", ended.outcome)
}

fn print_summary(report: &Report, out: &mut impl Write) -> Result<()> {
    let ended = |outcome| report.cases.iter().filter(move |case| case.outcome == outcome);
    for case in ended(Outcome::Passed).filter(|case| !case.detail.is_empty()) {
        writeln!(out, "passed {}, but: {}", case.name, case.detail.replace('\n', " "))?;
    }
    // Nothing was run then, and every case says the same.
    if let (true, Some(case)) = (report.server.is_empty(), report.cases.first()) {
        writeln!(out, "{} {}: {}", case.outcome, report.backend, case.detail)?;
    }
    let absent: Vec<&str> = ended(Outcome::NotApplicable).map(|case| case.name.as_str()).collect();
    if !absent.is_empty() {
        writeln!(
            out,
            "{} not applicable, declared absent or out of reach: {}",
            absent.len(),
            absent.join(" ")
        )?;
    }
    if !report.server.is_empty() {
        writeln!(out, "kv-conformance {} on {} ({})", report.suite, report.backend, report.server)?;
    }
    let failed = report.cases.iter().filter(|case| case.outcome.is_failure()).count();
    let (passed, skipped) = (report.count(Outcome::Passed), report.count(Outcome::Skipped));
    writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped")?;
    out.flush()?;
    Ok(())
}
