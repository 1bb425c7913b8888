//! Running programs to their end, or to their time limit, or to an interrupt.

use std::future::Future;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use kv_testkit::{Engine, wait_for_children, workspace};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::tally::Tally;

/// Bounded so that a test that hangs ends the run in words, not by somebody's patience.
pub(crate) const TEST_LIMIT: Duration = Duration::from_secs(15 * 60);

/// How long programs that were killed may take to be gone.
const ENDING: Duration = Duration::from_secs(10);

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    cargo
}

/// Runs a program and returns the lines of its output; its errors go to ours.
pub(crate) async fn lines(mut command: Command) -> Result<(ExitStatus, Vec<String>)> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok((output.status, text.lines().map(str::to_owned).collect()))
}

/// Runs a program that prints for the person at the terminal.
pub(crate) async fn status(mut command: Command) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.status().await.with_context(|| format!("cannot run {command:?}"))
}

/// Runs test programs with Rust's harness: passes their output on and counts their closing lines.
/// A program that fails without having counted a failure counts as one.
pub(crate) async fn tests(mut command: Command) -> Result<Tally> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let output = child.stdout.take().context("a piped output is there")?;
    let mut lines = BufReader::new(output).lines();
    let mut tally = Tally::default();
    let ended = tokio::time::timeout(TEST_LIMIT, async {
        while let Some(line) = lines.next_line().await? {
            println!("{line}");
            tally += Tally::of_line(&line).unwrap_or_default();
        }
        child.wait().await
    });
    match ended.await {
        Ok(status) => {
            if !status?.success() && tally.failed == 0 {
                tally += Tally::ONE_FAILED;
            }
        }
        Err(_) => {
            eprintln!("FAILED: {name} ran longer than {TEST_LIMIT:?} and was ended");
            tally += Tally::ONE_FAILED;
        }
    }
    Ok(tally)
}

/// As [`tests`], for programs that use the test kit: tests that said they are skipped count as
/// that, though Rust's harness calls them passed. Returns what they said too.
pub(crate) async fn tests_with_skips(mut command: Command) -> Result<(Tally, Vec<String>)> {
    let file = workspace::output_dir("reports")?.join(format!("skips-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    command.env("KV_SKIPS", &file);
    let mut tally = tests(command).await?;
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok((tally, Vec::new())) };
    std::fs::remove_file(&file)?;
    let mut skips: Vec<_> = text.lines().map(str::to_owned).collect();
    skips.dedup();
    let skipped = Tally::skipped(skips.len());
    tally.passed = tally.passed.saturating_sub(skipped.skipped);
    tally += skipped;
    Ok((tally, skips))
}

/// A test program, run as cargo runs it.
pub(crate) fn test_program(path: &Path, dir: &Path) -> Command {
    let mut command = Command::new(path);
    command.current_dir(dir).env("CARGO_MANIFEST_DIR", dir);
    command
}

/// Does async work to its end, unless somebody interrupts it. Either way nothing started by this
/// process is left: programs end when their handles are dropped, containers are removed.
pub(crate) fn run<F: Future<Output = Result<ExitCode>>>(work: F) -> Result<ExitCode> {
    const INTERRUPTED: u8 = 130;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
            _ = terminate.recv() => Ok(ExitCode::from(INTERRUPTED)),
        }
    });
    if matches!(&result, Ok(code) if *code == ExitCode::from(INTERRUPTED)) {
        eprintln!("interrupted: removing what was started");
    }
    // Waits for docker commands under way.
    drop(runtime);
    // What the programs that were ended had is rubbish only once they are gone.
    wait_for_children(ENDING);
    if let Ok(engine) = Engine::detect() {
        // Test programs that were ended leave containers without an owner.
        engine.remove_own()?;
        engine.sweep()?;
    }
    result
}
