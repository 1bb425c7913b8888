//! The table of capabilities in the README: written from what stores declared, and checked against it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kv_testkit::{Tier, workspace};

use crate::plan::{Item, variants};
use crate::report::Declared;

const BEGIN: &str = "<!-- capabilities: `cargo xtask conformance --write-table` -->\n";
const END: &str = "<!-- /capabilities -->\n";

/// What stores declared in this run, by the name of their column.
#[derive(Debug, Default)]
pub(crate) struct Declarations(Vec<(String, Declared)>);

impl Declarations {
    /// Takes in what a store declared. A variant that only the nightly tier tests has no column.
    pub(crate) fn add(&mut self, item: &Item, declared: Declared) {
        let columns = variants(&item.backend, Tier::Commit);
        if columns.iter().any(|column| column.name == item.variant.name) {
            let name = if columns.len() == 1 { item.backend.name.clone() } else { item.label() };
            self.0.push((name, declared));
        }
    }

    /// What the README says otherwise, in words.
    pub(crate) fn differences(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(readme())?;
        let (_, table, _) = split(&text)?;
        let rows = parse(table);
        let mut wrong = Vec::new();
        for (column, declared) in &self.0 {
            for (name, declared) in declared.all() {
                let said = look_up(&rows, name, column);
                if said != Some(word(declared)) {
                    wrong.push(format!(
                        "README.md says {said:?} of {name} for {column}, the store declares {:?}: \
                         `cargo xtask conformance --write-table` mends it",
                        word(declared)
                    ));
                }
            }
        }
        Ok(wrong)
    }

    /// Writes the README's table anew. Every backend must have been tested.
    pub(crate) fn write(mut self, backends: usize) -> Result<()> {
        self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.0.dedup_by(|(a, _), (b, _)| a == b);
        let of = |column: &str| column.split(' ').next().unwrap_or_default().to_owned();
        let mut tested: Vec<_> = self.0.iter().map(|(column, _)| of(column)).collect();
        tested.dedup();
        ensure!(tested.len() == backends, "only {tested:?} were tested; the table has all backends");
        let text = std::fs::read_to_string(readme())?;
        let (before, _, after) = split(&text)?;
        let table = self.table()?;
        std::fs::write(readme(), format!("{before}{BEGIN}{table}{END}{after}"))
            .context("cannot write README.md")
    }

    fn table(&self) -> Result<String> {
        let columns: Vec<&str> = self.0.iter().map(|(column, _)| column.as_str()).collect();
        let mut text = format!("| | {} |\n|---|{}\n", columns.join(" | "), ":-:|".repeat(columns.len()));
        let (_, first) = self.0.first().context("nothing was tested")?;
        for (name, _) in first.all() {
            let said = self.0.iter().map(|(_, declared)| {
                let given = declared.all().find(|(other, _)| *other == name);
                given.map_or("", |(_, given)| word(given))
            });
            writeln!(text, "| `{name}` | {} |", said.collect::<Vec<_>>().join(" | "))?;
        }
        Ok(text)
    }
}

fn word(given: bool) -> &'static str {
    if given { "yes" } else { "–" }
}

fn readme() -> PathBuf {
    Path::new(&workspace::root()).join("README.md")
}

/// What is before the table, the table, and what is after it.
fn split(text: &str) -> Result<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN).context("README.md lacks the mark where the table begins")?;
    let (table, after) = rest.split_once(END).context("README.md lacks the mark where the table ends")?;
    Ok((before, table, after))
}

fn parse(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn look_up<'a>(rows: &[Vec<&'a str>], name: &str, column: &str) -> Option<&'a str> {
    let at = rows.first()?.iter().position(|title| *title == column)?;
    let row = rows.iter().find(|row| row.first().is_some_and(|first| first.trim_matches('`') == name))?;
    row.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let declared = |ttl| Declared {
            powers: [("ttl".to_owned(), ttl)].into(),
            guarantees: [("watch_complete".to_owned(), true)].into(),
        };
        let declarations =
            Declarations(vec![("mem".to_owned(), declared(true)), ("zk (a)".to_owned(), declared(false))]);
        let table = declarations.table().unwrap();
        let rows = parse(&table);
        assert_eq!(look_up(&rows, "ttl", "mem"), Some("yes"));
        assert_eq!(look_up(&rows, "ttl", "zk (a)"), Some("–"));
        assert_eq!(look_up(&rows, "watch_complete", "zk (a)"), Some("yes"));
        assert_eq!(look_up(&rows, "ttl", "zk"), None);
        assert_eq!(look_up(&rows, "tt", "mem"), None);
    }
}
