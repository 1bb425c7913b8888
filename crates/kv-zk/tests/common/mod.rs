//! A server for a test, and stores on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)] // Test helpers.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use kv_testkit::{Cluster, require_or_skip};
use kv_zk::kv_core::{Key, StoreUrl, Watch, WatchEvent};
use kv_zk::{ZkConfig, ZkStore};

/// Where tests find a server that runs already.
const URL: &str = "KV_ZK_URL";

/// The client crate under test, where the URL names none.
pub(crate) fn client() -> &'static str {
    if cfg!(feature = "zookeeper-client") { "client=zookeeper-client" } else { "client=zookeeper-async" }
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
    let cluster = require_or_skip(env!("CARGO_MANIFEST_DIR"))?.start().await.unwrap();
    Some(Server { url: cluster.url().unwrap(), cluster: Some(cluster) })
}

impl Server {
    /// A store in a namespace nobody else has.
    pub(crate) async fn store(&self) -> ZkStore {
        self.open(&namespace(), "").await
    }

    pub(crate) async fn open(&self, namespace: &str, query: &str) -> ZkStore {
        open(&with(&self.url, namespace, query)).await
    }
}

/// A URL with a namespace and more options.
pub(crate) fn with(url: &str, namespace: &str, query: &str) -> String {
    let (base, own) = url.split_once('?').unwrap_or((url, ""));
    let client = if own.contains("client=") { "" } else { client() };
    let query: Vec<&str> = [own, client, query].into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}/{namespace}?{}", base.trim_end_matches('/'), query.join("&"))
}

pub(crate) fn namespace() -> String {
    format!("t{:x}", RandomState::new().hash_one(0))
}

/// A seed, printed so that a failure can be seen again with `KV_SEED`.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("KV_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(1));
    println!("KV_SEED={seed}");
    seed
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub(crate) async fn open(url: &str) -> ZkStore {
    let url = StoreUrl::parse(url).unwrap();
    ZkStore::connect(ZkConfig::from_url(&url).unwrap()).await.unwrap()
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
