//! What is measured: the same work, done by a raw client and by a store.

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

/// One way of doing the work. The raw client and the store each have one; the driver knows no more.
///
/// "The same work" means the same outcome for the caller: a put tells the version it made, a
/// compare-and-set fails on another version, a list delivers keys and values, a lock has a token.
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    /// Reads a key and returns the length of its value.
    fn get(&self, key: &str) -> impl Future<Output = Result<usize>> + Send;

    /// Writes a key and returns the version it got.
    fn put(&self, key: &str, value: Bytes) -> impl Future<Output = Result<u64>> + Send;

    /// Writes a key if it is at `version` and returns the version it got.
    fn compare_and_set(
        &self,
        key: &str,
        version: u64,
        value: Bytes,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Writes a new key that goes by itself.
    fn put_ttl(&self, key: &str, value: Bytes, ttl: Duration) -> impl Future<Output = Result<()>> + Send;

    /// Deletes a key and tells whether it was there.
    fn delete(&self, key: &str) -> impl Future<Output = Result<bool>> + Send;

    /// Reads every entry below a prefix and returns how many there were.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<usize>> + Send;

    /// Writes four keys at once, if the first does not exist; `Ok(false)` where there are no
    /// transactions.
    fn transact(&self, keys: [&str; 4], value: Bytes) -> impl Future<Output = Result<bool>> + Send;

    /// Opens one more client, reads a key that does not exist and closes the client.
    fn open(&self) -> impl Future<Output = Result<()>> + Send;

    /// Takes a lock, waiting until it is free, and releases it.
    fn lock_unlock(&self, name: &str) -> impl Future<Output = Result<()>> + Send;

    /// Watches a prefix and sends the value of each put, until the receiver is dropped. Returns when
    /// the watch has begun.
    fn watch(&self, prefix: &str) -> impl Future<Output = Result<Changes>> + Send;

    /// Deletes everything below a prefix.
    fn clear(&self, prefix: &str) -> impl Future<Output = Result<()>> + Send;
}

/// The values a watch saw, in order.
pub(crate) type Changes = tokio::sync::mpsc::UnboundedReceiver<Bytes>;
