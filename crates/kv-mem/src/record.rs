//! One entry as it is stored.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Clock, HandleId, Namespace, Timestamp};
use kv_core::{Bytes, Entry, EntryExpiry, Key, Version};

use crate::name::Name;

/// An entry as it is stored: small, because a get of one among many pays for each line of memory it
/// has to fetch.
#[derive(Debug)]
pub(crate) struct Record {
    key: Key,
    /// The native name, where it is not the key's own text.
    below: Option<Arc<str>>,
    value: Bytes,
    version: Version,
    created: Version,
    /// The namespace the key is relative to.
    namespace: Arc<Namespace>,
    /// What it lives by; `None` for ever.
    lease: Option<Box<Lease>>,
}

/// What a record lives by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lease {
    Ttl { granted: Duration, deadline: Timestamp },
    Session(HandleId),
}

impl Record {
    /// An entry without expiry, its key relative to `namespace`.
    pub(crate) fn new(name: Name, namespace: Arc<Namespace>, entry: Entry, lease: Option<Lease>) -> Self {
        let below = match name {
            Name::Key(_) => None,
            Name::Below(native) => Some(native),
        };
        let Entry { key, value, version, created, .. } = entry;
        Self { key, below, value, version, created, namespace, lease: lease.map(Box::new) }
    }

    pub(crate) fn native(&self) -> &str {
        self.below.as_deref().unwrap_or(self.key.as_str())
    }

    pub(crate) fn name(&self) -> Name {
        match &self.below {
            Some(native) => Name::Below(Arc::clone(native)),
            None => Name::Key(self.key.clone()),
        }
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The entry as whoever put it sees it.
    pub(crate) fn entry(&self) -> Entry {
        self.entry_of(self.key.clone())
    }

    /// The entry as a handle of `namespace` sees it; `None` where its name is no key there.
    pub(crate) fn seen_from(&self, namespace: &Namespace) -> Option<Entry> {
        if self.namespace.path() == namespace.path() {
            return Some(self.entry());
        }
        Some(self.entry_of(namespace.key(self.native())?))
    }

    fn entry_of(&self, key: Key) -> Entry {
        Entry::new(key, self.value.clone(), self.version, self.created)
    }

    /// What it takes in memory, roughly.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.native().len() + self.value.len()
    }

    pub(crate) fn created(&self) -> Version {
        self.created
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.lease.as_deref().copied()
    }

    pub(crate) fn is_expired(&self, clock: &dyn Clock) -> bool {
        matches!(self.lease(), Some(Lease::Ttl { deadline, .. }) if deadline <= clock.now())
    }

    pub(crate) fn expiry(&self, clock: &dyn Clock) -> EntryExpiry {
        match self.lease() {
            None => EntryExpiry::Never,
            Some(Lease::Ttl { granted, deadline }) => {
                EntryExpiry::ttl(granted, Some(deadline.since(clock.now())))
            }
            Some(Lease::Session(_)) => EntryExpiry::Session,
        }
    }
}
