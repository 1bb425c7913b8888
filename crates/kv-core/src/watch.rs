//! Watches: what is asked for and what is delivered.

use std::fmt;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::{Key, Prefix};
use crate::stream::{Items, Map};
use crate::version::Version;

/// What a watch is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatchTarget {
    /// One key, existing or not.
    Key(Key),
    /// Every key strictly below a path, existing or not.
    Prefix(Prefix),
    /// One key and every key below it, existing or not.
    Tree(Key),
}

impl WatchTarget {
    /// One key: what lies below it is not watched.
    ///
    /// ```
    /// use kv_core::{Key, WatchTarget};
    ///
    /// let (config, below) = (Key::new("config")?, Key::new("config/limit")?);
    /// let target = WatchTarget::key(&config);
    /// assert!(target.matches(&config) && !target.matches(&below));
    /// # Ok::<(), kv_core::Error>(())
    /// ```
    pub fn key(key: impl Into<Key>) -> Self {
        Self::Key(key.into())
    }

    /// Everything strictly below a path: the key at the path itself is not watched.
    ///
    /// ```
    /// use kv_core::{Key, Prefix, WatchTarget};
    ///
    /// let (config, below) = (Key::new("config")?, Key::new("config/limit")?);
    /// let target = WatchTarget::below(Prefix::new("config")?);
    /// assert!(!target.matches(&config) && target.matches(&below));
    /// # Ok::<(), kv_core::Error>(())
    /// ```
    pub fn below(prefix: impl Into<Prefix>) -> Self {
        Self::Prefix(prefix.into())
    }

    /// A key and everything below it, as one watch. On etcd and Consul it needs the right to read every
    /// name that begins with the key, siblings such as `config-old` included, which are not delivered.
    ///
    /// ```
    /// use kv_core::{Key, WatchTarget};
    ///
    /// let (config, below, beside) =
    ///     (Key::new("config")?, Key::new("config/limit")?, Key::new("config-old")?);
    /// let target = WatchTarget::tree(&config);
    /// assert!(target.matches(&config) && target.matches(&below) && !target.matches(&beside));
    /// # Ok::<(), kv_core::Error>(())
    /// ```
    pub fn tree(key: impl Into<Key>) -> Self {
        Self::Tree(key.into())
    }

    /// Whether changes of `key` belong to it.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Prefix(prefix) => prefix.covers(key),
            Self::Tree(own) => own == key || own.as_prefix().covers(key),
        }
    }

    /// The path of the key or prefix.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Key(key) | Self::Tree(key) => key.as_str(),
            Self::Prefix(prefix) => prefix.as_str(),
        }
    }
}

impl From<Key> for WatchTarget {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}

impl From<Prefix> for WatchTarget {
    fn from(prefix: Prefix) -> Self {
        Self::Prefix(prefix)
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchStart {
    /// With the first change after the watch call has returned.
    #[default]
    Now,
    /// With the entries there are, then `Synced`, then changes; nothing between is lost or doubled.
    Initial,
    /// With the first change after this version. With
    /// [`Power::WatchHistory`](crate::Power::WatchHistory) the changes themselves, or `Compacted`
    /// from the watch call; without it `Resync`, the state and `Synced`.
    After(Version),
}

/// Which changes a watch delivers. `Resync` and `Synced` are always delivered, and the state between
/// them comes as puts unless puts are filtered out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchFilter {
    /// Puts and deletes.
    #[default]
    All,
    /// Puts only.
    Puts,
    /// Deletes only.
    Deletes,
}

impl WatchFilter {
    /// Whether it lets this event through.
    #[must_use]
    pub fn admits(self, event: &WatchEvent) -> bool {
        match event {
            WatchEvent::Put(_) => self != Self::Deletes,
            WatchEvent::Delete(_) => self != Self::Puts,
            WatchEvent::Resync | WatchEvent::Synced => true,
        }
    }
}

/// Options of a watch.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WatchOptions {
    /// Where it begins.
    pub start: WatchStart,
    /// Which changes it delivers.
    pub filter: WatchFilter,
    /// Deadline of starting it and of each reconnect, in place of the store's default. The stream
    /// itself has none.
    pub timeout: Option<Duration>,
    /// Whether another start was given before this one.
    two_starts: bool,
}

impl WatchOptions {
    /// The same, beginning after this version. It excludes [`with_initial`](Self::with_initial): a watch
    /// with both is refused.
    #[must_use]
    pub fn with_from(self, version: Version) -> Self {
        self.starting(WatchStart::After(version))
    }

    /// The same, beginning with the entries there are. It excludes [`with_from`](Self::with_from): a
    /// watch with both is refused.
    #[must_use]
    pub fn with_initial(self) -> Self {
        self.starting(WatchStart::Initial)
    }

    fn starting(mut self, start: WatchStart) -> Self {
        self.two_starts |= self.start != WatchStart::Now && self.start != start;
        self.start = start;
        self
    }

    pub(crate) fn has_two_starts(&self) -> bool {
        self.two_starts
    }

    /// The same with this filter.
    #[must_use]
    pub fn with_filter(mut self, filter: WatchFilter) -> Self {
        self.filter = filter;
        self
    }

    /// The same with a deadline for each request, in place of the store's default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// One item of a [`Watch`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The key was put; or, before the first and after each `Resync` up to `Synced`, it exists.
    Put(Entry),
    /// The key was deleted.
    Delete(Deletion),
    /// There was a gap. Forget what you hold: the full state follows as puts, then `Synced`. A key
    /// not named by then is gone.
    Resync,
    /// The state is complete; what follows are changes.
    Synced,
}

impl WatchEvent {
    /// The key it is about; `None` for `Resync` and `Synced`.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Put(entry) => Some(&entry.key),
            Self::Delete(deletion) => Some(&deletion.key),
            Self::Resync | Self::Synced => None,
        }
    }

    /// The version of the change, where there is one and the backend tells it.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Put(entry) => Some(entry.version),
            Self::Delete(deletion) => deletion.version,
            Self::Resync | Self::Synced => None,
        }
    }

    /// Whether it is a put that created the key, as far as it was not changed since it is told.
    #[must_use]
    pub fn is_create(&self) -> bool {
        matches!(self, Self::Put(entry) if entry.is_new())
    }
}

/// How a key went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deletion {
    /// The key.
    pub key: Key,
    /// The version of the deletion, where the backend tells.
    pub version: Option<Version>,
    /// What was deleted, where the backend tells.
    pub previous: Option<Entry>,
    /// Why it went.
    pub cause: DeleteCause,
}

impl Deletion {
    /// A deletion of which nothing else is known.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self { key, version: None, previous: None, cause: DeleteCause::Unknown }
    }

    /// The same with its version.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// The same with what was deleted.
    #[must_use]
    pub fn with_previous(mut self, previous: Entry) -> Self {
        self.previous = Some(previous);
        self
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_cause(mut self, cause: DeleteCause) -> Self {
        self.cause = cause;
        self
    }
}

/// Why a key went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteCause {
    /// The backend does not tell.
    Unknown,
    /// Somebody deleted it.
    Deleted,
    /// Its time to live or its session ended.
    Expired,
}

/// The stream a watch returns.
///
/// Events of one key come in version order, without duplicates, nothing older than the start, and
/// the last one equals the final state. It never ends without an error that says why. Dropping it
/// ends the watch and releases everything.
#[must_use = "dropping a watch ends it"]
pub struct Watch {
    events: Items<Result<WatchEvent>>,
}

impl Watch {
    /// A watch delivering these events.
    pub fn new(events: impl Stream<Item = Result<WatchEvent>> + Send + 'static) -> Self {
        Self { events: Box::pin(events) }
    }

    /// The next event, without needing a stream library. `None` only after an error.
    ///
    /// Cancel-safe: dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        std::future::poll_fn(|cx| self.events.as_mut().poll_next(cx)).await
    }

    /// Calls back for each event until the callback breaks or the watch fails. Dropping the future ends
    /// the watch.
    ///
    /// # Errors
    ///
    /// What the watch ends with.
    pub async fn for_each(mut self, mut callback: impl FnMut(WatchEvent) -> ControlFlow<()>) -> Result<()> {
        while let Some(event) = self.next().await {
            if callback(event?).is_break() {
                return Ok(());
            }
        }
        Err(ended_silently())
    }

    /// The same with each event, or the error it ends with, as this function maps it: for layers. Not named
    /// `map`, which the extension traits of streams have for something else.
    pub fn map_events(
        self,
        change: impl FnMut(Result<WatchEvent>) -> Result<WatchEvent> + Send + Unpin + 'static,
    ) -> Self {
        Self { events: Box::pin(Map::new(self.events, change)) }
    }
}

/// A watch that ended without an error: a defect of its store.
pub(crate) fn ended_silently() -> Error {
    Error::new(ErrorKind::Internal)
        .with_operation(Operation::Watch)
        .with_detail("the watch ended without an error")
}

impl Stream for Watch {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
