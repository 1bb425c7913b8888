//! What a list delivers.

use std::fmt;
use std::ops::Bound;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::entry::Entry;
use crate::error::{Error, Operation, Result};
use crate::key::{Key, Prefix};
use crate::stream::{Items, Map};
use crate::version::Version;

/// One item of a [`Listing`].
///
/// There are no others, so a `match` that forgets the keys of a list of keys only does not compile:
///
/// ```compile_fail,E0004
/// fn size(item: kv_core::ListItem) -> usize {
///     match item {
///         kv_core::ListItem::Entry(entry) => entry.value.len(),
///         kv_core::ListItem::Prefix(_) => 0,
///     }
/// }
/// ```
///
/// Who needs only the entries or the keys calls [`entries`](crate::StoreExt::entries) or
/// [`keys`](crate::StoreExt::keys) and matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListItem {
    /// An entry.
    Entry(Entry),
    /// A key, of a list that asked for keys only.
    Key(Key),
    /// In a list of one level: there are keys below this path. An entry at the path itself is an
    /// item of its own. It stands where the first key below it would: behind `a-b` for `a/`.
    Prefix(Prefix),
}

impl ListItem {
    /// The path it stands for.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Entry(entry) => entry.key.as_str(),
            Self::Key(key) => key.as_str(),
            Self::Prefix(prefix) => prefix.as_str(),
        }
    }

    /// The last segment of the path it stands for.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Entry(entry) => entry.key.name(),
            Self::Key(key) => key.name(),
            Self::Prefix(prefix) => prefix.name(),
        }
    }

    /// The key of an entry, whether the list brought the entry or its key only; `None` for a sub-prefix.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Entry(entry) => Some(&entry.key),
            Self::Key(key) => Some(key),
            Self::Prefix(_) => None,
        }
    }

    /// The entry; `None` for a sub-prefix, and for every item of a list that asked for keys only.
    #[must_use]
    pub fn into_entry(self) -> Option<Entry> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Key(_) | Self::Prefix(_) => None,
        }
    }

    /// Where the next list begins that goes on behind this item, as the start of a range: behind an
    /// entry or a key, and behind everything below a sub-prefix.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::ops::Bound;
    /// use kv_core::{Key, ListItem, ListOptions, Prefix};
    ///
    /// # fn main() -> kv_core::Result<()> {
    /// let last = ListItem::Prefix(Prefix::new("a/b")?);
    /// let next_page = ListOptions::default().with_one_level().with_range((last.resume(), Bound::Unbounded));
    /// assert_eq!(last.resume(), Bound::Included(Key::new("a/b0")?)); // `0` is the byte after `/`
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn resume(&self) -> Bound<Key> {
        match self {
            Self::Entry(entry) => Bound::Excluded(entry.key.clone()),
            Self::Key(key) => Bound::Excluded(key.clone()),
            // Shorter than any key below the prefix, so it is no longer than a key may be.
            Self::Prefix(prefix) => match Key::new(&format!("{prefix}0")) {
                Ok(key) => Bound::Included(key),
                Err(_) => Bound::Unbounded,
            },
        }
    }
}

/// The stream a list returns: items in byte order of the canonical key.
///
/// It fetches as it is read. It ends after the last item, or after an error. Dropping it stops the
/// fetching.
#[must_use = "a listing fetches only as it is read"]
pub struct Listing {
    as_of: Option<Version>,
    items: Items<Result<ListItem>>,
}

impl Listing {
    /// A listing of these items; watching from `as_of` loses nothing that happens after it.
    pub fn new(as_of: Option<Version>, items: impl Stream<Item = Result<ListItem>> + Send + 'static) -> Self {
        Self { as_of, items: Box::pin(items) }
    }

    /// The next item, without needing a stream library. `None` after the last item, or after an error.
    ///
    /// Cancel-safe: dropping the future loses no item.
    ///
    /// ```
    /// use kv_core::{Result, Store, StoreExt};
    ///
    /// # #[allow(dead_code)]
    /// async fn print(store: &dyn Store) -> Result<()> {
    ///     let mut listing = store.list("config").await?;
    ///     while let Some(item) = listing.next().await {
    ///         println!("{}", item?.path());
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn next(&mut self) -> Option<Result<ListItem>> {
        std::future::poll_fn(|cx| self.items.as_mut().poll_next(cx)).await
    }

    /// Reads all entries into memory. Sub-prefixes of a list of one level are left out.
    ///
    /// # Errors
    ///
    /// What the list ends with; `InvalidArgument` for a list that asked for keys only and has a key, as
    /// that is an entry whose value nobody read.
    pub async fn entries(mut self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while let Some(item) = self.next().await {
            match item? {
                ListItem::Entry(entry) => entries.push(entry),
                ListItem::Key(key) => {
                    return Err(Error::invalid_argument("the list asked for keys only: it has no entries")
                        .with_operation(Operation::List)
                        .with_key(key.as_str()));
                }
                ListItem::Prefix(_) => {}
            }
        }
        Ok(entries)
    }

    /// The same with each item, or the error it ends with, as this function maps it: for layers. Not named
    /// `map`, which the extension traits of streams have for something else.
    pub fn map_items(
        self,
        change: impl FnMut(Result<ListItem>) -> Result<ListItem> + Send + Unpin + 'static,
    ) -> Self {
        Self { as_of: self.as_of, items: Box::pin(Map::new(self.items, change)) }
    }

    /// The version to watch from, so that list and watch together lose nothing.
    ///
    /// Where the store declares [`Guarantee::ListSnapshot`](crate::Guarantee::ListSnapshot) the list
    /// is the state at exactly this version; else every change after it is delivered by that watch,
    /// and some of them may be in the list already.
    #[must_use]
    pub fn as_of(&self) -> Option<Version> {
        self.as_of
    }
}

impl Stream for Listing {
    type Item = Result<ListItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("as_of", &self.as_of).finish_non_exhaustive()
    }
}
