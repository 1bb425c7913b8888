//! `cargo xtask ci`: everything a change must pass.

use std::process::ExitCode;

use anyhow::Result;

use crate::{check, job, test};

/// Check format, lints, documentation, dependencies, packages and house rules, then run every test.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> Result<ExitCode> {
    job::run(async {
        let good = check::all().await?;
        let tests = test::all(true).await?;
        println!("{tests}");
        Ok(if good && tests.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
