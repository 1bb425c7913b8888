//! The subject that goes through a store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::TryStreamExt;
use kv_any::kv_core::{
    Condition, DeleteTreeOptions, Expiry, Key, ListItem, Prefix, PutOptions, Store, StoreExt, Txn, TxnOp,
    Version, WatchEvent,
};

use crate::subject::{Changes, Subject};

/// A store of any backend.
#[derive(Clone, Debug)]
pub(crate) struct StoreSubject {
    store: Arc<dyn Store>,
    url: Arc<str>,
}

impl StoreSubject {
    pub(crate) async fn open_url(url: &str) -> Result<Self> {
        let store = kv_any::open(url).await.with_context(|| format!("opening {url}"))?;
        Ok(Self { store, url: url.into() })
    }
}

impl Subject for StoreSubject {
    async fn get(&self, key: &str) -> Result<usize> {
        Ok(self.store.get(key).await?.map_or(0, |entry| entry.value.len()))
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64> {
        Ok(self.store.put(key, value).await?.get())
    }

    async fn compare_and_set(&self, key: &str, version: u64, value: Bytes) -> Result<u64> {
        Ok(self.store.compare_and_set(key, Version::new(version), value).await?.get())
    }

    async fn put_ttl(&self, key: &str, value: Bytes, ttl: Duration) -> Result<()> {
        let options = PutOptions::default().with_expiry(Expiry::Ttl(ttl));
        self.store.put_with(&Key::new(key)?, value, options).await?;
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        Ok(self.store.delete(key).await?)
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let listing = self.store.list(prefix).await?;
        let count = listing.try_fold((0, 0), |(count, bytes), item| async move {
            let size = match &item {
                ListItem::Entry(entry) => entry.value.len(),
                _ => 0,
            };
            Ok((count + 1, bytes + size))
        });
        let (count, bytes) = count.await?;
        ensure!(bytes > 0, "the list had no values");
        Ok(count)
    }

    async fn transact(&self, keys: [&str; 4], value: Bytes) -> Result<bool> {
        let Some(transact) = self.store.as_transact() else { return Ok(false) };
        let [first, ..] = keys;
        let puts = keys.into_iter().map(|key| TxnOp::put(key, value.clone()));
        let txn = Txn::when([Condition::absent(first)]).then(puts);
        Ok(transact.transact_with(txn).await?.succeeded)
    }

    async fn open(&self) -> Result<()> {
        // A directory is one store's: opening a database means a new one, as for the raw client.
        let folder = self.url.starts_with("sled:").then(tempfile::tempdir).transpose()?;
        let opened = match &folder {
            Some(folder) => Self::open_url(&format!("sled:{}", folder.path().display())).await?,
            None => Self::open_url(&self.url).await?,
        };
        let absent = opened.get("absent").await?;
        ensure!(absent == 0, "the key exists");
        Ok(opened.store.close().await?)
    }

    async fn lock_unlock(&self, name: &str) -> Result<()> {
        let guard = self.store.lock(name).await?;
        ensure!(guard.token().get() > 0, "a lock without a token");
        Ok(guard.unlock().await?)
    }

    async fn watch(&self, prefix: &str) -> Result<Changes> {
        let mut watch = self.store.watch(prefix).await?;
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(event)) = watch.next().await {
                if let WatchEvent::Put(entry) = event
                    && sender.send(entry.value).is_err()
                {
                    return;
                }
            }
        });
        Ok(changes)
    }

    async fn clear(&self, prefix: &str) -> Result<()> {
        // A tree of 100,000 keys takes longer than one request may.
        let options = DeleteTreeOptions::default().with_timeout(Duration::from_secs(120));
        self.store.delete_tree_with(&Prefix::new(prefix)?, options).await?;
        Ok(())
    }
}
