//! Words that a reader stumbles over: pages that are not part of the repository, and turns of phrase
//! that nobody says.

use std::path::Path;

/// Where this rule's own words stand.
const THIS_FILE: &str = "xtask/src/tidy/words.rs";

/// Pages of notes that lie elsewhere. A comment says the thing itself.
const PAGES: [&str; 10] = [
    "PEERS",
    "FACTS",
    "NEXT.md",
    "CONTRACT.md",
    "DESIGN.md",
    "BACKENDS.md",
    "FAULTS.md",
    "FEATURES.md",
    "STYLE.md",
    "ECOSYSTEM.md",
];

/// What to write in their place: "exists", "is available", "without success", "by hand".
const ARCHAIC: [&str; 10] = [
    "is had",
    "are had",
    "was had",
    "were had",
    "be had",
    "been had",
    "in vain",
    "by a hand",
    "what is to be said",
    "there is to be",
];

/// Pages outside the repository that `text` cites.
pub(super) fn citations(file: &Path, text: &str) -> Vec<String> {
    if file == Path::new(THIS_FILE) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for page in PAGES.iter().filter(|page| is_said(line, page)) {
            faults.push(format!(
                "line {}: `{page}` is no page of this repository: say the thing itself",
                at + 1
            ));
        }
    }
    faults
}

/// Archaic turns in `text`, each with its line.
pub(super) fn archaic(file: &Path, text: &str) -> Vec<String> {
    if file == Path::new(THIS_FILE) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let lines: Vec<_> = text.lines().map(bare).collect();
    for (at, line) in lines.iter().enumerate() {
        // A turn may stand across the end of a line.
        let next = lines.get(at + 1).map_or("", String::as_str);
        let both = format!("{line} {next}");
        for turn in ARCHAIC {
            let count = |text: &str| places(text, turn).count();
            let here = count(&both) - count(next);
            found.extend((0..here).map(|_| format!("line {}: “{turn}”", at + 1)));
        }
    }
    found
}

/// A line in small letters, without the marks of comments and lists, its words one space apart.
fn bare(line: &str) -> String {
    let text = line.trim_start().trim_start_matches(['/', '!', '#', '>']).to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_said(text: &str, words: &str) -> bool {
    places(text, words).next().is_some()
}

/// Where `words` stand in `text`, not within other words.
fn places<'t>(text: &'t str, words: &'t str) -> impl Iterator<Item = usize> + 't {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(words).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + words.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{archaic, citations};

    #[test]
    fn pages_elsewhere_are_not_cited() {
        let cited = |text| citations(Path::new("a.rs"), text).len();
        assert_eq!(cited("/// PEERS: it failed.\n// See NEXT.md, section 2."), 2);
        assert_eq!(cited("const FACTSHEET: u8 = 1; // facts, peers"), 0);
    }

    #[test]
    fn archaic_turns_are_found_across_lines() {
        let found = |text| archaic(Path::new("a.md"), text);
        assert_eq!(
            found("A lock that can be\n had, and one sent in\n/// vain."),
            ["line 1: “be had”", "line 2: “in vain”"]
        );
        assert_eq!(found("What this had. In veins, by a handle."), Vec::<String>::new());
        assert_eq!(found("It is had. Is had it"), ["line 1: “is had”", "line 1: “is had”"]);
    }
}
