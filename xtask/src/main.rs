//! The project's own commands: `cargo xtask COMMAND`. Each has a file with `run(args)`.
// These commands talk to the person at the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod images;

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
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Images(args) => images::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
