//! The floors of each crate: which room imports which. Imports go down only.
//!
//! A room is a file or folder at the top of a crate's source. The manifest says in
//! `[package.metadata.tidy]` on which floor it lies, and how many arrows point up and files lie in
//! circles today; both numbers may only fall.

mod graph;
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use graph::{Circle, Graph};

/// `[package.metadata.tidy]` of a crate's manifest.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Declared {
    /// Rooms by floor, from top to bottom. None: the crate's floors are not fixed.
    floors: Vec<Vec<String>>,
    /// How many imports between rooms point to a higher floor.
    upward: usize,
    /// How many files lie in circles that go through more than one room.
    in_circles: usize,
    /// Rooms within which files import each other in circles, and why that is right.
    circles: BTreeMap<String, String>,
    /// How many archaic turns the crate's texts have.
    pub(super) archaic: usize,
}

/// What was found in a crate.
#[derive(Debug)]
pub(super) struct Floors {
    name: String,
    declared: Declared,
    graph: Graph,
}

impl Floors {
    /// Reads the crate in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let name = dir.file_name().context("a crate has a folder")?.to_string_lossy().into_owned();
        Ok(Self { name, declared: Declared::read(dir)?, graph: Graph::read(&dir.join("src"))? })
    }

    /// What breaks the crate's own declaration.
    pub(super) fn faults(&self) -> Vec<String> {
        let upward = self.upward();
        let (between, within) = self.circles();
        let in_circles = between.iter().map(BTreeSet::len).sum();
        let mut faults = self.misplaced();
        faults.extend(beyond("upward", self.declared.upward, upward.len(), || upward.join(", ")));
        faults.extend(beyond("in-circles", self.declared.in_circles, in_circles, || told(&between)));
        for (room, circle) in &within {
            if !self.declared.circles.contains_key(*room) {
                let circle = told(std::slice::from_ref(circle));
                faults.push(format!(
                    "files of `{room}` import each other in a circle without a reason in `circles`: {circle}"
                ));
            }
        }
        let has_circle = |room: &String| within.iter().any(|(other, _)| other == room);
        for room in self.declared.circles.keys().filter(|room| !has_circle(room)) {
            faults.push(format!("`circles` gives a reason for `{room}`, which has no circle: delete it"));
        }
        faults.into_iter().map(|fault| format!("crates/{}: floors: {fault}", self.name)).collect()
    }

    /// Rooms that are on no floor, and floors' rooms that are not there.
    fn misplaced(&self) -> Vec<String> {
        if self.declared.floors.is_empty() {
            return Vec::new();
        }
        let rooms: BTreeSet<_> = self.graph.rooms().into_keys().collect();
        let placed: BTreeSet<_> = self.declared.floors.iter().flatten().map(String::as_str).collect();
        let unplaced =
            rooms.difference(&placed).map(|room| format!("`{room}` is on no floor of the manifest"));
        let absent = placed.difference(&rooms).map(|room| format!("`{room}` of the manifest is not there"));
        unplaced.chain(absent).collect()
    }

    /// Imports between rooms that point to a higher floor, as `lower → higher`.
    fn upward(&self) -> Vec<String> {
        let floor =
            |room: &str| self.declared.floors.iter().position(|floor| floor.iter().any(|r| r == room));
        let mut upward = Vec::new();
        for (room, targets) in self.graph.rooms() {
            for target in targets {
                if floor(room).zip(floor(target)).is_some_and(|(from, to)| to < from) {
                    upward.push(format!("{room} → {target}"));
                }
            }
        }
        upward
    }

    /// Circles through several rooms, and those within one, with the room.
    fn circles(&self) -> (Vec<Circle>, Vec<(&str, Circle)>) {
        let (mut between, mut within) = (Vec::new(), Vec::new());
        for circle in self.graph.circles() {
            let rooms: BTreeSet<_> = circle.iter().map(|file| &file[0]).collect();
            let room = rooms.into_iter().next().filter(|room| circle.iter().all(|file| file[0] == **room));
            let room = room.and_then(|room| self.graph.rooms().into_keys().find(|other| other == room));
            match room {
                Some(room) => within.push((room, circle)),
                None => between.push(circle),
            }
        }
        (between, within)
    }

    /// The floors as the manifest has them; else as the imports make them.
    fn floors(&self) -> Vec<Vec<&str>> {
        if !self.declared.floors.is_empty() {
            return self
                .declared
                .floors
                .iter()
                .map(|floor| floor.iter().map(String::as_str).collect())
                .collect();
        }
        let rooms = self.graph.rooms();
        let mut floors: Vec<Vec<&str>> = Vec::new();
        let mut left: BTreeSet<_> = rooms.keys().copied().collect();
        while !left.is_empty() {
            // Rooms in a circle are on one floor.
            let is_base = |room: &&str| {
                let below = rooms[room].iter().filter(|target| left.contains(*target));
                below.into_iter().all(|target| leads(&rooms, target, room))
            };
            let floor: Vec<_> = left.iter().copied().filter(is_base).collect();
            left.retain(|room| !floor.contains(room));
            floors.insert(0, floor);
        }
        floors
    }

    /// Prints the floors from top to bottom, then what is wrong with them.
    pub(super) fn print(&self) {
        let rooms = self.graph.rooms();
        println!("\n{}: {} files, {} lines", self.name, self.graph.arrows.len(), self.graph.lines);
        let floors = self.floors();
        let width = rooms.keys().map(|room| room.len()).max().unwrap_or_default();
        for (at, floor) in floors.iter().enumerate() {
            for (place, room) in floor.iter().enumerate() {
                let Some(targets) = rooms.get(room) else { continue };
                let number = if place == 0 { (floors.len() - at).to_string() } else { String::new() };
                let targets: Vec<_> = targets.iter().copied().collect();
                let line = format!("{number:>3}  {room:width$}  {}", targets.join(" "));
                println!("{}", line.trim_end());
            }
        }
        let (between, within) = self.circles();
        for arrow in self.upward() {
            println!("     upward: {arrow}");
        }
        for circle in &between {
            println!("     circle of {}: {}", circle.len(), told(std::slice::from_ref(circle)));
        }
        for (room, circle) in &within {
            let reason = self.declared.circles.get(*room).map_or("no reason is given", String::as_str);
            println!("     circle within {room}: {} ({reason})", told(std::slice::from_ref(circle)));
        }
    }
}

impl Declared {
    /// Reads the table from the manifest in `dir`; a manifest without it declares nothing.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Manifest {
            package: Package,
        }
        #[derive(Deserialize)]
        struct Package {
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        struct Metadata {
            #[serde(default)]
            tidy: Declared,
        }
        let path = dir.join("Cargo.toml");
        let text = std::fs::read_to_string(&path)?;
        let manifest: Manifest = toml::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(manifest.package.metadata.tidy)
    }
}

/// Whether the imports of `from` lead to `to`.
fn leads(rooms: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(room) = open.pop() {
        if room == to {
            return true;
        }
        open.extend(rooms.get(room).into_iter().flatten().filter(|target| seen.insert(**target)));
    }
    false
}

/// What to say of a number that may only fall.
pub(super) fn beyond(name: &str, declared: usize, found: usize, what: impl Fn() -> String) -> Option<String> {
    match found.cmp(&declared) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(format!(
            "`{name} = {declared}` can be lowered to {found} in [package.metadata.tidy] of the manifest: do so"
        )),
        std::cmp::Ordering::Greater => {
            Some(format!("`{name} = {declared}` in the manifest, but there are {found}: {}", what()))
        }
    }
}

fn told(circles: &[Circle]) -> String {
    let files = circles.iter().map(|circle| {
        let files: Vec<_> = circle.iter().map(|file| file.join("/")).collect();
        files.join(" ")
    });
    files.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::{Declared, Floors, beyond, graph::Graph};

    fn floors(manifest: &str, sources: &[(&str, &str)]) -> Floors {
        let declared: Declared = toml::from_str(manifest).unwrap();
        Floors { name: "kv-x".to_owned(), declared, graph: Graph::of_texts(sources) }
    }

    #[test]
    fn imports_go_down() {
        let manifest = r#"floors = [["top"], ["a", "b"], ["base"]]"#;
        let down = [("top", "use crate::a;"), ("a", "use crate::{b, base};"), ("b", ""), ("base", "")];
        assert!(floors(manifest, &down).faults().is_empty());
        let up = [("top", ""), ("a", ""), ("b", "use crate::top;"), ("base", "")];
        let faults = floors(manifest, &up).faults();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("b → top"), "{faults:?}");
    }

    #[test]
    fn every_room_is_on_a_floor() {
        let faults = floors(r#"floors = [["a"], ["gone"]]"#, &[("a", ""), ("new", "")]).faults();
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn circles_count_against_the_manifest() {
        let circle = [("a", "use crate::b;"), ("b", "use crate::a;")];
        assert_eq!(floors("", &circle).faults().len(), 1);
        assert!(floors("in-circles = 2", &circle).faults().is_empty());
        let lowered = floors("in-circles = 3", &circle).faults();
        assert!(lowered[0].contains("can be lowered to 2"), "{lowered:?}");
    }

    #[test]
    fn a_circle_within_a_room_has_a_reason() {
        let circle = [("a", "use b::B;"), ("a::b", "use super::A;")];
        assert_eq!(floors("", &circle).faults().len(), 1);
        assert!(floors("circles = { a = \"one machine\" }", &circle).faults().is_empty());
        assert_eq!(floors("circles = { a = \"one machine\" }", &[("a", "")]).faults().len(), 1);
    }

    #[test]
    fn a_number_may_only_fall() {
        let said = |declared, found| beyond("upward", declared, found, || "a → b".to_owned());
        assert_eq!(said(2, 2), None);
        assert!(said(2, 1).unwrap().contains("lowered to 1"));
        assert!(said(2, 3).unwrap().contains("a → b"));
    }
}
