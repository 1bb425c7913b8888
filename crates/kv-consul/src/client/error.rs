//! What Consul and the way to it answer, as the one error type. Nothing else makes errors of answers.

use kv_core::{Applied, Error, ErrorKind, Measured, Operation};

use crate::client::transport::Failure;

/// The backend's name in errors and capabilities.
pub(crate) const BACKEND: &str = "consul";

/// The largest body Consul takes for a transaction, base64 and JSON included.
pub(crate) const MAX_BODY: usize = 512 * 1024;

/// A configuration that cannot work.
pub(crate) fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid_config(reason).with_operation(Operation::Open)
}

/// The server answered something that makes no sense.
pub(crate) fn protocol(detail: &str) -> Error {
    Error::new(ErrorKind::Protocol).with_detail(detail)
}

/// There was no answer, or not a whole one.
pub(crate) fn transport(failure: Failure, endpoint: &str) -> Error {
    let error = if let Some(refused) = failure.refused {
        refused
    } else if let Some(words) = failure.tls {
        Error::invalid_config(format!("no TLS with the server: {words}")).not_applied()
    } else if failure.unsent {
        let detail = match (failure.timeout, failure.hung_up) {
            (true, _) => "no connection within the connect timeout",
            (false, true) => "the server hung up on TLS; if it does not speak it, use consul://",
            (false, false) => "no connection",
        };
        Error::new(ErrorKind::Unavailable).not_applied().with_detail(detail)
    } else if failure.timeout {
        Error::new(ErrorKind::Timeout)
    } else {
        Error::new(ErrorKind::Unavailable).with_detail("the connection broke")
    };
    error.with_endpoint(endpoint).with_source(failure.source)
}

/// What was asked, as far as a refusal has to do with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// How many bytes the request had.
    pub(crate) bytes: usize,
    /// The right it needs.
    pub(crate) right: &'a str,
}

/// An answer with a status that is not the wanted one.
pub(crate) fn status(status: u16, body: &[u8], asked: Asked<'_>, endpoint: &str) -> Error {
    let text = String::from_utf8_lossy(body);
    let (kind, certain) = kind_of(status, text.trim(), asked.bytes);
    let answered = format!("Consul answered {}", shown(status, body));
    let detail = match kind {
        ErrorKind::PermissionDenied => format!("the token lacks {}: {answered}", asked.right),
        _ => answered,
    };
    let error = Error::new(kind).with_detail(detail).with_endpoint(endpoint);
    if certain { error.not_applied() } else { error }
}

/// An answer as people are shown it.
pub(crate) fn shown(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().take(200).collect();
    format!("{status}{}{text}", if text.is_empty() { "" } else { ": " })
}

/// Whether a server refuses a key for its characters, which versions from 1.21 on do.
pub(crate) fn is_name_refused(text: &str) -> bool {
    text.to_ascii_lowercase().contains("invalid key name")
}

pub(crate) fn name_refused() -> ErrorKind {
    let reason = "this version of Consul takes fewer characters in keys than others do";
    ErrorKind::InvalidKey { reason: reason.to_owned() }
}

/// The kind of a status, and whether it proves that nothing was changed.
fn kind_of(status: u16, text: &str, sent: usize) -> (ErrorKind, bool) {
    let has = |part: &str| text.contains(part);
    match status {
        _ if has("ACL not found") => (ErrorKind::Unauthenticated, true),
        _ if has("Permission denied") => (ErrorKind::PermissionDenied, true),
        400 if has("HTTPS server") => {
            (ErrorKind::InvalidConfig { reason: "the server speaks TLS: use consul+tls://".to_owned() }, true)
        }
        400 | 500 if is_name_refused(text) => (name_refused(), true),
        401 => (ErrorKind::Unauthenticated, true),
        403 => (ErrorKind::PermissionDenied, true),
        413 => (ErrorKind::TooLarge { of: Measured::Request, size: sent, max: MAX_BODY }, true),
        429 => (ErrorKind::Overloaded, true),
        _ if has("rate limit") || has("Too many requests") => (ErrorKind::Overloaded, true),
        500 if has("No path to datacenter") => {
            (ErrorKind::InvalidConfig { reason: "Consul knows no such datacenter".to_owned() }, true)
        }
        // The request was not handed to a leader, so nobody can have carried it out.
        500 if NOT_HANDED_ON.iter().any(|sign| has(sign)) => (ErrorKind::Unavailable, true),
        500..=599 => (ErrorKind::Unavailable, false),
        300..=399 => (ErrorKind::Protocol, true),
        400 | 405 | 415 => (ErrorKind::Protocol, true),
        _ => (ErrorKind::Protocol, false),
    }
}

/// What an agent answers that had nobody to hand the request on to.
const NOT_HANDED_ON: [&str; 3] = ["No cluster leader", "No known Consul servers", "failed to get conn"];

/// The same error once more, for everybody who waits for one request.
pub(crate) fn again(error: &Error) -> Error {
    let mut copy = Error::new(error.kind().clone());
    let text = error.to_string();
    let mut detail = text.strip_prefix(&error.kind().to_string()).unwrap_or(&text);
    if let Some(endpoint) = error.endpoint() {
        detail = detail.strip_suffix(&format!(" (at {endpoint})")).unwrap_or(detail);
        copy = copy.with_endpoint(endpoint);
    }
    if let Some(detail) = detail.strip_prefix(": ") {
        copy = copy.with_detail(detail);
    }
    if error.applied() == Applied::No { copy.not_applied() } else { copy }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'static> = Asked { bytes: 7, right: "key:write" };

    #[test]
    fn every_status_has_a_kind() {
        let unauthenticated = ErrorKind::Unauthenticated;
        for (code, text, kind, applied) in [
            (403, "ACL not found", unauthenticated.clone(), Applied::No),
            (403, "rpc error making call: ACL not found", unauthenticated.clone(), Applied::No),
            (401, "", unauthenticated, Applied::No),
            (403, "Permission denied", ErrorKind::PermissionDenied, Applied::No),
            (403, "Permission denied: token lacks 'key:write'", ErrorKind::PermissionDenied, Applied::No),
            (500, "Permission denied", ErrorKind::PermissionDenied, Applied::No),
            (500, "No cluster leader", ErrorKind::Unavailable, Applied::No),
            (500, "No known Consul servers", ErrorKind::Unavailable, Applied::No),
            (500, "rpc error getting client: failed to get conn: dial", ErrorKind::Unavailable, Applied::No),
            (500, "rpc error making call: EOF", ErrorKind::Unavailable, Applied::Unknown),
            (500, "Invalid key name, keys should respect the ... format", name_refused(), Applied::No),
            (400, "invalid key name", name_refused(), Applied::No),
            (500, "leadership lost while committing log", ErrorKind::Unavailable, Applied::Unknown),
            (500, "anything", ErrorKind::Unavailable, Applied::Unknown),
            (503, "", ErrorKind::Unavailable, Applied::Unknown),
            (429, "", ErrorKind::Overloaded, Applied::No),
            (500, "RPC rate limit exceeded", ErrorKind::Overloaded, Applied::No),
            (413, "", ErrorKind::TooLarge { of: Measured::Request, size: 7, max: MAX_BODY }, Applied::No),
            (301, "", ErrorKind::Protocol, Applied::No),
            (400, "Failed to parse body", ErrorKind::Protocol, Applied::No),
            (
                400,
                "Client sent an HTTP request to an HTTPS server.",
                ErrorKind::InvalidConfig { reason: "the server speaks TLS: use consul+tls://".to_owned() },
                Applied::No,
            ),
            (404, "", ErrorKind::Protocol, Applied::Unknown),
            (200, "", ErrorKind::Protocol, Applied::Unknown),
            (999, "", ErrorKind::Protocol, Applied::Unknown),
        ] {
            let error = status(code, text.as_bytes(), ASKED, "http://h:8500");
            assert_eq!((error.kind(), error.applied()), (&kind, applied), "{code} {text}");
            assert!(error.to_string().contains("http://h:8500"));
        }
        for code in 0..1000 {
            status(code, b"\xff", ASKED, "");
        }
    }

    #[test]
    fn an_error_told_again_is_the_same() {
        for error in [
            status(500, b"No cluster leader", ASKED, "http://h:8500"),
            protocol("nonsense"),
            Error::new(ErrorKind::Timeout).with_endpoint("http://h:8500"),
        ] {
            let copy = again(&error);
            assert_eq!((copy.to_string(), copy.kind()), (error.to_string(), error.kind()));
            assert_eq!((copy.applied(), copy.endpoint()), (error.applied(), error.endpoint()));
        }
    }
}
