//! Lists: read from a snapshot, page by page, while writers go on.

use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use kv_backend::{Clock, Namespace, poll_budget};
use kv_core::{ListItem, ListOptions, Prefix, Result, Stream};

use crate::name::native;
use crate::state::Ordered;

/// How many items are looked up at once.
const PAGE: usize = 128;

/// The items of one list, in order.
pub(crate) struct Items {
    /// Dropped with the last page: nothing old is kept longer than it is read.
    snapshot: Option<Ordered>,
    namespace: Arc<Namespace>,
    /// The native prefix.
    below: String,
    /// Where the next page begins and where the list ends, as native names.
    start: Bound<String>,
    end: Bound<String>,
    keys_only: bool,
    one_level: bool,
    /// Of lists that tell how their entries expire.
    clock: Option<Arc<dyn Clock>>,
    /// How many items may still come.
    left: usize,
    page: std::vec::IntoIter<ListItem>,
}

impl Items {
    pub(crate) fn new(
        snapshot: Ordered,
        namespace: &Arc<Namespace>,
        prefix: &Prefix,
        options: &ListOptions,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let below = namespace.native_prefix(prefix);
        let bound = |bound: &Bound<_>| bound.as_ref().map(|key| native(namespace, key).into_owned());
        let start = match bound(&options.start) {
            Bound::Included(start) if start > below => Bound::Included(start),
            Bound::Excluded(start) if start > below => Bound::Excluded(start),
            _ => Bound::Included(below.clone()),
        };
        Self {
            snapshot: Some(snapshot),
            namespace: Arc::clone(namespace),
            below,
            start,
            end: bound(&options.end),
            keys_only: options.keys_only,
            one_level: options.one_level,
            clock: options.expiry.then(|| Arc::clone(clock)),
            left: options.limit.unwrap_or(usize::MAX),
            page: Vec::new().into_iter(),
        }
    }

    /// The next page; empty at the end.
    fn next_page(&mut self) -> Vec<ListItem> {
        let mut items = Vec::new();
        let wanted = self.left.min(PAGE);
        while items.len() < wanted {
            let Some(snapshot) = &self.snapshot else { break };
            if self.start_is_behind_end() {
                self.snapshot = None;
                break;
            }
            let range = (as_str(&self.start), as_str(&self.end));
            let mut deeper = None;
            let mut last = None;
            for (name, record) in snapshot.range::<_, str>(range) {
                let name = name.as_str();
                let Some(rest) = name.strip_prefix(&*self.below) else { break };
                if items.len() == wanted {
                    break;
                }
                if self.one_level
                    && let Some(slash) = rest.find('/')
                {
                    deeper = Some(&name[..self.below.len() + slash + 1]);
                    break;
                }
                last = Some(name);
                // A name that is no key of this namespace is not ours to list.
                if let Some(entry) = record.seen_from(&self.namespace) {
                    items.push(match &self.clock {
                        _ if self.keys_only => ListItem::Key(entry.key),
                        Some(clock) => ListItem::Entry(entry.with_expiry(record.expiry(&**clock))),
                        None => ListItem::Entry(entry),
                    });
                }
            }
            match (deeper, last) {
                (Some(sub), _) => {
                    let path = &sub[self.namespace.path().len()..];
                    if let Ok(prefix) = Prefix::new(path) {
                        items.push(ListItem::Prefix(prefix));
                    }
                    self.start = Bound::Included(behind_all_below(sub));
                }
                (None, Some(last)) if items.len() == wanted => {
                    self.start = Bound::Excluded(last.to_string());
                }
                (None, _) => self.snapshot = None,
            }
        }
        self.left -= items.len();
        if self.left == 0 {
            self.snapshot = None;
        }
        items
    }

    /// A range that ends before it begins is empty; the map would not take it.
    fn start_is_behind_end(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (
                Bound::Included(start) | Bound::Excluded(start),
                Bound::Included(end) | Bound::Excluded(end),
            ) => start >= end,
            (_, Bound::Unbounded) | (Bound::Unbounded, _) => false,
        }
    }
}

/// The first name that comes after all that begin with `prefix`, which ends in a slash.
fn behind_all_below(prefix: &str) -> String {
    // '0' is the character after '/'.
    [prefix.strip_suffix('/').unwrap_or(prefix), "0"].concat()
}

fn as_str(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
}

impl Stream for Items {
    type Item = Result<ListItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(poll_budget(cx));
        if self.page.len() == 0 {
            self.page = self.next_page().into_iter();
        }
        Poll::Ready(self.page.next().map(Ok))
    }
}
