//! What differs between two places, one key after the other.

use std::cmp::Ordering;
use std::time::Duration;

use futures_util::stream::Fuse;
use futures_util::{StreamExt, TryStreamExt};
use kv_core::{
    Entry, Error, GetOptions, Key, ListItem, ListOptions, Listing, Power, Prefix, Store, StoreExt, Version,
};

use crate::exit::Failure;

/// What makes the destination like the source in one key. Keys of the two sides can differ.
#[derive(Debug)]
pub(super) enum Step {
    /// Only the source has it; it goes to this key.
    Make(Entry, Key),
    /// The destination has another value, at this version.
    Change(Entry, Key, Version),
    /// Only the destination has it, at this version.
    Delete(Key, Version),
    /// The values are the same: the key in the source, its version there, and the key in the destination.
    Same(Key, Version, Key),
    /// The destination can have no key of this name.
    Refuse(Key, String),
}

/// What of a store is compared.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Everything below it.
    pub(super) prefix: Prefix,
    /// Whether the entry of that name is part of it.
    pub(super) with_entry: bool,
}

impl Place {
    /// What lies below a prefix.
    pub(super) fn below(prefix: Prefix) -> Self {
        Self { prefix, with_entry: false }
    }

    /// An entry and what lies below it.
    pub(super) fn tree(key: &Key) -> Self {
        Self { prefix: key.as_prefix(), with_entry: true }
    }

    /// The name of a key within this place: empty for the entry itself.
    fn relative<'k>(&self, key: &'k Key) -> &'k str {
        self.prefix.relative(key).unwrap_or_default()
    }

    /// The key with this name within this place.
    fn key(&self, relative: &str) -> Result<Key, Error> {
        match self.prefix.to_key() {
            Some(key) if relative.is_empty() => Ok(key),
            _ => self.prefix.join(relative),
        }
    }
}

/// Both lists, read side by side. Each is in the order of its keys, and the names within their places are in
/// the same order.
pub(super) struct Steps {
    source: Side,
    destination: Side,
}

struct Side {
    place: Place,
    /// Fused: the other side may have more to come.
    listing: Fuse<Listing>,
    /// The entry that was read and not compared yet.
    ahead: Option<Entry>,
}

impl Side {
    async fn begin(
        store: &dyn Store,
        place: Place,
        expiring: bool,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        let mut options = ListOptions::default();
        options.timeout = timeout;
        // Elsewhere it is read for each entry that is copied.
        options.expiry = expiring && store.capabilities().has(Power::ListExpiry);
        let ahead = match place.prefix.to_key() {
            Some(key) if place.with_entry => {
                let mut get = GetOptions::default();
                get.timeout = timeout;
                get.expiry = options.expiry;
                store.get_with(&key, get).await?
            }
            _ => None,
        };
        let listing = store.list_with(&place.prefix, options).await?.fuse();
        Ok(Self { place, listing, ahead })
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        while self.ahead.is_none() {
            match self.listing.try_next().await? {
                Some(ListItem::Entry(entry)) => self.ahead = Some(entry),
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    fn name(&self) -> Option<&str> {
        self.ahead.as_ref().map(|entry| self.place.relative(&entry.key))
    }
}

impl Steps {
    /// Begins both lists; entries of the source tell when they expire, where that is wanted and lists do.
    pub(super) async fn begin(
        source: (&dyn Store, Place),
        destination: (&dyn Store, Place),
        expiring: bool,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            source: Side::begin(source.0, source.1, expiring, timeout).await?,
            destination: Side::begin(destination.0, destination.1, false, timeout).await?,
        })
    }

    /// The next key, or `None` behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<Step>, Failure> {
        self.source.fill().await?;
        self.destination.fill().await?;
        let order = match (self.source.name(), self.destination.name()) {
            (Some(source), Some(destination)) => source.cmp(destination),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let source = if order.is_le() { self.source.ahead.take() } else { None };
        let destination = if order.is_ge() { self.destination.ahead.take() } else { None };
        Ok(match (source, destination) {
            (Some(source), Some(destination)) if source.value == destination.value => {
                Some(Step::Same(source.key, source.version, destination.key))
            }
            (Some(source), Some(destination)) => {
                Some(Step::Change(source, destination.key, destination.version))
            }
            (Some(source), None) => Some(self.make(source)),
            (None, Some(destination)) => Some(Step::Delete(destination.key, destination.version)),
            (None, None) => None,
        })
    }

    fn make(&self, source: Entry) -> Step {
        match self.destination.place.key(self.source.place.relative(&source.key)) {
            Ok(to) => Step::Make(source, to),
            Err(error) => Step::Refuse(source.key, error.kind().to_string()),
        }
    }
}
