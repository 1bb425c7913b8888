//! Paths that pages name: a page that sends a reader to a file that is not there is out of date.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Endings of files that a page may name without a folder.
const ENDINGS: [&str; 5] = [".rs", ".md", ".toml", ".yml", ".json"];

/// What the repository has, to look paths up in.
#[derive(Debug)]
pub(super) struct Tree {
    files: BTreeSet<String>,
    dirs: BTreeSet<String>,
}

impl Tree {
    pub(super) fn new(files: &[PathBuf]) -> Self {
        let dirs = files.iter().flat_map(|file| file.ancestors().skip(1)).map(text).collect();
        Self { files: files.iter().map(|file| text(file)).collect(), dirs }
    }

    /// Links and paths in backticks that lead nowhere, from the page at `page`.
    ///
    /// A path in backticks is one word that starts in a folder of the repository's root, or ends as a
    /// source, page or table does. It may be meant from the root, from the page, or from a folder
    /// that pages leave unsaid, as `client.rs` in the folder of a backend. `*` stands for one name.
    pub(super) fn faults(&self, page: &Path, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let mut in_code = false;
        for (at, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            let missing = |path: &str| format!("line {}: `{path}` is not there", at + 1);
            let links = links(line).filter(|link| !self.is_linked(page, link));
            faults.extend(links.map(missing));
            let spans = line.split('`').skip(1).step_by(2).filter(|span| self.is_path(span));
            faults.extend(spans.filter(|span| !self.is_named(page, span)).map(missing));
        }
        faults
    }

    fn is_linked(&self, page: &Path, link: &str) -> bool {
        let target = page.parent().unwrap_or(Path::new("")).join(link);
        normal(&target).is_some_and(|target| self.files.contains(&target) || self.dirs.contains(&target))
    }

    fn is_path(&self, span: &str) -> bool {
        let is_word = span.chars().all(|c| c.is_ascii_alphanumeric() || "./-_*".contains(c));
        let first = span.split('/').next().unwrap_or_default();
        let from_root = span.contains('/') && !first.is_empty() && self.dirs.contains(first);
        let ends_so = ENDINGS.iter().any(|ending| span.len() > ending.len() && span.ends_with(ending));
        // An address or a place on a machine is no path of ours.
        is_word && !span.starts_with(['/', '-']) && !span.contains("//") && (from_root || ends_so)
    }

    fn is_named(&self, page: &Path, span: &str) -> bool {
        let span = span.trim_end_matches('/');
        if self.is_linked(page, span) {
            return true;
        }
        let wanted: Vec<_> = span.trim_start_matches("./").split('/').collect();
        self.files.iter().chain(&self.dirs).any(|path| {
            let has: Vec<_> = path.split('/').collect();
            has.len() >= wanted.len()
                && wanted.iter().rev().zip(has.iter().rev()).all(|(wanted, has)| is_match(wanted, has))
        })
    }
}

/// Whether a name fits a pattern with at most one `*`.
fn is_match(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

/// Targets of links to files: no addresses, no items of code, no places within a page.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let ends = line.match_indices("](").map(|(at, _)| &line[at + 2..]);
    let targets = ends.filter_map(|rest| rest.split([')', ' ', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains(':'))
}

/// A path without `.` and `..`; none if it leaves the repository.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Tree;

    fn faults(text: &str) -> usize {
        let files = [
            "README.md",
            "docs/a.md",
            "docs/adr/0001-x.md",
            "crates/kv-x/src/client.rs",
            "crates/kv-x/servers.toml",
        ];
        let files: Vec<_> = files.iter().map(PathBuf::from).collect();
        Tree::new(&files).faults(Path::new("docs/a.md"), text).len()
    }

    #[test]
    fn links_lead_to_files_and_folders() {
        assert_eq!(faults("[a](adr/0001-x.md) [b](../README.md#top) [c](adr) [d](../crates/kv-x)"), 0);
        assert_eq!(faults("[a](adr/0002-x.md) [b](README.md) [c](../../other/x.md)"), 3);
        assert_eq!(faults("[a](https://example.org/x.md) [b](#part) [c](kv_core::Store) [`d`](crate::x)"), 0);
    }

    #[test]
    fn paths_in_backticks_are_there() {
        assert_eq!(
            faults("`docs/a.md` `client.rs` `src/client.rs` `crates/*/servers.toml` `crates/kv-*`"),
            0
        );
        assert_eq!(
            faults("`docs/b.md` `server.rs` `lib/client.rs` `crates/*/clients.toml` `crates/kv-y/`"),
            5
        );
    }

    #[test]
    fn what_is_no_path_is_left_alone() {
        let text =
            "`a/b` `app/jobs/nightly` `/etc/x.md` `kv get a.rs` `https://h/x.json` `.md` `crates/kv-<name>`";
        assert_eq!(faults(text), 0);
        assert_eq!(faults("```\n`docs/b.md` [a](b.md)\n```"), 0);
    }
}
