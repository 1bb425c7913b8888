//! docs/semantics.md is true sentence by sentence: each is shown by cases of the suite or, where nothing is
//! to be seen beside a server that is well, by tests of the backends; and each case belongs to a sentence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

mod shown;
mod shown_admin;
mod shown_lifecycle;
mod shown_recipes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use shown::DATA;
use shown_admin::ADMIN;
use shown_lifecycle::LIFECYCLE;
use shown_recipes::RECIPES;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// How a sentence begins, and what shows that it is true: a case by its name, or another test as
/// `CRATE::NAME`.
type Shown = (&'static str, &'static [&'static str]);

/// What shows each sentence, in the page's order.
fn shown() -> impl Iterator<Item = &'static Shown> {
    [DATA, RECIPES, ADMIN, LIFECYCLE].into_iter().flatten()
}

/// The sentences and table rows below the first heading of a section, up to the table of old names.
fn sentences() -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/semantics.md")).unwrap();
    let (_, page) = page.split_once("\n## ").unwrap();
    let (page, _) = page.split_once("\n| what earlier libraries called it").unwrap();
    let mut sentences = Vec::new();
    for block in page.replace("\n- ", "\n\n- ").split("\n\n").skip(1) {
        let block = block.trim();
        if block.starts_with('|') {
            // A head, a rule, and rows.
            sentences.extend(block.lines().skip(2).map(str::to_owned));
        } else if !block.starts_with('#') {
            let text = block.split_whitespace().collect::<Vec<_>>().join(" ");
            let (last, rest) = text.rsplit_once(". ").map_or((text.as_str(), None), |(a, b)| (b, Some(a)));
            sentences.extend(rest.into_iter().flat_map(|rest| rest.split(". ")).map(|one| format!("{one}.")));
            sentences.push(last.to_owned());
        }
    }
    sentences
}

#[test]
fn each_sentence_is_shown_by_something() {
    let sentences = sentences();
    for (at, sentence) in sentences.iter().enumerate() {
        let shown =
            shown().nth(at).filter(|(begins, shown)| sentence.starts_with(begins) && !shown.is_empty());
        assert!(shown.is_some(), "nothing is said to show this sentence, or not in this place: {sentence}");
    }
    let rest: Vec<_> = shown().skip(sentences.len()).map(|(begins, _)| begins).collect();
    assert!(rest.is_empty(), "the page does not say: {rest:?}");
}

/// All code of a crate: in which file a test is does not matter.
fn code_of(dir: &Path) -> String {
    let mut code = String::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|why| panic!("{dir:?}: {why}")) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code += &code_of(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code += &std::fs::read_to_string(&path).unwrap();
        }
    }
    code
}

#[test]
fn what_shows_a_sentence_exists() {
    let cases: BTreeSet<&str> = kv_conformance::cases().iter().map(|case| case.name).collect();
    let mut code: BTreeMap<&str, String> = BTreeMap::new();
    for (begins, shown) in shown() {
        for name in *shown {
            let Some((krate, test)) = name.split_once("::") else {
                assert!(cases.contains(name), "{begins}: no such case: {name}");
                continue;
            };
            let code =
                code.entry(krate).or_insert_with(|| code_of(&Path::new(ROOT).join("crates").join(krate)));
            assert!(code.contains(&format!("fn {test}(")), "{begins}: no such test: {name}");
        }
    }
}

#[test]
fn each_case_shows_a_sentence() {
    let shown: BTreeSet<&str> = shown().flat_map(|(_, shown)| shown.iter().copied()).collect();
    let cases = kv_conformance::cases();
    let idle: Vec<_> = cases.iter().map(|case| case.name).filter(|name| !shown.contains(name)).collect();
    assert!(idle.is_empty(), "these show nothing that the page says: {idle:?}");
}
