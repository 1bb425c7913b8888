//! Decisions: each has a status, and the index has each.

use std::collections::BTreeMap;

/// Where the index is.
pub(super) const INDEX: &str = "docs/adr/README.md";

/// What is wrong with one decision.
pub(super) fn check(text: &str) -> Vec<String> {
    match (title(text), status(text)) {
        (_, None) => vec!["has no line `Status: …`".to_owned()],
        (None, _) => vec!["does not open with `# NUMBER. TITLE`".to_owned()],
        _ => Vec::new(),
    }
}

/// What is wrong with the index of the decisions, given by the names of their files.
pub(super) fn check_index(index: &str, decisions: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    let rows: Vec<Vec<_>> = index
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(".md)"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for (name, text) in decisions {
        let number = name.split('-').next().unwrap_or_default();
        let link = format!("[{}]({name})", title(text).unwrap_or_default());
        let Some(row) = rows.iter().find(|row| row.first() == Some(&number)) else {
            faults.push(format!("the index has no row `| {number} | {link} | STATUS | DATE |`"));
            continue;
        };
        if row.get(1) != Some(&link.as_str()) {
            faults.push(format!("the row of {number} should say `{link}`"));
        }
        if row.get(2).copied() != status(text) {
            faults.push(format!("the row of {number} has another status than {name}"));
        }
        if !row.get(3).is_some_and(|date| is_date(date)) {
            faults.push(format!("the row of {number} has no date as 2026-01-31"));
        }
    }
    if rows.len() > decisions.len() {
        faults.push("the index has rows of decisions that are not there".to_owned());
    }
    faults
}

/// `# 12. What was decided` without the number.
fn title(text: &str) -> Option<&str> {
    let (number, title) = text.lines().next()?.strip_prefix("# ")?.split_once(". ")?;
    number.chars().all(|c| c.is_ascii_digit()).then_some(title)
}

fn status(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("Status: ")).map(|status| status.trim_end_matches('.'))
}

fn is_date(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').map(|part| (part.len(), part.parse::<u32>().ok())).collect();
    matches!(parts[..], [(4, Some(_)), (2, Some(1..=12)), (2, Some(1..=31))])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{check, check_index};

    #[test]
    fn decisions_have_a_status_and_a_title() {
        assert!(check("# 1. A\n\nStatus: accepted\n").is_empty());
        assert_eq!(check("# 1. A\n").len(), 1);
        assert_eq!(check("# A\n\nStatus: accepted\n").len(), 1);
    }

    #[test]
    fn the_index_has_every_decision_as_it_is() {
        let decisions = BTreeMap::from([("0001-a.md".to_owned(), "# 1. A\n\nStatus: accepted\n".to_owned())]);
        let faults = |row: &str| check_index(row, &decisions).len();
        assert_eq!(faults("| 0001 | [A](0001-a.md) | accepted | 2026-11-30 |"), 0);
        assert_eq!(faults(""), 1);
        assert_eq!(faults("| 0001 | [B](0001-a.md) | proposed | yesterday |"), 3);
        assert_eq!(
            faults(
                "| 0001 | [A](0001-a.md) | accepted | 2026-11-30 |\n| 0002 | [A](0002-a.md) | accepted | 2026-11-30 |"
            ),
            1
        );
    }
}
