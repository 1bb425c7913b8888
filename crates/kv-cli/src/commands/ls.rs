//! `kv ls`: the keys directly below a prefix, or all of them, as they come.

use std::ops::Bound;
use std::time::Duration;

use futures_util::TryStreamExt;
use kv_core::{Consistency, EntryExpiry, ListItem, ListOptions, Operation, StoreExt};
use serde::Serialize;

use super::level;
use crate::cli::Ls;
use crate::exit::Failure;
use crate::output::{Format, JsonEntry, JsonItems, Output, duration, for_reader};
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
    let shape = Shape::of(args.long, args.expiry);
    if shape == Shape::Names {
        options = options.with_keys_only();
    }
    if shape == Shape::Expiry {
        options = options.with_expiry();
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
            match shape {
                Shape::Names => {}
                Shape::Long => out.line(&columns("VERSION", "BYTES", "KEY"))?,
                Shape::Expiry => out.line(&columns("VERSION", "BYTES", &expiring("EXPIRES", "KEY")))?,
            }
            while let Some(item) = listing.try_next().await? {
                empty = false;
                out.line(&line(&item, shape))?;
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

/// How much of each key is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Names,
    Long,
    Expiry,
}

impl Shape {
    fn of(long: bool, expiry: bool) -> Self {
        match (long, expiry) {
            (_, true) => Self::Expiry,
            (true, false) => Self::Long,
            (false, false) => Self::Names,
        }
    }
}

fn line(item: &ListItem, shape: Shape) -> String {
    let name = for_reader(item.path());
    match item {
        ListItem::Entry(entry) => {
            let (version, bytes) = (entry.version.to_string(), entry.value.len().to_string());
            match (shape, entry.expiry) {
                (Shape::Expiry, Some(expiry)) => columns(&version, &bytes, &expiring(&brief(expiry), &name)),
                (Shape::Expiry, None) => columns(&version, &bytes, &expiring("unknown", &name)),
                _ => columns(&version, &bytes, &name),
            }
        }
        ListItem::Prefix(_) => {
            let name = format!("{name}/");
            match shape {
                Shape::Names => name,
                Shape::Long => columns("-", "-", &name),
                Shape::Expiry => columns("-", "-", &expiring("-", &name)),
            }
        }
        _ => name.into_owned(),
    }
}

/// Columns of a fixed width, so that lines can be written before the last one is known.
fn columns(version: &str, bytes: &str, key: &str) -> String {
    format!("{version:>12} {bytes:>10}  {key}")
}

/// When an entry expires, as short as a column needs it.
fn brief(expiry: EntryExpiry) -> String {
    match expiry {
        EntryExpiry::Never => "never".to_owned(),
        EntryExpiry::Ttl { remaining: Some(left), .. } if left < Duration::from_secs(1) => {
            "in less than 1 s".to_owned()
        }
        EntryExpiry::Ttl { remaining: Some(left), .. } => {
            format!("in {}", duration(Duration::from_secs(left.as_secs())))
        }
        EntryExpiry::Ttl { granted, remaining: None, .. } => format!("{} after a put", duration(granted)),
        EntryExpiry::Session => "with its session".to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The column of expiries, and the key behind it.
fn expiring(expiry: &str, key: &str) -> String {
    format!("{expiry:<22}  {key}")
}
