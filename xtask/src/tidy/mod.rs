//! `cargo xtask tidy`: house rules that no lint checks, one file for each kind.

mod commands;
mod decisions;
mod evidence;
mod floors;
mod manifest;
mod paths;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use kv_testkit::workspace;

use evidence::Code;
use floors::{Declared, Floors};
use paths::Tree;

/// Beyond this a file holds more than one idea.
const LINE_LIMIT: usize = 800;

/// Check the house rules that no lint checks
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Print the floors of each crate: which room imports which, from top to bottom
    #[arg(long)]
    floors: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if args.floors {
        for dir in crates(&workspace::root())? {
            Floors::read(&dir)?.print();
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
    let mut files = files(&root)?;
    // A file that was deleted and is not committed yet is still listed.
    files.retain(|file| root.join(file).is_file());
    let tree = Tree::new(&files);
    let code = code(&root, &files)?;
    let readme = fs::read_to_string(root.join(commands::README))?;
    let kv = commands::listed(&readme);
    let (mut faults, mut archaic, mut decided) = (Vec::new(), Archaic::default(), BTreeMap::new());
    for file in &files {
        let kind = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !matches!(kind, "rs" | "md" | "toml") {
            continue;
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(root.join(file))?;
        let mut found = words::citations(file, &text);
        match kind {
            "rs" => found.extend(source(&text)),
            "md" => {
                found.extend(tree.faults(file, &text));
                found.extend(code.faults(&text));
                found.extend(commands::faults(&text, &kv));
            }
            _ if name == "Cargo.toml" => found.extend(manifest::check(&root.join(file))?),
            _ => {}
        }
        if kind != "toml" {
            archaic.add(file, words::archaic(file, &text));
        }
        if file.starts_with("docs/adr") && name.starts_with(|c: char| c.is_ascii_digit()) {
            found.extend(decisions::check(&text));
            decided.insert(name.into_owned(), text);
        }
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", file.display())));
    }
    let index = fs::read_to_string(root.join(decisions::INDEX))?;
    let indexed = decisions::check_index(&index, &decided);
    faults.extend(indexed.into_iter().map(|fault| format!("{}: {fault}", decisions::INDEX)));
    for dir in crates(&root)? {
        let floors = Floors::read(&dir)?;
        faults.extend(floors.faults());
    }
    faults.extend(archaic.faults(&root)?);
    Ok(faults)
}

/// Archaic turns by crate; those outside of `crates/` under an empty name.
#[derive(Debug, Default)]
struct Archaic(BTreeMap<String, Vec<String>>);

impl Archaic {
    fn add(&mut self, file: &Path, found: Vec<String>) {
        let name = crate_of(file).unwrap_or_default();
        let found = found.into_iter().map(|place| format!("{}: {place}", file.display()));
        self.0.entry(name).or_default().extend(found);
    }

    /// Those above what each crate's manifest has; any outside of the crates.
    fn faults(&self, root: &Path) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for (name, found) in &self.0 {
            if name.is_empty() {
                faults.extend(found.iter().map(|place| format!("{place}: nobody says that")));
                continue;
            }
            let allowed = Declared::read(&root.join("crates").join(name))?.archaic;
            let list = || format!("\n  {}", found.join("\n  "));
            let fault = floors::beyond("archaic", allowed, found.len(), list);
            faults.extend(fault.map(|fault| format!("crates/{name}: {fault}")));
        }
        Ok(faults)
    }
}

/// The source of each crate.
fn code(root: &Path, files: &[PathBuf]) -> Result<Code> {
    let mut code = Code::default();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        if let Some(name) = crate_of(file) {
            code.add(&name, &fs::read_to_string(root.join(file))?);
        }
    }
    Ok(code)
}

/// The name of the crate that a file below `crates/` belongs to.
fn crate_of(file: &Path) -> Option<String> {
    let name = file.strip_prefix("crates").ok()?.iter().next()?;
    Some(name.to_string_lossy().into_owned())
}

/// The folders of all crates, by name.
fn crates(root: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        if dir.join("Cargo.toml").is_file() {
            dirs.push(dir);
        }
    }
    dirs.sort();
    Ok(dirs)
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

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn sources_open_with_their_purpose_and_stay_short() {
        assert!(source("//! Says it.\nfn a() {}\n").is_empty());
        assert_eq!(source("use std::fs;\n").len(), 1);
        assert_eq!(source(&format!("//! Long.\n{}", "\n".repeat(800))).len(), 1);
    }
}
