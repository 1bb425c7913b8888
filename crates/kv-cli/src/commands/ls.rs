//! `kv ls`: the keys directly below a prefix, or all of them, as they come.

use std::ops::Bound;

use futures_util::TryStreamExt;
use kv_core::{Consistency, ListItem, ListOptions, Operation};
use serde::Serialize;

use super::level;
use crate::cli::Ls;
use crate::exit::Failure;
use crate::output::{Format, JsonEntry, JsonItems, Output, for_reader};
use crate::session::Session;

#[derive(Serialize)]
struct Count {
    count: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonItem<'i> {
    Entry(JsonEntry<'i>),
    Key { key: &'i str },
    Prefix { prefix: &'i str },
}

impl<'i> JsonItem<'i> {
    fn new(item: &'i ListItem) -> Self {
        match item {
            ListItem::Entry(entry) => Self::Entry(JsonEntry::without_value(entry)),
            ListItem::Prefix(prefix) => Self::Prefix { prefix: prefix.as_str() },
            other => Self::Key { key: other.path() },
        }
    }
}

pub(crate) async fn run(session: &Session, args: Ls) -> Result<(), Failure> {
    let prefix = super::prefix(&args.prefix, Operation::List)?;
    let mut options = ListOptions::default();
    if let Some(after) = &args.start_after {
        let key = super::key(after, Operation::List)?;
        let last = match after.ends_with('/') {
            true => ListItem::Prefix(key.as_prefix()),
            false => ListItem::Key(key),
        };
        options = options.with_range((last.resume(), Bound::Unbounded));
    }
    if !args.recursive {
        options = options.with_one_level();
    }
    if !args.long {
        options = options.with_keys_only();
    }
    if args.stale {
        options = options.with_consistency(Consistency::Stale);
    }
    options.limit = args.limit;
    options.timeout = session.timeout();
    // An empty page says nothing of what is below.
    let whole = args.start_after.is_none() && args.limit != Some(0);
    let listing = session.store().await?.list_with(&prefix, options);
    let mut listing = session.request(Operation::List, prefix.as_str(), listing).await?;

    let mut out = Output::stdout();
    if args.count {
        let count = listing.try_fold(0, |count, _| std::future::ready(Ok(count + 1))).await?;
        match session.output() {
            None | Some(Format::Table) => out.line(&format!("{count}"))?,
            Some(Format::Json | Format::Jsonl) => out.json(&Count { count })?,
        }
        out.flush()?;
        if count == 0 && whole {
            level::tell_entry(session, &prefix).await;
        }
        return Ok(());
    }
    let mut empty = true;
    match session.output() {
        None | Some(Format::Table) => {
            if args.long {
                out.line(&columns("VERSION", "BYTES", "KEY"))?;
            }
            while let Some(item) = listing.try_next().await? {
                empty = false;
                out.line(&line(&item, args.long))?;
            }
        }
        Some(format) => {
            let mut items = JsonItems::begin(format, &mut out)?;
            while let Some(item) = listing.try_next().await? {
                empty = false;
                items.item(&mut out, &JsonItem::new(&item))?;
            }
            items.end(&mut out)?;
        }
    }
    out.flush()?;
    if empty && whole {
        level::tell_entry(session, &prefix).await;
    }
    Ok(())
}

fn line(item: &ListItem, long: bool) -> String {
    let name = for_reader(item.path());
    match item {
        ListItem::Entry(entry) => columns(&entry.version.to_string(), &entry.value.len().to_string(), &name),
        ListItem::Prefix(_) if long => columns("-", "-", &format!("{name}/")),
        ListItem::Prefix(_) => format!("{name}/"),
        _ => name.into_owned(),
    }
}

/// Columns of a fixed width, so that lines can be written before the last one is known.
fn columns(version: &str, bytes: &str, key: &str) -> String {
    format!("{version:>12} {bytes:>10}  {key}")
}
