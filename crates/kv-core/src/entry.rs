//! What a store holds under a key.

use std::time::Duration;

use bytes::Bytes;

use crate::key::Key;
use crate::version::Version;

/// A key with its value, as it stood at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key, relative to the store's namespace.
    pub key: Key,
    /// The value; may be empty, which is not the same as absent.
    pub value: Bytes,
    /// The version the last write gave it.
    pub version: Version,
    /// The version of the write that created it, since it was last absent.
    pub created: Version,
    /// When it goes by itself. `None` unless it was asked for: it may cost a round trip.
    pub expiry: Option<EntryExpiry>,
}

impl Entry {
    /// An entry that says nothing about expiry.
    #[must_use]
    pub fn new(key: Key, value: Bytes, version: Version, created: Version) -> Self {
        Self { key, value, version, created, expiry: None }
    }

    /// The same with its expiry.
    #[must_use]
    pub fn with_expiry(mut self, expiry: EntryExpiry) -> Self {
        self.expiry = Some(expiry);
        self
    }
}

/// How an existing entry expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryExpiry {
    /// It does not.
    Never,
    /// After a time to live.
    #[non_exhaustive]
    Ttl {
        /// The time to live the backend granted: what was asked for, rounded up.
        granted: Duration,
        /// What is left of it, where the backend tells.
        remaining: Option<Duration>,
    },
    /// With the session that wrote it.
    Session,
}

impl EntryExpiry {
    /// A time to live with, where known, what is left of it.
    #[must_use]
    pub const fn ttl(granted: Duration, remaining: Option<Duration>) -> Self {
        Self::Ttl { granted, remaining }
    }
}
