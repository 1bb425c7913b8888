//! What every manifest says, and what a published crate has beside its source.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// What a published crate has beside its source.
const CRATE_FILES: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];
const CRATE_FIELDS: [&str; 5] = ["description", "keywords", "categories", "readme", "include"];

/// What is wrong with the manifest at `path`.
pub(super) fn check(path: &Path) -> Result<Vec<String>> {
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
    use super::dev_dependencies;

    #[test]
    fn siblings_are_dev_dependencies_by_path_alone() {
        let faults = |text: &str| dev_dependencies(&text.parse().unwrap()).len();
        assert_eq!(faults("[dev-dependencies]\nkv-mem = { path = \"../kv-mem\" }"), 0);
        assert_eq!(faults("[dev-dependencies]\ntokio.workspace = true"), 0);
        assert_eq!(faults("[dev-dependencies]\nkv-mem.workspace = true"), 1);
        assert_eq!(faults("[dev-dependencies]\nx = { path = \"../x\", version = \"1\" }"), 1);
    }
}
