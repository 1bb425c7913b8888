//! `cargo xtask test`: every test of the workspace, then the suite on every backend.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use kv_testkit::{ImagePolicy, Tier};

use crate::backend::{self, Backend};
use crate::conformance::{self, Provider};
use crate::executables::{self, Executable};
use crate::job;
use crate::tally::Tally;

/// Run every test: unit, integration, documentation, and conformance wherever servers can run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Fail on whatever would be skipped
    #[arg(long)]
    pub(crate) require: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    job::run(async move {
        let tally = all(args.require).await?;
        println!("{tally}");
        Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Runs all of it and tells how it went, all but the closing line.
pub(crate) async fn all(require: bool) -> Result<Tally> {
    let start = Instant::now();
    let (mut tally, remarks) = workspace_tests(require).await?;
    let tests = tally;
    let conformance = conformance::conform(&conformance::Args {
        backend: Vec::new(),
        provider: Provider::Docker,
        images: ImagePolicy::Auto,
        tier: Tier::Commit,
        server_version: Vec::new(),
        require,
        filter: None,
        seed: None,
        report: None,
        write_table: false,
    })
    .await?;
    tally += conformance;
    println!("\nworkspace tests: {tests}");
    for remark in remarks {
        println!("  {remark}");
    }
    println!("conformance: {conformance}");
    println!("all of it took {}\n", conformance::minutes(start.elapsed()));
    Ok(tally)
}

/// Everything but what [`conformance::conform`] runs. Says what failed and what was skipped.
async fn workspace_tests(require: bool) -> Result<(Tally, Vec<String>)> {
    let backends = backend::all()?;
    let mut tally = Tally::default();
    let mut remarks = Vec::new();
    for program in executables::build(&["--workspace"]).await? {
        if backends.iter().any(|backend| is_of_conformance(&program, backend)) {
            continue;
        }
        let package = program.dir.file_name().unwrap_or_default().to_string_lossy();
        println!("\n{package}: {}", program.target);
        let mut command = job::test_program(&program.path, &program.dir);
        command.env("KV_REQUIRE", u8::from(require).to_string());
        let (ended, said) = job::tests_with_skips(command).await?;
        if ended.failed > 0 {
            remarks.push(format!("FAILED: {package}: {}", program.target));
        }
        tally += ended;
        remarks.extend(said.into_iter().map(|skip| format!("skipped: {package}: {skip}")));
    }
    println!("\ndocumentation tests");
    let mut docs = job::cargo();
    docs.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
    let ended = job::tests(docs).await?;
    if ended.failed > 0 {
        remarks.push("FAILED: documentation tests".to_owned());
    }
    tally += ended;
    Ok((tally, remarks))
}

fn is_of_conformance(program: &Executable, backend: &Backend) -> bool {
    program.is_integration
        && program.dir == backend.dir
        && backend.targets().any(|target| target == program.target)
}
