//! What differs between two stores, one key after the other.

use std::cmp::Ordering;
use std::time::Duration;

use futures_util::stream::Fuse;
use futures_util::{StreamExt, TryStreamExt};
use kv_core::{Entry, Key, ListItem, ListOptions, Listing, Prefix, Store, Version};

use crate::exit::Failure;

/// What makes the destination like the source in one key.
#[derive(Debug)]
pub(super) enum Step {
    /// Only the source has it.
    Make(Entry),
    /// The destination has another value, at this version.
    Change(Entry, Version),
    /// Only the destination has it, at this version.
    Delete(Key, Version),
    /// Nothing: the values are the same.
    Same,
}

/// Both lists, read side by side. Each is in the order of its keys.
pub(super) struct Steps {
    source: Side,
    destination: Side,
}

struct Side {
    /// Fused: the other side may have more to come.
    listing: Fuse<Listing>,
    /// The entry that was read and not compared yet.
    ahead: Option<Entry>,
}

impl Side {
    async fn begin(store: &dyn Store, prefix: &Prefix, timeout: Option<Duration>) -> Result<Self, Failure> {
        let mut options = ListOptions::default();
        options.timeout = timeout;
        Ok(Self { listing: store.list_with(prefix, options).await?.fuse(), ahead: None })
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
}

impl Steps {
    pub(super) async fn begin(
        source: &dyn Store,
        destination: &dyn Store,
        prefix: &Prefix,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            source: Side::begin(source, prefix, timeout).await?,
            destination: Side::begin(destination, prefix, timeout).await?,
        })
    }

    /// The next key, or `None` behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<Step>, Failure> {
        self.source.fill().await?;
        self.destination.fill().await?;
        let order = match (&self.source.ahead, &self.destination.ahead) {
            (Some(source), Some(destination)) => source.key.as_str().cmp(destination.key.as_str()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let source = if order.is_le() { self.source.ahead.take() } else { None };
        let destination = if order.is_ge() { self.destination.ahead.take() } else { None };
        Ok(match (source, destination) {
            (Some(source), Some(destination)) if source.value == destination.value => Some(Step::Same),
            (Some(source), Some(destination)) => Some(Step::Change(source, destination.version)),
            (Some(source), None) => Some(Step::Make(source)),
            (None, Some(destination)) => Some(Step::Delete(destination.key, destination.version)),
            (None, None) => None,
        })
    }
}
