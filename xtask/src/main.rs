//! The project's own commands: `cargo xtask COMMAND`. Each has a file with `run(args)`.
// These commands talk to the person at the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backend;
mod bench;
mod capabilities;
mod check;
mod ci;
mod conformance;
mod executables;
mod images;
mod job;
mod plan;
mod report;
mod tally;
mod test;
mod tidy;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Images(images::Args),
    Conformance(conformance::Args),
    Test(test::Args),
    Check(check::Args),
    Ci(ci::Args),
    Tidy(tidy::Args),
    Bench(bench::Args),
    Torture(torture::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Images(args) => images::run(&args),
        Command::Conformance(args) => conformance::run(args),
        Command::Test(args) => test::run(args),
        Command::Check(args) => check::run(args),
        Command::Ci(args) => ci::run(args),
        Command::Tidy(args) => tidy::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Torture(args) => torture::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
