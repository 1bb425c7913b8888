//! A transport over a `consulrs` client a program holds: its connections, TLS settings and token, with none
//! of its URL building. The only file that names consulrs and the reqwest it is built on.

use std::sync::Arc;

pub(crate) use ::consulrs::client::ConsulClient;
use ::consulrs::client::ConsulClientSettings;
use async_trait::async_trait;
use bytes::Bytes;
use hyper_0_14::client::connect::dns::Name;
use kv_backend::Plaintext;
use kv_core::Result;
use reqwest_0_11::dns::{Addrs, Resolve, Resolving};
use reqwest_0_11::header::{HeaderName, HeaderValue};
use reqwest_0_11::{Client, Response, Url, redirect};
use rustify::clients::reqwest::Client as HttpClient;

use crate::client::error::invalid;
use crate::client::options::ConnectOptions;
use crate::client::transport::{Body, Failure, Method, Reply, Request, Transport, literal, look_up};

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");

struct ConsulrsTransport {
    client: Arc<ConsulClient>,
    token: Option<HeaderValue>,
}

impl std::fmt::Debug for ConsulrsTransport {
    // The client's own Debug shows its token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulrsTransport").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

/// The transports of a configuration, each over a consulrs client made for it: without redirects, proxies and
/// variables of the environment.
pub(crate) fn transports(options: &ConnectOptions) -> Result<Vec<Arc<dyn Transport>>> {
    if options.tls.is_some() {
        return Err(invalid(
            "client=consulrs has no TLS of its own: hand over a client that has it, in code",
        ));
    }
    let build = |address: String| {
        let plaintext = options.token.is_some().then(|| (options.plaintext, address.clone()));
        // An address is not looked up, and does not change.
        let url = Url::parse(&address)
            .map_err(|error| invalid(format!("{address} is no URL")).with_source(error))?;
        if let (Some((rule, endpoint)), Some(literal)) = (&plaintext, literal(url.host_str())) {
            rule.check(endpoint, [literal])?;
        }
        let http = Client::builder()
            .dns_resolver(Arc::new(Dial(plaintext)))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(options.connect_limit)
            .pool_max_idle_per_host(options.max_idle)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| invalid("the HTTP client cannot be set up").with_source(error))?;
        let settings = ConsulClientSettings {
            address: address.clone(),
            ca_certs: Vec::new(),
            client_cert: None,
            client_key: None,
            token: options.token.as_ref().map(|token| token.expose().to_owned()),
            verify: true,
            version: 1,
        };
        let client = ConsulClient { http: HttpClient::new(&address, http), settings };
        Ok(Arc::new(transport(Arc::new(client))?) as Arc<dyn Transport>)
    };
    options.endpoints.iter().map(|(base, _)| build(base.clone())).collect()
}

/// A transport over a client that a program holds, and whether that has a token.
pub(crate) fn over(client: Arc<ConsulClient>) -> Result<(Arc<dyn Transport>, bool)> {
    let transport = transport(client)?;
    let has_token = transport.token.is_some();
    Ok((Arc::new(transport), has_token))
}

fn transport(client: Arc<ConsulClient>) -> Result<ConsulrsTransport> {
    let token = match client.settings.token.as_deref() {
        Some(token) if !token.is_empty() => {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| invalid("the ACL token has characters a header cannot carry"))?;
            value.set_sensitive(true);
            Some(value)
        }
        _ => None,
    };
    let base = Url::parse(&client.http.base)
        .map_err(|error| invalid("the address of the consulrs client is no URL").with_source(error))?;
    if !base.username().is_empty() || base.password().is_some() || !matches!(base.path(), "" | "/") {
        return Err(invalid("the address of the consulrs client is more than a scheme, a host and a port"));
    }
    Ok(ConsulrsTransport { client, token })
}

#[async_trait]
impl Transport for ConsulrsTransport {
    fn endpoint(&self) -> &str {
        self.client.http.base.trim_end_matches('/')
    }

    async fn exchange(&self, request: Request) -> Result<Reply, Failure> {
        let method = match request.method {
            Method::Get => reqwest_0_11::Method::GET,
            Method::Put => reqwest_0_11::Method::PUT,
            Method::Post => reqwest_0_11::Method::POST,
            Method::Delete => reqwest_0_11::Method::DELETE,
        };
        let url = Url::parse(&[self.endpoint(), request.path.as_str()].concat())
            .map_err(|error| Failure::new(Box::new(error), true, false))?;
        let mut built = self.client.http.http.request(method, url.clone()).body(request.body);
        if let Some(token) = &self.token {
            built = built.header(TOKEN, token);
        }
        let response = built.send().await.map_err(failure)?;
        let index =
            response.headers().get(INDEX).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        // What another place answered is nothing but the redirect that led there.
        let status = if *response.url() == url { response.status().as_u16() } else { 301 };
        Ok(Reply { status, index, body: Box::new(HttpBody(response)) })
    }
}

struct HttpBody(Response);

#[async_trait]
impl Body for HttpBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        self.0.chunk().await.map_err(failure)
    }
}

fn failure(error: reqwest_0_11::Error) -> Failure {
    let error = error.without_url();
    let (connecting, timeout) = (error.is_connect(), error.is_timeout());
    Failure::new(Box::new(error), connecting, timeout)
}

/// Looks names up at each dial, under the rule for a token that travels without TLS.
struct Dial(Option<(Plaintext, String)>);

impl Resolve for Dial {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, plaintext) = (name.as_str().to_owned(), self.0.clone());
        Box::pin(async move {
            let found = look_up(&host, plaintext).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
