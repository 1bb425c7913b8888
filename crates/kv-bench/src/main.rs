//! Every backend beside its raw client, in one run: what `cargo xtask bench` runs.
#![allow(clippy::print_stdout, reason = "a program for people")]

mod backends;
mod chart;
mod measure;
mod raw;
mod report;
mod scaling;
mod stats;
mod store;
mod subject;
mod target;
mod workload;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use crate::measure::Plan;
use crate::report::Report;

/// Measures every backend beside its raw client: same server, same work, in turn within one run.
#[derive(Debug, Parser)]
struct Args {
    /// The backends, separated by commas; all if not given.
    #[arg(long, value_delimiter = ',')]
    backend: Vec<String>,
    /// Fewer and shorter rounds: to see that it works, not for claims.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Where to write the rows as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// The folder to write performance.md and its charts to.
    #[arg(long)]
    page: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let names = if args.backend.is_empty() {
        backends::ALL.iter().map(|name| (*name).to_owned()).collect()
    } else {
        args.backend
    };
    let mut report = args.page.as_deref().map_or_else(|| Ok(Report::default()), Report::of_page)?;
    let say = |line: &str| println!("{line}");
    for name in names {
        let wanted = |kind: workload::Kind| {
            args.filter.as_ref().is_none_or(|filter| kind.name().contains(filter.as_str()))
        };
        report.replace(&name, backends::run(&name, plan, wanted, say).await?);
        if name == "mem" && args.filter.is_none() {
            report.memory = scaling::measure(args.quick, say).await?;
        }
        // After each backend, so that a run that is broken off leaves what it has.
        if let Some(path) = &args.report {
            report.write_json(path)?;
        }
        if let Some(folder) = &args.page {
            report.write_page(folder)?;
        }
    }
    Ok(())
}
