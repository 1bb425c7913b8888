//! What people call daily: short forms over [`Store`], written once for every backend.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::{Error, Operation, Result};
use crate::fence::Fence;
use crate::key::{IntoKey, IntoPrefix, Key};
use crate::list::{ListItem, Listing};
use crate::lock::{LockGuard, LockHolder, LockOptions};
use crate::lock_view::{
    BreakLockOptions, LockChanges, LockListing, LockView, LockWatchOptions, LocksOptions,
};
use crate::options::{
    CallOptions, DeleteOptions, DeleteResult, DeleteTreeOptions, Expiry, GetOptions, ListOptions,
    Precondition, PutOptions, PutResult,
};
use crate::pending::{IntoValue, Pending};
use crate::power::Power;
use crate::steps;
use crate::store::{ServerInfo, Store};
use crate::txn::{Txn, TxnResult};
use crate::update::{self, Settled, UpdateOptions};
use crate::version::{FencingToken, Version};
use crate::watch::{Watch, WatchEvent, WatchOptions, WatchTarget};

/// Short forms of the [`Store`] methods, for every store. Not to be implemented by hand.
///
/// Each method has a plain form and, where there are options, one that takes them and ends in `_with`.
/// Keys and prefixes are taken as text or as what they are, and checked before any I/O; a bad one is
/// `InvalidKey`.
pub trait StoreExt: Store {
    /// The entry under `key`, or `None`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("config/limit", "10").await?;
    /// let entry = store.get("config/limit").await?.unwrap();
    /// assert_eq!((entry.text()?, entry.is_new()), ("10", true));
    /// assert_eq!(store.get("config/absent").await?, None);
    /// # Ok(()) }
    /// ```
    fn get(&self, key: impl IntoKey) -> impl Pending<Option<Entry>> {
        async move { self.get_opts(&key.into_key(Operation::Get)?, GetOptions::default()).await }
    }

    /// Like [`get`](Self::get), with options: a stale read, the entry's expiry, a deadline.
    fn get_with(&self, key: impl IntoKey, options: GetOptions) -> impl Pending<Option<Entry>> {
        async move { self.get_opts(&key.into_key(Operation::Get)?, options).await }
    }

    /// Whether `key` exists. An outage is an error, never "no".
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// assert!(!store.exists("jobs/1").await?);
    /// # Ok(()) }
    /// ```
    fn exists(&self, key: impl IntoKey) -> impl Pending<bool> {
        async move { Ok(self.get(key).await?.is_some()) }
    }

    /// Puts a permanent value, whether the key exists or not.
    /// A key that expired until now does so no more: [`update`](Self::update) keeps the expiry.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let first = store.put("config/limit", "10").await?;
    /// assert!(store.put("config/limit", "20").await? > first);
    /// # Ok(()) }
    /// ```
    fn put(&self, key: impl IntoKey, value: impl IntoValue) -> impl Pending<Version> {
        put_if(self, key, value.into(), Precondition::Any)
    }

    /// Like [`put`](Self::put), with options: a precondition, an expiry, a fence, a deadline.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::{Expiry, PutOptions};
    /// let options = PutOptions::default().with_expiry(Expiry::Session);
    /// store.put_with("members/a", "10.0.0.7", options).await?;
    /// # Ok(()) }
    /// ```
    fn put_with(
        &self,
        key: impl IntoKey,
        value: impl IntoValue,
        options: PutOptions,
    ) -> impl Pending<PutResult> {
        let value = value.into();
        async move { self.put_opts(&key.into_key(Operation::Put)?, value, options).await }
    }

    /// Puts a permanent value if the key does not exist; else `AlreadyExists`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.create("jobs/1", "worker-7").await?;
    /// assert!(store.create("jobs/1", "worker-8").await.unwrap_err().is_conflict());
    /// # Ok(()) }
    /// ```
    fn create(&self, key: impl IntoKey, value: impl IntoValue) -> impl Pending<Version> {
        put_if(self, key, value.into(), Precondition::Absent)
    }

    /// Puts a permanent value if the key exists; else `NotFound`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// assert!(store.replace("config/limit", "20").await.is_err());
    /// # Ok(()) }
    /// ```
    fn replace(&self, key: impl IntoKey, value: impl IntoValue) -> impl Pending<Version> {
        put_if(self, key, value.into(), Precondition::Present)
    }

    /// Puts a permanent value if the key is still at `version`; else `PreconditionFailed`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let first = store.put("config/limit", "10").await?;
    /// let second = store.compare_and_set("config/limit", first, "20").await?;
    /// assert!(store.compare_and_set("config/limit", first, "30").await.is_err());
    /// assert_eq!(store.get("config/limit").await?.unwrap().version, second);
    /// # Ok(()) }
    /// ```
    fn compare_and_set(
        &self,
        key: impl IntoKey,
        version: Version,
        value: impl IntoValue,
    ) -> impl Pending<Version> {
        put_if(self, key, value.into(), Precondition::At(version))
    }

    /// Puts a permanent value if the key's value is `expected`; else `PreconditionFailed`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("leader", "node-1").await?;
    /// store.compare_value_and_set("leader", "node-1", "node-2").await?;
    /// # Ok(()) }
    /// ```
    fn compare_value_and_set(
        &self,
        key: impl IntoKey,
        expected: impl IntoValue,
        value: impl IntoValue,
    ) -> impl Pending<Version> {
        put_if(self, key, value.into(), Precondition::Value(expected.into()))
    }

    /// Puts a value that goes after `ttl`, whether the key exists or not, and tells the time to live that
    /// was granted. Putting again begins it anew.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use std::time::Duration;
    ///
    /// let put = store.put_ttl("services/web/1", "10.0.0.7:80", Duration::from_secs(30)).await?;
    /// assert_eq!(put.granted_ttl, Some(Duration::from_secs(30)));
    /// # Ok(()) }
    /// ```
    fn put_ttl(&self, key: impl IntoKey, value: impl IntoValue, ttl: Duration) -> impl Pending<PutResult> {
        let value = value.into();
        async move {
            let key = key.into_key(Operation::Put)?;
            self.put_opts(&key, value, PutOptions::default().with_expiry(Expiry::Ttl(ttl))).await
        }
    }

    /// Puts a value that lives as long as the session of this store handle, whether the key exists or not.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::Store;
    /// store.put_session("services/web/1", "10.0.0.7:80").await?;
    /// store.close().await?; // The entry is gone.
    /// # Ok(()) }
    /// ```
    fn put_session(&self, key: impl IntoKey, value: impl IntoValue) -> impl Pending<Version> {
        let value = value.into();
        async move {
            let key = key.into_key(Operation::Put)?;
            let options = PutOptions::default().with_expiry(Expiry::Session);
            Ok(self.put_opts(&key, value, options).await?.version)
        }
    }

    /// Gives an existing entry another expiry, or begins its time to live anew, and leaves its value
    /// alone; `NotFound` if there is none. The entry gets a new version.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use std::time::Duration;
    /// use kv_core::Expiry;
    /// let minute = Duration::from_secs(60);
    /// store.put_ttl("services/web/1", "10.0.0.7:80", minute).await?;
    /// store.touch("services/web/1", Expiry::Ttl(minute)).await?;
    /// assert_eq!(store.get("services/web/1").await?.unwrap().text()?, "10.0.0.7:80");
    /// # Ok(()) }
    /// ```
    fn touch(&self, key: impl IntoKey, expiry: Expiry) -> impl Pending<Version> {
        async move { update::touch(self, &key.into_key(Operation::Put)?, expiry).await }
    }

    /// Puts a value if the key is still at `version`, or still absent for `None`; else
    /// `PreconditionFailed` or `AlreadyExists`. The entry goes on expiring as it did.
    ///
    /// Where the store lacks [`Power::KeepExpiry`](crate::Power::KeepExpiry) it is `Unsupported` for an
    /// entry that expires, and costs a read.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let first = store.put_if_unchanged("config/limit", None, "10").await?;
    /// store.put_if_unchanged("config/limit", Some(first), "20").await?;
    /// let late = store.put_if_unchanged("config/limit", Some(first), "30").await;
    /// assert!(late.unwrap_err().is_conflict());
    /// # Ok(()) }
    /// ```
    fn put_if_unchanged(
        &self,
        key: impl IntoKey,
        version: Option<Version>,
        value: impl IntoValue,
    ) -> impl Pending<Version> {
        let value = value.into();
        async move {
            let key = key.into_key(Operation::Put)?;
            update::put_if_unchanged(self, &key, version, value, &UpdateOptions::default()).await
        }
    }

    /// Changes a value that depends on what is there: reads the entry, asks `change` for the new value and
    /// puts it if nobody was faster; else it asks again, up to 64 times. Returns the new version, or
    /// `None` if `change` wants the key left alone.
    ///
    /// The entry goes on expiring as it did, as for [`put_if_unchanged`](Self::put_if_unchanged). An
    /// error with `applied() == Unknown` ends it: that write is not sent again. See
    /// [`settle`](Self::settle).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let count = |entry: Option<&kv_core::Entry>| {
    ///     let before: u64 = entry.and_then(|entry| entry.text().ok()?.parse().ok()).unwrap_or(0);
    ///     Some((before + 1).to_string().into())
    /// };
    /// for _ in 0..3 {
    ///     store.update("visits", count).await?;
    /// }
    /// assert_eq!(store.get("visits").await?.unwrap().text()?, "3");
    /// # Ok(()) }
    /// ```
    fn update<F>(&self, key: impl IntoKey, change: F) -> impl Pending<Option<Version>>
    where
        F: FnMut(Option<&Entry>) -> Option<Bytes> + Send,
    {
        self.update_with(key, UpdateOptions::default(), change)
    }

    /// Like [`update`](Self::update), with a fence, a bound of attempts or a deadline of each request.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::UpdateOptions;
    /// let guard = store.lock("visits").await?;
    /// let options = UpdateOptions::default().with_fence(guard.fence()).with_attempts(1);
    /// assert_eq!(store.update_with("visits", options, |_| None).await?, None);
    /// guard.unlock().await?;
    /// # Ok(()) }
    /// ```
    fn update_with<F>(
        &self,
        key: impl IntoKey,
        options: UpdateOptions,
        change: F,
    ) -> impl Pending<Option<Version>>
    where
        F: FnMut(Option<&Entry>) -> Option<Bytes> + Send,
    {
        async move { update::update(self, &key.into_key(Operation::Put)?, &options, change).await }
    }

    /// Decides what became of a [`put_if_unchanged`](Self::put_if_unchanged) with this version and value
    /// that failed with `applied() == Unknown`: sends the same write again.
    ///
    /// With a version it cannot be applied twice, because it changes what it depends on. With `None` it can:
    /// if the first attempt was applied and somebody deleted the key since, the key is put again. Where that
    /// matters, write on top of a version. For writes without a condition nothing can decide it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::{Settled, Version};
    /// let version = store.put("a", "old").await?;
    /// // The answer to put_if_unchanged("a", Some(version), "new") was lost on its way:
    /// match store.settle("a", Some(version), "new").await? {
    ///     Settled::Applied(_) => assert_eq!(store.get("a").await?.unwrap().text()?, "new"),
    ///     Settled::Undecided { current } => println!("decide by what is there: {current:?}"),
    ///     _ => unreachable!(),
    /// }
    /// # Ok(()) }
    /// ```
    fn settle(
        &self,
        key: impl IntoKey,
        version: Option<Version>,
        value: impl IntoValue,
    ) -> impl Pending<Settled> {
        let value = value.into();
        async move { update::settle(self, &key.into_key(Operation::Put)?, version, value).await }
    }

    /// Deletes `key` and tells whether it existed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("jobs/1", "done").await?;
    /// assert!(store.delete("jobs/1").await?);
    /// assert!(!store.delete("jobs/1").await?);
    /// # Ok(()) }
    /// ```
    fn delete(&self, key: impl IntoKey) -> impl Pending<bool> {
        async move {
            let key = key.into_key(Operation::Delete)?;
            Ok(self.delete_opts(&key, DeleteOptions::default()).await?.existed)
        }
    }

    /// Like [`delete`](Self::delete), with options: a precondition, the previous entry, a fence, a deadline.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::DeleteOptions;
    /// store.put("jobs/1", "done").await?;
    /// let deleted = store.delete_with("jobs/1", DeleteOptions::default().with_previous()).await?;
    /// assert_eq!(deleted.previous.unwrap().text()?, "done");
    /// # Ok(()) }
    /// ```
    fn delete_with(&self, key: impl IntoKey, options: DeleteOptions) -> impl Pending<DeleteResult> {
        async move { self.delete_opts(&key.into_key(Operation::Delete)?, options).await }
    }

    /// Deletes `key` if it is still at `version`; else `PreconditionFailed`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let version = store.put("jobs/1", "done").await?;
    /// store.compare_and_delete("jobs/1", version).await?;
    /// # Ok(()) }
    /// ```
    fn compare_and_delete(&self, key: impl IntoKey, version: Version) -> impl Pending<()> {
        async move {
            let key = key.into_key(Operation::Delete)?;
            let options = DeleteOptions::default().with_precondition(Precondition::At(version));
            self.delete_opts(&key, options).await.map(drop)
        }
    }

    /// Deletes `key` if its value is `expected`; else `PreconditionFailed`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("leader", "node-1").await?;
    /// assert!(store.compare_value_and_delete("leader", "node-2").await.is_err());
    /// store.compare_value_and_delete("leader", "node-1").await?;
    /// # Ok(()) }
    /// ```
    fn compare_value_and_delete(&self, key: impl IntoKey, expected: impl IntoValue) -> impl Pending<()> {
        let expected = expected.into();
        async move {
            let key = key.into_key(Operation::Delete)?;
            let options = DeleteOptions::default().with_precondition(Precondition::Value(expected));
            self.delete_opts(&key, options).await.map(drop)
        }
    }

    /// The entries strictly below `prefix`, as a stream in key order.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("config/limit", "10").await?;
    /// let mut listing = store.list("config").await?;
    /// while let Some(item) = listing.next().await {
    ///     println!("{}", item?.path());
    /// }
    /// # Ok(()) }
    /// ```
    fn list(&self, prefix: impl IntoPrefix) -> impl Pending<Listing> {
        async move { self.list_opts(&prefix.into_prefix(Operation::List)?, ListOptions::default()).await }
    }

    /// Like [`list`](Self::list), with options: a range, a limit, keys only, one level only, expiries.
    fn list_with(&self, prefix: impl IntoPrefix, options: ListOptions) -> impl Pending<Listing> {
        async move { self.list_opts(&prefix.into_prefix(Operation::List)?, options).await }
    }

    /// The entries strictly below `prefix`, all in memory.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("config/limit", "10").await?;
    /// for entry in store.entries("config").await? {
    ///     println!("{} = {}", entry.key, entry.text()?);
    /// }
    /// # Ok(()) }
    /// ```
    fn entries(&self, prefix: impl IntoPrefix) -> impl Pending<Vec<Entry>> {
        async move { self.list(prefix).await?.entries().await }
    }

    /// Like [`entries`](Self::entries), with options. `InvalidArgument` for a list of keys only, which has
    /// no entries: see [`keys`](Self::keys).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::ListOptions;
    /// for n in 0..9 {
    ///     store.put(format!("queue/{n}"), "job").await?;
    /// }
    /// let first = store.entries_with("queue", ListOptions::default().with_limit(2)).await?;
    /// assert_eq!(first[1].key.name(), "1");
    /// # Ok(()) }
    /// ```
    fn entries_with(&self, prefix: impl IntoPrefix, options: ListOptions) -> impl Pending<Vec<Entry>> {
        async move {
            let prefix = prefix.into_prefix(Operation::List)?;
            options.refuse_keys_only(&prefix)?;
            self.list_opts(&prefix, options).await?.entries().await
        }
    }

    /// The keys strictly below `prefix`, all in memory.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("config/limit", "10").await?;
    /// assert_eq!(store.keys("config").await?[0].as_str(), "config/limit");
    /// # Ok(()) }
    /// ```
    fn keys(&self, prefix: impl IntoPrefix) -> impl Pending<Vec<Key>> {
        async move { steps::keys(self, &prefix.into_prefix(Operation::List)?).await }
    }

    /// What lies directly below `prefix`: entries, and prefixes for what lies deeper.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("a/1", "x").await?;
    /// store.put("a/b/2", "x").await?;
    /// let children = store.children("a").await?;
    /// assert!(children[0].key().is_some() && children[1].key().is_none());
    /// # Ok(()) }
    /// ```
    fn children(&self, prefix: impl IntoPrefix) -> impl Pending<Vec<ListItem>> {
        async move { steps::children(self, &prefix.into_prefix(Operation::List)?).await }
    }

    /// The names directly below `prefix`, each once, whether an entry has it, others lie below it, or both.
    /// Values are not read.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// for key in ["a/1", "a/b", "a/b/2"] {
    ///     store.put(key, "x").await?;
    /// }
    /// assert_eq!(store.child_names("a").await?, ["1", "b"]);
    /// # Ok(()) }
    /// ```
    fn child_names(&self, prefix: impl IntoPrefix) -> impl Pending<Vec<String>> {
        async move { steps::child_names(self, &prefix.into_prefix(Operation::List)?).await }
    }

    /// Deletes everything strictly below `prefix` and returns how many entries went.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("jobs/1", "x").await?;
    /// assert_eq!(store.delete_tree("jobs").await?, 1);
    /// # Ok(()) }
    /// ```
    fn delete_tree(&self, prefix: impl IntoPrefix) -> impl Pending<u64> {
        async move {
            let prefix = prefix.into_prefix(Operation::DeleteTree)?;
            self.delete_tree_opts(&prefix, DeleteTreeOptions::default()).await
        }
    }

    /// Like [`delete_tree`](Self::delete_tree), with options.
    fn delete_tree_with(&self, prefix: impl IntoPrefix, options: DeleteTreeOptions) -> impl Pending<u64> {
        async move { self.delete_tree_opts(&prefix.into_prefix(Operation::DeleteTree)?, options).await }
    }

    /// Watches everything strictly below `prefix`, from now on.
    /// The key `prefix` itself is not watched: see [`watch_tree`](Self::watch_tree).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let mut watch = store.watch("config").await?;
    /// store.put("config/limit", "10").await?;
    /// let event = watch.next().await.unwrap()?;
    /// assert!(event.is_create());
    /// # Ok(()) }
    /// ```
    fn watch(&self, prefix: impl IntoPrefix) -> impl Pending<Watch> {
        async move {
            let prefix = prefix.into_prefix(Operation::Watch)?;
            self.watch_opts(prefix.into(), WatchOptions::default()).await
        }
    }

    /// Watches `key` and everything below it, from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let mut watch = store.watch_tree("config").await?;
    /// store.put("config", "v2").await?;
    /// store.put("config/limit", "10").await?;
    /// for expected in ["config", "config/limit"] {
    ///     let event = watch.next().await.unwrap()?;
    ///     assert_eq!(event.key().unwrap().as_str(), expected);
    /// }
    /// # Ok(()) }
    /// ```
    fn watch_tree(&self, key: impl IntoKey) -> impl Pending<Watch> {
        async move {
            let key = key.into_key(Operation::Watch)?;
            self.watch_opts(WatchTarget::Tree(key), WatchOptions::default()).await
        }
    }

    /// Watches one key, from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let mut watch = store.watch_key("config/limit").await?;
    /// store.put("config/limit", "10").await?;
    /// assert!(watch.next().await.unwrap()?.version().is_some());
    /// # Ok(()) }
    /// ```
    fn watch_key(&self, key: impl IntoKey) -> impl Pending<Watch> {
        async move {
            let key = key.into_key(Operation::Watch)?;
            self.watch_opts(key.into(), WatchOptions::default()).await
        }
    }

    /// Watches a key, what lies below a prefix, or both, with options: where it begins, a filter.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::{Key, WatchEvent, WatchOptions, WatchTarget};
    /// let target = WatchTarget::tree(Key::new("config")?);
    /// let mut watch = store.watch_with(target, WatchOptions::default().with_initial()).await?;
    /// assert_eq!(watch.next().await.unwrap()?, WatchEvent::Synced);
    /// # Ok(()) }
    /// ```
    fn watch_with(
        &self,
        target: impl Into<WatchTarget> + Send,
        options: WatchOptions,
    ) -> impl Pending<Watch> {
        let target = target.into();
        async move { self.watch_opts(target, options).await }
    }

    /// Calls back for each event until the callback breaks, the watch fails or the future is dropped.
    fn watch_each<F>(&self, target: WatchTarget, options: WatchOptions, callback: F) -> impl Pending<()>
    where
        F: FnMut(WatchEvent) -> ControlFlow<()> + Send,
    {
        async move { self.watch_opts(target, options).await?.for_each(callback).await }
    }

    /// Waits until what is stored under `key` satisfies `wanted`, and returns it. Looks at the
    /// present state first. States that were there only for a moment can be missed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.put("state", "ready").await?;
    /// let ready = |entry: Option<&kv_core::Entry>| entry.is_some_and(|entry| entry.value == "ready");
    /// assert!(store.wait_for("state", ready).await?.is_some());
    /// # Ok(()) }
    /// ```
    fn wait_for<F>(&self, key: impl IntoKey, wanted: F) -> impl Pending<Option<Entry>>
    where
        F: FnMut(Option<&Entry>) -> bool + Send,
    {
        async move { steps::wait_for(self, &key.into_key(Operation::Watch)?, wanted).await }
    }

    /// Waits until `key` is at another version than `known` (`None`: absent) and returns what is
    /// there then.
    fn wait_for_change(&self, key: impl IntoKey, known: Option<Version>) -> impl Pending<Option<Entry>> {
        self.wait_for(key, move |entry| entry.map(|entry| entry.version) != known)
    }

    /// Waits for the lock named `key`, however long it takes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let guard = store.lock("jobs/nightly").await?;
    /// assert!(guard.is_held());
    /// guard.unlock().await?;
    /// # Ok(()) }
    /// ```
    fn lock(&self, key: impl IntoKey) -> impl Pending<LockGuard> {
        async move { self.lock_opts(&key.into_key(Operation::Lock)?, LockOptions::default()).await }
    }

    /// Like [`lock`](Self::lock), with options: an owner value, a time to live, how long to wait.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::{LockOptions, LockWait};
    /// let options = LockOptions::default().with_owner("worker-7").with_wait(LockWait::Try);
    /// let guard = store.lock_with("jobs/nightly", options).await?;
    /// assert_eq!(store.lock_holder("jobs/nightly").await?.unwrap().token, guard.token());
    /// # Ok(()) }
    /// ```
    fn lock_with(&self, key: impl IntoKey, options: LockOptions) -> impl Pending<LockGuard> {
        async move { self.lock_opts(&key.into_key(Operation::Lock)?, options).await }
    }

    /// Takes the lock named `key` if it is free, else `None`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let guard = store.try_lock("jobs/nightly").await?;
    /// assert!(guard.is_some());
    /// assert!(store.try_lock("jobs/nightly").await?.is_none());
    /// # Ok(()) }
    /// ```
    fn try_lock(&self, key: impl IntoKey) -> impl Pending<Option<LockGuard>> {
        async move { steps::try_lock(self, &key.into_key(Operation::Lock)?).await }
    }

    /// Runs `work` while holding the lock named `key`, and releases it afterwards.
    ///
    /// `work` gets the lock's fence, with its token. If the lock is lost, the work is dropped where it is
    /// and the result is `NotHeld`. Work that is done stays done: when the backend does not confirm the
    /// release, what the work returned is returned all the same, and the lock ends with its time to live
    /// at the latest.
    ///
    /// # Examples
    ///
    /// ```
    /// use kv_core::{Fence, LockOptions, PutOptions, Result, Store, StoreExt};
    /// # #[allow(dead_code)]
    /// async fn count(store: &dyn Store) -> Result<()> {
    ///     let write = |fence: Fence| async move {
    ///         let options = PutOptions::default().with_fence(fence);
    ///         store.put_with("counter", "1", options).await
    ///     };
    ///     store.with_lock("counter", LockOptions::default(), write).await??;
    ///     Ok(())
    /// }
    /// ```
    fn with_lock<T, F, W>(&self, key: impl IntoKey, options: LockOptions, work: F) -> impl Pending<T>
    where
        F: FnOnce(Fence) -> W + Send,
        W: Future<Output = T> + Send,
        T: Send,
    {
        async move { steps::with_lock(self, &key.into_key(Operation::Lock)?, options, work).await }
    }

    /// Who holds the lock named `key` now, by the server's account; `None` if nobody does.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// let guard = store.lock("jobs/nightly").await?;
    /// let holder = store.lock_holder("jobs/nightly").await?.unwrap();
    /// assert_eq!(holder.token, guard.token());
    /// # Ok(()) }
    /// ```
    fn lock_holder(&self, key: impl IntoKey) -> impl Pending<Option<LockHolder>> {
        self.lock_holder_with(key, CallOptions::default())
    }

    /// Like [`lock_holder`](Self::lock_holder), with options.
    fn lock_holder_with(&self, key: impl IntoKey, options: CallOptions) -> impl Pending<Option<LockHolder>> {
        async move { self.lock_holder_opts(&key.into_key(Operation::LockHolder)?, options).await }
    }

    /// Follows who holds the lock named `key`: the present holder first, then each change.
    ///
    /// `Unsupported` where the store cannot see locks
    /// ([`Power::LockView`](crate::Power::LockView)).
    ///
    /// # Examples
    ///
    /// ```
    /// use kv_core::{Result, Store, StoreExt};
    /// # #[allow(dead_code)]
    /// async fn follow(store: &dyn Store) -> Result<()> {
    ///     let mut holders = store.watch_lock("jobs/nightly").await?;
    ///     while let Some(holder) = holders.next().await {
    ///         match holder? {
    ///             Some(holder) => println!("{:?} holds it (token {})", holder.owner, holder.token),
    ///             None => println!("nobody holds it"),
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    fn watch_lock(&self, key: impl IntoKey) -> impl Pending<LockChanges> {
        async move {
            let key = key.into_key(Operation::WatchLock)?;
            lock_view(self, Operation::WatchLock)?.watch_lock_with(&key, LockWatchOptions::default()).await
        }
    }

    /// Lists the locks named strictly below `prefix` that are held or waited for.
    ///
    /// `Unsupported` where the store cannot see locks.
    fn locks(&self, prefix: impl IntoPrefix) -> impl Pending<LockListing> {
        async move {
            let prefix = prefix.into_prefix(Operation::Locks)?;
            lock_view(self, Operation::Locks)?.locks_with(&prefix, LocksOptions::default()).await
        }
    }

    /// Ends the hold of the lock named `key` that has this token, and tells whether it was still held.
    ///
    /// For an operator who knows that the holder is stuck: see
    /// [`LockView::break_lock_with`](crate::implement::LockView::break_lock_with). `Unsupported` where the store
    /// cannot see locks.
    fn break_lock(&self, key: impl IntoKey, token: FencingToken) -> impl Pending<bool> {
        async move {
            let key = key.into_key(Operation::BreakLock)?;
            let view = lock_view(self, Operation::BreakLock)?;
            view.break_lock_with(&key, token, BreakLockOptions::default()).await
        }
    }

    /// Carries out a transaction; `Unsupported` where the store has none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::{Condition, Txn, TxnOp};
    /// store.put("queue/1", "job").await?;
    /// let take = Txn::when([Condition::present("queue/1"), Condition::absent("taken/1")])
    ///     .then([TxnOp::delete("queue/1"), TxnOp::put("taken/1", "worker-7")]);
    /// assert!(store.transact(take).await?.succeeded);
    /// # Ok(()) }
    /// ```
    fn transact(&self, txn: Txn) -> impl Pending<TxnResult> {
        async move {
            match self.as_transact() {
                Some(power) => power.transact_with(txn).await,
                None => Err(Error::lacks(Power::Transactions)
                    .with_operation(Operation::Transact)
                    .with_backend(self.capabilities().backend)),
            }
        }
    }

    /// What runs behind this store: product and version.
    fn server(&self) -> impl Pending<ServerInfo> {
        async move { self.server_opts(CallOptions::default()).await }
    }

    /// Closes the handle: see [`Store::close_opts`]. Every clone of it is closed too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { use kv_core::StoreExt; let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// store.close().await?;
    /// assert_eq!(*store.get("a").await.unwrap_err().kind(), kv_core::ErrorKind::Closed);
    /// # Ok(()) }
    /// ```
    fn close(&self) -> impl Pending<()> {
        async move { self.close_opts(CallOptions::default()).await }
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

fn lock_view<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn LockView> {
    store.as_lock_view().ok_or_else(|| {
        Error::lacks(Power::LockView).with_operation(operation).with_backend(store.capabilities().backend)
    })
}

async fn put_if<S: Store + ?Sized>(
    store: &S,
    key: impl IntoKey,
    value: Bytes,
    precondition: Precondition,
) -> Result<Version> {
    let key = key.into_key(Operation::Put)?;
    let options = PutOptions::default().with_precondition(precondition);
    Ok(store.put_opts(&key, value, options).await?.version)
}
