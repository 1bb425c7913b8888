//! Why an operation failed, with what a program can decide by.

use std::fmt;
use std::time::Duration;

use crate::lock_loss::LockLoss;
use crate::power::Power;
use crate::text::{duration, escaped};
use crate::version::Version;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key, prefix or namespace breaks a rule; refused before any I/O.
    #[error("invalid key: {reason}")]
    InvalidKey {
        /// The rule.
        reason: String,
    },
    /// The value cannot be stored or decoded; the value itself is not repeated.
    #[error("invalid value: {reason}")]
    InvalidValue {
        /// What is wrong with it.
        reason: String,
    },
    /// An option, or a combination of options, makes no sense; refused before any I/O.
    #[error("invalid argument: {reason}")]
    InvalidArgument {
        /// What is wrong with it.
        reason: String,
    },
    /// The URL or configuration a store was to be opened with is wrong.
    #[error("invalid configuration: {reason}")]
    InvalidConfig {
        /// What is wrong with it.
        reason: String,
    },
    /// No driver is registered for the URL's scheme.
    #[error("no driver for the scheme {scheme:?}; known: {}", known.join(", "))]
    UnknownScheme {
        /// The scheme asked for.
        scheme: String,
        /// The schemes that are registered.
        known: Vec<String>,
    },
    /// The value or transaction is larger than the backend takes; refused before any I/O.
    #[error("{of} is too large: {size} {}, the limit is {max}", of.unit())]
    TooLarge {
        /// What is too large, and so the unit of both numbers.
        of: Measured,
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The time to live, of a key or a lock, is outside what the backend can keep.
    #[error("{}", ttl_range(min, max))]
    TtlOutOfRange {
        /// The shortest that is kept.
        min: Duration,
        /// The longest that is kept.
        max: Duration,
    },
    /// This store cannot do this; nothing was changed.
    #[error("not supported by this store: {what}")]
    Unsupported {
        /// The power that the store does not have; `None` for what is no power, such as an option that the
        /// store does not know.
        power: Option<Power>,
        /// The power's name or what else is not supported, and where there is one the way to get it.
        what: String,
    },
    /// The key, or the member or user of an administrative call, does not exist and the operation needs it
    /// to.
    #[error("it does not exist")]
    NotFound,
    /// The key, or the member or user of an administrative call, exists and the operation needs it not to.
    #[error("it exists already{}", found(current))]
    AlreadyExists {
        /// Its version, seen after the refusal; `None` where it had gone again.
        current: Option<Version>,
    },
    /// The version or value is not the expected one.
    #[error("the precondition does not hold{}", found_or_absent(current))]
    PreconditionFailed {
        /// The version seen after the refusal; `None`: the key was absent.
        current: Option<Version>,
    },
    /// History before this point is gone: list again and watch from there.
    #[error("the history asked for is gone{}", oldest_known(oldest))]
    Compacted {
        /// The oldest version that can still be watched from, where the backend tells.
        oldest: Option<Version>,
    },
    /// The lock is held by somebody else and the wait is over.
    #[error("the lock is held by another")]
    Locked,
    /// The lock is not, or no longer, held: nothing was changed.
    #[error("the lock is not held{}", because(loss))]
    NotHeld {
        /// Why this process lost it, where it knows. `None` where only the backend says that it is not held.
        loss: Option<LockLoss>,
    },
    /// The servers, or the store on their behalf, do not do this as things stand: a change that would leave
    /// a cluster without its quorum, or that another must come before. Nothing was changed.
    #[error("refused: {reason}")]
    Refused {
        /// What stands against it, and what to do.
        reason: String,
    },
    /// The deadline passed.
    #[error("deadline exceeded")]
    Timeout,
    /// The backend cannot be reached or cannot serve: no connection, no leader, shutting down.
    #[error("unavailable")]
    Unavailable,
    /// The credentials are missing or wrong.
    #[error("unauthenticated")]
    Unauthenticated,
    /// The credentials are good and do not allow this.
    #[error("permission denied")]
    PermissionDenied,
    /// The backend has no space left; reads still work.
    #[error("no space left")]
    NoSpace,
    /// The backend turned the request away because it has too many.
    #[error("overloaded")]
    Overloaded,
    /// Another process has the store open.
    #[error("in use by another process{}", pid(holder))]
    InUse {
        /// Its process id, where known.
        holder: Option<u32>,
    },
    /// What is stored is damaged.
    #[error("stored data is corrupt")]
    Corrupt,
    /// The server answered something that makes no sense.
    #[error("protocol violation")]
    Protocol,
    /// The store handle was closed.
    #[error("the store is closed")]
    Closed,
    /// A defect in the backend crate; please report it.
    #[error("internal error")]
    Internal,
}

impl ErrorKind {
    /// The same with its texts made harmless: they can come from a server or a file.
    pub(super) fn escaped(self) -> Self {
        match self {
            Self::InvalidKey { reason } => Self::InvalidKey { reason: escaped(reason) },
            Self::InvalidValue { reason } => Self::InvalidValue { reason: escaped(reason) },
            Self::InvalidArgument { reason } => Self::InvalidArgument { reason: escaped(reason) },
            Self::InvalidConfig { reason } => Self::InvalidConfig { reason: escaped(reason) },
            Self::Unsupported { power, what } => Self::Unsupported { power, what: escaped(what) },
            Self::Refused { reason } => Self::Refused { reason: escaped(reason) },
            // The scheme is shown quoted, and the known ones come from drivers.
            other => other,
        }
    }

    /// Whether the failure by itself proves that nothing was changed.
    pub(super) const fn is_definite(&self) -> bool {
        !matches!(
            self,
            Self::Timeout
                | Self::Unavailable
                | Self::Corrupt
                | Self::Protocol
                | Self::Internal
                | Self::NoSpace
        )
    }
}

fn ttl_range(min: &Duration, max: &Duration) -> String {
    let (shortest, longest) = (duration(*min), duration(*max));
    if min == max {
        return format!("the time to live must be {shortest}");
    }
    format!("the time to live must be from {shortest} to {longest}")
}

fn because(loss: &Option<LockLoss>) -> String {
    loss.map(|loss| format!(": {loss}")).unwrap_or_default()
}

fn found(current: &Option<Version>) -> String {
    current.map(|version| format!(", at version {version}")).unwrap_or_default()
}

fn found_or_absent(current: &Option<Version>) -> String {
    current
        .map_or_else(|| ": the key is absent".to_owned(), |version| format!(": it is at version {version}"))
}

fn oldest_known(oldest: &Option<Version>) -> String {
    oldest.map(|version| format!("; the oldest is {version}")).unwrap_or_default()
}

fn pid(holder: &Option<u32>) -> String {
    holder.map(|pid| format!(" (process id {pid})")).unwrap_or_default()
}

/// What can be too large: [`ErrorKind::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Measured {
    /// A value, in bytes: [`Limits::max_value`](crate::Limits).
    Value,
    /// A value that a precondition or condition compares with, in bytes: the same limit.
    ComparedValue,
    /// The owner value of a lock, in bytes: the same limit.
    OwnerValue,
    /// The operations of a transaction: conditions plus the larger branch,
    /// [`Limits::max_txn_ops`](crate::Limits).
    TxnOps,
    /// The keys and values of a transaction, in bytes: [`Limits::max_txn_bytes`](crate::Limits).
    TxnBytes,
    /// What would be sent to the server, in bytes.
    Request,
}

impl Measured {
    /// What both numbers of the error count.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::TxnOps => "conditions and operations",
            Self::Value | Self::ComparedValue | Self::OwnerValue | Self::TxnBytes | Self::Request => "bytes",
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "the value",
            Self::ComparedValue => "the value that is compared",
            Self::OwnerValue => "the owner value of the lock",
            Self::TxnOps | Self::TxnBytes => "the transaction",
            Self::Request => "the request",
        })
    }
}

/// Whether a failed write may have been applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not and will not be: sending it again is safe.
    No,
    /// It was applied fully, or not at all, or still may be: read before you send it again.
    Unknown,
}
