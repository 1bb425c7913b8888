//! A server for a test, and stores on it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    unused_imports,
    unused_macros
)] // Test helpers.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use kv_testkit::{Cluster, require_or_skip};
use kv_zk::kv_core::{Expiry, Key, PutOptions, StoreUrl, Watch, WatchEvent};
use kv_zk::{ZkConfig, ZkStore};

/// Makes of each function, which takes the name of a client crate, a test of each that is compiled in.
/// A run of one variant of the backend (`KV_VARIANT`) tests its client only.
macro_rules! on_each_client {
    ($($name:ident),+ $(,)?) => {
        #[cfg(feature = "zookeeper-async")]
        mod zookeeper_async {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if crate::common::is_tested("zookeeper-async") {
                    super::$name("zookeeper-async").await;
                }
            })+
        }
        #[cfg(feature = "zookeeper-client")]
        mod zookeeper_client {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if crate::common::is_tested("zookeeper-client") {
                    super::$name("zookeeper-client").await;
                }
            })+
        }
    };
}
pub(crate) use on_each_client;

/// The client crates that are compiled in.
pub(crate) const CLIENTS: &[&str] = &[
    #[cfg(feature = "zookeeper-client")]
    "zookeeper-client",
    #[cfg(feature = "zookeeper-async")]
    "zookeeper-async",
];

pub(crate) fn is_tested(client: &str) -> bool {
    std::env::var("KV_VARIANT").map_or(true, |variant| variant.is_empty() || variant == client)
}

/// Where tests find a server that runs already.
const URL: &str = "KV_ZK_URL";

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
    /// Where it is, for a store on this client crate.
    pub(crate) fn url(&self, client: &str, namespace: &str) -> String {
        with(&self.url, client, namespace, "")
    }

    /// A store on this client crate.
    pub(crate) async fn open(&self, client: &str, namespace: &str, query: &str) -> ZkStore {
        open(&with(&self.url, client, namespace, query)).await
    }
}

/// A URL with a client crate, a namespace and more options.
pub(crate) fn with(url: &str, client: &str, namespace: &str, query: &str) -> String {
    let (base, own) = url.split_once('?').unwrap_or((url, ""));
    let client = if own.contains("client=") { String::new() } else { format!("client={client}") };
    let query: Vec<&str> = [own, &client, query].into_iter().filter(|part| !part.is_empty()).collect();
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

pub(crate) fn expiring(ttl: Duration) -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Ttl(ttl))
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
