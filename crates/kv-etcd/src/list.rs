//! Lists: pages at one revision, the next one fetched while one is read.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{
    Consistency, Error, ErrorKind, Key, ListItem, ListOptions, Listing, Operation, Prefix, Result,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{Client, Name, Page, Range, Read, Record, behind};
use crate::error::{self, BACKEND, closed};
use crate::handle::Handle;
use crate::record;

/// What a page aims at, in bytes and in records. For each page the server counts all that is left, so
/// many small pages cost more than few.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_RECORDS: usize = 16_384;
const LEAST_PAGE_BYTES: usize = 16 << 10;
/// The first page, as long as nobody knows how large records are.
const FIRST_PAGE: usize = 256;
/// The same when earlier lists had small ones: those here may be larger, and the server takes up a whole
/// page before it finds that it cannot be sent.
const MOST_IN_FIRST_PAGE: usize = 1024;
/// The first page of keys without values.
const FIRST_PAGE_OF_KEYS: usize = 4096;
/// The first page of one level, where a page may lie within one sub-prefix.
const FIRST_LEVEL_PAGE: usize = 32;

/// Pages through a range at the revision of its first page.
pub(crate) struct Pager {
    client: Arc<Client>,
    /// What is left.
    range: Range,
    read: Read,
    page: usize,
    /// What a page aims at; less on a slow link.
    bytes: usize,
    timeout: Duration,
}

impl Pager {
    pub(crate) fn new(client: Arc<Client>, read: Read, timeout: Duration) -> Self {
        let page = match client.listed_record.load(Ordering::Relaxed) {
            _ if read.keys_only => FIRST_PAGE_OF_KEYS,
            0 => FIRST_PAGE,
            bytes => (PAGE_BYTES / bytes).clamp(1, MOST_IN_FIRST_PAGE),
        };
        Self { client, range: read.range.clone(), read, page, bytes: PAGE_BYTES, timeout }
    }

    /// The next page of at most `limit` records. `more` says whether there is another.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Page> {
        let deadline = Deadline::after(self.timeout);
        loop {
            let mut read = self.read.clone();
            read.range = self.range.clone();
            read.limit = i64::try_from(self.page.min(limit).max(1)).unwrap_or(i64::MAX);
            // A page that does not arrive in half of the time is too large for the link, and there is
            // time for a smaller one.
            let left = deadline.remaining()?;
            let share = if read.limit > 1 { left / 2 } else { left };
            match self.client.read(Deadline::after(share), &read).await {
                Err(error) if error::answer_too_large(&error) && read.limit > 1 => self.shrink(&read),
                Err(error) if *error.kind() == ErrorKind::Timeout => {
                    self.shrink(&read);
                    self.bytes = (self.bytes / 8).max(LEAST_PAGE_BYTES);
                    // Whoever asks again gets the smaller page.
                    if deadline.remaining().is_err() {
                        return Err(error);
                    }
                }
                // The member that answers now lags behind the one that gave the first page.
                Err(error) if error::is_future(&error) && self.read.stale => self.read.stale = false,
                Err(error) => return Err(error),
                Ok(page) => {
                    let last = page.records.last().map(|record| &record.name);
                    if page.more && last.is_none_or(|last| *last < self.range.start) {
                        return Err(error::nonsense("a page that leads nowhere"));
                    }
                    // The pages after the first show the same state.
                    self.read.revision =
                        if self.read.revision > 0 { self.read.revision } else { page.revision };
                    self.adapt(&page);
                    if let Some(last) = page.records.last() {
                        self.range.start = [&last.name[..], &[0]].concat();
                    }
                    return Ok(page);
                }
            }
        }
    }

    /// Asks for less than it just did.
    fn shrink(&mut self, asked: &Read) {
        self.page = (usize::try_from(asked.limit).unwrap_or(2) / 8).max(1);
    }

    /// Goes on with this name.
    fn skip_to(&mut self, name: Name) {
        self.range.start = name;
    }

    /// Sizes the next page by what the records of this one took.
    fn adapt(&mut self, page: &Page) {
        let Some(bytes) =
            page.records.iter().map(Record::size).sum::<usize>().checked_div(page.records.len())
        else {
            return;
        };
        let bytes = bytes.max(1);
        if !self.read.keys_only {
            // Large records count at once, small ones only little by little.
            let before = self.client.listed_record.load(Ordering::Relaxed);
            self.client.listed_record.store(bytes.max((before + bytes) / 2), Ordering::Relaxed);
        }
        let fits = self.bytes / bytes;
        // One page of small values does not promise that the next is the same.
        self.page = fits.clamp(1, PAGE_RECORDS).min(self.page.saturating_mul(8));
    }
}

/// What the next page leads to.
struct Lister {
    core: Arc<Handle>,
    pager: Pager,
    prefix: Prefix,
    native_prefix: String,
    keys_only: bool,
    one_level: bool,
    left: usize,
    /// The sub-prefix that was reported last.
    reported: Option<String>,
}

/// Items, and the lister if there is more.
type Batch = (VecDeque<ListItem>, Option<Lister>);

impl Lister {
    /// Fetches one page and makes items of it.
    async fn fetch(mut self) -> Result<(Batch, i64)> {
        let page = self.pager.next(self.left).await?;
        let more = page.more;
        let revision = self.pager.read.revision;
        let mut items = VecDeque::new();
        for record in page.records {
            if self.left == 0 {
                break;
            }
            let Some(item) = self.item(record) else { continue };
            self.left -= 1;
            items.push_back(item);
        }
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
        record::key(&self.core.namespace, &record.name)?;
        let sub = self.prefix.join(&segment).ok()?.as_prefix();
        // What else lies there is not looked at.
        let path = format!("{}{segment}", self.native_prefix);
        self.pager.skip_to(self.pager.range.start.clone().max(behind(&path)));
        self.pager.page = FIRST_LEVEL_PAGE;
        self.reported = Some(segment);
        Some(ListItem::Prefix(sub))
    }

    fn own(&self, record: Record) -> Option<ListItem> {
        let entry = record::entry(&self.core.namespace, record)?;
        Some(if self.keys_only { ListItem::Key(entry.key) } else { ListItem::Entry(entry) })
    }
}

/// See [`kv_core::Store::list_with`].
pub(crate) async fn list(core: &Arc<Handle>, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
    let native_prefix = core.namespace.native_prefix(prefix);
    let (range, is_empty) = narrowed(core, &native_prefix, &options);
    let left = options.limit.unwrap_or(usize::MAX);
    let mut read = Read::new(range);
    read.keys_only = options.keys_only;
    read.stale = options.consistency == Consistency::Stale;
    let timeout = options.timeout.unwrap_or(core.timeout);
    if is_empty || left == 0 {
        // Only the version is wanted.
        read.range = Range::one(read.range.start);
        let page = core.client.read(Deadline::after(timeout), &read.keys_only().limit(1)).await?;
        return Ok(Listing::new(Some(record::version(page.revision)), stream::empty()));
    }
    let mut pager = Pager::new(Arc::clone(&core.client), read, timeout);
    if options.one_level {
        pager.page = FIRST_LEVEL_PAGE;
    }
    let lister = Lister {
        core: Arc::clone(core),
        pager,
        prefix: prefix.clone(),
        native_prefix,
        keys_only: options.keys_only,
        one_level: options.one_level,
        left,
        reported: None,
    };
    let ((items, more), revision) = lister.fetch().await?;
    let about = prefix.clone();
    let reading = Reading { items, next: more.map(ahead), closing: core.closing.clone() };
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
fn narrowed(core: &Handle, native_prefix: &str, options: &ListOptions) -> (Range, bool) {
    let mut range = Range::below(native_prefix);
    let name = |key: &Key| core.namespace.native(key).into_bytes();
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
