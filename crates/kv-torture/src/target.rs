//! What is tortured: a cluster of three nodes of a server, or a folder of the embedded store.

use std::path::Path;

use anyhow::Result;
use kv_testkit::{Cluster, Servers, workspace};
use tempfile::TempDir;

/// A store's backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// etcd, three nodes.
    Etcd,
    /// Consul, three nodes.
    Consul,
    /// ZooKeeper, three nodes, by the client zookeeper-client.
    Zk,
    /// ZooKeeper, three nodes, by the client zookeeper-async.
    ZkAsync,
    /// The embedded store: one process, killed and started again.
    Sled,
}

impl Backend {
    /// All backends.
    pub const ALL: &'static [Self] = &[Self::Etcd, Self::Consul, Self::Zk, Self::ZkAsync, Self::Sled];

    /// The name used in folders and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::Zk => "zk",
            Self::ZkAsync => "zk-async",
            Self::Sled => "sled",
        }
    }

    fn server_crate(self) -> Option<&'static str> {
        match self {
            Self::Etcd => Some("kv-etcd"),
            Self::Consul => Some("kv-consul"),
            Self::Zk | Self::ZkAsync => Some("kv-zk"),
            Self::Sled => None,
        }
    }

    /// Short times, so that an outage outlasts a session now and then.
    fn options(self) -> &'static str {
        match self {
            Self::Etcd => "timeout=3s&session_ttl=5s&lock_ttl=5s",
            Self::Consul => "timeout=3s&session_ttl=10s&lock_ttl=10s",
            Self::Zk => "timeout=3s&session_timeout=6s&client=zookeeper-client",
            Self::ZkAsync => "timeout=3s&session_timeout=6s&client=zookeeper-async",
            Self::Sled => "timeout=3s&durability=process",
        }
    }
}

/// A running target.
#[derive(Debug)]
pub struct Target {
    /// The backend.
    pub backend: Backend,
    /// The URL that processes open.
    pub url: String,
    /// The nodes, where there are any.
    pub cluster: Option<Cluster>,
    _folder: Option<TempDir>,
}

impl Target {
    /// Starts the servers, or makes the folder.
    ///
    /// # Errors
    /// If the servers cannot be started here.
    pub async fn start(backend: Backend) -> Result<Self> {
        if let Some(name) = backend.server_crate() {
            let folder = workspace::root().join("crates").join(name);
            let cluster = Servers::available(Path::new(&folder))?.nodes(3).start().await?;
            let url = cluster.url()?;
            let url = format!("{}/torture?{}", url.trim_end_matches('/'), backend.options());
            return Ok(Self { backend, url, cluster: Some(cluster), _folder: None });
        }
        let folder = tempfile::tempdir()?;
        let url = format!("sled:{}?{}", folder.path().join("store").display(), backend.options());
        Ok(Self { backend, url, cluster: None, _folder: Some(folder) })
    }

    /// How many processes can use it at once.
    #[must_use]
    pub fn processes(&self) -> u32 {
        if self.cluster.is_some() { 3 } else { 1 }
    }
}
