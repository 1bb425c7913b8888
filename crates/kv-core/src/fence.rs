//! What ties a write to a lock.

use std::fmt;
use std::sync::Arc;

use crate::key::Key;
use crate::version::FencingToken;

/// What proves to the backend that a lock is still held, for writes that depend on it.
///
/// Cloneable and cheap; it does not keep the lock. A write that carries it is applied only while that
/// very acquisition holds, by the server's account.
#[derive(Clone, PartialEq, Eq)]
pub struct Fence {
    key: Key,
    token: FencingToken,
    record: Arc<str>,
}

impl Fence {
    /// For store authors: the fence of this acquisition. `record` is the backend's own name for it
    /// (a lock key, a session, a node path) and is meaningless to anybody else.
    pub fn new(key: Key, token: FencingToken, record: impl Into<Arc<str>>) -> Self {
        Self { key, token, record: record.into() }
    }

    /// For layers that show keys under other names: the same fence with this name of the lock.
    #[must_use]
    pub fn with_key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// The lock's key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The number of the acquisition.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// For store authors: the backend's own name for the acquisition.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.record
    }
}

impl fmt::Debug for Fence {
    // The record can be a session id, with which a stranger could release the lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("key", &self.key).field("token", &self.token).finish_non_exhaustive()
    }
}
