//! `kv grep`: the values, or the names, that have something in them.

use futures_util::TryStreamExt;
use kv_core::{Entry, ListItem, ListOptions, Operation, StoreExt};
use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;

use super::shown;
use crate::cli::Grep;
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, for_reader};
use crate::session::Session;

/// One key whose value or name has it.
#[derive(Serialize)]
struct Found<'f> {
    key: &'f str,
    version: u64,
    /// The lines of the value that have it; none where the name was looked at, or the value is not text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Line<'f>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line<'f> {
    number: usize,
    text: &'f str,
}

pub(crate) async fn run(session: &Session, args: Grep) -> Result<(), Failure> {
    let prefix = super::prefix(&args.prefix, Operation::List)?;
    let wanted = pattern(&args)?;
    let mut options = ListOptions::default();
    options.timeout = session.timeout();
    let listing = session.store().await?.list_with(&prefix, options);
    let mut listing = session.request(Operation::List, prefix.as_str(), listing).await?;

    let mut out = Output::stdout();
    let mut items = match session.output() {
        Some(format @ (Format::Json | Format::Jsonl)) => Some(JsonItems::begin(format, &mut out)?),
        Some(Format::Table) | None => None,
    };
    let mut found = 0_u64;
    while let Some(item) = listing.try_next().await? {
        let ListItem::Entry(entry) = item else { continue };
        let looked_at = if args.names { entry.key.as_str().as_bytes() } else { &entry.value };
        if !wanted.is_match(looked_at) {
            continue;
        }
        found += 1;
        let text = if args.names { None } else { std::str::from_utf8(&entry.value).ok() };
        let lines = text.map_or_else(Vec::new, |text| lines(text, &wanted));
        match &mut items {
            Some(items) => {
                let (key, version) = (entry.key.as_str(), entry.version.get());
                items.item(&mut out, &Found { key, version, lines })?;
            }
            None => show(&mut out, &entry, &lines, args.names || args.list)?,
        }
    }
    if let Some(items) = items {
        items.end(&mut out)?;
    }
    out.flush()?;
    if found > 0 {
        return Ok(());
    }
    let what = if args.names { "name" } else { "value" };
    Err(Failure::NotFound(format!("grep: no {what} below {} matches {:?}", shown(&prefix), args.pattern)))
}

fn pattern(args: &Grep) -> Result<Regex, Failure> {
    let source = if args.fixed { regex::escape(&args.pattern) } else { args.pattern.clone() };
    let built = RegexBuilder::new(&source).case_insensitive(args.ignore_case).multi_line(true).build();
    built.map_err(|error| {
        // The crate draws the place with several lines; the last one says what it is.
        let words = error.to_string();
        let why = words.lines().last().unwrap_or_default();
        let why = why.strip_prefix("error: ").unwrap_or(why);
        Failure::Usage(format!("grep: {:?} is no pattern: {why}; --fixed takes it literally", args.pattern))
    })
}

/// The lines that have it. A match over several lines counts for the first of them.
fn lines<'v>(text: &'v str, wanted: &Regex) -> Vec<Line<'v>> {
    let mut found: Vec<_> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| wanted.is_match(line.as_bytes()))
        .map(|(at, text)| Line { number: at + 1, text })
        .collect();
    if found.is_empty()
        && let Some(seen) = wanted.find(text.as_bytes())
    {
        let before = text.as_bytes().get(..seen.start()).unwrap_or_default();
        let at = before.iter().filter(|byte| **byte == b'\n').count();
        found.extend(text.lines().nth(at).map(|text| Line { number: at + 1, text }));
    }
    found
}

fn show(out: &mut Output, entry: &Entry, lines: &[Line<'_>], name_alone: bool) -> Result<(), Failure> {
    let key = for_reader(entry.key.as_str());
    if name_alone {
        return out.line(&key);
    }
    if lines.is_empty() {
        return out.line(&format!("{key}: a match in a value that is not text"));
    }
    for line in lines {
        out.line(&format!("{key}:{}: {}", line.number, for_reader(line.text)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_a_match_over_several_counts_for_the_first() {
        let found = |pattern: &str, text| {
            let wanted = RegexBuilder::new(pattern).multi_line(true).build().unwrap();
            lines(text, &wanted).into_iter().map(|line| (line.number, line.text)).collect::<Vec<_>>()
        };
        assert_eq!(found("b", "a\nb\nab"), [(2, "b"), (3, "ab")]);
        assert_eq!(found("^b$", "a\nb\nab"), [(2, "b")]);
        assert_eq!(found("b\na", "a\nb\nab"), [(2, "b")]);
        assert_eq!(found("", ""), []);
    }
}
