//! Lists: the state at one version, page by page.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream;
use kv_backend::{Clock, Namespace, Timestamp, within};
use kv_core::{
    Entry, Error, ErrorKind, Key, ListItem, ListOptions, Listing, Operation, Prefix, Result, Version,
};

use crate::BACKEND;
use crate::database::Database;
use crate::name::{NameRange, behind};
use crate::record::Record;
use crate::view::{Snapshot, View};

/// How many names are read at a time.
const PAGE: usize = 512;

/// How many are read at a time where most of them are skipped.
const LEVEL_PAGE: usize = 32;

/// A page ends when its values are so large.
const PAGE_BYTES: usize = 1 << 20;

/// A list of what is below `prefix`.
pub(crate) fn listing(
    database: &Arc<Database>,
    namespace: &Arc<Namespace>,
    prefix: &Prefix,
    options: &ListOptions,
    timeout: Duration,
    endpoint: String,
) -> Listing {
    let now = database.locks().clock().now();
    let snapshot = database.view().snapshot();
    let as_of = snapshot.version();
    let native = namespace.native_prefix(prefix);
    let bound = |bound: &Bound<Key>| bound.as_ref().map(|key| namespace.native(key));
    let range = NameRange::below(&native).within(bound(&options.start), bound(&options.end));
    let walk = Walk {
        snapshot,
        now,
        range: Some(range),
        namespace: Arc::clone(namespace),
        prefix: native,
        keys_only: options.keys_only,
        one_level: options.one_level,
        left: options.limit.unwrap_or(usize::MAX),
    };
    let list =
        Pages { database: Arc::downgrade(database), walk: Some(walk), items: VecDeque::new(), timeout };
    let decorate = {
        let prefix = prefix.clone();
        move |error: Error| {
            error
                .with_operation(Operation::List)
                .with_backend(BACKEND)
                .with_endpoint(endpoint.as_str())
                .with_key(prefix.as_str())
        }
    };
    let items = stream::unfold(Some((list, decorate)), |state| async {
        let (mut list, decorate) = state?;
        match list.next().await {
            Ok(Some(item)) => Some((Ok(item), Some((list, decorate)))),
            Ok(None) => None,
            Err(error) => Some((Err(decorate(error)), None)),
        }
    });
    Listing::new(Some(as_of), items)
}

/// A list on its way.
struct Pages {
    /// Weak: a list that is not read does not keep the store open.
    database: Weak<Database>,
    /// With the reader of the next page; none when there are no more.
    walk: Option<Walk>,
    items: VecDeque<ListItem>,
    timeout: Duration,
}

impl Pages {
    async fn next(&mut self) -> Result<Option<ListItem>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            let Some(mut walk) = self.walk.take() else { return Ok(None) };
            let database = self.database.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed))?;
            let page = blocking(move || {
                let items = walk.page(database.view())?;
                Ok((items, walk.range.is_some().then_some(walk)))
            });
            (self.items, self.walk) = within(self.timeout, page).await?;
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

/// Where a list is.
#[derive(Debug)]
struct Walk {
    snapshot: Snapshot,
    /// What has expired by then is not listed, whether it is deleted yet or not.
    now: Timestamp,
    /// What is still to be read; none at the end.
    range: Option<NameRange>,
    namespace: Arc<Namespace>,
    /// Native: empty, or ending in a slash.
    prefix: String,
    keys_only: bool,
    one_level: bool,
    /// How many items are still wanted.
    left: usize,
}

impl Walk {
    fn page(&mut self, view: &View) -> Result<VecDeque<ListItem>> {
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
                None => self.item(view, &native, &record, &mut bytes)?,
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
            if bytes >= PAGE_BYTES {
                next = Some(Bound::Excluded(native));
                break;
            }
        }
        self.range = next.map(|from| NameRange { from, to: range.to });
        Ok(items)
    }

    fn item(
        &self,
        view: &View,
        native: &str,
        record: &Record,
        bytes: &mut usize,
    ) -> Result<Option<ListItem>> {
        let Some(key) = self.namespace.key(native) else { return Ok(None) };
        if self.keys_only {
            return Ok(Some(ListItem::Key(key)));
        }
        let value = view.value(&self.snapshot, record).map_err(|error| error.with_key(key.as_str()))?;
        *bytes += value.len();
        let (version, created) = (Version::new(record.version), Version::new(record.created));
        Ok(Some(ListItem::Entry(Entry::new(key, value, version, created))))
    }

    /// The native path one level below the prefix that `native` lies below.
    fn sub_prefix(&self, native: &str) -> Option<String> {
        let at = native[self.prefix.len()..].find('/')?;
        Some(native[..self.prefix.len() + at].to_owned())
    }
}
