//! What each call can be asked for. Every struct starts as the common case and is changed with `with_*`.

use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Operation, Result};
use crate::fence::Fence;
use crate::key::{Key, Prefix};
use crate::timeout::timeout_setter;
use crate::version::Version;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began, where the store declares
    /// [`Guarantee::LinearizableReads`](crate::Guarantee::LinearizableReads).
    #[default]
    Linearizable,
    /// It may see an older state, and costs the cluster less.
    /// Needs [`Power::StaleReads`](crate::Power::StaleReads).
    Stale,
}

/// What must hold for a write to be made; otherwise nothing is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precondition {
    /// Nothing.
    #[default]
    Any,
    /// The key must not exist; else `AlreadyExists`.
    Absent,
    /// The key must exist; else `NotFound`.
    Present,
    /// The key must be at this version; else `PreconditionFailed`.
    At(Version),
    /// The key must have this value; else `PreconditionFailed`. An absent key has no value, not even
    /// the empty one.
    Value(Bytes),
}

/// When an entry goes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// The entry never expires.
    #[default]
    Never,
    /// The entry expires as the one it takes the place of would have, and no earlier. A key that is absent
    /// is made permanent. Needs [`Power::KeepExpiry`](crate::Power::KeepExpiry).
    Keep,
    /// No earlier than this long after the put, and by the store's declared bound.
    Ttl(Duration),
    /// With the session of the store handle that put it.
    Session,
}

/// Options of a call that has none but its deadline.
///
/// ```
/// use std::time::Duration;
/// use kv_core::CallOptions;
///
/// let patient = CallOptions::default().with_timeout(Duration::from_secs(60));
/// assert_eq!(patient.timeout, Some(Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl CallOptions {
    timeout_setter!();
}

/// Options of a get.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GetOptions {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Whether to tell the entry's expiry; it may cost a round trip.
    pub expiry: bool,
    /// Deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl GetOptions {
    /// The same with this consistency.
    #[must_use]
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// The same, telling the entry's expiry.
    #[must_use]
    pub fn with_expiry(mut self) -> Self {
        self.expiry = true;
        self
    }

    timeout_setter!();
}

/// Options of a put.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PutOptions {
    /// What must hold.
    pub precondition: Precondition,
    /// When the entry goes by itself. The default makes it permanent, also when it was not before.
    pub expiry: Expiry,
    /// The lock that must be held. Needs [`Power::FencedWrites`](crate::Power::FencedWrites).
    pub fence: Option<Fence>,
    /// Deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl PutOptions {
    /// The same with this precondition.
    #[must_use]
    pub fn with_precondition(mut self, precondition: Precondition) -> Self {
        self.precondition = precondition;
        self
    }

    /// The same with this expiry.
    #[must_use]
    pub fn with_expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = expiry;
        self
    }

    /// The same, applied only while this lock is held; else `NotHeld`.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    timeout_setter!();
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutResult {
    /// The version it gave the key.
    pub version: Version,
    /// The time to live the backend granted, for a put with one: what was asked for, rounded up.
    pub granted_ttl: Option<Duration>,
}

impl PutResult {
    /// A put that gave the key this version.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self { version, granted_ttl: None }
    }

    /// The same with the time to live that was granted.
    #[must_use]
    pub const fn with_granted_ttl(mut self, granted: Duration) -> Self {
        self.granted_ttl = Some(granted);
        self
    }
}

/// Options of a delete.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeleteOptions {
    /// What must hold.
    pub precondition: Precondition,
    /// Whether to return the entry that was deleted.
    pub previous: bool,
    /// The lock that must be held. Needs [`Power::FencedWrites`](crate::Power::FencedWrites).
    pub fence: Option<Fence>,
    /// Deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl DeleteOptions {
    /// The same with this precondition.
    #[must_use]
    pub fn with_precondition(mut self, precondition: Precondition) -> Self {
        self.precondition = precondition;
        self
    }

    /// The same, returning the entry that was deleted.
    #[must_use]
    pub fn with_previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// The same, applied only while this lock is held; else `NotHeld`.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    timeout_setter!();
}

/// What a delete did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteResult {
    /// Whether the key existed.
    pub existed: bool,
    /// The entry that was deleted, if it was asked for.
    pub previous: Option<crate::Entry>,
}

impl DeleteResult {
    /// A delete that found nothing.
    #[must_use]
    pub fn absent() -> Self {
        Self::default()
    }

    /// A delete that found the key, with the entry if it was asked for.
    #[must_use]
    pub fn deleted(previous: Option<crate::Entry>) -> Self {
        Self { existed: true, previous }
    }
}

/// Options of a list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListOptions {
    /// The first key wanted, as a whole key and not relative to the prefix.
    pub start: Bound<Key>,
    /// The end of the range, likewise.
    pub end: Bound<Key>,
    /// At most this many items.
    pub limit: Option<usize>,
    /// Items come as [`ListItem::Key`](crate::ListItem::Key), without values or versions.
    pub keys_only: bool,
    /// Only keys directly below the prefix; what lies deeper comes as one
    /// [`ListItem::Prefix`](crate::ListItem::Prefix) for each next segment.
    pub one_level: bool,
    /// Whether to tell the expiry of each entry; see [`with_expiry`](Self::with_expiry).
    pub expiry: bool,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Deadline of each request the list makes, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            limit: None,
            keys_only: false,
            one_level: false,
            expiry: false,
            consistency: Consistency::default(),
            timeout: None,
        }
    }
}

impl ListOptions {
    /// The same, only keys within this range.
    #[must_use]
    pub fn with_range(mut self, range: impl RangeBounds<Key>) -> Self {
        self.start = range.start_bound().cloned();
        self.end = range.end_bound().cloned();
        self
    }

    /// The same, beginning behind this key: how a listing is taken up again.
    #[must_use]
    pub fn with_start_after(mut self, key: impl Into<Key>) -> Self {
        self.start = Bound::Excluded(key.into());
        self
    }

    /// The same, ending after `limit` items.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The same, without values and versions.
    #[must_use]
    pub fn with_keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// The same, telling how each entry expires. What is left of a time to live is told as of the moment
    /// the entry was read.
    ///
    /// It costs nothing for entries that never expire, and at most one request for each lease or session
    /// that entries of the list live by; nothing at all on sled and memory. On ZooKeeper it costs one request
    /// more for each entry, sent together with the one that reads it. Needs
    /// [`Power::ListExpiry`](crate::Power::ListExpiry). A list of keys only has no entries that could
    /// tell it: the two together are `InvalidArgument`.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use std::time::Duration;
    /// # use kv_core::{Store, StoreExt};
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{EntryExpiry, ListOptions, Prefix};
    ///
    /// store.put("services/api", "10.0.0.1").await?;
    /// store.put_ttl("services/web", "10.0.0.2", Duration::from_secs(30)).await?;
    /// let options = ListOptions::default().with_expiry();
    /// let entries = store.list_with(&Prefix::new("services")?, options).await?.entries().await?;
    /// assert_eq!(entries[0].expiry, Some(EntryExpiry::Never));
    /// assert!(matches!(entries[1].expiry, Some(EntryExpiry::Ttl { .. })));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_expiry(mut self) -> Self {
        self.expiry = true;
        self
    }

    /// The same, one level only.
    #[must_use]
    pub fn with_one_level(mut self) -> Self {
        self.one_level = true;
        self
    }

    /// The same with this consistency.
    #[must_use]
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Refuses options under which no item is an entry.
    pub(crate) fn refuse_keys_only(&self, prefix: &Prefix) -> Result<()> {
        if !self.keys_only {
            return Ok(());
        }
        Err(Error::invalid_argument("a list of keys only has no entries")
            .with_operation(Operation::List)
            .with_key(prefix.as_str()))
    }

    /// Whether `key` lies within the range.
    #[must_use]
    pub fn in_range(&self, key: &Key) -> bool {
        (self.start.as_ref(), self.end.as_ref()).contains(key)
    }

    timeout_setter!();
}

/// Options of a delete_tree.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeleteTreeOptions {
    /// Deadline of each request it makes, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl DeleteTreeOptions {
    timeout_setter!();
}
