//! Why a hold of a lock ended.

use std::fmt;

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockLoss {
    /// It was unlocked, or its guard was dropped.
    Released,
    /// It could not be renewed in time.
    Expired,
    /// Its record was removed from outside.
    Removed,
    /// The session it lived by was lost.
    SessionLost,
    /// It was held longer than `max_hold`.
    HeldTooLong,
    /// The store handle was closed.
    Closed,
    /// The backend withdrew the right to hold it.
    PermissionDenied,
}

impl fmt::Display for LockLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Released => "it was released",
            Self::Expired => "it could not be renewed in time",
            Self::Removed => "its record was removed from outside",
            Self::SessionLost => "the session it lived by was lost",
            Self::HeldTooLong => "it was held longer than its maximum",
            Self::Closed => "the store was closed",
            Self::PermissionDenied => "the right to hold it was withdrawn",
        })
    }
}
