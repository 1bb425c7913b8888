//! `cargo xtask torture`: random operations under random faults, and a checker of the histories.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use kv_testkit::workspace;

/// Hunt for broken promises: random operations under random faults on three-node clusters
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Backends, separated by commas: etcd, consul, zk, zk-async, sled; all if not given
    #[arg(long, value_delimiter = ',')]
    backend: Vec<String>,
    /// How many minutes faults are made, for each backend
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// The seed of all choices; random if not given
    #[arg(long)]
    seed: Option<u64>,
    /// The faults to choose from, separated by commas; all if not given
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut torture = Command::new(env!("CARGO"));
    torture.args(["run", "--quiet", "--package", "kv-torture", "--", "run"]);
    torture.args(["--minutes", &args.minutes.to_string()]);
    torture.arg("--folder").arg(workspace::output_dir("torture")?);
    for (name, values) in [("--backend", &args.backend), ("--faults", &args.faults)] {
        if !values.is_empty() {
            torture.args([name, &values.join(",")]);
        }
    }
    if let Some(seed) = args.seed {
        torture.args(["--seed", &seed.to_string()]);
    }
    let status = torture.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
