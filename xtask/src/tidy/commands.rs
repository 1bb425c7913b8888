//! Commands of `kv` that pages name: each is in the table of the command's own README.

use std::collections::BTreeSet;

/// Where the table is.
pub(super) const README: &str = "crates/kv-cli/README.md";

/// Options of `kv` that stand before a command and take a value.
const WITH_VALUE: [&str; 5] = ["--store", "-s", "--timeout", "--output", "-o"];

/// The commands in the README's table, which begins with `| command |`.
pub(super) fn listed(readme: &str) -> BTreeSet<&str> {
    let rows = readme.lines().skip_while(|line| !line.starts_with("| command |")).skip(2);
    let names = rows.take_while(|line| line.starts_with('|')).flat_map(|row| {
        let column = row.split('|').nth(1).unwrap_or_default();
        column.split('`').skip(1).step_by(2).filter_map(|span| span.split_whitespace().next())
    });
    names.chain(["help"]).collect()
}

/// What `page` calls a command of `kv` and is none, in backticks and after the prompt of an example.
pub(super) fn faults(page: &str, commands: &BTreeSet<&str>) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, line) in page.lines().enumerate() {
        let spans = line.split('`').skip(1).step_by(2);
        let prompt = line.trim_start().strip_prefix("$ ").into_iter();
        for command in spans.chain(prompt).filter_map(called) {
            if !commands.contains(command) {
                faults.push(format!("line {}: kv has no command `{command}`", at + 1));
            }
        }
    }
    faults
}

/// The command that a line calls `kv` with.
fn called(line: &str) -> Option<&str> {
    let mut words = line.strip_prefix("kv ")?.split_whitespace();
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if !word.starts_with('-') {
            return Some(word);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{faults, listed};

    const README: &str = "| command | does |\n|---|---|\n| `get KEY…` | reads |\n| `urls`, `help urls` | tells |\n\n| `x` | y |";

    #[test]
    fn commands_are_those_of_the_table() {
        let commands = listed(README);
        assert_eq!(commands.into_iter().collect::<Vec<_>>(), ["get", "help", "urls"]);
    }

    #[test]
    fn a_command_that_is_none_is_found() {
        let found = |page| faults(page, &listed(README)).len();
        assert_eq!(found("`kv get a`, `kv --store $S -v urls`, `kv --help`, `kv-cli` and `kv`"), 0);
        assert_eq!(found("`kv member list` or\n    $ kv -s mem: locks"), 2);
    }
}
