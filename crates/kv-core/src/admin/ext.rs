//! Short forms of the administrative powers, written once for every backend.

use std::fmt::Display;

use super::CallOptions;
use super::history::{History, KeyVersion, VersionsOptions};
use crate::capabilities::Power;
use crate::entry::Entry;
use crate::error::{Error, Operation, Result};
use crate::ext::{to_key, to_prefix};
use crate::key::{Key, Prefix};
use crate::list::Listing;
use crate::options::ListOptions;
use crate::store::Store;
use crate::version::Version;

/// Short forms of what operators ask of a store, for every store. Not to be implemented by hand.
///
/// They are apart from [`StoreExt`](crate::StoreExt), because an application that reads and writes needs
/// none of them. Each reports a store without the power as `Unsupported`, before anything is sent.
pub trait AdminExt: Store {
    /// The entry under `key` as it was at version `at`: see [`History::get_at_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, StoreExt};
    ///
    /// let before = store.put("config/limit", "10").await?;
    /// store.delete("config/limit").await?;
    /// assert_eq!(store.get_at("config/limit", before).await?.unwrap().text()?, "10");
    /// # Ok(()) }
    /// ```
    fn get_at<K>(&self, key: K, at: Version) -> impl Future<Output = Result<Option<Entry>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::GetAt)?;
            history(self, Operation::GetAt)?.get_at_with(&key, at, CallOptions::default()).await
        }
    }

    /// The entries strictly below `prefix` as they were at version `at`: see [`History::list_at_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, StoreExt};
    ///
    /// store.put("app/a", "1").await?;
    /// let before = store.put("app/b", "2").await?;
    /// store.delete_tree("app").await?; // By mistake.
    /// for entry in store.list_at("app", before).await?.entries().await? {
    ///     store.create(&entry.key, entry.value).await?;
    /// }
    /// assert_eq!(store.keys("app").await?.len(), 2);
    /// # Ok(()) }
    /// ```
    fn list_at<P>(&self, prefix: P, at: Version) -> impl Future<Output = Result<Listing>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move {
            let prefix = to_prefix(prefix, Operation::ListAt)?;
            history(self, Operation::ListAt)?.list_at_with(&prefix, at, ListOptions::default()).await
        }
    }

    /// Every version of `key` that the store still keeps, the oldest first: see
    /// [`History::versions_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, StoreExt};
    ///
    /// store.put("config/limit", "10").await?;
    /// store.put("config/limit", "20").await?;
    /// store.delete("config/limit").await?;
    /// let versions = store.key_versions("config/limit").await?;
    /// let values: Vec<_> = versions.iter().map(|one| one.entry.as_ref().map(|entry| &entry.value[..])).collect();
    /// assert_eq!(values, [Some(&b"10"[..]), Some(b"20"), None]);
    /// # Ok(()) }
    /// ```
    fn key_versions<K>(&self, key: K) -> impl Future<Output = Result<Vec<KeyVersion>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::Versions)?;
            history(self, Operation::Versions)?.versions_with(&key, VersionsOptions::default()).await
        }
    }

    /// Forgets every state before `up_to` and returns the oldest version that is left: see
    /// [`History::compact_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, ErrorKind, StoreExt};
    ///
    /// let first = store.put("a", "1").await?;
    /// let second = store.put("a", "2").await?;
    /// assert_eq!(store.compact(second).await?, second);
    /// let gone = store.get_at("a", first).await.unwrap_err();
    /// assert_eq!(*gone.kind(), ErrorKind::Compacted { oldest: Some(second) });
    /// # Ok(()) }
    /// ```
    fn compact(&self, up_to: Version) -> impl Future<Output = Result<Version>> + Send {
        async move { history(self, Operation::Compact)?.compact_with(up_to, CallOptions::default()).await }
    }
}

impl<S: Store + ?Sized> AdminExt for S {}

fn history<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn History> {
    store.as_history().ok_or_else(|| absent(store, Power::History.name(), operation))
}

fn absent<S: Store + ?Sized>(store: &S, what: impl Display, operation: Operation) -> Error {
    Error::unsupported(what.to_string()).with_operation(operation).with_backend(store.capabilities().backend)
}
