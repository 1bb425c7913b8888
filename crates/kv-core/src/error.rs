//! The one error type: what failed, on what, where, and whether it may have happened all the same.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use crate::lock_loss::LockLoss;
use crate::power::Power;
use crate::text::escaped;

use self::cause::Cause;
pub use self::kind::{Applied, ErrorKind, Measured};
pub use self::operation::Operation;

mod cause;
mod kind;
mod operation;

/// What a store's methods return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

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

    /// An [`ErrorKind::Unsupported`] of something that is no power, such as an option this store does not
    /// know. See [`lacks`](Self::lacks) for a power.
    #[must_use]
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported { power: None, what: what.into() })
    }

    /// An [`ErrorKind::Unsupported`] of a power that this store does not have. A store that holds its
    /// [`Capabilities`](crate::Capabilities) calls [`require`](crate::Capabilities::require), which adds
    /// the way to get it.
    #[must_use]
    pub fn lacks(power: Power) -> Self {
        Self::new(ErrorKind::Unsupported { power: Some(power), what: power.name().to_owned() })
    }

    /// An [`ErrorKind::Refused`] with this reason.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused { reason: reason.into() })
    }

    /// An [`ErrorKind::TooLarge`]: of what, its size, and the limit in the same unit.
    #[must_use]
    pub fn too_large(of: Measured, size: usize, max: usize) -> Self {
        Self::new(ErrorKind::TooLarge { of, size, max })
    }

    /// An [`ErrorKind::NotHeld`]: why the lock is not held, where that is known.
    #[must_use]
    pub fn not_held(loss: impl Into<Option<LockLoss>>) -> Self {
        Self::new(ErrorKind::NotHeld { loss: loss.into() })
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
