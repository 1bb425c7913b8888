//! The published crates build with the oldest versions of their dependencies that they say work.
//!
//! cargo resolves to them only with an unstable flag, which the pinned toolchain takes when it is told
//! to act as its own bootstrap. The resolution has to be without what only tests need, so it is made for a
//! copy of the workspace that has the published crates alone, as users see them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use kv_testkit::workspace;

use super::Ended;
use super::packages;
use crate::job;

/// What a crate's folder has for tests only.
const FOR_TESTS: [&str; 3] = ["tests", "examples", "benches"];

pub(super) async fn check() -> Result<Ended> {
    let dir = workspace::output_dir("minimal")?;
    let copy = dir.join("workspace");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    fs::create_dir_all(copy.join("crates"))?;
    let root = fs::read_to_string(workspace::root().join("Cargo.toml"))?;
    fs::write(copy.join("Cargo.toml"), crates_only(&root))?;
    for package in packages::all().await?.iter().filter(|package| package.is_published()) {
        link(package.dir()?, &copy.join("crates"))?;
    }
    // The flag is for resolving alone: what is built is built as users build it.
    let steps: [&[&str]; 2] = [
        &["generate-lockfile", "-Z", "direct-minimal-versions"],
        &["check", "--workspace", "--all-features"],
    ];
    for (args, bootstrap) in steps.into_iter().zip([Some("1"), None]) {
        println!("\ncargo {} in {}", args.join(" "), copy.display());
        let mut cargo = job::cargo();
        cargo.args(args).current_dir(&copy).env("CARGO_TARGET_DIR", dir.join("target"));
        cargo.envs(bootstrap.map(|on| ("RUSTC_BOOTSTRAP", on)));
        let status = job::status(cargo).await?;
        if !status.success() {
            return Ok(Ended::Failed(format!("cargo {}: {status}", args.join(" "))));
        }
    }
    Ok(Ended::Ok)
}

/// A crate's folder below `into`: its manifest without tests, and links to the rest.
fn link(dir: &Path, into: &Path) -> Result<()> {
    let to = into.join(dir.file_name().context("a crate has a folder")?);
    fs::create_dir(&to)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "Cargo.toml" {
            fs::write(to.join(&name), without_tests(&fs::read_to_string(entry.path())?))?;
        } else if FOR_TESTS.iter().all(|dir| name != *dir) {
            symlink(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

/// The root manifest with the crates as its only members.
fn crates_only(manifest: &str) -> String {
    let lines = manifest.lines().filter(|line| !line.starts_with("default-members"));
    let lines = lines.map(|line| if line.starts_with("members") { "members = [\"crates/*\"]" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// A manifest without the tables that only tests, examples and benchmarks need.
fn without_tests(manifest: &str) -> String {
    let mut kept = Vec::new();
    let mut keep = true;
    for line in manifest.lines() {
        if line.starts_with('[') {
            let is_target = ["[[test]]", "[[example]]", "[[bench]]"].contains(&line.trim());
            keep = !is_target && !line.contains("dev-dependencies");
        }
        if keep {
            kept.push(line);
        }
    }
    kept.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{crates_only, without_tests};

    #[test]
    fn what_only_tests_need_is_left_out() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\n[dev-dependencies]\nb = \"1\"\n\
                        [target.'cfg(unix)'.dev-dependencies]\nc = \"1\"\n[[test]]\nname = \"t\"\n[lints]\nworkspace = true";
        let kept = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\n[lints]\nworkspace = true";
        assert_eq!(without_tests(manifest), kept);
    }

    #[test]
    fn only_crates_are_members() {
        let manifest = "[workspace]\nmembers = [\"crates/*\", \"xtask\"]\ndefault-members = [\"xtask\"]\nresolver = \"3\"";
        assert_eq!(crates_only(manifest), "[workspace]\nmembers = [\"crates/*\"]\nresolver = \"3\"");
    }
}
