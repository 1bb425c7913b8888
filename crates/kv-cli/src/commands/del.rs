//! `kv del`: one key, or a tree after saying how much it is.

use futures_util::TryStreamExt;
use kv_core::{
    DeleteOptions, DeleteTreeOptions, ErrorKind, Guarantee, ListOptions, Operation, Precondition, Prefix,
    StoreExt,
};
use serde::Serialize;

use super::{fence, level, shown};
use crate::ask;
use crate::cli::Del;
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, for_reader, say};
use crate::progress::Unfinished;
use crate::session::Session;

#[derive(Serialize)]
struct Deleted<'d> {
    key: &'d str,
    existed: bool,
}

#[derive(Serialize)]
struct DeletedTree<'d> {
    prefix: &'d str,
    deleted: u64,
}

pub(crate) async fn run(session: &Session, args: Del) -> Result<(), Failure> {
    if args.tree {
        let [prefix] = args.keys.as_slice() else {
            return Err(Failure::Usage("--tree deletes what is below one prefix".to_owned()));
        };
        return tree(session, &super::prefix(prefix, Operation::DeleteTree)?, args.yes).await;
    }
    let keys = super::keys(&args.keys, Operation::Delete)?;
    if args.if_version.is_some() && keys.len() > 1 {
        return Err(Failure::Usage("--if-version is for one key: each has a version of its own".to_owned()));
    }
    let mut options = DeleteOptions::default().with_precondition(match (args.if_version, args.if_value) {
        (Some(version), _) => Precondition::At(version),
        (None, Some(value)) => Precondition::Value(value.into()),
        (None, None) if args.if_present => Precondition::Present,
        (None, None) => Precondition::Any,
    });
    options.fence = if args.fence { Some(fence::of_this_lock()?) } else { None };
    options.timeout = session.timeout();
    let mut out = Output::stdout();
    let several = keys.len() > 1;
    let mut items = match session.output() {
        Some(format) if several && format != Format::Table => Some(JsonItems::begin(format, &mut out)?),
        _ => None,
    };
    let (mut missing, mut absent) = (Vec::new(), Vec::new());
    for key in &keys {
        let done = session.store().await?.delete_with(key, options.clone());
        let existed = match session.request(Operation::Delete, key.as_str(), done).await {
            Ok(done) => done.existed,
            // The others are deleted all the same.
            Err(error) if several && *error.kind() == ErrorKind::NotFound => {
                missing.push(key);
                false
            }
            Err(error) => return Err(error.into()),
        };
        let deleted = Deleted { key: key.as_str(), existed };
        let words = if existed { "deleted" } else { "was not there" };
        match (&mut items, session.output()) {
            (Some(items), _) => items.item(&mut out, &deleted)?,
            (None, Some(Format::Json | Format::Jsonl)) => out.json(&deleted)?,
            (None, _) if several => out.line(&format!("{}: {words}", for_reader(key.as_str())))?,
            (None, _) => out.line(words)?,
        }
        out.flush()?;
        if !existed && !missing.contains(&key) {
            absent.push(key);
        }
    }
    if let Some(items) = items {
        items.end(&mut out)?;
    }
    out.flush()?;
    // Deleting what is not there is no failure, but a folder may have been meant.
    for key in absent.into_iter().take(level::TOLD) {
        if let Some(below) = level::below(session, key).await {
            say(&format!("kv: del {key:?}: there is no such key; {below}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = level::missing(session, &missing).await;
    Err(Failure::NotFound(format!("del: {missing} did not exist")))
}

async fn tree(session: &Session, prefix: &Prefix, yes: bool) -> Result<(), Failure> {
    let store = session.store().await?;
    let mut options = ListOptions::default().with_keys_only();
    options.timeout = session.timeout();
    let count = session
        .request(Operation::List, prefix.as_str(), store.list_with(prefix, options))
        .await?
        .try_fold(0_u64, |count, _| std::future::ready(Ok(count + 1)))
        .await?;
    let what = format!("{count} {} below {}", if count == 1 { "key" } else { "keys" }, shown(prefix));
    if prefix.is_root() && !yes {
        return Err(Failure::Usage(format!("this deletes {what}: say --yes if it is meant")));
    }
    if !yes && ask::can() {
        if !ask::yes(format!("Delete {what}?")).await? {
            return Err(Failure::Incomplete {
                message: "nothing was deleted".to_owned(),
                code: crate::exit::OTHER,
            });
        }
    } else {
        say(&format!("kv: deleting {what}"));
    }
    let mut options = DeleteTreeOptions::default();
    options.timeout = session.timeout();
    let unfinished = Unfinished::begin(match store.capabilities().guarantees(Guarantee::DeleteTreeAtomic) {
        true => "either all of it was deleted or nothing",
        false => "some of it may be deleted",
    });
    let deleted = store.delete_tree_with(prefix, options);
    let deleted = session.request(Operation::DeleteTree, prefix.as_str(), deleted).await;
    // An error says itself what may have happened.
    unfinished.finish();
    let deleted = deleted?;
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => {
            out.json(&DeletedTree { prefix: prefix.as_str(), deleted })?;
        }
        Some(Format::Table) | None => out.line(&format!("deleted {deleted}"))?,
    }
    out.flush()
}
