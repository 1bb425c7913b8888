//! Which file of a crate imports which, and where that goes in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path as File;

use anyhow::{Context, Result};

use super::imports::{self, Imports, Path};

/// Files each of which reaches every other.
pub(super) type Circle = BTreeSet<Path>;

/// The files of one crate, by the module each holds, and whom each imports. The crate's root, which
/// only maps names to modules, is left out.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) arrows: BTreeMap<Path, BTreeSet<Path>>,
    pub(super) lines: usize,
}

impl Graph {
    /// Reads the crate whose source is in `src`.
    pub(super) fn read(src: &File) -> Result<Self> {
        let mut sources = BTreeMap::new();
        collect(src, &mut Vec::new(), &mut sources)?;
        Self::of(&sources)
    }

    /// The graph of sources by module; the root is the empty path.
    fn of(sources: &BTreeMap<Path, String>) -> Result<Self> {
        let mut files = BTreeMap::new();
        for (module, source) in sources {
            let imports = imports::read(source, module).with_context(|| module.join("::"))?;
            files.insert(module.clone(), imports);
        }
        let tests: BTreeSet<_> = files.values().flat_map(|file| file.tests.clone()).collect();
        files.retain(|module, file| {
            let in_tests = (1..=module.len()).any(|len| tests.contains(&module[..len]));
            !in_tests && !file.is_test
        });
        let mut graph = Self::default();
        for (module, file) in &files {
            if module.is_empty() {
                continue;
            }
            graph.lines += sources[module].lines().count();
            let targets = file.paths.iter().filter_map(|path| resolve(&files, &path[1..]));
            let arrows = targets.filter(|target| target != module && !target.is_empty()).collect();
            graph.arrows.insert(module.clone(), arrows);
        }
        Ok(graph)
    }

    /// The graph of texts, each with its module as `a::b`.
    #[cfg(test)]
    pub(super) fn of_texts(sources: &[(&str, &str)]) -> Self {
        let path = |module: &str| module.split_terminator("::").map(str::to_owned).collect();
        let sources = sources.iter().map(|(module, text)| (path(module), (*text).to_owned())).collect();
        #[allow(clippy::unwrap_used)]
        Self::of(&sources).unwrap()
    }

    /// Every circle, as large as it is.
    pub(super) fn circles(&self) -> Vec<Circle> {
        let reach: BTreeMap<_, _> = self.arrows.keys().map(|file| (file, self.reached_from(file))).collect();
        let mut circles: Vec<Circle> = Vec::new();
        for (file, reached) in &reach {
            if reached.contains(*file) && !circles.iter().any(|circle| circle.contains(*file)) {
                circles.push(reached.iter().filter(|other| reach[*other].contains(*file)).cloned().collect());
            }
        }
        circles
    }

    fn reached_from(&self, file: &Path) -> BTreeSet<Path> {
        let mut reached = BTreeSet::new();
        let mut open = vec![file];
        while let Some(file) = open.pop() {
            for target in self.arrows.get(file).into_iter().flatten() {
                if reached.insert(target.clone()) {
                    open.push(target);
                }
            }
        }
        reached
    }

    /// The rooms, which are what lies at the top of the crate's source, and whom each imports.
    pub(super) fn rooms(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut rooms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (file, targets) in &self.arrows {
            let room = file[0].as_str();
            let others = targets.iter().map(|target| target[0].as_str()).filter(|other| *other != room);
            rooms.entry(room).or_default().extend(others);
        }
        rooms
    }
}

/// The file that holds what `path` names: that of its longest part that is a module. A name that
/// the root imports leads on.
fn resolve(files: &BTreeMap<Path, Imports>, path: &[String]) -> Option<Path> {
    let module = (0..=path.len()).rev().map(|len| &path[..len]).find(|part| files.contains_key(*part))?;
    let onward = match path.first() {
        Some(name) if module.is_empty() => files[module].names.get(name),
        _ => None,
    };
    match onward {
        // A name of another crate leads nowhere: the root itself is what was named.
        Some(onward) if onward[1..] != *path => resolve(files, &onward[1..]),
        _ => Some(module.to_vec()),
    }
}

/// Every source below a folder, by module.
fn collect(dir: &File, at: &mut Path, sources: &mut BTreeMap<Path, String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            at.push(stem);
            collect(&path, at, sources)?;
            at.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_root = at.is_empty() && matches!(stem.as_str(), "lib" | "main");
            let mut module = at.clone();
            if !is_root && stem != "mod" {
                module.push(stem);
            }
            let text = fs::read_to_string(&path)?;
            // A crate with a library and a program: both only map names to modules.
            sources.entry(module).or_default().push_str(&text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Graph;

    fn graph(sources: &[(&str, &str)]) -> Graph {
        Graph::of_texts(sources)
    }

    fn circles(graph: &Graph) -> Vec<Vec<String>> {
        let circles = graph.circles();
        circles.iter().map(|circle| circle.iter().map(|file| file.join("::")).collect()).collect()
    }

    #[test]
    fn a_circle_is_every_file_on_it_and_no_other() {
        let sources = [
            ("a", "use crate::b::B;"),
            ("b", "fn f() { crate::c::d::g() }"),
            ("c::d", "use crate::a::A;"),
            ("e", "use crate::a::A;"),
            ("f", "use std::fmt;"),
        ];
        assert_eq!(circles(&graph(&sources)), [["a", "b", "c::d"]]);
    }

    #[test]
    fn a_module_and_its_child_make_a_circle_when_each_names_the_other() {
        let sources = [("a", "mod b;\nuse b::B;"), ("a::b", "use super::A;"), ("c", "use crate::a;")];
        assert_eq!(circles(&graph(&sources)), [["a", "a::b"]]);
        let sources = [("a", "mod b;\nuse b::B;"), ("a::b", "use std::fmt;")];
        assert!(circles(&graph(&sources)).is_empty());
    }

    #[test]
    fn a_name_of_the_root_leads_to_the_file_that_has_it() {
        let sources = [("", "pub use a::{A, X as Y}; pub use a::a;"), ("a", ""), ("b", "use crate::{A, Y};")];
        let graph = graph(&sources);
        assert_eq!(graph.arrows[&vec!["b".to_owned()]].iter().next().unwrap().join("::"), "a");
    }

    #[test]
    fn what_only_tests_compile_makes_no_circle() {
        let sources = [
            ("a", "#[cfg(test)]\nmod tests;\nuse crate::b::B;"),
            ("a::tests", "use super::A; use crate::c::C;"),
            ("b", ""),
            ("c", "use crate::a::A;"),
        ];
        let graph = graph(&sources);
        assert!(circles(&graph).is_empty());
        assert_eq!(graph.arrows.len(), 3);
    }

    #[test]
    fn rooms_are_what_lies_at_the_top() {
        let graph = graph(&[("a::b", "use crate::c::d::D; use super::e;"), ("a::e", ""), ("c::d", "")]);
        assert_eq!(graph.rooms()["a"].iter().copied().collect::<Vec<_>>(), ["c"]);
        assert!(graph.rooms()["c"].is_empty());
    }
}
