//! `kv get --recursive`: everything below a prefix, values included.

use futures_util::TryStreamExt;
use kv_core::{Consistency, ListItem, ListOptions, Operation, Power, StoreExt};

use super::entry::{bare, ends_line, show};
use super::level;
use crate::cli::Get;
use crate::exit::Failure;
use crate::input::Encoding;
use crate::output::{Format, JsonEntry, JsonItems, Output};
use crate::session::Session;

/// How entries are written.
enum Form {
    /// The values alone, a line each.
    Values(Encoding),
    Json(JsonItems),
    Table,
}

pub(super) async fn run(session: &Session, args: Get, encoding: Encoding) -> Result<(), Failure> {
    let [prefix] = args.keys.as_slice() else {
        return Err(Failure::Usage("--recursive reads what is below one prefix".to_owned()));
    };
    if encoding != Encoding::Bytes && !args.values {
        return Err(Failure::Usage(
            "--hex and --base64 are for one key, or with --values: entries are JSON lines".to_owned(),
        ));
    }
    let prefix = super::prefix(prefix, Operation::List)?;
    let mut options = ListOptions::default();
    if args.stale {
        options = options.with_consistency(Consistency::Stale);
    }
    let store = session.store().await?;
    if args.meta && store.capabilities().has(Power::ListExpiry) {
        options = options.with_expiry();
    }
    options.timeout = session.timeout();
    let listing = store.list_with(&prefix, options);
    let mut listing = session.request(Operation::List, prefix.as_str(), listing).await?;

    let mut out = Output::stdout();
    let mut form = match session.output() {
        _ if args.values => Form::Values(encoding),
        Some(Format::Table) => Form::Table,
        Some(format) => Form::Json(JsonItems::begin(format, &mut out)?),
        None => Form::Json(JsonItems::begin(Format::Jsonl, &mut out)?),
    };
    let full = args.meta || session.output().is_some();
    let mut number = 0_u64;
    while let Some(item) = listing.try_next().await? {
        let ListItem::Entry(entry) = item else { continue };
        match &mut form {
            Form::Values(encoding) => {
                bare(&mut out, &entry.value, *encoding)?;
                if *encoding == Encoding::Bytes && !ends_line(&entry.value) {
                    out.line("")?;
                }
            }
            Form::Json(items) if full => items.item(&mut out, &JsonEntry::full(&entry))?,
            Form::Json(items) => items.item(&mut out, &JsonEntry::bare(&entry))?,
            Form::Table => {
                if number > 0 {
                    out.line("")?;
                }
                show(&mut out, &entry, Encoding::Bytes)?;
            }
        }
        number += 1;
    }
    if let Form::Json(items) = form {
        items.end(&mut out)?;
    }
    out.flush()?;
    if number == 0 {
        level::tell_entry(session, &prefix).await;
    }
    Ok(())
}
