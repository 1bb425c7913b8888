//! How a kept entry is lost.

use std::fmt;

use kv_core::{Error, Key, Operation, Store};

/// Why an entry that a recipe keeps is not there, or not its own, any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EntryLoss {
    /// It was given up.
    Released,
    /// It could not be renewed in time.
    Expired,
    /// The session it lived by was lost.
    SessionLost,
    /// Somebody deleted it.
    Removed,
    /// Somebody put another value in its place.
    Replaced,
    /// The store handle was closed.
    Closed,
    /// The store refuses to keep it, or to tell of it.
    Refused(Error),
}

impl fmt::Display for EntryLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released => f.write_str("it was given up"),
            Self::Expired => f.write_str("it could not be renewed in time"),
            Self::SessionLost => f.write_str("the session it lived by was lost"),
            Self::Removed => f.write_str("somebody deleted it"),
            Self::Replaced => f.write_str("somebody put another value in its place"),
            Self::Closed => f.write_str("the store was closed"),
            Self::Refused(error) => write!(f, "the store refuses it: {error}"),
        }
    }
}

impl EntryLoss {
    /// The error of what needs the entry, after this loss.
    pub(crate) fn not_held(&self, store: &dyn Store, key: &Key, operation: Operation) -> Error {
        Error::not_held(None)
            .with_operation(operation)
            .with_backend(store.capabilities().backend)
            .with_key(key.as_str())
            .with_detail(format!("the entry is lost: {self}"))
    }
}
