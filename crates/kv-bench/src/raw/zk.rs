//! zookeeper-async, on paths whose parents exist.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use zookeeper_async::{Acl, CreateMode, WatchedEvent, Watcher, ZkError, ZkResult, ZooKeeper};

use crate::subject::{Changes, Subject};

/// One session.
#[derive(Clone)]
pub(crate) struct Zk(Arc<ZooKeeper>, Arc<str>);

struct Ignore;

impl Watcher for Ignore {
    fn handle(&self, _: WatchedEvent) {}
}

impl Zk {
    pub(crate) async fn connect(endpoint: String) -> Result<Self> {
        let session = ZooKeeper::connect(&endpoint, Duration::from_secs(10), Ignore).await?;
        Ok(Self(Arc::new(session), endpoint.into()))
    }

    async fn create(&self, path: &str, value: &[u8], mode: CreateMode) -> ZkResult<u64> {
        let created = self.0.create2(path, value.to_vec(), Acl::open_unsafe().clone(), mode).await;
        created.map(|(_, stat)| stat.mzxid.unsigned_abs())
    }

    /// Makes the parents of a path that do not exist.
    async fn make_parents(&self, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/').skip(1) {
            match self.create(&path[..at], b"", CreateMode::Persistent).await {
                Ok(_) | Err(ZkError::NodeExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn delete_below(&self, path: &str) -> Result<()> {
        let children = match self.0.get_children(path, false).await {
            Ok(children) => children,
            Err(ZkError::NoNode) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for child in children {
            let child = format!("{path}/{child}");
            Box::pin(self.delete_below(&child)).await?;
            match self.0.delete(&child, None).await {
                Ok(()) | Err(ZkError::NoNode) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn path(key: &str) -> String {
    format!("/{key}")
}

impl Subject for Zk {
    async fn get(&self, key: &str) -> Result<usize> {
        Ok(self.0.get_data(&path(key), false).await?.0.len())
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64> {
        let path = path(key);
        match self.0.set_data(&path, value.to_vec(), None).await {
            Ok(stat) => return Ok(stat.mzxid.unsigned_abs()),
            Err(ZkError::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
        match self.create(&path, &value, CreateMode::Persistent).await {
            Ok(version) => Ok(version),
            Err(ZkError::NoNode) => {
                self.make_parents(&path).await?;
                Ok(self.create(&path, &value, CreateMode::Persistent).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn compare_and_set(&self, key: &str, version: u64, value: Bytes) -> Result<u64> {
        // A caller that keeps the node's own version needs no read; this one reads, as the version
        // it was given is the transaction's.
        let path = path(key);
        let stat = self.0.exists(&path, false).await?.context("the key is absent")?;
        if stat.mzxid.unsigned_abs() != version {
            bail!("{key} has changed");
        }
        Ok(self.0.set_data(&path, value.to_vec(), Some(stat.version)).await?.mzxid.unsigned_abs())
    }

    async fn put_ttl(&self, key: &str, value: Bytes, ttl: Duration) -> Result<()> {
        let path = path(key);
        let create = || {
            let acl = Acl::open_unsafe().clone();
            self.0.create2_ttl(&path, value.to_vec(), acl, CreateMode::PersistentWithTTL, ttl)
        };
        match create().await {
            Err(ZkError::NoNode) => {
                self.make_parents(&path).await?;
                create().await?
            }
            other => other?,
        };
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        match self.0.delete(&path(key), None).await {
            Ok(()) => Ok(true),
            Err(ZkError::NoNode) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let prefix = path(prefix);
        let children = self.0.get_children(&prefix, false).await?;
        let reads = children.iter().map(|child| {
            let path = format!("{prefix}/{child}");
            async move { self.0.get_data(&path, false).await }
        });
        Ok(futures_util::future::try_join_all(reads).await?.len())
    }

    async fn transact(&self, _: [&str; 4], _: Bytes) -> Result<bool> {
        bail!("zookeeper-async has no transactions")
    }

    async fn open(&self) -> Result<()> {
        let opened = Self::connect(self.1.to_string()).await?;
        let absent = opened.0.exists("/absent", false).await?;
        ensure!(absent.is_none(), "the node exists");
        Ok(opened.0.close().await?)
    }

    async fn lock_unlock(&self, name: &str) -> Result<()> {
        let directory = path(name);
        let node = format!("{directory}/_c_bench-lock-");
        let create = || {
            let acl = Acl::open_unsafe().clone();
            self.0.create2(&node, Vec::new(), acl, CreateMode::EphemeralSequential)
        };
        let (own, _) = match create().await {
            Err(ZkError::NoNode) => {
                self.make_parents(&node).await?;
                create().await?
            }
            other => other?,
        };
        let own_name = own.rsplit('/').next().unwrap_or_default();
        loop {
            let rivals = self.0.get_children(&directory, false).await?;
            let Some(before) = rivals.iter().filter(|name| name.as_str() < own_name).max() else { break };
            let gone = Arc::new(tokio::sync::Notify::new());
            let notify = Arc::clone(&gone);
            let path = format!("{directory}/{before}");
            match self.0.get_data_w(&path, move |_: WatchedEvent| notify.notify_one()).await {
                Ok(_) => gone.notified().await,
                Err(ZkError::NoNode) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.0.delete(&own, None).await?)
    }

    async fn watch(&self, prefix: &str) -> Result<Changes> {
        let path = format!("{}/key", path(prefix));
        self.make_parents(&path).await?;
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        let this = self.clone();
        let (begun, started) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut begun = Some(begun);
            loop {
                let fired = Arc::new(tokio::sync::Notify::new());
                let notify = Arc::clone(&fired);
                if this.0.exists_w(&path, move |_: WatchedEvent| notify.notify_one()).await.is_err() {
                    return;
                }
                if let Ok((value, _)) = this.0.get_data(&path, false).await
                    && sender.send(value.into()).is_err()
                {
                    return;
                }
                if let Some(begun) = begun.take() {
                    _ = begun.send(());
                }
                fired.notified().await;
            }
        });
        started.await.context("the watch did not begin")?;
        Ok(changes)
    }

    async fn clear(&self, prefix: &str) -> Result<()> {
        self.delete_below(&path(prefix)).await
    }
}
