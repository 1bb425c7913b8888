//! Versions and fencing tokens: numbers that only grow.

use std::fmt;

/// The version of one key, given by the write that made it.
///
/// Every successful write of a key gives it a version greater than any it had before, across delete
/// and re-create and across restarts. All versions of one store come from one counter, so versions
/// of different keys compare too. Versions of different stores do not.
///
/// etcd: `mod_revision`. Consul: `ModifyIndex`. ZooKeeper: `mzxid`. sled and memory: one store-wide
/// counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Before every write: watching from here delivers all the history there is.
    pub const ZERO: Self = Self(0);

    /// The version with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Version {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The number of one acquisition of a lock; each later acquisition of the same lock has a greater one.
///
/// Hand it to the resource the lock protects and let the resource refuse a smaller one: a process
/// that was stopped may believe it holds a lock it has lost, and only the resource can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
