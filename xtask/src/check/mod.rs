//! `cargo xtask check`: what a change must pass and is no test.

mod features;
mod minimal;
mod packages;
mod semver;

use std::process::{ExitCode, Stdio};

use anyhow::Result;

use crate::{job, tidy};

/// Check format, lints, features, documentation, dependencies, packages and house rules.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Fail on what cannot be checked because a tool is missing
    #[arg(long)]
    require: bool,
    /// Also what takes long: the oldest versions of dependencies, and changes since the last release
    #[arg(long)]
    nightly: bool,
}

/// How a check ended.
enum Ended {
    Ok,
    Failed(String),
    Skipped(String),
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    job::run(async move {
        let good = all(args.require, args.nightly).await?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Makes all checks and says how each ended; whether all were good.
pub(crate) async fn all(require: bool, nightly: bool) -> Result<bool> {
    let mut checks = vec![
        ("tidy", tidy_tree()?),
        ("format", cargo(&["fmt", "--all", "--check"], &[]).await?),
        ("clippy", clippy().await?),
        ("features", features::each().await?),
        ("documentation", documentation().await?),
        ("dependencies", deny(require).await?),
        ("packages", package().await?),
    ];
    if nightly {
        checks.push(("oldest dependencies", minimal::check().await?));
        checks.push(("changes since releases", semver::check(require).await?));
    }
    Ok(print(checks))
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
    if let Some(missing) = missing("deny", require).await? {
        return Ok(missing);
    }
    cargo(&["deny", "check", "bans", "licenses", "sources"], &[]).await
}

/// How a check ends whose tool is not there.
async fn missing(tool: &str, require: bool) -> Result<Option<Ended>> {
    let mut version = job::cargo();
    version.args([tool, "--version"]).stderr(Stdio::null()).stdout(Stdio::null());
    if job::status(version).await?.success() {
        return Ok(None);
    }
    let way = format!("cargo-{tool} is missing: `cargo install --locked cargo-{tool}` brings it");
    Ok(Some(if require { Ended::Failed(way) } else { Ended::Skipped(way) }))
}

/// Packages every published crate, all together: one alone would be resolved against the
/// registry, where other projects have crates of the same names.
async fn package() -> Result<Ended> {
    let packages = packages::all().await?;
    let mut args = vec!["package", "--workspace", "--no-verify", "--allow-dirty"];
    for package in packages.iter().filter(|package| !package.is_published()) {
        args.extend(["--exclude", &package.name]);
    }
    cargo(&args, &[]).await
}

async fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<Ended> {
    println!("\ncargo {}", args.join(" "));
    let mut cargo = job::cargo();
    cargo.args(args).envs(env.iter().copied());
    let status = job::status(cargo).await?;
    Ok(if status.success() { Ended::Ok } else { Ended::Failed(status.to_string()) })
}
