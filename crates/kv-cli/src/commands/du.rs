//! `kv du`: how many keys and bytes lie where.

use futures_util::TryStreamExt;
use kv_core::{Entry, ListItem, ListOptions, Operation, StoreExt};
use serde::Serialize;

use super::level;
use crate::cli::Du;
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, for_reader};
use crate::session::Session;

/// What lies under one name: the name ends with a slash where it is of everything below.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Usage {
    name: String,
    keys: u64,
    /// Of the values.
    bytes: u64,
    /// Of the names.
    key_bytes: u64,
}

impl Usage {
    fn of(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    fn add(&mut self, entry: &Entry) {
        self.keys += 1;
        self.bytes += entry.value.len() as u64;
        self.key_bytes += entry.key.as_str().len() as u64;
    }
}

pub(crate) async fn run(session: &Session, args: Du) -> Result<(), Failure> {
    let prefix = super::prefix(&args.prefix, Operation::List)?;
    let mut options = ListOptions::default();
    options.timeout = session.timeout();
    let listing = session.store().await?.list_with(&prefix, options);
    let mut listing = session.request(Operation::List, prefix.as_str(), listing).await?;

    let mut out = Output::stdout();
    let mut shown = Shown::begin(session.output(), &mut out)?;
    let depth = usize::from(args.depth);
    // Keys of one group follow each other, so that only one group is counted at a time.
    let (mut group, mut total) = (None::<Usage>, Usage::of(format!("{}/", prefix.as_str())));
    while let Some(item) = listing.try_next().await? {
        let ListItem::Entry(entry) = item else { continue };
        total.add(&entry);
        let name = group_of(entry.key.as_str(), prefix.as_str(), depth);
        if group.as_ref().is_none_or(|group| group.name != name)
            && let Some(done) = group.replace(Usage::of(name))
        {
            shown.row(&mut out, &done)?;
        }
        if let Some(group) = &mut group {
            group.add(&entry);
        }
    }
    if let Some(done) = group {
        shown.row(&mut out, &done)?;
    }
    shown.end(&mut out, &total)?;
    out.flush()?;
    if total.keys == 0 {
        level::tell_entry(session, &prefix).await;
    }
    Ok(())
}

/// The name that a key is counted under: its own, or that of its parent at this depth, with a slash.
fn group_of<'k>(key: &'k str, prefix: &str, depth: usize) -> &'k str {
    let begin = if prefix.is_empty() { 0 } else { prefix.len() + 1 };
    let below = key.get(begin..).unwrap_or_default();
    let end = below.match_indices('/').nth(depth.saturating_sub(1)).map(|(at, _)| begin + at + 1);
    end.and_then(|end| key.get(..end)).unwrap_or(key)
}

/// Rows as they come, and the total at the end.
enum Shown {
    Table,
    Json(JsonItems),
}

impl Shown {
    fn begin(format: Option<Format>, out: &mut Output) -> Result<Self, Failure> {
        match format {
            Some(format @ (Format::Json | Format::Jsonl)) => Ok(Self::Json(JsonItems::begin(format, out)?)),
            Some(Format::Table) | None => {
                out.line(&columns("KEYS", "BYTES", "NAME"))?;
                Ok(Self::Table)
            }
        }
    }

    fn row(&mut self, out: &mut Output, usage: &Usage) -> Result<(), Failure> {
        match self {
            Self::Json(items) => items.item(out, usage),
            Self::Table => {
                let (keys, bytes) = (usage.keys.to_string(), usage.bytes.to_string());
                out.line(&columns(&keys, &bytes, &for_reader(&usage.name)))
            }
        }
    }

    fn end(mut self, out: &mut Output, total: &Usage) -> Result<(), Failure> {
        match self {
            Self::Json(items) => items.end(out),
            Self::Table => self.row(out, total),
        }
    }
}

/// Columns of a fixed width, so that lines can be written before the last one is known.
fn columns(keys: &str, bytes: &str, name: &str) -> String {
    format!("{keys:>9} {bytes:>13}  {name}")
}

#[cfg(test)]
mod tests {
    use super::group_of;

    #[test]
    fn a_key_counts_for_itself_or_for_its_parent_at_the_depth() {
        for (key, prefix, depth, expected) in [
            ("a", "", 1, "a"),
            ("a/b/c", "", 1, "a/"),
            ("a/b/c", "", 2, "a/b/"),
            ("a/b/c", "", 3, "a/b/c"),
            ("a/b/c", "a", 1, "a/b/"),
            ("a/b", "a", 1, "a/b"),
        ] {
            assert_eq!(group_of(key, prefix, depth), expected, "{key} below {prefix:?} at {depth}");
        }
    }
}
