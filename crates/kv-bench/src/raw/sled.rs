//! sled itself, with what a store must add for the same outcome: a version beside each value, and a
//! flush before a write is acknowledged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use sled::transaction::{ConflictableTransactionError, TransactionError};

use crate::subject::{Changes, Subject};

/// One database; every write is flushed before it returns.
#[derive(Clone)]
pub(crate) struct Sled {
    db: sled::Db,
    version: Arc<AtomicU64>,
}

const VERSION_BYTES: usize = 8;

impl Sled {
    pub(crate) fn open_at(path: &Path) -> Result<Self> {
        Ok(Self { db: sled::Config::new().path(path).open()?, version: Arc::new(AtomicU64::new(1)) })
    }

    fn record(&self, value: &[u8]) -> (u64, Vec<u8>) {
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let mut record = Vec::with_capacity(VERSION_BYTES + value.len());
        record.extend_from_slice(&version.to_be_bytes());
        record.extend_from_slice(value);
        (version, record)
    }

    /// On a thread that may block: `flush_async` waits on sled's own eight threads, and eight such waits
    /// keep the write that would end them from its turn, for ever.
    async fn flush(&self) -> Result<()> {
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || db.flush()).await??;
        Ok(())
    }
}

impl Subject for Sled {
    async fn get(&self, key: &str) -> Result<usize> {
        Ok(self.db.get(key)?.map_or(0, |record| record.len() - VERSION_BYTES))
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64> {
        let (version, record) = self.record(&value);
        self.db.insert(key, record)?;
        self.flush().await?;
        Ok(version)
    }

    async fn compare_and_set(&self, key: &str, version: u64, value: Bytes) -> Result<u64> {
        let found = self.db.get(key)?.context("the key is absent")?;
        ensure!(found.starts_with(&version.to_be_bytes()), "{key} has changed");
        let (version, record) = self.record(&value);
        self.db.compare_and_swap(key, Some(found), Some(record))?.context("the key has changed")?;
        self.flush().await?;
        Ok(version)
    }

    async fn put_ttl(&self, key: &str, value: Bytes, _ttl: Duration) -> Result<()> {
        self.put(key, value).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        let existed = self.db.remove(key)?.is_some();
        self.flush().await?;
        Ok(existed)
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let mut count = 0;
        for record in self.db.scan_prefix(format!("{prefix}/")) {
            record?;
            count += 1;
        }
        Ok(count)
    }

    async fn transact(&self, keys: [&str; 4], value: Bytes) -> Result<bool> {
        let records = keys.map(|key| (key.as_bytes(), self.record(&value).1));
        let ran = self.db.transaction(|tree| {
            if tree.get(records[0].0)?.is_some() {
                return Err(ConflictableTransactionError::Abort(()));
            }
            for (key, record) in &records {
                tree.insert(*key, record.as_slice())?;
            }
            Ok(())
        });
        match ran {
            Ok(()) => {}
            Err(TransactionError::Abort(())) => return Ok(false),
            Err(TransactionError::Storage(error)) => return Err(error.into()),
        }
        self.flush().await?;
        Ok(true)
    }

    async fn lock_unlock(&self, _: &str) -> Result<()> {
        bail!("sled has no locks")
    }

    async fn open(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let absent = Self::open_at(folder.path())?.get("absent").await?;
        ensure!(absent == 0, "the key exists");
        Ok(())
    }

    async fn watch(&self, prefix: &str) -> Result<Changes> {
        let mut subscriber = self.db.watch_prefix(format!("{prefix}/"));
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = (&mut subscriber).await {
                if let sled::Event::Insert { value, .. } = event
                    && sender.send(Bytes::copy_from_slice(&value[VERSION_BYTES..])).is_err()
                {
                    return;
                }
            }
        });
        Ok(changes)
    }

    async fn clear(&self, prefix: &str) -> Result<()> {
        for key in self.db.scan_prefix(format!("{prefix}/")).keys() {
            self.db.remove(key?)?;
        }
        self.flush().await
    }
}
