//! One HTTP exchange, whoever carries it out: the seam between Consul's API and an HTTP client.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use bytes::Bytes;
use kv_backend::Plaintext;
use kv_core::Error;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The methods Consul's API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

/// One request. The path begins with a slash, is percent-encoded and carries the query.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    /// Whether it does no harm to send it twice.
    pub(crate) repeatable: bool,
    /// Whether it is one of the round trips an operation promises.
    pub(crate) counted: bool,
}

impl Request {
    fn new(method: Method, path: String, body: Bytes) -> Self {
        Self { method, path, body, repeatable: false, counted: true }
    }

    /// A request that reads.
    pub(crate) fn get(path: String) -> Self {
        Self { repeatable: true, ..Self::new(Method::Get, path, Bytes::new()) }
    }

    /// A request that may change something.
    pub(crate) fn put(path: String, body: Bytes) -> Self {
        Self::new(Method::Put, path, body)
    }

    /// A request that asks something in its body.
    pub(crate) fn post(path: String, body: Bytes) -> Self {
        Self::new(Method::Post, path, body)
    }

    /// A request that deletes.
    pub(crate) fn delete(path: String) -> Self {
        Self::new(Method::Delete, path, Bytes::new())
    }

    /// The same, which does no harm when it is sent twice.
    pub(crate) fn repeatable(self, repeatable: bool) -> Self {
        Self { repeatable, ..self }
    }

    /// The same, which is no round trip an operation promises.
    pub(crate) fn uncounted(self) -> Self {
        Self { counted: false, ..self }
    }
}

/// The head of an answer; its body is still to be read.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `X-Consul-Index`, where it is there and is text.
    pub(crate) index: Option<String>,
    pub(crate) body: Box<dyn Body>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// The body of an answer. Dropping it before its end closes the connection.
#[async_trait]
pub(crate) trait Body: Send {
    /// The next bytes; `None` at the end, which is reported only if the body is whole.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure>;
}

/// Why an exchange failed below HTTP.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Whether there was no connection, so that the request cannot have had an effect.
    pub(crate) unsent: bool,
    /// Whether a time limit of the transport's own was exceeded.
    pub(crate) timeout: bool,
    /// What does not fit between the two ends' TLS settings, where that is the cause.
    pub(crate) tls: Option<&'static str>,
    /// Whether the server hung up in the middle of the TLS handshake. That can also pass.
    pub(crate) hung_up: bool,
    /// Why this side did not connect, where that is the cause.
    pub(crate) refused: Option<Error>,
    /// The cause, without URL or token.
    pub(crate) source: Source,
}

impl Failure {
    /// Finds out what lies below an error of an HTTP client; `connecting`: there was no connection yet.
    pub(crate) fn new(source: Source, connecting: bool, timeout: bool) -> Self {
        let tls = tls_problem(&*source, connecting);
        let hung_up = connecting && says(&whole(&*source), &HUNG_UP);
        let refused = Error::out_of_files(&*source).or_else(|| refusal(&*source));
        Self {
            unsent: connecting || tls.is_some() || refused.is_some(),
            timeout,
            tls,
            hung_up,
            refused,
            source,
        }
    }
}

/// A refusal of ours that an HTTP client hands back among the causes of its error.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(Error::new(ours.kind().clone()).not_applied());
        }
        cause = error.source();
    }
    None
}

/// The address a URL names, however it is written; `None` if it names a host, which is looked up at each dial.
pub(crate) fn literal(host_of_url: Option<&str>) -> Option<IpAddr> {
    host_of_url?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The addresses of a host, to which a token may be sent if this rule allows it.
///
/// # Errors
///
/// Of the look-up, or our own refusal, which [`Failure::new`] finds again.
pub(crate) async fn look_up(
    host: &str,
    plaintext: Option<(Plaintext, String)>,
) -> Result<Vec<SocketAddr>, Source> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
    if let Some((rule, endpoint)) = plaintext {
        rule.check(&endpoint, found.iter().map(SocketAddr::ip))?;
    }
    Ok(found)
}

/// Carries out exchanges with one endpoint. Never follows a redirect, never retries, and adds the ACL
/// token to what it sends. Dropping the future ends the exchange.
#[async_trait]
pub(crate) trait Transport: Send + Sync + fmt::Debug + 'static {
    /// The endpoint as people know it, without credentials.
    fn endpoint(&self) -> &str;

    /// Sends one request and waits for the head of its answer.
    async fn exchange(&self, request: Request) -> Result<Reply, Failure>;
}

/// What the causes of an error say of TLS; `connecting` if there was no connection yet. Both transports end
/// in rustls or in OpenSSL, whose types lie too deep to be named. The error must not have its URL any more:
/// a key may be named as a cause is.
///
/// Once there is a connection only the refusal of the client certificate counts: since TLS 1.3 it comes
/// behind the handshake, instead of the first answer, and no request was looked at. Of any other trouble
/// nobody can say what became of the requests before it.
pub(crate) fn tls_problem(
    error: &(dyn std::error::Error + 'static),
    connecting: bool,
) -> Option<&'static str> {
    let text = whole(error);
    let says = |signs: &[&str]| says(&text, signs);
    if says(&["AlertReceived", "alert"]) && says(&CERTIFICATE_ALERTS) {
        return Some("it refuses the client certificate, or the lack of one (cert=, key=)");
    }
    if !connecting {
        return None;
    }
    let words: [(&[&str], &str); 7] = [
        (&["UnknownIssuer", "BadSignature"], "its certificate is not issued by a CA that is trusted (ca=)"),
        (&["NotValidForName", "not valid for name"], "its certificate is not for this host (server_name=)"),
        (&["Expired", "NotValidYet"], "its certificate is not valid now"),
        (&["CaUsedAsEndEntity"], "its certificate is that of an authority, and not one for servers"),
        (&["InvalidCertificate", "invalid peer certificate"], "its certificate is not accepted"),
        (
            &["fatal alert", "AlertReceived", "PeerIncompatible"],
            "the two ends find no version or cipher they both have: it may offer nothing newer than TLS 1.1",
        ),
        (&["InvalidContentType", "InvalidMessage"], "it does not speak TLS: use consul://"),
    ];
    words.iter().find(|(signs, _)| says(signs)).map(|(_, words)| *words)
}

/// An error and its causes, as people and as programmers are shown them.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        text.push_str(&format!("{error} {error:?} "));
        cause = error.source();
    }
    text
}

fn says(text: &str, signs: &[&str]) -> bool {
    signs.iter().any(|sign| text.contains(sign))
}

/// The end of a connection in the middle of the handshake, as rustls and as OpenSSL write it.
const HUNG_UP: [&str; 3] = ["tls handshake eof", "unexpected eof", "unexpected EOF"];

/// The alerts by which a server refuses a client certificate, as rustls and as OpenSSL write them.
const CERTIFICATE_ALERTS: [&str; 16] = [
    "BadCertificate",
    "bad certificate",
    "UnsupportedCertificate",
    "unsupported certificate",
    "CertificateRevoked",
    "certificate revoked",
    "CertificateExpired",
    "certificate expired",
    "CertificateUnknown",
    "certificate unknown",
    "UnknownCA",
    "unknown ca",
    "AccessDenied",
    "access denied",
    "CertificateRequired",
    "certificate required",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Cause(&'static str);

    impl fmt::Display for Cause {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Cause {}

    #[tokio::test]
    async fn a_token_goes_without_tls_only_where_the_rule_allows_it() {
        let rule = |allowed| Some((Plaintext::new(allowed), "http://h:8500".to_owned()));
        look_up("192.0.2.1", rule(false)).await.unwrap_err();
        assert_eq!(look_up("192.0.2.1", rule(true)).await.unwrap().len(), 1);
        assert_eq!(look_up("192.0.2.1", None).await.unwrap().len(), 1);
        look_up("127.0.0.1", rule(false)).await.unwrap();
    }

    #[test]
    fn lost_descriptors_are_named() {
        let refused = std::io::Error::from_raw_os_error(24);
        let error =
            crate::client::error::transport(Failure::new(refused.into(), true, false), "http://h:8500");
        assert!(error.to_string().contains("no file descriptors left"), "{error}");
    }

    #[test]
    fn only_a_refused_client_certificate_counts_once_there_is_a_connection() {
        for (text, connecting, behind) in [
            ("received fatal alert: CertificateRequired", true, true),
            ("tlsv13 alert certificate required", true, true),
            ("invalid peer certificate: UnknownIssuer", true, false),
            ("invalid peer certificate: Expired", true, false),
            ("invalid peer certificate: CaUsedAsEndEntity", true, false),
            ("invalid peer certificate: Other(OtherError(UnsupportedCertVersion))", true, false),
            ("peer is incompatible: ServerTlsVersionIsDisabledByOurConfig PeerIncompatible", true, false),
            ("received corrupt message of type InvalidContentType", true, false),
            ("received fatal alert: BadRecordMac", true, false),
            ("received fatal alert: InternalError", true, false),
            ("connection reset by peer", false, false),
        ] {
            let problem = |connecting| tls_problem(&Cause(text), connecting).is_some();
            assert_eq!((problem(true), problem(false)), (connecting, behind), "{text}");
        }
    }
}
