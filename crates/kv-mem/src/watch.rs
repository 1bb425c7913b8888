//! Watches: the changes come from the hub, the state from here.

use std::ops::Bound;
use std::sync::{Arc, Weak};

use futures_util::{StreamExt, stream};
use kv_backend::{Namespace, Page, Pages, State, StateFor};
use kv_core::{Entry, Error, ErrorKind, Operation, Result, Version, WatchTarget};

use crate::name::{Name, native};
use crate::state::{Database, Ordered};

/// How many entries of the state are looked up at once.
const PAGE: usize = 128;

/// The state as the handles of one namespace see it. Does not keep the data alive.
pub(crate) struct StateBelow {
    pub(crate) database: Weak<Database>,
    pub(crate) namespace: Arc<Namespace>,
}

impl State for StateBelow {
    fn pages(&self, target: &WatchTarget, wanted_for: StateFor) -> Pages {
        let name = |key| native(&self.namespace, key).into_owned();
        let below = |prefix| self.namespace.native_prefix(prefix);
        let (name, below) = match target {
            WatchTarget::Key(key) => (Some(name(key)), None),
            WatchTarget::Prefix(prefix) => (None, Some(below(prefix))),
            WatchTarget::Tree(key) => (Some(name(key)), Some(below(&key.as_prefix()))),
            _ => return stream::iter([Err(Error::unsupported("this kind of watch target"))]).boxed(),
        };
        let reader = Reader {
            database: self.database.clone(),
            namespace: Arc::clone(&self.namespace),
            name,
            below,
            keeps_snapshot: wanted_for == StateFor::Initial,
            snapshot: None,
        };
        stream::unfold(Some((reader, None)), |reading| async {
            let (mut reader, after) = reading?;
            Some(match reader.page(after) {
                Ok((page, next)) => (Ok(page), next.map(|next| (reader, Some(next)))),
                Err(error) => (Err(error), None),
            })
        })
        .boxed()
    }
}

struct Reader {
    database: Weak<Database>,
    namespace: Arc<Namespace>,
    /// The native name of the key that is watched, and the prefix of what is watched below.
    name: Option<String>,
    below: Option<String>,
    /// A watch that begins delivers one version and every change after it. One that was too slow
    /// may be so again: it looks anew for each page and keeps nothing old alive.
    keeps_snapshot: bool,
    snapshot: Option<(Ordered, Version)>,
}

impl Reader {
    /// The page behind a native name, and behind which the next one begins.
    fn page(&mut self, after: Option<Name>) -> Result<(Page, Option<Name>)> {
        let (entries, as_of) = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => match self.database.upgrade() {
                Some(database) => database.snapshot(),
                None => {
                    let closed = Error::new(ErrorKind::Closed).with_backend("mem");
                    return Err(closed.with_operation(Operation::Watch));
                }
            },
        };
        let (page, next) = self.entries(&entries, after);
        if self.keeps_snapshot && next.is_some() {
            self.snapshot = Some((entries, as_of));
        }
        Ok((Page { entries: page, as_of }, next))
    }

    fn entries(&self, entries: &Ordered, after: Option<Name>) -> (Vec<Entry>, Option<Name>) {
        let mut page = Vec::new();
        if let (Some(name), None) = (&self.name, &after) {
            let record = entries.get(name.as_str());
            page.extend(record.and_then(|record| record.seen_from(&self.namespace)));
        }
        let Some(below) = &self.below else { return (page, None) };
        let start = match &after {
            Some(after) => Bound::Excluded(after.as_str()),
            None => Bound::Included(below.as_str()),
        };
        let mut names = entries.range::<_, str>((start, Bound::Unbounded));
        while let Some((name, record)) = names.next().filter(|(name, _)| name.as_str().starts_with(below)) {
            page.extend(record.seen_from(&self.namespace));
            if page.len() == PAGE {
                return (page, Some(name.clone()));
            }
        }
        (page, None)
    }
}
