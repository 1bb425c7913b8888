//! Which backends there are: every crate with a conformance suite of its own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kv_testkit::{Spec, spec, workspace};

/// The test target that runs the suite.
pub(crate) const SUITE: &str = "conformance";

#[derive(Debug, Clone)]
pub(crate) struct Backend {
    /// The crate's name without `kv-`.
    pub(crate) name: String,
    pub(crate) package: String,
    pub(crate) dir: PathBuf,
    /// What it is tested on; none for one that runs in the process.
    pub(crate) spec: Option<Arc<Spec>>,
}

/// Every backend, by name.
pub(crate) fn all() -> Result<Vec<Backend>> {
    let crates = workspace::root().join("crates");
    let mut backends = Vec::new();
    for entry in std::fs::read_dir(&crates)? {
        let dir = entry?.path();
        if !dir.join("tests").join(SUITE).with_extension("rs").is_file() {
            continue;
        }
        let package = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = package.trim_start_matches("kv-").to_owned();
        let spec = match dir.join(spec::FILE).is_file() {
            true => Some(Arc::new(Spec::load(&dir)?)),
            false => None,
        };
        backends.push(Backend { name, package, dir, spec });
    }
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(backends)
}

/// Those with these names; all if none are given.
pub(crate) fn named(names: &[String]) -> Result<Vec<Backend>> {
    let all = all()?;
    if names.is_empty() {
        return Ok(all);
    }
    let known = all.iter().map(|backend| backend.name.as_str()).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let found = all.iter().find(|backend| backend.name == *name).cloned();
        found.with_context(|| format!("no backend is called `{name}`; there are: {known}"))
    };
    if all.is_empty() {
        bail!("no crate has tests/{SUITE}.rs");
    }
    names.iter().map(find).collect()
}
