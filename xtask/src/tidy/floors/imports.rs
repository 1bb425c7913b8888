//! Which modules of its own crate a source file names: in `use`, in paths within code and within
//! macros. Code for tests is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Segments of a path below the root of a crate.
pub(super) type Path = Vec<String>;

/// What one file names.
#[derive(Debug, Default)]
pub(super) struct Imports {
    /// Every path into the crate. The last segments of most are items.
    pub(super) paths: BTreeSet<Path>,
    /// What `use` brings into the file's outermost scope: name and path.
    pub(super) names: BTreeMap<String, Path>,
    /// Modules in files of their own that only tests compile.
    pub(super) tests: BTreeSet<Path>,
    /// Whether only tests compile this file.
    pub(super) is_test: bool,
}

/// Reads the source of the module `at`.
pub(super) fn read(source: &str, at: &[String]) -> Result<Imports> {
    let tokens: TokenStream = source.parse().map_err(|error| anyhow!("it is not Rust: {error}"))?;
    let mut imports = Imports::default();
    imports.scope(tokens, at, true);
    Ok(imports)
}

impl Imports {
    /// Walks one level of brackets; `at` is the module that its paths start from.
    fn scope(&mut self, tokens: TokenStream, at: &[String], outermost: bool) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut next = 0;
        while let Some(token) = tokens.get(next) {
            next += 1;
            match token {
                TokenTree::Punct(hash) if hash.as_char() == '#' => {
                    let inner = is_punct(tokens.get(next), '!');
                    next += usize::from(inner);
                    let is_test = is_test_attribute(tokens.get(next));
                    next += 1;
                    if is_test && inner {
                        self.is_test |= outermost;
                        return;
                    }
                    if is_test {
                        next = self.skip_item(&tokens, next, at);
                    }
                }
                TokenTree::Ident(word) if word == "pub" => {
                    next += usize::from(is_group(tokens.get(next), Delimiter::Parenthesis));
                }
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (tokens.get(next), tokens.get(next + 1))
                    {
                        self.scope(body.stream(), &below(at, &name.to_string()), false);
                        next += 2;
                    }
                }
                TokenTree::Ident(word) if word == "use" => {
                    // A leading `::` names another crate.
                    if is_path_separator(&tokens, next) {
                        continue;
                    }
                    next = self.path(&tokens, next, at, Vec::new(), Some(outermost));
                }
                TokenTree::Ident(_) if starts_path(&tokens, next - 1) => {
                    next = self.path(&tokens, next - 1, at, Vec::new(), None);
                }
                TokenTree::Group(group) => self.scope(group.stream(), at, false),
                _ => {}
            }
        }
    }

    /// Reads one path or tree of paths from `next` on and returns what follows it. `used` is set in
    /// `use`, and says whether that stands in the file's outermost scope.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        mut next: usize,
        at: &[String],
        prefix: Path,
        used: Option<bool>,
    ) -> usize {
        let mut path = prefix;
        loop {
            match tokens.get(next) {
                Some(TokenTree::Ident(segment)) => step(&mut path, at, &segment.to_string()),
                Some(TokenTree::Group(tree)) if tree.delimiter() == Delimiter::Brace => {
                    let tree: Vec<_> = tree.stream().into_iter().collect();
                    for branch in
                        tree.split(|token| is_punct(Some(token), ',')).filter(|branch| !branch.is_empty())
                    {
                        self.path(branch, 0, at, path.clone(), used);
                    }
                    return next + 1;
                }
                _ => break,
            }
            next += 1;
            if !is_path_separator(tokens, next) {
                break;
            }
            next += 2;
        }
        if path.is_empty() {
            return next;
        }
        if used == Some(true) {
            let renamed = match (tokens.get(next), tokens.get(next + 1)) {
                (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(name))) if word == "as" => {
                    Some(name.to_string())
                }
                _ => path.last().cloned(),
            };
            self.names.extend(renamed.map(|name| (name, path.clone())));
        }
        self.paths.insert(path);
        next
    }

    /// Passes over the item, field, arm or statement that an attribute stands before.
    fn skip_item(&mut self, tokens: &[TokenTree], mut next: usize, at: &[String]) -> usize {
        const ITEMS: [&str; 16] = [
            "async",
            "const",
            "enum",
            "extern",
            "fn",
            "impl",
            "let",
            "macro_rules",
            "mod",
            "pub",
            "static",
            "struct",
            "trait",
            "type",
            "unsafe",
            "use",
        ];
        while is_punct(tokens.get(next), '#') {
            next += 2;
        }
        let is_item =
            matches!(tokens.get(next), Some(TokenTree::Ident(word)) if ITEMS.iter().any(|item| word == item));
        let mut in_use = false;
        while let Some(token) = tokens.get(next) {
            next += 1;
            match token {
                TokenTree::Ident(word) if word == "use" => in_use = true,
                TokenTree::Ident(word) if word == "mod" => {
                    if let Some(TokenTree::Ident(name)) = tokens.get(next) {
                        self.tests.insert(below(at, &name.to_string()));
                    }
                }
                TokenTree::Punct(end) if end.as_char() == ';' => break,
                TokenTree::Punct(end) if end.as_char() == ',' && !is_item => break,
                TokenTree::Group(body) if body.delimiter() == Delimiter::Brace && !in_use => break,
                _ => {}
            }
        }
        next
    }
}

/// Adds a segment to a path, which starts at the module `at` unless it says otherwise.
fn step(path: &mut Path, at: &[String], segment: &str) {
    let is_first = path.is_empty();
    match segment {
        "crate" if is_first => path.push(String::new()),
        "self" if is_first => path.extend(root().chain(at.iter().cloned())),
        // The module itself, as in `use a::{self, b}`.
        "self" => {}
        "super" if is_first => path.extend(root().chain(at[..at.len().saturating_sub(1)].iter().cloned())),
        "super" => {
            path.pop();
        }
        _ if is_first => path.extend(root().chain(at.iter().cloned()).chain(iter::once(segment.to_owned()))),
        _ => path.push(segment.to_owned()),
    }
}

/// Stands before the first segment, so that a path that was begun is not an empty one.
fn root() -> impl Iterator<Item = String> {
    iter::once(String::new())
}

fn below(at: &[String], name: &str) -> Path {
    at.iter().cloned().chain(iter::once(name.to_owned())).collect()
}

/// Whether a path into a module starts here: a word before `::` that is not itself behind one.
fn starts_path(tokens: &[TokenTree], at: usize) -> bool {
    let follows = at > 0 && (is_punct(tokens.get(at - 1), ':') || is_punct(tokens.get(at - 1), '.'));
    // In `field: crate::X` one colon stands before it, in `a::crate` two.
    let separated = at > 1 && is_path_separator(tokens, at - 2);
    is_path_separator(tokens, at + 1) && !(follows && (separated || is_punct(tokens.get(at - 1), '.')))
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_group(token: Option<&TokenTree>, wanted: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == wanted)
}

/// `[cfg(test)]`, also among other conditions of `all` or `any`, but not behind `not`.
fn is_test_attribute(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(attribute)) = token else { return false };
    let mut tokens = attribute.stream().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(cfg)), Some(TokenTree::Group(condition))) if cfg == "cfg" => {
            asks_for_test(condition.stream())
        }
        _ => false,
    }
}

fn asks_for_test(condition: TokenStream) -> bool {
    let mut negated = false;
    for token in condition {
        match token {
            TokenTree::Ident(word) if word == "test" => return true,
            TokenTree::Ident(word) => negated = word == "not",
            TokenTree::Group(group) if !negated && asks_for_test(group.stream()) => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::read;

    fn paths(source: &str, at: &str) -> Vec<String> {
        let at: Vec<_> = at.split_terminator("::").map(str::to_owned).collect();
        read(source, &at).unwrap().paths.iter().map(|path| path[1..].join("::")).collect()
    }

    #[test]
    fn groups_are_taken_apart() {
        let source = "use crate::{a, b::{self, c::{D, E}, f::*},};\nuse {crate::g, super::h};";
        assert_eq!(paths(source, "x"), ["a", "b", "b::c::D", "b::c::E", "b::f", "g", "h"]);
    }

    #[test]
    fn renamed_and_public_imports_count_under_their_own_name() {
        let source =
            "pub(crate) use crate::a::B as C;\npub(in crate::q) use super::d as _;\npub use self::e::F;";
        assert_eq!(paths(source, "x::y"), ["a::B", "x::d", "x::y::e::F"]);
        let names = read(source, &["x".to_owned(), "y".to_owned()]).unwrap().names;
        assert_eq!(names["C"][1..], ["a", "B"]);
        assert_eq!(names["F"][1..], ["x", "y", "e", "F"]);
    }

    #[test]
    fn super_is_the_module_above_also_within_a_module_of_the_file() {
        assert_eq!(paths("use super::super::a;", "x::y::z"), ["x::a"]);
        assert_eq!(paths("mod inner { use super::b; use super::super::c; }", "x"), ["c", "x::b"]);
    }

    #[test]
    fn paths_within_code_and_macros_count() {
        let source =
            "fn f(x: crate::a::A) -> Vec<super::b::B> { go!(crate::c::d(x), [child::e()]); x.y::<Z>() }";
        let found = paths(source, "x");
        for path in ["a::A", "b::B", "c::d", "x::child::e"] {
            assert!(found.iter().any(|found| found == path), "{path} is not in {found:?}");
        }
    }

    #[test]
    fn comments_strings_and_other_crates_do_not() {
        let source = "/// See [`crate::a`].\n// crate::b\nfn f() { \"crate::c\"; } use ::crate_of_others::x;\nuse std::fmt;";
        assert_eq!(paths(source, ""), ["std::fmt"]);
    }

    #[test]
    fn code_for_tests_is_left_out() {
        let source = "#[cfg(test)] use crate::{a, b};\n#[cfg(all(test, unix))] mod tests { use crate::c; }\n\
                      #[cfg(test)] #[allow(x)] fn f() { crate::d(); }\n#[cfg(test)] mod more;\n\
                      struct S { #[cfg(test)] e: crate::e::E, f: crate::f::F }\n#[cfg(not(test))] use crate::g;";
        let found = read(source, &["x".to_owned()]).unwrap();
        assert_eq!(paths(source, "x"), ["f::F", "g"]);
        assert!(found.tests.contains(&vec!["x".to_owned(), "more".to_owned()]));
        assert!(!found.is_test);
        assert!(read("//! Doc.\n#![cfg(test)]\nuse crate::a;", &[]).unwrap().is_test);
    }
}
