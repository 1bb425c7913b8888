//! `cargo xtask ci`: everything a change must pass; `cargo xtask check`: the part that runs no test.

use std::process::{ExitCode, Stdio};

use anyhow::Result;
use serde::Deserialize;

use crate::{job, test, tidy};

/// Check format, lints, documentation, dependencies, packages and house rules, then run every test.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {}

/// Check format, lints, documentation, dependencies, packages and house rules.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// Fail on what cannot be checked because a tool is missing
    #[arg(long)]
    require: bool,
}

enum Ended {
    Ok,
    Failed(String),
    Skipped(String),
}

pub(crate) fn run(_: Args) -> Result<ExitCode> {
    job::run(async {
        let good = print(checks(true).await?);
        let tests = test::all(true).await?;
        println!("{tests}");
        Ok(if good && tests.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

pub(crate) fn check(args: CheckArgs) -> Result<ExitCode> {
    job::run(async move {
        Ok(if print(checks(args.require).await?) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

async fn checks(require: bool) -> Result<Vec<(&'static str, Ended)>> {
    Ok(vec![
        ("tidy", tidy_tree()?),
        ("format", cargo(&["fmt", "--all", "--check"], &[]).await?),
        ("clippy", clippy().await?),
        ("documentation", documentation().await?),
        ("dependencies", deny(require).await?),
        ("packages", package().await?),
    ])
}

/// Says how each check ended; whether all were good.
fn print(checks: Vec<(&'static str, Ended)>) -> bool {
    let mut good = true;
    for (name, ended) in checks {
        match ended {
            Ended::Ok => println!("{name}: ok"),
            Ended::Skipped(why) => println!("{name}: skipped: {why}"),
            Ended::Failed(why) => {
                good = false;
                println!("{name}: FAILED: {why}");
            }
        }
    }
    good
}

fn tidy_tree() -> Result<Ended> {
    Ok(match tidy::print_faults()? {
        0 => Ended::Ok,
        count => Ended::Failed(format!("{count} rules broken")),
    })
}

async fn clippy() -> Result<Ended> {
    // Once as users get it, once with everything.
    let mut ended = Ended::Ok;
    for features in [&[][..], &["--all-features"]] {
        let args = [&["clippy", "--workspace", "--all-targets"], features, &["--", "--deny", "warnings"]];
        ended = cargo(&args.concat(), &[]).await?;
        if matches!(ended, Ended::Failed(_)) {
            break;
        }
    }
    Ok(ended)
}

async fn documentation() -> Result<Ended> {
    cargo(&["doc", "--workspace", "--no-deps", "--all-features"], &[("RUSTDOCFLAGS", "--deny warnings")])
        .await
}

async fn deny(require: bool) -> Result<Ended> {
    let mut version = job::cargo();
    version.args(["deny", "--version"]).stderr(Stdio::null()).stdout(Stdio::null());
    if !job::status(version).await?.success() {
        let way = "cargo-deny is missing: `cargo install --locked cargo-deny` brings it";
        return Ok(if require { Ended::Failed(way.into()) } else { Ended::Skipped(way.into()) });
    }
    cargo(&["deny", "check", "bans", "licenses", "sources"], &[]).await
}

/// Packages every published crate, all together: one alone would be resolved against the
/// registry, where other projects have crates of the same names.
async fn package() -> Result<Ended> {
    let unpublished = unpublished().await?;
    let mut args = vec!["package", "--workspace", "--no-verify", "--allow-dirty"];
    for name in &unpublished {
        args.extend(["--exclude", name]);
    }
    cargo(&args, &[]).await
}

async fn unpublished() -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        publish: Option<Vec<String>>,
    }
    let mut cargo = job::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let (_, lines) = job::lines(cargo).await?;
    let metadata: Metadata = serde_json::from_str(&lines.join("\n"))?;
    let unpublished = metadata.packages.into_iter().filter(|p| p.publish.as_deref() == Some(&[]));
    Ok(unpublished.map(|package| package.name).collect())
}

async fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<Ended> {
    println!("\ncargo {}", args.join(" "));
    let mut cargo = job::cargo();
    cargo.args(args).envs(env.iter().copied());
    let status = job::status(cargo).await?;
    Ok(if status.success() { Ended::Ok } else { Ended::Failed(status.to_string()) })
}
