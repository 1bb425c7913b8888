//! What etcd and its client fail with, as errors of ours: one total function, and what to do next.

use std::error::Error as StdError;
use std::time::Duration;

use etcd_client as native;
use kv_core::{Error, ErrorKind, TtlRange};
use tonic::{Code, ConnectError, Status};

/// The name of this backend in errors and capabilities.
pub(crate) const BACKEND: &str = "etcd";

/// The longest time to live etcd takes.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);
pub(crate) const MAX_TTL_SECONDS: i64 = 9_000_000_000;
/// The shortest it keeps with its default election timeout of one second.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(2);

/// The time to live of keys and locks: whole seconds.
pub(crate) const TTL: TtlRange = TtlRange::new(MIN_TTL, MAX_TTL, Duration::from_secs(1));

/// What a failed request leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: the caller must know.
    Stop,
    /// Sign in once more and repeat it: it was refused for its token.
    SignIn,
    /// It was not sent: another endpoint may take it.
    Elsewhere,
    /// It was refused for want of a leader: repeat it in a moment, elsewhere.
    Wait,
    /// It may have been carried out: repeat it if that does no harm.
    Again,
}

/// What the native client fails with, as an error of ours and what to do next.
pub(crate) fn classify(error: native::Error) -> (Error, Next) {
    use native::Error as E;
    match error {
        E::GRpcStatus(status) => from_status(status),
        // Requests fail with a status; this is an endpoint or TLS settings that cannot be used.
        E::TransportError(error) => {
            let told = Error::out_of_files(&error);
            let told = told.unwrap_or_else(|| Error::invalid_config(plain(&chain(&error))));
            (told.with_source(error), Next::Stop)
        }
        E::IoError(error) => {
            (Error::out_of_files(&error).unwrap_or_else(|| broken(&error)).with_source(error), Next::Again)
        }
        // The stream's own task ended: its connection is gone.
        error @ (E::WatchError(_) | E::LeaseKeepAliveError(_) | E::ElectError(_)) => {
            (broken(&error).with_source(error), Next::Again)
        }
        error @ (E::InvalidUri(_) | E::EndpointError(_) | E::EndpointsNotManaged) => {
            (Error::invalid_config("an endpoint is not a host and a port").with_source(error), Next::Stop)
        }
        error @ E::InvalidArgs(_) => (Error::invalid_argument(error.to_string()), Next::Stop),
        // The sign-in's answer: its text could be the token.
        E::InvalidMetadataValue(_) => (nonsense("a token that cannot be sent").not_applied(), Next::Stop),
        E::Utf8Error(error) => (nonsense("text that is not UTF-8").with_source(error), Next::Stop),
        error @ E::Internal(_) => (Error::new(ErrorKind::Internal).with_source(error), Next::Stop),
    }
}

/// What a status means. Codes alone do not tell: etcd's own texts do.
fn from_status(status: Status) -> (Error, Next) {
    if let Some(words) = connect_failure(&status) {
        let error = Error::out_of_files(&status).unwrap_or_else(|| unreachable(words));
        return (error.with_source(status), Next::Elsewhere);
    }
    let text = status.message().strip_prefix("etcdserver: ").unwrap_or(status.message()).to_owned();
    let says = |part: &str| text.contains(part);
    let (kind, detail, next) = match status.code() {
        // Made here, by the client's transport: no server said so.
        _ if status.source().is_some() => return (broken(&status).with_source(status), Next::Again),

        Code::Unauthenticated => (ErrorKind::Unauthenticated, text, Next::SignIn),
        Code::InvalidArgument if says("revision of auth store is old") => {
            (ErrorKind::Unauthenticated, text, Next::SignIn)
        }
        Code::InvalidArgument if says("authentication failed") => {
            (ErrorKind::Unauthenticated, "the user or the password is wrong".to_owned(), Next::Stop)
        }
        // With a user configured, the sign-in was skipped while the server had authentication off.
        Code::InvalidArgument if says("user name is empty") => {
            (ErrorKind::Unauthenticated, "the server asks for a user and a password".to_owned(), Next::SignIn)
        }
        Code::PermissionDenied => (ErrorKind::PermissionDenied, text, Next::Stop),

        Code::OutOfRange if says("has been compacted") => {
            (ErrorKind::Compacted { oldest: None }, text, Next::Stop)
        }
        Code::OutOfRange if says("too large lease TTL") => {
            (ErrorKind::TtlOutOfRange { min: MIN_TTL, max: MAX_TTL }, text, Next::Stop)
        }
        // Of a member that lags behind another one, or of a cluster that was set back.
        Code::OutOfRange if says("future revision") => {
            let error = Error::new(ErrorKind::Unavailable).not_applied().with_detail(text);
            return (error.with_source(status), Next::Stop);
        }
        Code::OutOfRange => (ErrorKind::Protocol, text, Next::Stop),

        Code::ResourceExhausted if says("database space exceeded") => (
            ErrorKind::NoSpace,
            "the database is full: compact and defragment it, then clear the alarm, or raise its quota"
                .to_owned(),
            Next::Stop,
        ),
        Code::ResourceExhausted if says("larger than max") => too_large(&text),
        Code::ResourceExhausted => (ErrorKind::Overloaded, text, Next::Stop),
        Code::InvalidArgument if says("request is too large") => too_large(&text),
        Code::InvalidArgument => (ErrorKind::InvalidArgument { reason: text.clone() }, text, Next::Stop),

        // Handled where leases are used; see `lease_gone`.
        Code::NotFound if says("lease not found") => {
            return (
                Error::new(ErrorKind::Unavailable)
                    .not_applied()
                    .with_detail("the lease ended before it was used")
                    .with_source(status),
                Next::Stop,
            );
        }
        Code::NotFound => (ErrorKind::Protocol, text, Next::Stop),

        Code::Unavailable if says("no leader") => {
            let error = Error::new(ErrorKind::Unavailable).not_applied();
            return (error.with_detail("the cluster has no leader").with_source(status), Next::Wait);
        }
        Code::FailedPrecondition if says("not leader") => {
            let error = Error::new(ErrorKind::Unavailable).not_applied();
            return (error.with_detail(text).with_source(status), Next::Wait);
        }
        Code::FailedPrecondition if says("authentication is not enabled") => (
            ErrorKind::InvalidConfig {
                reason: "a user is given and the server has authentication off".to_owned(),
            },
            text,
            Next::Stop,
        ),
        Code::FailedPrecondition | Code::AlreadyExists => {
            (ErrorKind::InvalidArgument { reason: text.clone() }, text, Next::Stop)
        }
        Code::Unavailable | Code::Cancelled | Code::Aborted => (ErrorKind::Unavailable, text, Next::Again),
        Code::Unknown if says("raft proposal dropped") => (ErrorKind::Unavailable, text, Next::Again),
        Code::DeadlineExceeded => (ErrorKind::Timeout, text, Next::Again),
        Code::DataLoss => (ErrorKind::Corrupt, text, Next::Stop),
        Code::Unimplemented => (ErrorKind::Unsupported { power: None, what: text.clone() }, text, Next::Stop),
        Code::Ok | Code::Unknown | Code::Internal => (ErrorKind::Protocol, text, Next::Stop),
    };
    let repeats = matches!(
        &kind,
        ErrorKind::InvalidArgument { .. } | ErrorKind::Unsupported { .. } | ErrorKind::InvalidConfig { .. }
    );
    let error = Error::new(kind).with_source(status);
    (if repeats || detail.is_empty() { error } else { error.with_detail(detail) }, next)
}

fn too_large(text: &str) -> (ErrorKind, String, Next) {
    let reason = format!("the server takes less than etcd's default of 1.5 MiB per request: {text}");
    (ErrorKind::InvalidArgument { reason: reason.clone() }, reason, Next::Stop)
}

/// The server could not be connected to: nothing was sent.
fn unreachable(words: String) -> Error {
    Error::new(ErrorKind::Unavailable).not_applied().with_detail(words)
}

/// The connection broke under the request.
fn broken(error: &(dyn StdError + 'static)) -> Error {
    Error::new(ErrorKind::Unavailable).with_detail(plain(&chain(error)))
}

/// The error of every call on a closed handle.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed)
}

/// The server's answer makes no sense.
pub(crate) fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::Protocol).with_detail(format!("the server sent {what}"))
}

/// What a failure of a call about the servers or users means. Codes lie there: the texts tell.
pub(crate) fn administrative(failed: Error) -> Error {
    let Some(status) = failed.cause().and_then(|cause| cause.downcast_ref::<Status>()) else { return failed };
    if status.source().is_some() {
        return failed;
    }
    let text = status.message().strip_prefix("etcdserver: ").unwrap_or(status.message()).to_owned();
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let kind = if says(&["member not found", "user name not found", "role name not found"]) {
        ErrorKind::NotFound
    } else if says(&["already exist"]) {
        ErrorKind::AlreadyExists { current: None }
    } else if says(&["permission denied"]) {
        ErrorKind::PermissionDenied
    } else if says(REFUSALS) {
        ErrorKind::Refused { reason: text.clone() }
    } else {
        return failed;
    };
    let refused = matches!(kind, ErrorKind::Refused { .. });
    let error = Error::new(kind).with_source(status.clone());
    let error = if refused { error } else { error.with_detail(text) };
    match failed.endpoint() {
        Some(endpoint) => error.with_endpoint(endpoint),
        None => error,
    }
}

/// How etcd says that it does not do something as things stand.
const REFUSALS: &[&str] = &[
    "too many learner",
    "can only promote",
    "bad leader transferee",
    "not enough started members",
    "unhealthy cluster",
    "root user does not exist",
    "root user does not have root role",
    "invalid auth management",
];

/// Whether a right that was to be taken away was not there.
pub(crate) fn not_granted(error: &Error) -> bool {
    let status = error.cause().and_then(|cause| cause.downcast_ref::<Status>());
    status.is_some_and(|status| status.message().contains("is not granted"))
}

/// Whether it failed because a lease it used is gone. Nothing was changed then.
pub(crate) fn lease_gone(error: &Error) -> bool {
    says(error, Code::NotFound, "lease not found")
}

/// Whether a lease was not granted because there is one with its id.
pub(crate) fn lease_exists(error: &Error) -> bool {
    says(error, Code::FailedPrecondition, "lease already exists")
}

/// Whether the connection broke under the request: no server answered it.
pub(crate) fn broke(error: &Error) -> bool {
    let status = error.cause().and_then(|cause| cause.downcast_ref::<Status>());
    status.is_some_and(|status| status.source().is_some())
}

/// Whether the answer was larger than what the client takes.
pub(crate) fn answer_too_large(error: &Error) -> bool {
    says(error, Code::OutOfRange, "message length too large")
}

/// Whether the revision asked for is not there yet.
pub(crate) fn is_future(error: &Error) -> bool {
    says(error, Code::OutOfRange, "future revision")
}

/// Whether the revision asked for is gone.
pub(crate) fn compacted(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Compacted { .. })
}

fn says(error: &Error, code: Code, part: &str) -> bool {
    let status = error.cause().and_then(|cause| cause.downcast_ref::<Status>());
    status.is_some_and(|status| status.code() == code && status.message().contains(part))
}

/// Why a watch was cancelled by the server, from the text it gives.
pub(crate) fn watch_refused(reason: &str) -> (Error, Next) {
    let code = match reason {
        text if text.contains("permission denied") => Code::PermissionDenied,
        text if text.contains("auth token") || text.contains("auth store") || text.contains("user name") => {
            Code::Unauthenticated
        }
        text if text.contains("no leader") => Code::Unavailable,
        _ => Code::Unknown,
    };
    from_status(Status::new(code, reason))
}

/// What the connecting failed with, in plain words, if that is what failed.
fn connect_failure(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(ConnectError(cause)) = error.downcast_ref::<ConnectError>() {
            return Some(format!("cannot connect: {}", plain(&chain(&**cause))));
        }
        at = error.source();
    }
    None
}

/// The texts of an error and its causes, each once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut at = error.source();
    while let Some(cause) = at {
        let part = match cause.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => cause.to_string(),
        };
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        at = cause.source();
    }
    text
}

/// The same, saying what to do where the cause is known.
fn plain(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let advice = [
        ("invalidcontenttype", "the server does not speak TLS: use etcd:// in place of etcd+tls://"),
        ("wrongversionnumber", "the server does not speak TLS: use etcd:// in place of etcd+tls://"),
        ("notvalidforname", "the server's certificate is not for this host"),
        ("not valid for", "the server's certificate is not for this host"),
        // As of a CA of the same name as a trusted one.
        ("badsignature", "the server's certificate was not issued by a CA that is trusted here"),
        ("unknownissuer", "the server's certificate was not issued by a CA that is trusted here"),
        ("expired", "the server's certificate has expired"),
        ("notvalidyet", "the server's certificate is not valid yet: is this machine's clock right?"),
        ("not valid yet", "the server's certificate is not valid yet: is this machine's clock right?"),
        (
            "causedasendentity",
            "the server's certificate is one that issues others (a self-signed CA): it needs one that a CA \
             issued to it",
        ),
        ("invalid peer certificate", "the server's certificate is not good"),
        ("protocolversion", "the server speaks no TLS that is still safe: it needs TLS 1.2 or 1.3"),
        ("doesnotsupporttls12or13", "the server speaks no TLS that is still safe: it needs TLS 1.2 or 1.3"),
        ("handshakefailure", "the server and this program have no way to encrypt in common"),
        ("certificaterequired", "the server asks for a client certificate: give cert= and key="),
        ("certificate required", "the server asks for a client certificate: give cert= and key="),
        ("badcertificate", "the server asks for another client certificate"),
        ("bad certificate", "the server asks for another client certificate"),
        ("unknownca", "the server does not trust the issuer of the client certificate"),
        ("tls handshake eof", "the server hung up on TLS; if it does not speak it, use etcd://"),
        ("dns error", "the host name cannot be resolved"),
    ]
    .into_iter()
    .find(|(sign, _)| lower.contains(sign));
    match advice {
        Some((_, advice)) => format!("{advice} ({text})"),
        None => text.to_owned(),
    }
}

/// What is configured wrongly, if a TLS handshake failed for it: no waiting cures that.
pub(crate) fn misconfigured(error: &Error) -> Option<String> {
    let text = chain(error.cause()?);
    let words = plain(&text);
    // These can have passing causes too.
    let may_pass = ["dns error", "tls handshake eof"].iter().any(|sign| text.contains(sign));
    (words != text && !may_pass).then_some(words)
}

#[cfg(test)]
mod tests {
    use kv_core::Applied;

    use super::*;

    fn kind_of(code: Code, message: &str) -> (ErrorKind, Applied, Next) {
        let (error, next) = classify(native::Error::GRpcStatus(Status::new(code, message)));
        assert!(error.source().is_some(), "{message}");
        (error.kind().clone(), error.applied(), next)
    }

    #[test]
    fn every_refusal_of_the_server_is_told_apart() {
        use Applied::{No, Unknown};
        let unavailable = ErrorKind::Unavailable;
        let invalid = |text: &str| ErrorKind::InvalidArgument { reason: text.to_owned() };
        for (code, message, kind, applied, next) in [
            (
                Code::InvalidArgument,
                "authentication failed, invalid user ID or password",
                ErrorKind::Unauthenticated,
                No,
                Next::Stop,
            ),
            (Code::Unauthenticated, "invalid auth token", ErrorKind::Unauthenticated, No, Next::SignIn),
            (
                Code::InvalidArgument,
                "revision of auth store is old",
                ErrorKind::Unauthenticated,
                No,
                Next::SignIn,
            ),
            (Code::InvalidArgument, "user name is empty", ErrorKind::Unauthenticated, No, Next::SignIn),
            (Code::PermissionDenied, "permission denied", ErrorKind::PermissionDenied, No, Next::Stop),
            (Code::Unavailable, "no leader", unavailable.clone(), No, Next::Wait),
            (Code::FailedPrecondition, "not leader", unavailable.clone(), No, Next::Wait),
            (Code::Unavailable, "request timed out", unavailable.clone(), Unknown, Next::Again),
            (
                Code::Unavailable,
                "request timed out, possibly due to previous leader failure",
                unavailable.clone(),
                Unknown,
                Next::Again,
            ),
            (Code::Unavailable, "leader changed", unavailable.clone(), Unknown, Next::Again),
            (Code::Unavailable, "server stopped", unavailable.clone(), Unknown, Next::Again),
            (Code::Unknown, "raft proposal dropped", unavailable.clone(), Unknown, Next::Again),
            (Code::DeadlineExceeded, "context deadline exceeded", ErrorKind::Timeout, Unknown, Next::Again),
            // Some writes are refused before they are made, and one is made and then reported so.
            (
                Code::ResourceExhausted,
                "mvcc: database space exceeded",
                ErrorKind::NoSpace,
                Unknown,
                Next::Stop,
            ),
            (Code::ResourceExhausted, "too many requests", ErrorKind::Overloaded, No, Next::Stop),
            (
                Code::OutOfRange,
                "mvcc: required revision has been compacted",
                ErrorKind::Compacted { oldest: None },
                No,
                Next::Stop,
            ),
            (
                Code::OutOfRange,
                "mvcc: required revision is a future revision",
                unavailable.clone(),
                No,
                Next::Stop,
            ),
            (
                Code::OutOfRange,
                "too large lease TTL",
                ErrorKind::TtlOutOfRange { min: MIN_TTL, max: MAX_TTL },
                No,
                Next::Stop,
            ),
            (Code::NotFound, "requested lease not found", unavailable, No, Next::Stop),
            (
                Code::InvalidArgument,
                "duplicate key given in txn request",
                invalid("duplicate key given in txn request"),
                No,
                Next::Stop,
            ),
            (Code::DataLoss, "corrupt cluster", ErrorKind::Corrupt, Unknown, Next::Stop),
            (Code::Unknown, "something new", ErrorKind::Protocol, Unknown, Next::Stop),
            (
                Code::Unimplemented,
                "unknown service",
                ErrorKind::Unsupported { power: None, what: "unknown service".to_owned() },
                No,
                Next::Stop,
            ),
        ] {
            let message = format!("etcdserver: {message}");
            assert_eq!(kind_of(code, &message), (kind, applied, next), "{message}");
        }
        for (code, message) in [
            (Code::InvalidArgument, "etcdserver: request is too large"),
            (Code::ResourceExhausted, "grpc: received message larger than max (2097157 vs. 2097152)"),
        ] {
            let (kind, applied, next) = kind_of(code, message);
            assert!(kind.to_string().contains("1.5 MiB"), "{kind}");
            assert_eq!((applied, next), (No, Next::Stop));
        }
    }

    #[test]
    fn only_a_connection_that_never_was_leaves_no_doubt() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        let (error, next) = classify(status.into());
        assert_eq!((error.applied(), next), (Applied::No, Next::Elsewhere));
        assert!(error.to_string().contains("cannot connect"), "{error}");

        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let status = Status::from_error(Box::new(reset));
        let (error, next) = classify(status.into());
        assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::Unknown));
        assert_eq!(next, Next::Again);
        assert!(broke(&error));
        let (told, _) = classify(Status::new(Code::Unavailable, "etcdserver: leader changed").into());
        assert!(!broke(&told));
    }

    #[cfg(unix)]
    #[test]
    fn a_connection_for_which_there_is_no_file_is_told_as_such() {
        // What a connector hands on: its own words around what the system said.
        #[derive(Debug)]
        struct Open(std::io::Error);

        impl std::fmt::Display for Open {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("tcp open error")
            }
        }

        impl StdError for Open {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }

        for number in [23, 24] {
            let refused = || std::io::Error::from_raw_os_error(number);
            let connecting = Status::from_error(Box::new(ConnectError(Box::new(Open(refused())))));
            for native in [native::Error::from(connecting), native::Error::IoError(refused())] {
                let (error, _) = classify(native);
                assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::No));
                assert!(error.to_string().contains(Error::OUT_OF_FILES), "{error}");
                assert!(error.source().is_some());
                assert_eq!(misconfigured(&error), None);
            }
        }
    }

    #[test]
    fn what_a_lease_or_an_answer_failed_for_is_recognised() {
        let error = |code, message: &str| classify(Status::new(code, message).into()).0;
        let gone = error(Code::NotFound, "etcdserver: requested lease not found");
        assert!(lease_gone(&gone));
        let large = error(
            Code::OutOfRange,
            "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
        );
        assert!(answer_too_large(&large) && !compacted(&large) && !lease_gone(&large));
        assert!(is_future(&error(Code::OutOfRange, "mvcc: required revision is a future revision")));
    }

    #[test]
    fn tls_failures_are_told_in_plain_words() {
        for (text, words) in [
            ("received corrupt message of type InvalidContentType", "use etcd://"),
            ("invalid peer certificate: UnknownIssuer", "not issued by a CA"),
            ("invalid peer certificate: NotValidForName", "not for this host"),
            ("invalid peer certificate: certificate not valid for name \"a\"", "not for this host"),
            ("received fatal alert: CertificateRequired", "cert= and key="),
            ("received fatal alert: BadCertificate", "client certificate"),
        ] {
            assert!(plain(text).contains(words), "{text}: {}", plain(text));
        }
        assert_eq!(plain("connection refused"), "connection refused");
    }
}
