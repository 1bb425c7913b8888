//! What is measured against what: for each backend a raw client and a store on the same server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use kv_testkit::{Cluster, Mode, Proxy, Servers};

use crate::measure::{Pair, Plan, Row, Slow, measure};
use crate::raw;
use crate::store::StoreSubject;
use crate::workload::Kind;

/// The backends, in the order they are measured.
pub(crate) const ALL: &[&str] = &["mem", "sled", "etcd", "consul", "zk"];

/// Measures one backend.
pub(crate) async fn run(
    name: &str,
    plan: Plan,
    wanted: impl Fn(Kind) -> bool,
    say: impl Fn(&str),
) -> Result<Vec<Row>> {
    match name {
        "mem" => {
            let (raw, store) = (raw::mem::Mem::default(), StoreSubject::open_url("mem:").await?);
            measure(name, &Pair { raw, store, slow: None }, plan, wanted, say).await
        }
        "sled" => {
            let folder = tempfile::tempdir()?;
            let raw = raw::sled::Sled::open_at(&folder.path().join("raw"))?;
            let url = format!("sled:{}", folder.path().join("store").display());
            let store = StoreSubject::open_url(&url).await?;
            measure(name, &Pair { raw, store, slow: None }, plan, wanted, say).await
        }
        "etcd" => {
            let server = Server::start("kv-etcd", &[]).await?;
            let subjects = server.subjects("", raw::etcd::Etcd::connect).await?;
            measure(name, &subjects, plan, wanted, say).await
        }
        "consul" => {
            let server = Server::start("kv-consul", &[MANY_CONNECTIONS]).await?;
            let subjects = server.subjects("?max_calls=256", raw::consul::Consul::connect).await?;
            measure(name, &subjects, plan, wanted, say).await
        }
        "zk" => {
            let server = Server::start("kv-zk", &[]).await?;
            let subjects = server.subjects("?client=zookeeper-async", raw::zk::Zk::connect).await?;
            measure(name, &subjects, plan, wanted, say).await
        }
        other => bail!("no backend is called {other:?}; there are {}", ALL.join(", ")),
    }
}

/// One way through a link that is slow enough to tell round trips from work.
const ONE_WAY: Duration = Duration::from_millis(20);

/// A raw client with 256 tasks opens 256 connections, and Consul resets the 201st of one address.
const MANY_CONNECTIONS: &str = "-hcl=limits { http_max_conns_per_client = 10000 }";

/// One node of the version every run tests, removed when the value is dropped, and a slow link to it.
struct Server {
    cluster: Cluster,
    link: Proxy,
}

impl Server {
    async fn start(crate_name: &str, args: &[&str]) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_name);
        let servers = args.iter().fold(Servers::available(&folder)?, |servers, arg| servers.arg(arg));
        let cluster = servers.start().await?;
        let link = Proxy::start(cluster.node(1).endpoint()).await?;
        Ok(Self { cluster, link })
    }

    /// Connects both clients, directly and through the slow link.
    async fn subjects<R, F: Future<Output = Result<R>>>(
        &self,
        options: &str,
        raw: impl Fn(String) -> F,
    ) -> Result<Pair<R>> {
        let slow = Slow {
            raw: raw(self.link.endpoint()).await?,
            store: StoreSubject::open_url(&format!(
                "{}{options}",
                self.cluster.url_of(&[self.link.endpoint()])?
            ))
            .await?,
            round_trip: ONE_WAY * 2,
        };
        self.link.set(Mode::Delay(ONE_WAY)).await;
        Ok(Pair {
            raw: raw(self.cluster.node(1).endpoint()).await?,
            store: StoreSubject::open_url(&format!("{}{options}", self.cluster.url()?)).await?,
            slow: Some(slow),
        })
    }
}
