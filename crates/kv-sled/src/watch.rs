//! Where watches get the state from: when they begin with it, and after they fell behind.

use std::ops::Bound;
use std::sync::{Arc, Weak};

use futures_util::stream;
use kv_backend::{Namespace, Page, Pages, State, StateFor};
use kv_core::{Entry, Error, ErrorKind, Result, WatchTarget};

use crate::database::Database;
use crate::list::blocking;
use crate::name::{NameRange, behind};
use crate::view::{Snapshot, View};

/// How many entries are read at a time.
const PAGE: usize = 256;

/// A page ends when its values are so large.
const PAGE_BYTES: usize = 1 << 20;

/// The state of the store as handles of one namespace see it.
#[derive(Debug)]
pub(crate) struct Snapshots {
    database: Weak<Database>,
    namespace: Arc<Namespace>,
}

impl Snapshots {
    pub(crate) fn new(database: &Arc<Database>, namespace: &Arc<Namespace>) -> Self {
        Self { database: Arc::downgrade(database), namespace: Arc::clone(namespace) }
    }
}

impl State for Snapshots {
    fn pages(&self, target: &WatchTarget, wanted_for: StateFor) -> Pages {
        let mut below = None;
        let range = match target {
            WatchTarget::Key(key) => {
                let native = self.namespace.native(key);
                NameRange { from: Bound::Included(native.clone()), to: Bound::Included(native) }
            }
            WatchTarget::Prefix(prefix) => NameRange::below(&self.namespace.native_prefix(prefix)),
            WatchTarget::Tree(key) => {
                let prefix = self.namespace.native_prefix(&key.as_prefix());
                let to = behind(&prefix);
                below = Some(prefix);
                NameRange { from: Bound::Included(self.namespace.native(key)), to }
            }
            _ => {
                let error = Error::unsupported("this kind of watch target");
                return Box::pin(stream::once(async { Err(error) }));
            }
        };
        let walk = Walk {
            database: Weak::clone(&self.database),
            namespace: Arc::clone(&self.namespace),
            range,
            below,
            wanted_for,
            snapshot: None,
        };
        Box::pin(stream::unfold(Some(walk), |walk| async {
            let mut walk = walk?;
            let page = blocking(move || {
                let page = walk.page()?;
                Ok((page, walk))
            });
            match page.await {
                Ok(((page, next), mut walk)) => {
                    let more = next.map(|from| {
                        walk.range.from = from;
                        walk
                    });
                    Some((Ok(page), more))
                }
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

struct Walk {
    database: Weak<Database>,
    namespace: Arc<Namespace>,
    range: NameRange,
    /// For a key and what is below it, what the names below it begin with.
    below: Option<String>,
    wanted_for: StateFor,
    snapshot: Option<Snapshot>,
}

impl Walk {
    /// A page, and where the next one begins.
    fn page(&mut self) -> Result<(Page, Option<Bound<String>>)> {
        let database = self.database.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed))?;
        let view = database.view();
        // A watch that was too slow lost changes already: each of its pages may be as of now, and
        // none can be too old.
        let kept = self.snapshot.take().filter(|_| self.wanted_for == StateFor::Initial);
        let mut snapshot = kept.unwrap_or_else(|| view.snapshot());
        let page = self.read(view, &mut snapshot)?;
        self.snapshot = Some(snapshot);
        Ok(page)
    }

    fn read(&self, view: &View, snapshot: &mut Snapshot) -> Result<(Page, Option<Bound<String>>)> {
        let mut range = self.range.clone();
        let mut entries = Vec::new();
        loop {
            let mut found = view.page(snapshot, &range, PAGE)?;
            // Names such as `a-b` lie between `a` and `a/b`. They are passed over.
            let between = self.below.as_ref().and_then(|below| {
                let is_key = |name: &str| below.strip_suffix('/') == Some(name);
                let at = found.entries.iter().position(|(name, _)| name < below && !is_key(name))?;
                found.entries.truncate(at);
                Some(Bound::Included(below.clone()))
            });
            let mut more = found.read_to.is_some();
            let (mut bytes, mut last) = (0, None);
            for (native, record) in found.entries {
                if bytes >= PAGE_BYTES {
                    more = true;
                    break;
                }
                let entry = view.entry(snapshot, &self.namespace, &native, &record)?;
                last = Some(native);
                // Too long for a key as seen from here, though not from further down.
                let Some(entry) = entry else { continue };
                bytes += entry.value.len();
                entries.push(entry);
            }
            // A page speaks for the keys up to its own last one: the next begins behind that.
            let delivered = entries.last().map(|entry: &Entry| self.namespace.native(&entry.key));
            match between.or(delivered.or(last).filter(|_| more).map(Bound::Excluded)) {
                Some(from) if entries.is_empty() => range.from = from,
                next => return Ok((Page { entries, as_of: snapshot.version() }, next)),
            }
        }
    }
}
