//! Building test programs, and finding them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::job;

/// A built test program.
#[derive(Debug, Clone)]
pub(crate) struct Executable {
    pub(crate) path: PathBuf,
    /// The folder of its package: where tests run.
    pub(crate) dir: PathBuf,
    /// The target's name.
    pub(crate) target: String,
    /// Whether it is one of a crate's `tests/`.
    pub(crate) is_integration: bool,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds test programs with `cargo test --no-run` and these arguments.
pub(crate) async fn build(args: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = job::cargo();
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(args);
    let (status, lines) = job::lines(cargo).await?;
    ensure!(status.success(), "cargo test --no-run {} failed", args.join(" "));
    let mut built = Vec::new();
    for line in lines.iter().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("cargo said something odd")?;
        if message.reason != "compiler-artifact" || !message.profile.is_some_and(|p| p.test) {
            continue;
        }
        let (Some(path), Some(target)) = (message.executable, message.target) else { continue };
        let manifest = message.manifest_path.context("cargo named no manifest")?;
        built.push(Executable {
            path,
            dir: manifest.parent().context("a manifest has a folder")?.to_owned(),
            is_integration: target.kind.iter().any(|kind| kind == "test"),
            target: target.name,
        });
    }
    Ok(built)
}
