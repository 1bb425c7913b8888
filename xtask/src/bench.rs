//! `cargo xtask bench`: every backend beside its raw client, same server, same run.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use kv_testkit::workspace;

/// Measure every backend beside its raw client; ratios are the claim
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Backends, separated by commas; all if not given. The page keeps what it has of the others
    #[arg(long, value_delimiter = ',')]
    backend: Vec<String>,
    /// Few and short rounds: to see that it works; writes no page
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this; writes no page
    #[arg(long)]
    filter: Option<String>,
    /// Where to write the rows as JSON
    #[arg(long)]
    report: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut bench = Command::new(env!("CARGO"));
    bench.args(["run", "--release", "--package", "kv-bench", "--"]);
    if !args.backend.is_empty() {
        bench.args(["--backend", &args.backend.join(",")]);
    }
    if let Some(filter) = &args.filter {
        bench.args(["--filter", filter]);
    }
    if let Some(report) = &args.report {
        bench.arg("--report").arg(std::path::absolute(report)?);
    }
    if args.quick {
        bench.arg("--quick");
    } else if args.filter.is_none() {
        bench.arg("--page").arg(workspace::root().join("docs"));
    }
    let status = bench.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
