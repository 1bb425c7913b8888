//! `cargo xtask tidy`: house rules that no lint checks.

mod floors;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use kv_testkit::workspace;
use toml::{Table, Value};

use floors::Floors;

/// Beyond this a file holds more than one idea.
const LINE_LIMIT: usize = 700;
/// What a published crate has beside its source.
const CRATE_FILES: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];
const CRATE_FIELDS: [&str; 5] = ["description", "keywords", "categories", "readme", "include"];

/// Check the house rules that no lint checks
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Print the floors of each crate: which room imports which, from top to bottom
    #[arg(long)]
    floors: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if args.floors {
        for floors in crates(&workspace::root())? {
            floors.print();
        }
        println!();
    }
    Ok(if print_faults()? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what breaks a rule, and counts it.
pub(crate) fn print_faults() -> Result<usize> {
    let faults = check()?;
    for fault in &faults {
        println!("{fault}");
    }
    Ok(faults.len())
}

/// What breaks a rule, in words that name the file.
fn check() -> Result<Vec<String>> {
    let root = workspace::root();
    let mut faults = Vec::new();
    for file in files(&root)? {
        let path = root.join(&file);
        // A file that was deleted and is not committed yet is still listed.
        if !path.is_file() {
            continue;
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let is_adr = file.starts_with("docs/adr") && name.starts_with(|c: char| c.is_ascii_digit());
        let found = match file.extension().and_then(|ext| ext.to_str()) {
            Some("rs") => source(&fs::read_to_string(&path)?),
            Some("toml") if name == "Cargo.toml" => manifest(&path)?,
            Some("md") if is_adr => decision(&fs::read_to_string(&path)?),
            _ => Vec::new(),
        };
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", file.display())));
    }
    for floors in crates(&root)? {
        faults.extend(floors.faults());
    }
    Ok(faults)
}

/// The floors of every crate, by name.
fn crates(root: &Path) -> Result<Vec<Floors>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        if dir.join("Cargo.toml").is_file() {
            dirs.push(dir);
        }
    }
    dirs.sort();
    dirs.iter().map(|dir| Floors::read(dir)).collect()
}

/// Every file that is or would be committed.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files failed");
    let list = String::from_utf8(output.stdout)?;
    Ok(list.lines().map(PathBuf::from).collect())
}

fn source(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") && !text.starts_with("#![doc = include_str!") {
        faults.push("does not open with `//!` and what it is for".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINE_LIMIT {
        faults.push(format!("{lines} lines, above {LINE_LIMIT}: split it by ideas"));
    }
    faults
}

fn decision(text: &str) -> Vec<String> {
    let has_status = text.lines().any(|line| line.starts_with("Status: "));
    if has_status { Vec::new() } else { vec!["has no line `Status: …`".to_owned()] }
}

fn manifest(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let table: Table = text.parse().with_context(|| format!("in {}", path.display()))?;
    let Some(package) = table.get("package").and_then(Value::as_table) else {
        return Ok(Vec::new());
    };
    let mut faults = Vec::new();
    let lints = table.get("lints").and_then(|lints| lints.get("workspace"));
    if lints != Some(&Value::Boolean(true)) {
        faults.push("does not inherit the workspace's lints".to_owned());
    }
    if package.get("publish") != Some(&Value::Boolean(false)) {
        let dir = path.parent().context("a manifest has a folder")?;
        faults.extend(published(dir, package));
    }
    faults.extend(dev_dependencies(&table));
    Ok(faults)
}

fn published(dir: &Path, package: &Table) -> Vec<String> {
    let files = CRATE_FILES.iter().filter(|file| !dir.join(file).exists());
    let fields = CRATE_FIELDS.iter().filter(|field| !package.contains_key(**field));
    files
        .map(|file| format!("the crate has no {file}"))
        .chain(fields.map(|field| format!("the package says nothing of its `{field}`")))
        .collect()
}

/// Sibling crates by path alone: cargo leaves those out of a package, so that a cycle of tests
/// never stands in the way of a release.
fn dev_dependencies(table: &Table) -> Vec<String> {
    let Some(dependencies) = table.get("dev-dependencies").and_then(Value::as_table) else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (name, dependency) in dependencies {
        let is_sibling = name.starts_with("kv-") || dependency.get("path").is_some();
        let by_path = dependency.get("path").is_some() && dependency.get("version").is_none();
        if is_sibling && !by_path {
            faults.push(format!("dev-dependency {name} is not by path alone"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{decision, dev_dependencies, source};

    #[test]
    fn sources_open_with_their_purpose_and_stay_short() {
        assert!(source("//! Says it.\nfn a() {}\n").is_empty());
        assert_eq!(source("use std::fs;\n").len(), 1);
        assert_eq!(source(&format!("//! Long.\n{}", "\n".repeat(700))).len(), 1);
    }

    #[test]
    fn decisions_have_a_status() {
        assert!(decision("# 1. A\n\nStatus: accepted\n").is_empty());
        assert_eq!(decision("# 1. A\n").len(), 1);
    }

    #[test]
    fn siblings_are_dev_dependencies_by_path_alone() {
        let faults = |text: &str| dev_dependencies(&text.parse().unwrap()).len();
        assert_eq!(faults("[dev-dependencies]\nkv-mem = { path = \"../kv-mem\" }"), 0);
        assert_eq!(faults("[dev-dependencies]\ntokio.workspace = true"), 0);
        assert_eq!(faults("[dev-dependencies]\nkv-mem.workspace = true"), 1);
        assert_eq!(faults("[dev-dependencies]\nx = { path = \"../x\", version = \"1\" }"), 1);
    }
}
