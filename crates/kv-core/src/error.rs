//! The one error type: what failed, on what, where, and whether it may have happened all the same.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::text::{duration, escaped};
use crate::version::Version;

/// What a store's methods return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

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
    #[error("too large: {size}, the limit is {max}")]
    TooLarge {
        /// What was given, in bytes, or in operations for a transaction with too many.
        size: usize,
        /// The limit, in the same unit.
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
    /// This store does not have this power; nothing was changed.
    #[error("not supported by this store: {what}")]
    Unsupported {
        /// The power, and where there is one the way to get it.
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
    #[error("the lock is not held")]
    NotHeld,
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
    fn escaped(self) -> Self {
        match self {
            Self::InvalidKey { reason } => Self::InvalidKey { reason: escaped(reason) },
            Self::InvalidValue { reason } => Self::InvalidValue { reason: escaped(reason) },
            Self::InvalidArgument { reason } => Self::InvalidArgument { reason: escaped(reason) },
            Self::InvalidConfig { reason } => Self::InvalidConfig { reason: escaped(reason) },
            Self::Unsupported { what } => Self::Unsupported { what: escaped(what) },
            Self::Refused { reason } => Self::Refused { reason: escaped(reason) },
            // The scheme is shown quoted, and the known ones come from drivers.
            other => other,
        }
    }

    /// Whether the failure by itself proves that nothing was changed.
    const fn is_definite(&self) -> bool {
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

/// Whether a failed write may have been applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not and will not be: sending it again is safe.
    No,
    /// It was applied fully, or not at all, or still may be: read before you send it again.
    Unknown,
}

/// What was being done when an error occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the store method of that name")]
pub enum Operation {
    Open,
    Get,
    Put,
    Delete,
    List,
    DeleteTree,
    Watch,
    Lock,
    Unlock,
    LockHolder,
    WatchLock,
    Locks,
    BreakLock,
    Transact,
    GetAt,
    ListAt,
    Versions,
    Compact,
    Members,
    SetEndpoints,
    RemoveMember,
    AddMember,
    PromoteMember,
    UpdateMember,
    TransferLeadership,
    Sizes,
    Defragment,
    AddUser,
    RemoveUser,
    SetPassword,
    Grant,
    Revoke,
    User,
    Users,
    Session,
    Server,
    Close,
}

impl Operation {
    /// The name, as used in error texts and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::DeleteTree => "delete_tree",
            Self::Watch => "watch",
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::LockHolder => "lock_holder",
            Self::WatchLock => "watch_lock",
            Self::Locks => "locks",
            Self::BreakLock => "break_lock",
            Self::Transact => "transact",
            Self::GetAt => "get_at",
            Self::ListAt => "list_at",
            Self::Versions => "versions",
            Self::Compact => "compact",
            Self::Members => "members",
            Self::SetEndpoints => "set_endpoints",
            Self::RemoveMember => "remove_member",
            Self::AddMember => "add_member",
            Self::PromoteMember => "promote_member",
            Self::UpdateMember => "update_member",
            Self::TransferLeadership => "transfer_leadership",
            Self::Sizes => "sizes",
            Self::Defragment => "defragment",
            Self::AddUser => "add_user",
            Self::RemoveUser => "remove_user",
            Self::SetPassword => "set_password",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::User => "user",
            Self::Users => "users",
            Self::Session => "session",
            Self::Server => "server",
            Self::Close => "close",
        }
    }

    /// Whether it changes anything in the store.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Self::Put
                | Self::Delete
                | Self::DeleteTree
                | Self::Lock
                | Self::Unlock
                | Self::BreakLock
                | Self::Transact
                | Self::Compact
                | Self::RemoveMember
                | Self::AddMember
                | Self::PromoteMember
                | Self::UpdateMember
                | Self::TransferLeadership
                | Self::Defragment
                | Self::AddUser
                | Self::RemoveUser
                | Self::SetPassword
                | Self::Grant
                | Self::Revoke
        )
    }

    /// Whether it is one of the administrative calls, which nobody repeats but the caller.
    #[must_use]
    pub const fn is_administrative(self) -> bool {
        matches!(
            self,
            Self::Compact
                | Self::Members
                | Self::SetEndpoints
                | Self::RemoveMember
                | Self::AddMember
                | Self::PromoteMember
                | Self::UpdateMember
                | Self::TransferLeadership
                | Self::Sizes
                | Self::Defragment
                | Self::AddUser
                | Self::RemoveUser
                | Self::SetPassword
                | Self::Grant
                | Self::Revoke
                | Self::User
                | Self::Users
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an operation failed, on what and where.
///
/// `Display` says what was done, on which backend and key, what went wrong and what was found; it
/// never repeats [`source`](std::error::Error::source), values or secrets. `Debug` is the same sentence
/// with all causes, because that is what a `main` that returns an error prints; `{:#?}` shows the
/// parts.
///
/// Text from outside (a server's words, an endpoint, what a cause says) is [escaped](crate::text::escape)
/// as it enters, so that no form of an error acts on a terminal. [`key`](Self::key) is the exception: it
/// is the key as it is, for programs, and `Display` quotes it.
///
/// Clones are cheap enough for a failure that many waiters are told of; they share the cause.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    applied: Applied,
    operation: Option<Operation>,
    backend: Option<&'static str>,
    key: Option<String>,
    endpoint: Option<String>,
    detail: Option<String>,
    cause: Option<Cause>,
}

impl Error {
    /// A failure of this kind, about which nothing else is known yet.
    ///
    /// [`applied`](Self::applied) starts as `No` for refusals and as `Unknown` for failures that can
    /// hide a write (timeouts, lost connections, nonsense answers, a full disk).
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        let applied = if kind.is_definite() { Applied::No } else { Applied::Unknown };
        Self(Box::new(Inner {
            kind: kind.escaped(),
            applied,
            operation: None,
            backend: None,
            key: None,
            endpoint: None,
            detail: None,
            cause: None,
        }))
    }

    /// An [`ErrorKind::InvalidArgument`] with this reason.
    #[must_use]
    pub fn invalid_argument(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument { reason: reason.into() })
    }

    /// An [`ErrorKind::InvalidConfig`] with this reason.
    #[must_use]
    pub fn invalid_config(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig { reason: reason.into() })
    }

    /// An [`ErrorKind::Unsupported`] naming the power.
    #[must_use]
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported { what: what.into() })
    }

    /// What to do when [`out_of_files`](Self::out_of_files) is the reason.
    pub const OUT_OF_FILES: &str =
        "this process or machine has no file descriptors left: close some, or raise the limit (ulimit -n)";

    /// For store authors: an [`ErrorKind::Unavailable`] that says so, if this failure or one of its
    /// causes is that no file or connection could be opened for want of file descriptors. Nothing was
    /// sent then, so nothing was applied.
    ///
    /// ```
    /// use kv_core::{Error, ErrorKind};
    ///
    /// let refused = std::io::Error::from_raw_os_error(24); // EMFILE
    /// let error = Error::out_of_files(&refused).map(|error| error.kind().clone());
    /// # #[cfg(unix)]
    /// assert_eq!(error, Some(ErrorKind::Unavailable));
    /// ```
    #[must_use]
    pub fn out_of_files(failure: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut at = Some(failure);
        while let Some(cause) = at {
            // Crates between us and the system hand on the text and not always the number.
            let text = cause.to_string();
            if cfg!(unix) && ["(os error 24)", "(os error 23)"].iter().any(|sign| text.contains(sign)) {
                return Some(Self::new(ErrorKind::Unavailable).with_detail(Self::OUT_OF_FILES).not_applied());
            }
            at = cause.source();
        }
        None
    }

    /// The same, naming the operation, unless one is named already.
    #[must_use]
    pub fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// The same, naming the backend, unless one is named already.
    #[must_use]
    pub fn with_backend(mut self, backend: &'static str) -> Self {
        self.0.backend.get_or_insert(backend);
        self
    }

    /// The same, naming the key or prefix, unless one is named already.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        if self.0.key.is_none() {
            self.0.key = Some(key.into());
        }
        self
    }

    /// The same with its key, if it names one, as this function maps it: for layers that show keys under
    /// other names.
    #[must_use]
    pub fn map_key(mut self, map: impl FnOnce(&str) -> String) -> Self {
        self.0.key = self.0.key.map(|key| map(&key));
        self
    }

    /// The same, naming the endpoint; without credentials.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        if self.0.endpoint.is_none() {
            self.0.endpoint = Some(escaped(endpoint.into()));
        }
        self
    }

    /// The same with a sentence for people: what was expected, what was found, what to do. One line.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(escaped(detail.into()));
        self
    }

    /// The same with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.cause = Some(Cause::new(Arc::from(source.into())));
        self
    }

    /// The same, sure that nothing was or will be changed.
    #[must_use]
    pub fn not_applied(mut self) -> Self {
        self.0.applied = Applied::No;
        self
    }

    /// The same, not sure whether the write was applied.
    #[must_use]
    pub fn maybe_applied(mut self) -> Self {
        self.0.applied = Applied::Unknown;
        self
    }

    /// Why it failed.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether the write may have been applied all the same; always `No` for reads.
    #[must_use]
    pub fn applied(&self) -> Applied {
        match self.0.operation {
            Some(operation) if !operation.is_write() => Applied::No,
            _ => self.0.applied,
        }
    }

    /// What was being done.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation
    }

    /// The backend's name.
    #[must_use]
    pub fn backend(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// The key or prefix it was about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The endpoint that failed, where there is one.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// The error that caused it, as it came: for programs that look at its type. Its text is not
    /// escaped; what is fit to be printed is [`source`](std::error::Error::source).
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(Cause::original)
    }

    /// Whether the key's state was not what the caller expected: read again and decide again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::NotFound | ErrorKind::AlreadyExists { .. } | ErrorKind::PreconditionFailed { .. }
        )
    }

    /// Whether the same call may succeed later without anybody changing anything.
    ///
    /// Check [`applied`](Self::applied) too before sending a write again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Overloaded)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, operation, backend, key, endpoint, detail, .. } = &*self.0;
        if let Some(backend) = backend {
            write!(f, "{backend}: ")?;
        }
        match (operation, key) {
            (Some(operation), Some(key)) => write!(f, "{operation} {key:?}: ")?,
            (Some(operation), None) => write!(f, "{operation}: ")?,
            (None, Some(key)) => write!(f, "{key:?}: ")?,
            (None, None) => {}
        }
        write!(f, "{kind}")?;
        if let Some(detail) = detail {
            write!(f, ": {detail}")?;
        }
        if let Some(endpoint) = endpoint {
            write!(f, " (at {endpoint})")?;
        }
        if operation.is_some_and(Operation::is_write) && self.applied() == Applied::Unknown {
            f.write_str("; it may have been applied")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f
                .debug_struct("Error")
                .field("kind", &self.0.kind)
                .field("operation", &self.0.operation)
                .field("backend", &self.0.backend)
                .field("key", &self.0.key)
                .field("endpoint", &self.0.endpoint)
                .field("detail", &self.0.detail)
                .field("applied", &self.applied())
                .field("cause", &self.0.cause)
                .finish();
        }
        let mut told = self.to_string();
        f.write_str(&told)?;
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many errors repeat their causes in their own text.
            if !told.contains(&text) {
                write!(f, "; caused by: {text}")?;
                told.push_str(&text);
            }
            next = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(|cause| cause as _)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
