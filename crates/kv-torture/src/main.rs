//! The command that `cargo xtask torture` runs.
#![allow(clippy::print_stdout, reason = "it talks to the person at the terminal")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kv_torture::campaign::{self, Outcome, Plan};
use kv_torture::check::{self, Findings};
use kv_torture::history::History;
use kv_torture::nemesis::Fault;
use kv_torture::target::Backend;
use kv_torture::worker;

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a campaign on each backend
    Run {
        /// Backends, separated by commas; all if not given
        #[arg(long, value_enum, value_delimiter = ',')]
        backend: Vec<Backend>,
        /// How many minutes faults are made, for each backend
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// The seed of all choices; random if not given
        #[arg(long)]
        seed: Option<u64>,
        /// The faults to choose from, separated by commas; all if not given
        #[arg(long, value_enum, value_delimiter = ',')]
        faults: Vec<Fault>,
        /// Where the histories go
        #[arg(long)]
        folder: PathBuf,
    },
    /// Check a history again that a campaign kept
    Check {
        /// The folder of the history
        folder: PathBuf,
    },
    /// One process of a campaign; started by it
    #[command(hide = true)]
    Worker(worker::Args),
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Run { backend, minutes, seed, faults, folder } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
            let backends = if backend.is_empty() { Backend::ALL.to_vec() } else { backend };
            let faults = if faults.is_empty() { Fault::ALL.to_vec() } else { faults };
            let mut clean = true;
            for backend in backends {
                let plan = Plan {
                    backend,
                    faults_for: Duration::from_secs_f64(minutes * 60.0),
                    seed,
                    faults: faults.clone(),
                    folder: campaign::folder(&folder, backend, seed)?,
                    program: std::env::current_exe()?,
                };
                println!("{}: seed {seed}, {minutes} minutes, {}", backend.name(), plan.folder.display());
                let outcome = campaign::run(&plan).await?;
                tell(&outcome);
                clean &= outcome.findings.violations.is_empty();
            }
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Check { folder } => {
            let findings = check::check(&History::read(&folder)?);
            tell_findings(&findings);
            Ok(if findings.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Worker(args) => {
            worker::run(args).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tell(outcome: &Outcome) {
    println!("  {} calls, {} of unknown outcome, {} faults", outcome.calls, outcome.unknown, outcome.faults);
    tell_findings(&outcome.findings);
}

fn tell_findings(findings: &Findings) {
    for key in &findings.undecided {
        println!("  undecided: {key}");
    }
    for violation in findings.violations.iter().take(20) {
        println!("  {violation}");
    }
    println!("  {} violations, {} keys undecided", findings.violations.len(), findings.undecided.len());
}
