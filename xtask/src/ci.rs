//! `cargo xtask ci`: everything a change must pass.

use std::process::{ExitCode, Stdio};

use anyhow::Result;
use serde::Deserialize;

use crate::tally::Tally;
use crate::{job, test, tidy};

/// Check format, lints, documentation, dependencies, packages and house rules, then run every test.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {}

enum Ended {
    Ok,
    Failed(String),
    Skipped(String),
}

pub(crate) fn run(_: Args) -> Result<ExitCode> {
    job::run(async {
        let mut steps = vec![
            ("tidy", tidy_tree()?),
            ("format", cargo(&["fmt", "--all", "--check"], &[]).await?),
            ("clippy", clippy().await?),
            ("documentation", documentation().await?),
            ("dependencies", deny().await?),
            ("packages", package().await?),
        ];
        let tests = test::all(true).await?;
        steps.push(("tests", of_tests(tests)));
        let mut good = true;
        for (name, ended) in steps {
            match ended {
                Ended::Ok => println!("{name}: ok"),
                Ended::Skipped(why) => println!("{name}: skipped: {why}"),
                Ended::Failed(why) => {
                    good = false;
                    println!("{name}: FAILED: {why}");
                }
            }
        }
        println!("{tests}");
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn of_tests(tally: Tally) -> Ended {
    if tally.failed == 0 { Ended::Ok } else { Ended::Failed(tally.to_string()) }
}

fn tidy_tree() -> Result<Ended> {
    Ok(match tidy::print_faults()? {
        0 => Ended::Ok,
        count => Ended::Failed(format!("{count} rules broken")),
    })
}

async fn clippy() -> Result<Ended> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"], &[]).await
}

async fn documentation() -> Result<Ended> {
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "--deny warnings")]).await
}

async fn deny() -> Result<Ended> {
    let mut version = job::cargo();
    version.args(["deny", "--version"]).stderr(Stdio::null()).stdout(Stdio::null());
    if !job::status(version).await?.success() {
        let way = "cargo-deny is missing: `cargo install --locked cargo-deny` brings it";
        return Ok(Ended::Skipped(way.into()));
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
