//! The default transport: reqwest with rustls. The only file that names it.
//!
//! No redirect is followed (the token would go along), no proxy is taken from the environment, nothing
//! is decompressed, and nothing is sent twice.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_backend::{Plaintext, TlsOptions};
use kv_core::{Host, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, Identity, redirect, retry, tls};

use crate::client::error::invalid;
use crate::client::options::ConnectOptions;
use crate::client::transport::{Body, Failure, Method, Reply, Request, Transport, literal, look_up};

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// How soon a peer that vanished without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One endpoint over reqwest.
#[derive(Debug)]
pub(crate) struct HttpTransport {
    base: String,
    http: Client,
}

/// The transports of all endpoints of a configuration.
pub(crate) fn transports(options: &ConnectOptions) -> Result<Vec<Arc<dyn Transport>>> {
    let endpoints = options.endpoints.iter();
    endpoints
        .map(|(base, host)| {
            Ok(Arc::new(HttpTransport::new(options, base.clone(), host)?) as Arc<dyn Transport>)
        })
        .collect()
}

impl HttpTransport {
    fn new(options: &ConnectOptions, base: String, host: &Host) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &options.token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|_| invalid("the ACL token has characters a header cannot carry"))?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("kv-consul/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .connect_timeout(options.connect_limit)
            .pool_idle_timeout(KEEP_ALIVE)
            .pool_max_idle_per_host(options.max_idle)
            .tcp_keepalive(KEEP_ALIVE)
            .tcp_keepalive_interval(KEEP_ALIVE)
            .tcp_nodelay(true);
        let mut connect_to = base.clone();
        let mut dial = Dial { host: None, plaintext: None };
        match &options.tls {
            None => {
                // Nothing is verified, so a machine without certificate authorities will do.
                builder = builder.tls_certs_only([]);
                if options.token.is_some() {
                    // An address is not looked up, and does not change. `3221225985` is one, too.
                    if let Some(address) = literal(parse(&base)?.host_str()) {
                        options.plaintext.check(&base, [address])?;
                    }
                    dial.plaintext = Some((options.plaintext, base.clone()));
                }
            }
            Some(tls) => {
                builder = with_tls(builder, tls)?;
                if let Some(name) = &tls.server_name {
                    // The name goes into the URL, where the certificate is checked against it, and is
                    // looked up as the host it stands for.
                    connect_to = format!("https://{name}:{}", port_of(&base));
                    dial.host = Some(host.name.clone());
                }
            }
        }
        builder = builder.dns_resolver(Arc::new(dial));
        let http = builder.build().map_err(|error| {
            let system = options.tls.as_ref().is_some_and(|tls| tls.ca.is_none());
            let reason = match system {
                true => {
                    "TLS cannot be set up with the certificate authorities of this machine: name one (ca=)"
                }
                false => "the HTTP client cannot be set up",
            };
            invalid(reason).with_source(error)
        })?;
        parse(&connect_to)?;
        Ok(Self { base: connect_to, http })
    }
}

fn parse(base: &str) -> Result<reqwest::Url> {
    reqwest::Url::parse(base).map_err(|error| invalid(format!("{base} is no URL")).with_source(error))
}

fn port_of(base: &str) -> &str {
    base.rsplit(':').next().unwrap_or_default()
}

fn with_tls(mut builder: ClientBuilder, options: &TlsOptions) -> Result<ClientBuilder> {
    builder = builder.https_only(true).tls_version_min(tls::Version::TLS_1_2);
    if let Some(pem) = &options.ca {
        let certificates = Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|error| invalid("the CA is no certificate in PEM").with_source(error))?;
        if certificates.is_empty() {
            return Err(invalid("the CA holds no certificate in PEM"));
        }
        builder = builder.tls_certs_only(certificates);
    }
    if let Some((cert, key)) = &options.identity {
        let pem = [cert, "\n", key.expose()].concat();
        let identity = Identity::from_pem(pem.as_bytes())
            .map_err(|error| invalid("the client certificate and its key are not PEM").with_source(error))?;
        builder = builder.identity(identity);
    }
    Ok(builder.tls_danger_accept_invalid_certs(options.danger_accept_invalid_certs))
}

/// How names become addresses, at each dial.
struct Dial {
    /// Stands in for whatever name is asked for.
    host: Option<String>,
    /// The rule for a token that travels without TLS, and the endpoint it is about.
    plaintext: Option<(Plaintext, String)>,
}

impl Resolve for Dial {
    fn resolve(&self, name: Name) -> Resolving {
        let host = self.host.clone().unwrap_or_else(|| name.as_str().to_owned());
        let plaintext = self.plaintext.clone();
        Box::pin(async move {
            let found = look_up(&host, plaintext).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[async_trait]
impl Transport for HttpTransport {
    fn endpoint(&self) -> &str {
        &self.base
    }

    async fn exchange(&self, request: Request) -> Result<Reply, Failure> {
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Put => reqwest::Method::PUT,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let url = [self.base.as_str(), request.path.as_str()].concat();
        let response = self.http.request(method, url).body(request.body).send().await.map_err(failure)?;
        let index =
            response.headers().get(INDEX).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok(Reply { status: response.status().as_u16(), index, body: Box::new(HttpBody(response)) })
    }
}

struct HttpBody(reqwest::Response);

#[async_trait]
impl Body for HttpBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        self.0.chunk().await.map_err(failure)
    }
}

fn failure(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let (connecting, timeout) = (error.is_connect(), error.is_timeout());
    Failure::new(Box::new(error), connecting, timeout)
}

#[cfg(test)]
mod tests {
    use kv_core::ErrorKind;

    use super::*;
    use crate::ConsulConfig;

    #[tokio::test]
    async fn a_name_is_refused_at_the_dial_that_finds_another_machine() {
        let endpoint = "http://consul.test:8500".to_owned();
        let plaintext = Some((Plaintext::default(), endpoint.clone()));
        let dial = Dial { host: Some("192.0.2.1".to_owned()), plaintext };
        let http =
            Client::builder().no_proxy().tls_certs_only([]).dns_resolver(Arc::new(dial)).build().unwrap();
        let transport = HttpTransport { base: endpoint, http };
        let failure = transport.exchange(Request::get("/".to_owned())).await.unwrap_err();
        assert!(failure.unsent);
        let error = crate::client::error::transport(failure, transport.endpoint());
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert!(error.to_string().contains("plaintext_credentials=true"), "{error}");
        assert!(error.to_string().contains("consul.test"), "{error}");
    }

    #[test]
    fn an_address_is_one_however_it_is_written() {
        for host in ["192.0.2.1", "3221225985", "0xc0000201", "192.0.513", "[2001:db8::1]"] {
            let config = ConsulConfig::new([host]).with_token(kv_core::Secret::new("t"));
            let error = transports(&config.connect_options().unwrap()).map(drop).unwrap_err();
            assert!(error.to_string().contains("plaintext_credentials=true"), "{host}: {error}");
        }
        for host in ["127.0.0.1", "[::1]", "localhost"] {
            let config = ConsulConfig::new([host]).with_token(kv_core::Secret::new("t"));
            transports(&config.connect_options().unwrap()).unwrap();
        }
    }
}
