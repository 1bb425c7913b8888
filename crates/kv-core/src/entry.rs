//! What a store holds under a key.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
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

    /// The value as text.
    ///
    /// # Errors
    ///
    /// `InvalidValue` if it is not UTF-8; the error names the key and not the value.
    ///
    /// ```
    /// # use kv_core::{Bytes, Entry, Version};
    /// let entry = |value| Entry::new("a".parse().unwrap(), value, Version::new(2), Version::new(1));
    /// assert_eq!(entry(Bytes::from_static(b"on")).text()?, "on");
    /// assert!(entry(Bytes::from_static(b"\xff")).text().is_err());
    /// # Ok::<(), kv_core::Error>(())
    /// ```
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.value).map_err(|error| {
            let reason = format!("it is not UTF-8 text: {error}");
            Error::new(ErrorKind::InvalidValue { reason }).with_key(self.key.as_str())
        })
    }

    /// Whether the write that made this entry created the key: nobody has changed it since.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.version == self.created
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
