//! `cargo xtask check`: what a change must pass and is no test.

mod features;
mod minimal;
mod packages;
mod semver;

use std::process::{ExitCode, Stdio};

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;

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
    /// Only these checks, separated by commas, such as `tidy,features`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = names(), conflicts_with = "nightly")]
    only: Vec<String>,
}

/// How a check ended.
enum Ended {
    Ok,
    Failed(String),
    Skipped(String),
}

/// Every check by name, and whether it is left to the nightly tier.
const CHECKS: [(&str, bool); 9] = [
    ("tidy", false),
    ("format", false),
    ("clippy", false),
    ("features", false),
    ("documentation", false),
    ("dependencies", false),
    ("packages", false),
    ("minimal", true),
    ("semver", true),
];

fn names() -> PossibleValuesParser {
    CHECKS.map(|(name, _)| name).into()
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    job::run(async move {
        let wanted = |name: &str, nightly: bool| match args.only.is_empty() {
            true => args.nightly || !nightly,
            false => args.only.iter().any(|only| only == name),
        };
        Ok(if some(args.require, wanted).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Makes every check that each change must pass; whether all were good.
pub(crate) async fn all() -> Result<bool> {
    some(true, |_, nightly| !nightly).await
}

/// Makes the checks that are wanted and says how each ended.
async fn some(require: bool, wanted: impl Fn(&str, bool) -> bool) -> Result<bool> {
    let mut ended = Vec::new();
    for (name, nightly) in CHECKS {
        if wanted(name, nightly) {
            ended.push((name, one(name, require).await?));
        }
    }
    Ok(print(ended))
}

async fn one(name: &str, require: bool) -> Result<Ended> {
    match name {
        "tidy" => tidy_tree(),
        "format" => cargo(&["fmt", "--all", "--check"], &[]).await,
        "clippy" => clippy().await,
        "features" => features::each().await,
        "documentation" => documentation().await,
        "dependencies" => deny(require).await,
        "packages" => package().await,
        "minimal" => minimal::check().await,
        "semver" => semver::check(require).await,
        other => bail!("no check is called `{other}`"),
    }
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
