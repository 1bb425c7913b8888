//! Lists: the next page is fetched while one is read.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{
    Consistency, Error, ErrorKind, Key, ListItem, ListOptions, Listing, Operation, Prefix, Result,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::ttl::Expiries;
use crate::client::error::{BACKEND, closed};
use crate::client::{Range, Read, Record};
use crate::env::Env;
use crate::pager::Pager;
use crate::record;

/// The first page of one level, where a page may lie within one sub-prefix.
const FIRST_LEVEL_PAGE: usize = 32;

/// What the next page leads to.
struct Lister {
    env: Arc<Env>,
    pager: Pager,
    prefix: Prefix,
    native_prefix: String,
    keys_only: bool,
    one_level: bool,
    left: usize,
    /// The sub-prefix that was reported last.
    reported: Option<String>,
    /// If they are to be told.
    expiries: Option<Expiries>,
}

/// Items, and the lister if there is more.
type Batch = (VecDeque<ListItem>, Option<Lister>);

impl Lister {
    /// Fetches one page and makes items of it.
    async fn fetch(mut self) -> Result<(Batch, i64)> {
        let page = self.pager.next(self.left).await?;
        let more = page.more;
        let revision = self.pager.revision();
        let mut items = Vec::new();
        for record in page.records {
            if self.left == 0 {
                break;
            }
            let lease = record.lease;
            let Some(item) = self.item(record) else { continue };
            self.left -= 1;
            // What lies below a sub-prefix is not told of.
            let lease = if matches!(item, ListItem::Entry(_)) { lease } else { 0 };
            items.push((item, lease));
        }
        let items = match &mut self.expiries {
            None => items.into_iter().map(|(item, _)| item).collect(),
            Some(expiries) => {
                let found = items.len();
                let told = expiries.tell(&self.env.namespace, items).await?;
                // Others take the places of those that have gone since.
                self.left += found - told.len();
                told
            }
        };
        let more = more && self.left > 0;
        Ok(((items, more.then_some(self)), revision))
    }

    fn item(&mut self, record: Record) -> Option<ListItem> {
        if !self.one_level {
            return self.own(record);
        }
        let below = record.name.strip_prefix(self.native_prefix.as_bytes())?;
        let Some(slash) = below.iter().position(|byte| *byte == b'/') else { return self.own(record) };
        let segment = std::str::from_utf8(&below[..slash]).ok()?.to_owned();
        if self.reported.as_ref() == Some(&segment) || record::is_lock(&record) {
            return None;
        }
        record::key(&self.env.namespace, &record.name)?;
        let sub = self.prefix.join(&segment).ok()?.as_prefix();
        // What else lies there is not looked at.
        let path = format!("{}{segment}", self.native_prefix);
        self.pager.skip(&path, FIRST_LEVEL_PAGE);
        self.reported = Some(segment);
        Some(ListItem::Prefix(sub))
    }

    fn own(&self, record: Record) -> Option<ListItem> {
        let entry = record::entry(&self.env.namespace, record)?;
        Some(if self.keys_only { ListItem::Key(entry.key) } else { ListItem::Entry(entry) })
    }
}

/// See [`kv_core::Store::list_opts`]; `at` is the revision to show, 0 for the latest.
pub(crate) async fn list(env: &Arc<Env>, prefix: &Prefix, options: ListOptions, at: i64) -> Result<Listing> {
    env.check_open()?;
    let native_prefix = env.namespace.native_prefix(prefix);
    let (range, is_empty) = narrowed(env, &native_prefix, &options);
    let left = options.limit.unwrap_or(usize::MAX);
    let mut read = Read::new(range);
    read.keys_only = options.keys_only;
    read.revision = at;
    read.stale = options.consistency == Consistency::Stale;
    let timeout = options.timeout.unwrap_or(env.timeout);
    if is_empty || left == 0 {
        // Only the version is wanted.
        read.range = Range::one(read.range.start);
        let page = env.client.read(Deadline::after(timeout), &read.keys_only().limit(1)).await?;
        let revision = if at > 0 { at } else { page.revision };
        return Ok(Listing::new(Some(record::version(revision)), stream::empty()));
    }
    let mut pager = Pager::new(Arc::clone(&env.client), read, timeout);
    if options.one_level {
        pager = pager.with_page(FIRST_LEVEL_PAGE);
    }
    let lister = Lister {
        env: Arc::clone(env),
        pager,
        prefix: prefix.clone(),
        native_prefix,
        keys_only: options.keys_only,
        one_level: options.one_level,
        left,
        reported: None,
        expiries: options.expiry.then(|| Expiries::new(Arc::clone(&env.client), timeout)),
    };
    let ((items, more), revision) = lister.fetch().await?;
    let about = prefix.clone();
    let reading = Reading { items, next: more.map(ahead), closing: env.closing.clone() };
    let items = stream::unfold(Some(reading), move |reading| {
        let about = about.clone();
        async move {
            let mut reading = reading?;
            match reading.item().await {
                Ok(Some(item)) => Some((Ok(item), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(tell(error, &about)), None)),
            }
        }
    });
    Ok(Listing::new(Some(record::version(revision)), items))
}

fn tell(error: Error, prefix: &Prefix) -> Error {
    error.with_operation(Operation::List).with_backend(BACKEND).with_key(prefix.as_str())
}

/// A list as it is read.
struct Reading {
    items: VecDeque<ListItem>,
    next: Option<AbortOnDropHandle<Result<Batch>>>,
    closing: CancellationToken,
}

impl Reading {
    async fn item(&mut self) -> Result<Option<ListItem>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            let Some(next) = &mut self.next else { return Ok(None) };
            let fetched = tokio::select! {
                biased;
                () = self.closing.cancelled() => return Err(closed()),
                fetched = next => fetched,
            };
            self.next = None;
            let (items, more) =
                fetched.map_err(|error| Error::new(ErrorKind::Internal).with_source(error))??;
            self.items = items;
            self.next = more.map(ahead);
        }
    }
}

/// Fetches while the page before is read.
fn ahead(lister: Lister) -> AbortOnDropHandle<Result<Batch>> {
    AbortOnDropHandle::new(tokio::spawn(async move { Ok(lister.fetch().await?.0) }))
}

/// The names below the prefix that lie within the range asked for, and whether there can be none.
fn narrowed(env: &Env, native_prefix: &str, options: &ListOptions) -> (Range, bool) {
    let mut range = Range::below(native_prefix);
    let name = |key: &Key| env.namespace.native(key).into_bytes();
    let after = |key: &Key| [&name(key)[..], &[0]].concat();
    let start = match &options.start {
        Bound::Included(key) => Some(name(key)),
        Bound::Excluded(key) => Some(after(key)),
        Bound::Unbounded => None,
    };
    let end = match &options.end {
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(name(key)),
        Bound::Unbounded => None,
    };
    if let Some(start) = start {
        range.start = range.start.max(start);
    }
    // "\0" as an end is no end.
    let is_open = range.end.as_deref() == Some(&[0]);
    if let Some(end) = end {
        range.end = range.end.map(|own| if is_open { end.clone() } else { own.min(end.clone()) });
    }
    let is_empty = range.end.as_ref().is_some_and(|end| end != &[0] && *end <= range.start);
    (range, is_empty)
}
