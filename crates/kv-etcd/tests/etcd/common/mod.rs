//! A server for a test, and stores on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)] // Test helpers.

pub(crate) mod scripted;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use kv_etcd::kv_core::{Key, StoreExt, StoreUrl, Watch, WatchEvent};
use kv_etcd::{EtcdConfig, EtcdStore};
use kv_testkit::{Cluster, require_or_skip};

/// Where tests find a server that runs already.
const URL: &str = "KV_ETCD_URL";

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
    let cluster = require_or_skip(env!("CARGO_MANIFEST_DIR"))?.start().await.unwrap();
    Some(Server { url: cluster.url().unwrap(), cluster: Some(cluster) })
}

impl Server {
    /// A store in a namespace nobody else has.
    pub(crate) async fn store(&self) -> EtcdStore {
        self.open(&namespace(), "").await
    }

    pub(crate) async fn open(&self, namespace: &str, query: &str) -> EtcdStore {
        open(&format!("{}/{namespace}{query}", self.url)).await
    }
}

pub(crate) fn namespace() -> String {
    format!("t{:x}", RandomState::new().hash_one(0))
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Servers of a test's own, or `None` after saying why there are none.
pub(crate) async fn start(nodes: usize) -> Option<Cluster> {
    Some(require_or_skip(env!("CARGO_MANIFEST_DIR"))?.nodes(nodes).start().await.unwrap())
}

/// The cluster's URL for these endpoints, with a namespace and options.
pub(crate) fn url(cluster: &Cluster, endpoints: &[String], namespace: &str, query: &str) -> String {
    let url = cluster.url_of(endpoints).unwrap();
    format!("{}/{namespace}{query}", url.trim_end_matches('/'))
}

/// Runs `etcdctl` with arguments that need no quoting on the first node.
pub(crate) async fn etcdctl(cluster: &Cluster, line: &str) -> String {
    cluster.node(1).exec(&["sh", "-c", &format!("etcdctl {line}")]).await.unwrap()
}

/// How many leases the server has.
pub(crate) async fn leases(cluster: &Cluster) -> usize {
    let told = etcdctl(cluster, "lease list").await;
    told.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{told}"))
}

pub(crate) async fn is_healthy(store: &EtcdStore) -> bool {
    store.put("health", "well").await.is_ok() && store.get("health").await.is_ok_and(|entry| entry.is_some())
}

pub(crate) async fn open(url: &str) -> EtcdStore {
    let url = StoreUrl::parse(url).unwrap();
    EtcdStore::connect(EtcdConfig::from_url(&url).unwrap()).await.unwrap()
}

/// The next event, or a failure that says so.
pub(crate) async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(Duration::from_secs(15), watch.next()).await.expect("an event").unwrap().unwrap()
}

/// Asks until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) {
    let begin = Instant::now();
    while !ask().await {
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
