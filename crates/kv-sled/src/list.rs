//! Lists: the state at one version, page by page.

use std::collections::VecDeque;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{FutureExt, Stream};
use kv_backend::{Clock, Namespace, Timestamp, poll_budget, within};
use kv_core::{Entry, Error, ErrorKind, Key, ListItem, ListOptions, Listing, Operation, Prefix, Result};

use crate::BACKEND;
use crate::database::Database;
use crate::name::{NameRange, behind};
use crate::pages::Page;
use crate::record::StoredExpiry;
use crate::view::{Snapshot, View};

/// How many names are read at a time.
const PAGE: usize = 512;

/// How many are read at a time where most of them are skipped.
const LEVEL_PAGE: usize = 32;

/// A list of what is below `prefix` in a state, without what has expired by a moment.
pub(crate) fn listing(
    database: &Arc<Database>,
    (snapshot, now): (Snapshot, Timestamp),
    namespace: &Arc<Namespace>,
    prefix: &Prefix,
    options: &ListOptions,
    timeout: Duration,
    endpoint: &str,
) -> Listing {
    let as_of = snapshot.version();
    let native = namespace.native_prefix(prefix);
    let bound = |bound: &Bound<Key>| bound.as_ref().map(|key| namespace.native(key));
    let range = NameRange::below(&native).within(bound(&options.start), bound(&options.end));
    let is_empty = range.is_empty();
    let walk = Walk {
        snapshot,
        now,
        told_at: options.expiry.then_some(now),
        range: Some(range),
        namespace: Arc::clone(namespace),
        prefix: native,
        keys_only: options.keys_only,
        one_level: options.one_level,
        left: options.limit.unwrap_or(usize::MAX),
        kept: 0,
    };
    let items = Items {
        database: Arc::downgrade(database),
        walk: (!is_empty).then(|| Box::new(walk)),
        reading: None,
        run: Run::Items(VecDeque::new()),
        now,
        told_at: options.expiry.then_some(now),
        left: options.limit.unwrap_or(usize::MAX),
        timeout,
        prefix: prefix.clone(),
        endpoint: endpoint.to_owned(),
    };
    Listing::new(Some(as_of), items)
}

/// What was read and is still to be told.
enum Run {
    Items(VecDeque<ListItem>),
    /// Entries of a page, the next and the one behind the last.
    Page {
        page: Arc<Page>,
        at: usize,
        end: usize,
    },
}

/// A page on its way, and with it the reader of the next one; none when there are no more.
type Reading = Pin<Box<dyn Future<Output = Result<(Run, Option<Box<Walk>>)>> + Send>>;

/// The items of a list.
struct Items {
    /// Weak: a list that is not read does not keep the store open.
    database: Weak<Database>,
    /// With the reader of the next page; none when there are no more or while it reads.
    walk: Option<Box<Walk>>,
    reading: Option<Reading>,
    run: Run,
    now: Timestamp,
    /// Of a list that tells how its entries expire: when the page was read.
    told_at: Option<Timestamp>,
    /// How many may still be told.
    left: usize,
    timeout: Duration,
    prefix: Prefix,
    endpoint: String,
}

impl Items {
    /// The next of what was read.
    fn next(&mut self) -> Option<ListItem> {
        if self.left == 0 {
            return None;
        }
        let item = match &mut self.run {
            Run::Items(items) => items.pop_front()?,
            Run::Page { page, at, end } => loop {
                let listed = page.entries.get(*at).filter(|_| at < end)?;
                *at += 1;
                // What has expired by then is not listed, whether it is deleted yet or not.
                if !listed.is_over(self.now) {
                    break ListItem::Entry(told(listed.entry.clone(), listed.expiry, self.told_at));
                }
            },
        };
        self.left -= 1;
        Some(item)
    }

    /// Takes the next page from memory, or begins to read it.
    fn read_on(&mut self, mut walk: Box<Walk>) -> Result<()> {
        let database = self.database.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed))?;
        if let Some(told_at) = &mut self.told_at {
            *told_at = database.locks().clock().now();
            walk.told_at = Some(*told_at);
        }
        if let Some(run) = walk.known(database.view())? {
            self.run = run;
            self.walk = walk.range.is_some().then_some(walk);
            return Ok(());
        }
        let page = blocking(move || {
            let run = walk.read(database.view())?;
            Ok((run, walk.range.is_some().then_some(walk)))
        });
        self.reading = Some(Box::pin(within(self.timeout, page)));
        Ok(())
    }

    /// Ends the list with an error.
    fn fail(&mut self, error: Error) -> Error {
        (self.walk, self.left) = (None, 0);
        error
            .with_operation(Operation::List)
            .with_backend(BACKEND)
            .with_endpoint(self.endpoint.as_str())
            .with_key(self.prefix.as_str())
    }
}

impl Stream for Items {
    type Item = Result<ListItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // What is in memory is always there: it must give way by itself.
        ready!(poll_budget(cx));
        loop {
            if let Some(item) = self.next() {
                return Poll::Ready(Some(Ok(item)));
            }
            if let Some(reading) = &mut self.reading {
                let read = ready!(reading.poll_unpin(cx));
                self.reading = None;
                match read {
                    Ok((run, walk)) => (self.run, self.walk) = (run, walk),
                    Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
                }
                continue;
            }
            let Some(walk) = self.walk.take().filter(|_| self.left > 0) else { return Poll::Ready(None) };
            if let Err(error) = self.read_on(walk) {
                return Poll::Ready(Some(Err(self.fail(error))));
            }
        }
    }
}

/// Runs what reads the disk away from the tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal).with_source(error))),
        Err(_) => work(),
    }
}

/// An entry, with how it expires if that was asked for.
fn told(entry: Entry, expiry: StoredExpiry, told_at: Option<Timestamp>) -> Entry {
    match told_at {
        Some(now) => entry.with_expiry(expiry.told_at(now)),
        None => entry,
    }
}

/// Where a list is.
#[derive(Debug)]
struct Walk {
    snapshot: Snapshot,
    /// What has expired by then is not listed, whether it is deleted yet or not.
    now: Timestamp,
    /// Of a list that tells how its entries expire: when the page was read.
    told_at: Option<Timestamp>,
    /// What is still to be read; none at the end.
    range: Option<NameRange>,
    namespace: Arc<Namespace>,
    /// Native: empty, or ending in a slash.
    prefix: String,
    keys_only: bool,
    one_level: bool,
    /// How many items are still wanted, of lists that do not tell all entries they read.
    left: usize,
    /// How many bytes this list has given to those that are kept.
    kept: usize,
}

impl Walk {
    /// The next page, if it is in memory.
    fn known(&mut self, view: &View) -> Result<Option<Run>> {
        if self.keys_only || self.one_level {
            return Ok(None);
        }
        let Some(range) = &self.range else { return Ok(None) };
        let Some(page) = view.known_page(&self.snapshot, range, &self.namespace)? else { return Ok(None) };
        Ok(Some(self.run_of(page)))
    }

    /// Reads the next page.
    fn read(&mut self, view: &View) -> Result<Run> {
        if self.keys_only || self.one_level {
            return self.names(view).map(Run::Items);
        }
        let Some(range) = &self.range else { return Ok(Run::Items(VecDeque::new())) };
        let max = PAGE.min(self.left.max(1));
        let page = view.read_page(&mut self.snapshot, range, max, &self.namespace, &mut self.kept)?;
        Ok(self.run_of(page))
    }

    /// What of a page lies in the range that is still to be read. Goes on behind it.
    fn run_of(&mut self, page: Arc<Page>) -> Run {
        let Some(range) = self.range.take() else { return Run::Items(VecDeque::new()) };
        let path = self.namespace.path();
        let place = |bound: &Bound<String>, is_end: bool| {
            let (Bound::Included(name) | Bound::Excluded(name)) = bound else {
                return if is_end { page.entries.len() } else { 0 };
            };
            // Of an end that is included, and of a beginning that is not, the name itself is in front.
            let with_it = matches!(bound, Bound::Included(_)) == is_end;
            let below = name.strip_prefix(path);
            page.entries.partition_point(|listed| match below {
                Some(below) if with_it => listed.entry.key.as_str() <= below,
                Some(below) => listed.entry.key.as_str() < below,
                // A bound outside the namespace lies before all of it or behind all of it.
                None => name.as_str() > path,
            })
        };
        let (at, end) = (place(&range.from, false), place(&range.to, true));
        self.range = match &page.range.to {
            Bound::Unbounded => None,
            Bound::Included(to) => Some(Bound::Excluded(to.clone())),
            Bound::Excluded(to) => Some(Bound::Included(to.clone())),
        }
        .map(|from| NameRange { from, to: range.to })
        .filter(|rest| !rest.is_empty());
        Run::Page { page, at, end }
    }

    /// A page of keys, or of one level.
    fn names(&mut self, view: &View) -> Result<VecDeque<ListItem>> {
        let mut items = VecDeque::new();
        let Some(range) = self.range.take().filter(|_| self.left > 0) else { return Ok(items) };
        let max = if self.one_level { LEVEL_PAGE } else { PAGE }.min(self.left.max(1));
        let found = view.page(&mut self.snapshot, &range, max)?;
        let last = found.entries.last().filter(|_| found.read_to.is_some()).map(|(native, _)| native.clone());
        let mut next = last.map(Bound::Excluded);
        let mut bytes = 0;
        for (native, record) in found.entries.into_iter().filter(|(_, record)| !record.is_over(|| self.now)) {
            let below = self.one_level.then(|| self.sub_prefix(&native)).flatten();
            let item = match &below {
                Some(below) => self.namespace.key(below).map(|key| ListItem::Prefix(key.as_prefix())),
                None if self.keys_only => self.namespace.key(&native).map(ListItem::Key),
                None => {
                    let entry = view.entry(&self.snapshot, &self.namespace, &native, &record)?;
                    bytes += entry.as_ref().map_or(0, |entry| entry.value.len());
                    entry.map(|entry| ListItem::Entry(told(entry, record.expiry, self.told_at)))
                }
            };
            // Too long for a key as seen from here, though not from further down.
            let Some(item) = item else { continue };
            items.push_back(item);
            self.left -= 1;
            if self.left == 0 {
                next = None;
                break;
            }
            if let Some(below) = below {
                // Everything else below it is behind its last possible name.
                next = match behind(&format!("{below}/")) {
                    Bound::Excluded(behind) => Some(Bound::Included(behind)),
                    Bound::Included(_) | Bound::Unbounded => None,
                };
                break;
            }
            if bytes >= crate::view::PAGE_BYTES {
                next = Some(Bound::Excluded(native));
                break;
            }
        }
        self.range = next.map(|from| NameRange { from, to: range.to });
        Ok(items)
    }

    /// The native path one level below the prefix that `native` lies below.
    fn sub_prefix(&self, native: &str) -> Option<String> {
        let at = native[self.prefix.len()..].find('/')?;
        Some(native[..self.prefix.len() + at].to_owned())
    }
}
