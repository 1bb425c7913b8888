//! A transport over a `consulrs` client a program holds: its connections, TLS settings and token, with none
//! of its URL building. The only file that names consulrs and the reqwest it is built on.

use std::sync::Arc;

use ::consulrs::client::{ConsulClient, ConsulClientSettings};
use async_trait::async_trait;
use bytes::Bytes;
use kv_core::Result;
use reqwest_0_11::header::{HeaderName, HeaderValue};
use reqwest_0_11::{Client, Response, Url, redirect};
use rustify::clients::reqwest::Client as HttpClient;

use crate::config::{ConsulConfig, invalid};
use crate::store::ConsulStore;
use crate::transport::{Body, Failure, Method, Reply, Request, Transport, tls_problem};

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

impl ConsulStore {
    /// A store over a client the program holds: its address, connections, TLS settings and token. All
    /// else is as [`connect`](Self::connect) has it. Start the configuration from
    /// [`ConsulConfig::default`].
    ///
    /// What the client's HTTP client does with redirects is its own affair, and following one carries
    /// the token along: give it one that follows none. An answer that came by a redirect is refused.
    ///
    /// This is the one place where a foreign client is in the interface: it changes with `consulrs`, not
    /// with the version of this crate.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and `InvalidConfig` if the configuration names hosts, a token or
    /// anything of TLS, which the client has already.
    pub async fn over_consulrs(client: Arc<ConsulClient>, config: ConsulConfig) -> Result<Self> {
        if !config.hosts.is_empty() || config.tls || config.token.is_some() {
            return Err(invalid("hosts, token and TLS are those of the consulrs client"));
        }
        let transport = transport(client)?;
        let has_token = transport.token.is_some();
        Self::open(config, has_token, move |_| Ok(vec![Arc::new(transport)])).await
    }
}

/// The transports of a configuration, each over a consulrs client made for it: without redirects, proxies and
/// variables of the environment.
pub(crate) fn transports(config: &ConsulConfig) -> Result<Vec<Arc<dyn Transport>>> {
    if config.tls {
        return Err(invalid(
            "client=consulrs has no TLS of its own: hand over a client that has it, in code",
        ));
    }
    let build = |address: String| {
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(config.connect_limit())
            .pool_max_idle_per_host(config.max_idle())
            .tcp_nodelay(true)
            .build()
            .map_err(|error| invalid("the HTTP client cannot be set up").with_source(error))?;
        let settings = ConsulClientSettings {
            address: address.clone(),
            ca_certs: Vec::new(),
            client_cert: None,
            client_key: None,
            token: config.token.as_ref().map(|token| token.expose().to_owned()),
            verify: true,
            version: 1,
        };
        let client = ConsulClient { http: HttpClient::new(&address, http), settings };
        Ok(Arc::new(transport(Arc::new(client))?) as Arc<dyn Transport>)
    };
    config.endpoints()?.into_iter().map(|(base, _)| build(base)).collect()
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
            Method::Delete => reqwest_0_11::Method::DELETE,
        };
        let url = Url::parse(&[self.endpoint(), request.path.as_str()].concat())
            .map_err(|error| Failure { unsent: true, timeout: false, tls: None, source: Box::new(error) })?;
        let mut built = self.client.http.http.request(method, url.clone()).body(request.body);
        if let Some(token) = &self.token {
            built = built.header(TOKEN, token);
        }
        let response = built.send().await.map_err(failure)?;
        let index = response.headers().get(INDEX).and_then(|value| value.to_str().ok()).map(str::to_owned);
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
    let tls = tls_problem(&error, error.is_connect());
    Failure {
        unsent: error.is_connect() || tls.is_some(),
        timeout: error.is_timeout(),
        tls,
        source: Box::new(error),
    }
}
