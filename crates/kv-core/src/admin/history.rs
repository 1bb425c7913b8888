//! Reading the past of a store, and forgetting it.

use std::time::Duration;

use async_trait::async_trait;

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::list::Listing;
use crate::options::{CallOptions, ListOptions};
use crate::timeout::timeout_setter;
use crate::version::Version;

/// The power to read what was there before: reached by
/// [`Store::as_history`](crate::Store::as_history), declared as [`Power::History`](crate::Power::History).
///
/// Applications call [`AdminExt::get_at`](crate::AdminExt::get_at),
/// [`list_at`](crate::AdminExt::list_at), [`key_versions`](crate::AdminExt::key_versions) and
/// [`compact`](crate::AdminExt::compact), which report a store without this power as `Unsupported`.
///
/// A store keeps the state at every version from an oldest one to the newest. The oldest one moves: by
/// [`compact_with`](Self::compact_with), and by the store's own bounds (etcd: its `auto-compaction`; sled
/// and memory: the parameter `history`; on sled also a `delete_tree` of more than a few thousand entries,
/// behind which history begins anew). A state is of the whole store, whatever its namespace, and a call sees
/// the part of it that lies in the namespace.
///
/// # Errors
///
/// Each call fails with `Compacted` for a version older than the oldest one, which the error tells where the
/// store knows it, and with `InvalidArgument` for a version that is yet to come.
#[async_trait]
pub trait History: Send + Sync {
    /// The entry under `key` as it was at version `at`, or `None` if the key was absent.
    ///
    /// The entry does not tell how it expired.
    async fn get_at_with(&self, key: &Key, at: Version, options: CallOptions) -> Result<Option<Entry>>;

    /// The entries strictly below `prefix` as they were at version `at`, in byte order of the key, as a
    /// stream. [`Listing::as_of`] is `at`.
    ///
    /// # Errors
    ///
    /// The stream ends with `Compacted` if the version is compacted away while it is read.
    async fn list_at_with(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing>;

    /// Every version of `key` that the store still keeps, the oldest first: first the entry as it was at the
    /// oldest version, if the key existed then, and after it each put and each deletion.
    ///
    /// It takes memory for what it returns; [`VersionsOptions::with_limit`] bounds it.
    ///
    /// # Errors
    ///
    /// On etcd before 3.4.25 and 3.5.8 `Unsupported` for a key that is absent now, because those servers do
    /// not say when they have told everything.
    async fn versions_with(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>>;

    /// Forgets every state before `up_to`, for everybody who uses the store, and returns the oldest version
    /// that can still be read. The state at `up_to` and all later ones stay.
    ///
    /// A version that is no newer than the oldest one is no error and changes nothing. The call is never sent
    /// twice; it does no harm to make it again after an error with `applied() == Unknown`.
    ///
    /// Watches and lists that stand at an older version than `up_to` are told as of any compaction: a watch
    /// that falls behind gets `Resync`, a list ends with `Compacted`.
    ///
    /// # Errors
    ///
    /// etcd lets every client compact, also one without credentials; the other stores are this process's.
    async fn compact_with(&self, up_to: Version, options: CallOptions) -> Result<Version>;
}

/// Options of [`History::versions_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VersionsOptions {
    /// At most this many versions: the newest ones. `None`, the default, returns all.
    pub limit: Option<usize>,
    /// The deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl VersionsOptions {
    /// The same with at most this many versions: the newest ones.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    timeout_setter!();
}

/// What one change left of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyVersion {
    /// The version of the change.
    pub version: Version,
    /// The entry that was put, or `None` for a deletion or an expiry.
    pub entry: Option<Entry>,
}

impl KeyVersion {
    /// A put that left this entry.
    #[must_use]
    pub fn put(entry: Entry) -> Self {
        Self { version: entry.version, entry: Some(entry) }
    }

    /// A deletion at this version.
    #[must_use]
    pub fn deleted(version: Version) -> Self {
        Self { version, entry: None }
    }
}

const _: fn(&dyn History) = |_| {};
