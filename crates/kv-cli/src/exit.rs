//! What can go wrong, and the exit code and words for it.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use kv_core::ErrorKind;

/// The command line makes no sense; the store was not, or would not be, asked.
pub(crate) const USAGE: u8 = 2;
/// The key is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// The store is not in the state the command was made for.
pub(crate) const CONFLICT: u8 = 4;
/// Time ran out before there was an answer, the lock or the sled directory; or the lock was lost.
pub(crate) const TIMEOUT: u8 = 5;
/// The store cannot be reached, or does not allow it.
pub(crate) const UNREACHABLE: u8 = 6;
/// Anything else.
pub(crate) const OTHER: u8 = 1;
/// What a shell reports of a process that a signal ended, less the signal.
pub(crate) const SIGNALLED: u8 = 128;

/// The number of SIGPIPE everywhere.
const SIGPIPE: u8 = 13;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The store said so.
    #[error(transparent)]
    Store(#[from] kv_core::Error),
    /// As [`Store`](Self::Store), with what to do about it.
    #[error("{error}\n{advice}")]
    Advised { error: kv_core::Error, advice: String },
    /// The command line or the input is wrong.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    /// The lock was not acquired, or was lost.
    #[error("{0}")]
    NoLock(String),
    #[error("{what}")]
    Io { what: String, source: io::Error },
    /// The command to be run under a lock could not be started; with the code a shell would give.
    #[error("cannot run {command:?}")]
    Spawn { command: String, code: u8, source: io::Error },
    /// The work was done in part, or a check failed; all has been said already.
    #[error("{message}")]
    Incomplete { message: String, code: u8 },
    /// Whoever read the output went away.
    #[error("nobody reads the output any more")]
    BrokenPipe,
    /// A signal ended the command.
    #[error("ended by signal {0}")]
    Signal(u8),
}

impl Failure {
    /// An I/O error, and what was being done.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Store(error) | Self::Advised { error, .. } => of_kind(error.kind()),
            Self::Usage(_) => USAGE,
            Self::NotFound(_) => NOT_FOUND,
            Self::NoLock(_) => TIMEOUT,
            Self::Io { .. } => OTHER,
            Self::Spawn { code, .. } | Self::Incomplete { code, .. } => *code,
            Self::BrokenPipe => SIGNALLED + SIGPIPE,
            Self::Signal(number) => SIGNALLED.saturating_add(*number),
        }
    }

    /// The words for it, and what caused it as far as that adds something, or all of that;
    /// `None` where a command ends without a word.
    pub(crate) fn report(&self, all: bool) -> Option<String> {
        if matches!(self, Self::BrokenPipe | Self::Signal(_)) {
            return None;
        }
        let mut text = format!("kv: {self}");
        let mut source = match self {
            Self::Advised { error, .. } => error.source(),
            other => other.source(),
        };
        while let Some(cause) = source {
            let words = cause.to_string();
            // Some libraries repeat their source in their own text, or print themselves for programmers.
            if all || !(text.contains(&words) || is_dump(&words) || is_layer(&words)) {
                // Writing to a string cannot fail.
                let _ = write!(text, "\n  caused by: {words}");
            }
            source = cause.source();
        }
        Some(text)
    }
}

/// Whether this says only which layer of a client crate hands a cause on.
fn is_layer(words: &str) -> bool {
    ["transport error", "tcp connect error", "error sending request", "client error ("]
        .iter()
        .any(|layer| words.starts_with(layer) && !words.contains(": "))
}

/// Whether this is how a value looks to a programmer.
fn is_dump(words: &str) -> bool {
    ["source: ", "Error(", "Error {", "code: '"].iter().any(|mark| words.contains(mark))
}

/// The exit code for what a store answered.
pub(crate) fn of_kind(kind: &ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidKey { .. }
        | ErrorKind::InvalidValue { .. }
        | ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidConfig { .. }
        | ErrorKind::UnknownScheme { .. }
        | ErrorKind::TooLarge { .. }
        | ErrorKind::TtlOutOfRange { .. }
        | ErrorKind::Unsupported { .. } => USAGE,
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::AlreadyExists { .. }
        | ErrorKind::PreconditionFailed { .. }
        | ErrorKind::Compacted { .. } => CONFLICT,
        ErrorKind::Timeout | ErrorKind::Locked | ErrorKind::NotHeld { .. } | ErrorKind::InUse { .. } => {
            TIMEOUT
        }
        ErrorKind::Unavailable
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Overloaded => UNREACHABLE,
        // No space, corrupt, protocol, closed, internal, and what a later kv-core adds.
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kv_core::{Error, Operation};

    use super::*;
    use kv_core::Measured;

    #[test]
    fn every_kind_has_its_code() {
        let text = String::new;
        let table = [
            (ErrorKind::InvalidKey { reason: text() }, 2),
            (ErrorKind::InvalidValue { reason: text() }, 2),
            (ErrorKind::InvalidArgument { reason: text() }, 2),
            (ErrorKind::InvalidConfig { reason: text() }, 2),
            (ErrorKind::UnknownScheme { scheme: text(), known: Vec::new() }, 2),
            (ErrorKind::TooLarge { of: Measured::Value, size: 2, max: 1 }, 2),
            (ErrorKind::TtlOutOfRange { min: Duration::ZERO, max: Duration::MAX }, 2),
            (ErrorKind::Unsupported { power: None, what: text() }, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::AlreadyExists { current: None }, 4),
            (ErrorKind::PreconditionFailed { current: None }, 4),
            (ErrorKind::Compacted { oldest: None }, 4),
            (ErrorKind::Locked, 5),
            (ErrorKind::NotHeld { loss: None }, 5),
            (ErrorKind::Timeout, 5),
            (ErrorKind::InUse { holder: None }, 5),
            (ErrorKind::Unavailable, 6),
            (ErrorKind::Unauthenticated, 6),
            (ErrorKind::PermissionDenied, 6),
            (ErrorKind::Overloaded, 6),
            (ErrorKind::NoSpace, 1),
            (ErrorKind::Corrupt, 1),
            (ErrorKind::Protocol, 1),
            (ErrorKind::Closed, 1),
            (ErrorKind::Internal, 1),
        ];
        for (kind, code) in table {
            assert_eq!(of_kind(&kind), code, "{kind:?}");
            assert_eq!(Failure::from(Error::new(kind)).code(), code);
        }
    }

    #[test]
    fn a_report_tells_every_cause_once() {
        let inner = io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Unavailable).with_operation(Operation::Get).with_source(inner);
        let report = Failure::from(error).report(false).unwrap();
        assert_eq!(report, "kv: get: unavailable\n  caused by: connection refused");

        // What was said already and what is a dump for programmers is told on request.
        let dump =
            "code: 'The service is currently unavailable', source: tonic::transport::Error(Transport, x)";
        for cause in ["unavailable", dump, "transport error", "client error (Connect)"] {
            let error = Error::new(ErrorKind::Unavailable).with_source(io::Error::other(cause));
            let failure = Failure::from(error);
            assert_eq!(failure.report(false).unwrap(), "kv: unavailable");
            assert_eq!(failure.report(true).unwrap(), format!("kv: unavailable\n  caused by: {cause}"));
        }

        let failure = Failure::io("cannot read \"x\"", io::Error::other("gone"));
        assert_eq!(failure.report(false).unwrap(), "kv: cannot read \"x\"\n  caused by: gone");
    }

    #[test]
    fn what_a_signal_ended_says_nothing() {
        assert_eq!(Failure::Signal(2).report(false), None);
        assert_eq!(Failure::Signal(2).code(), 130);
        assert_eq!(Failure::BrokenPipe.code(), 141);
    }
}
