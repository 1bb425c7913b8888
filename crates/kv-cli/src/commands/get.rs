//! `kv get`: one value, byte for byte, or with everything known about it.

use futures_util::{StreamExt, stream};
use kv_core::{Consistency, GetOptions, Key, Operation, StoreExt};

use super::entry::{bare, show};
use super::{get_tree, level};
use crate::cli::Get;
use crate::exit::Failure;
use crate::input::Encoding;
use crate::output::{Format, JsonEntry, JsonItems, Output};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: Get) -> Result<(), Failure> {
    let encoding = Encoding::of(args.hex, args.base64);
    if args.recursive {
        return get_tree::run(session, args, encoding).await;
    }
    let keys = super::keys(&args.keys, Operation::Get)?;
    let mut options = GetOptions::default();
    if args.stale {
        options = options.with_consistency(Consistency::Stale);
    }
    if args.meta {
        options = options.with_expiry();
    }
    options.timeout = session.timeout();
    let [key] = keys.as_slice() else {
        if encoding != Encoding::Bytes {
            return Err(Failure::Usage(
                "--hex and --base64 are for one key; several are JSON lines".to_owned(),
            ));
        }
        return several(session, &keys, &options, args.meta).await;
    };
    let entry = session.store().await?.get_with(key, options);
    let entry = session.request(Operation::Get, key.as_str(), entry).await?;
    let Some(entry) = entry else { return Err(not_found(session, key).await) };
    let mut out = Output::stdout();
    match (session.output(), args.meta) {
        (Some(Format::Json | Format::Jsonl), _) => out.json(&JsonEntry::full(&entry))?,
        (Some(Format::Table), _) | (None, true) => show(&mut out, &entry, encoding)?,
        (None, false) => bare(&mut out, &entry.value, encoding)?,
    }
    out.flush()
}

/// How many keys are asked for at a time.
const IN_FLIGHT: usize = 16;

/// Several keys, in the order they were named. Those that are not there are told at the end.
async fn several(session: &Session, keys: &[Key], options: &GetOptions, meta: bool) -> Result<(), Failure> {
    let store = session.store().await?;
    let mut entries = stream::iter(keys)
        .map(|key| async move {
            let entry = store.get_with(key, options.clone());
            (key, session.request(Operation::Get, key.as_str(), entry).await)
        })
        .buffered(IN_FLIGHT)
        .boxed_local();
    let mut out = Output::stdout();
    let mut items = match session.output() {
        Some(Format::Table) => None,
        Some(format) => Some(JsonItems::begin(format, &mut out)?),
        None => Some(JsonItems::begin(Format::Jsonl, &mut out)?),
    };
    let full = meta || session.output().is_some();
    let (mut missing, mut first) = (Vec::new(), true);
    while let Some((key, entry)) = entries.next().await {
        let Some(entry) = entry? else {
            missing.push(key);
            continue;
        };
        match &mut items {
            Some(items) if full => items.item(&mut out, &JsonEntry::full(&entry))?,
            Some(items) => items.item(&mut out, &JsonEntry::bare(&entry))?,
            None => {
                if !first {
                    out.line("")?;
                }
                show(&mut out, &entry, Encoding::Bytes)?;
            }
        }
        first = false;
    }
    if let Some(items) = items {
        items.end(&mut out)?;
    }
    out.flush()?;
    if missing.is_empty() {
        return Ok(());
    }
    let missing = level::missing(session, &missing).await;
    Err(Failure::NotFound(format!("get: there is no {missing}")))
}

/// That the key is not there, and whether it is the name of a folder.
async fn not_found(session: &Session, key: &Key) -> Failure {
    let below = level::below(session, key).await.map(|below| format!("; {below}")).unwrap_or_default();
    Failure::NotFound(format!("get {key:?}: there is no such key{below}"))
}
