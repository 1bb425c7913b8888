//! etcd-client, as its documentation shows it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LockOptions, PutOptions, Txn, TxnOp,
    WatchOptions,
};

use crate::subject::{Changes, Subject};

/// A connected client; its methods take `&mut self`, so each call clones it, which is cheap.
#[derive(Clone)]
pub(crate) struct Etcd(Client, Arc<str>);

const LARGEST_ANSWER: usize = 64 << 20;

impl Etcd {
    pub(crate) async fn connect(endpoint: String) -> Result<Self> {
        Ok(Self(Client::connect([&endpoint], None).await?, endpoint.into()))
    }

    async fn transaction(&self, txn: Txn) -> Result<u64> {
        let answer = self.0.clone().txn(txn).await?;
        ensure!(answer.succeeded(), "the transaction did not run");
        revision(answer.header().map(etcd_client::ResponseHeader::revision))
    }
}

impl Subject for Etcd {
    async fn get(&self, key: &str) -> Result<usize> {
        let answer = self.0.clone().get(key, None).await?;
        Ok(answer.kvs().first().map_or(0, |kv| kv.value().len()))
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64> {
        let answer = self.0.clone().put(key, value.to_vec(), None).await?;
        revision(answer.header().map(etcd_client::ResponseHeader::revision))
    }

    async fn compare_and_set(&self, key: &str, version: u64, value: Bytes) -> Result<u64> {
        let compare = Compare::mod_revision(key, CompareOp::Equal, i64::try_from(version)?);
        // The state after a refusal belongs to the work: a caller needs it to try again.
        let txn = Txn::new()
            .when([compare])
            .and_then([TxnOp::put(key, value.to_vec(), None)])
            .or_else([TxnOp::get(key, None)]);
        self.transaction(txn).await
    }

    async fn put_ttl(&self, key: &str, value: Bytes, ttl: Duration) -> Result<()> {
        let mut client = self.0.clone();
        let lease = client.lease_grant(i64::try_from(ttl.as_secs())?, None).await?.id();
        client.put(key, value.to_vec(), Some(PutOptions::new().with_lease(lease))).await?;
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        Ok(self.0.clone().delete(key, None).await?.deleted() > 0)
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let options = GetOptions::new().with_prefix();
        // The whole list is one answer, which may be larger than the crate takes by default.
        let mut client = self.0.kv_client().max_decoding_message_size(LARGEST_ANSWER);
        Ok(client.get(format!("{prefix}/"), Some(options)).await?.kvs().len())
    }

    async fn transact(&self, keys: [&str; 4], value: Bytes) -> Result<bool> {
        let [first, ..] = keys;
        let puts: Vec<_> = keys.into_iter().map(|key| TxnOp::put(key, value.to_vec(), None)).collect();
        let txn = Txn::new().when([Compare::create_revision(first, CompareOp::Equal, 0)]).and_then(puts);
        self.transaction(txn).await.map(|_| true)
    }

    async fn open(&self) -> Result<()> {
        let absent = Self::connect(self.1.to_string()).await?.get("absent").await?;
        ensure!(absent == 0, "the key exists");
        Ok(())
    }

    async fn lock_unlock(&self, name: &str) -> Result<()> {
        let mut client = self.0.clone();
        let lease = client.lease_grant(60, None).await?.id();
        let lock = client.lock(name, Some(LockOptions::new().with_lease(lease))).await?;
        client.unlock(lock.key()).await?;
        client.lease_revoke(lease).await?;
        Ok(())
    }

    async fn watch(&self, prefix: &str) -> Result<Changes> {
        let options = WatchOptions::new().with_prefix();
        let mut stream = self.0.clone().watch(format!("{prefix}/"), Some(options)).await?;
        let created = stream.message().await?.context("the watch ended at once")?;
        ensure!(created.created(), "the watch did not begin");
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                for event in message.events() {
                    let Some(kv) = event.kv().filter(|_| event.event_type() == EventType::Put) else {
                        continue;
                    };
                    if sender.send(Bytes::copy_from_slice(kv.value())).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(changes)
    }

    async fn clear(&self, prefix: &str) -> Result<()> {
        self.0.clone().delete(format!("{prefix}/"), Some(DeleteOptions::new().with_prefix())).await?;
        Ok(())
    }
}

fn revision(revision: Option<i64>) -> Result<u64> {
    Ok(u64::try_from(revision.context("an answer without a header")?)?)
}
