//! A server for a test, and stores on it.

pub(crate) mod acl;
pub(crate) mod calls;
pub(crate) mod log;
pub(crate) mod script;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use kv_consul::kv_core::{Expiry, Key, PutOptions, StoreUrl, Watch, WatchEvent};
use kv_consul::{ConsulConfig, ConsulStore};
use kv_testkit::{Cluster, require_or_skip};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Consul's flags for its own locks.
pub(crate) const LOCK_FLAG: u64 = 3_304_740_253_564_472_344;

/// Where tests find a server that runs already.
const URL: &str = "KV_CONSUL_URL";

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Options of a put that lives so many seconds.
pub(crate) fn ttl(seconds: u32) -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Ttl(SECOND * seconds))
}

/// The query that chooses the HTTP client under test.
pub(crate) fn variant() -> &'static str {
    if std::env::var("KV_VARIANT").is_ok_and(|name| name == "consulrs") { "client=consulrs" } else { "" }
}

/// A store URL; the queries may be empty and begin with a question mark.
pub(crate) fn url(endpoints: &str, namespace: &str, query: &str, more: &str) -> String {
    let queries = [query, more].map(|query| query.trim_start_matches('?'));
    let queries: Vec<_> = queries.into_iter().filter(|query| !query.is_empty()).collect();
    let mark = if queries.is_empty() { "" } else { "?" };
    format!("consul://{endpoints}/{namespace}{mark}{}", queries.join("&"))
}

/// One server: a container of its own, or the one a variable names.
pub(crate) struct Server {
    pub(crate) cluster: Option<Cluster>,
    url: String,
}

/// `None` after saying why there is none.
pub(crate) async fn server() -> Option<Server> {
    if let Ok(url) = std::env::var(URL) {
        return Some(Server { cluster: None, url });
    }
    own_server().await
}

/// A server a test may harm.
pub(crate) async fn own_server() -> Option<Server> {
    let cluster = require_or_skip(env!("CARGO_MANIFEST_DIR"))?.start().await.unwrap();
    Some(Server { url: cluster.url().unwrap(), cluster: Some(cluster) })
}

impl Server {
    /// A store in a namespace nobody else has.
    pub(crate) async fn store(&self) -> ConsulStore {
        self.open(&namespace(), "").await
    }

    pub(crate) async fn open(&self, namespace: &str, query: &str) -> ConsulStore {
        // Many tests share a small machine; those about time say their own.
        let query = if query.is_empty() { "?timeout=20s&connect_timeout=20s" } else { query };
        open(&self.url_at(&self.endpoint(), namespace, query)).await
    }

    /// The URL of a store on this server, reached at other endpoints.
    pub(crate) fn url_at(&self, endpoints: &str, namespace: &str, query: &str) -> String {
        url(endpoints, namespace, query, self.url.split_once('?').map_or("", |(_, query)| query))
    }

    /// Consul's own answer to a request.
    pub(crate) async fn raw(
        &self,
        method: reqwest::Method,
        path: &str,
        body: impl Into<String>,
    ) -> (u16, String) {
        let url = format!("http://{}{path}", self.endpoint());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.request(method, url).body(body.into()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap().trim_end().to_owned())
    }

    pub(crate) fn endpoint(&self) -> String {
        StoreUrl::parse(&self.url).unwrap().hosts()[0].authority(8500)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().unwrap()
    }
}

pub(crate) fn namespace() -> String {
    format!("t{:x}", RandomState::new().hash_one(0))
}

pub(crate) async fn open(url: &str) -> ConsulStore {
    let url = StoreUrl::parse(url).unwrap();
    ConsulStore::connect(ConsulConfig::from_url(&url).unwrap()).await.unwrap()
}

/// The next event, or a failure that says so.
pub(crate) async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("an event").unwrap().unwrap()
}

/// Asks until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) {
    let begin = Instant::now();
    while !ask().await {
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All sessions there are, as Consul's JSON.
pub(crate) async fn sessions(server: &Server) -> String {
    server.raw(reqwest::Method::GET, "/v1/session/list?consistent", "").await.1
}

/// The session a key is bound to.
pub(crate) async fn session_of(server: &Server, path: &str) -> Option<String> {
    let (_, body) = server.raw(reqwest::Method::GET, &format!("/v1/kv/{path}?consistent"), "").await;
    let at = body.find("\"Session\":")? + 10;
    body[at..].split('"').nth(1).map(str::to_owned)
}

/// A session of another program that does this to its keys at its end.
pub(crate) async fn new_session(server: &Server, behavior: &str) -> String {
    let wanted = format!(r#"{{"NodeChecks":[],"TTL":"60s","LockDelay":"0s","Behavior":"{behavior}"}}"#);
    let (_, body) = server.raw(reqwest::Method::PUT, "/v1/session/create", wanted).await;
    body.split('"').nth(3).unwrap().to_owned()
}
