//! What people call daily: short forms over [`Store`], written once for every backend.

use std::ops::ControlFlow;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::{Key, Prefix};
use crate::list::{ListItem, Listing};
use crate::lock::{Fence, LockGuard, LockOptions, LockWait};
use crate::lock_view::{
    BreakLockOptions, LockChanges, LockListing, LockView, LockWatchOptions, LocksOptions,
};
use crate::options::{
    DeleteOptions, DeleteTreeOptions, Expiry, GetOptions, ListOptions, Precondition, PutOptions, PutResult,
};
use crate::power::Power;
use crate::store::Store;
use crate::txn::{Txn, TxnResult};
use crate::update::{self, Settled, UpdateOptions};
use crate::version::{FencingToken, Version};
use crate::watch::{Watch, WatchEvent, WatchOptions, WatchTarget, ended_silently};
use crate::watch_state::WatchState;

/// Short forms of the [`Store`] methods, for every store. Not to be implemented by hand.
///
/// Keys and prefixes are taken as text and checked before any I/O; a bad one is `InvalidKey`.
pub trait StoreExt: Store {
    /// The entry under `key`, or `None`.
    fn get<K>(&self, key: K) -> impl Future<Output = Result<Option<Entry>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move { self.get_with(&to_key(key, Operation::Get)?, GetOptions::default()).await }
    }

    /// Whether `key` exists. An outage is an error, never "no".
    fn exists<K>(&self, key: K) -> impl Future<Output = Result<bool>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move { Ok(self.get(key).await?.is_some()) }
    }

    /// Puts a permanent value, whether the key exists or not.
    fn put<K>(&self, key: K, value: impl Into<Bytes> + Send) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        put_if(self, key, value.into(), Precondition::Any)
    }

    /// Puts a permanent value if the key does not exist; else `AlreadyExists`.
    fn create<K>(
        &self,
        key: K,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        put_if(self, key, value.into(), Precondition::Absent)
    }

    /// Puts a permanent value if the key exists; else `NotFound`.
    fn replace<K>(
        &self,
        key: K,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        put_if(self, key, value.into(), Precondition::Present)
    }

    /// Puts a permanent value if the key is still at `version`; else `PreconditionFailed`.
    fn compare_and_set<K>(
        &self,
        key: K,
        version: Version,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        put_if(self, key, value.into(), Precondition::At(version))
    }

    /// Puts a permanent value if the key's value is `expected`; else `PreconditionFailed`.
    fn compare_value_and_set<K>(
        &self,
        key: K,
        expected: impl Into<Bytes> + Send,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        put_if(self, key, value.into(), Precondition::Value(expected.into()))
    }

    /// Puts a value that goes after `ttl`, whether the key exists or not, and tells the time to live that
    /// was granted. Putting again begins it anew.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use std::time::Duration;
    ///
    /// let put = store.put_ttl("services/web/1", "10.0.0.7:80", Duration::from_secs(30)).await?;
    /// assert_eq!(put.granted_ttl, Some(Duration::from_secs(30)));
    /// # Ok(()) }
    /// ```
    fn put_ttl<K>(
        &self,
        key: K,
        value: impl Into<Bytes> + Send,
        ttl: Duration,
    ) -> impl Future<Output = Result<PutResult>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        let value = value.into();
        async move {
            let key = to_key(key, Operation::Put)?;
            self.put_with(&key, value, PutOptions::default().with_expiry(Expiry::Ttl(ttl))).await
        }
    }

    /// Puts a value that lives as long as the session of this store handle, whether the key exists or not.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::Store;
    ///
    /// store.put_session("services/web/1", "10.0.0.7:80").await?;
    /// store.close().await?; // The entry is gone.
    /// # Ok(()) }
    /// ```
    fn put_session<K>(
        &self,
        key: K,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        let value = value.into();
        async move {
            let key = to_key(key, Operation::Put)?;
            let options = PutOptions::default().with_expiry(Expiry::Session);
            Ok(self.put_with(&key, value, options).await?.version)
        }
    }

    /// Gives an existing entry another expiry, or begins its time to live anew, and leaves its value
    /// alone; `NotFound` if there is none. The entry gets a new version.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use std::time::Duration;
    /// use kv_core::Expiry;
    ///
    /// let minute = Duration::from_secs(60);
    /// store.put_ttl("services/web/1", "10.0.0.7:80", minute).await?;
    /// store.touch("services/web/1", Expiry::Ttl(minute)).await?;
    /// assert_eq!(store.get("services/web/1").await?.unwrap().text()?, "10.0.0.7:80");
    /// # Ok(()) }
    /// ```
    fn touch<K>(&self, key: K, expiry: Expiry) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move { update::touch(self, &to_key(key, Operation::Put)?, expiry).await }
    }

    /// Puts a value if the key is still at `version`, or still absent for `None`; else
    /// `PreconditionFailed` or `AlreadyExists`. The entry goes on expiring as it did.
    ///
    /// Where the store lacks [`Power::KeepExpiry`](crate::Power::KeepExpiry) it is `Unsupported` for an
    /// entry that expires, and costs a read.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// let first = store.put_if_unchanged("config/limit", None, "10").await?;
    /// store.put_if_unchanged("config/limit", Some(first), "20").await?;
    /// let late = store.put_if_unchanged("config/limit", Some(first), "30").await;
    /// assert!(late.unwrap_err().is_conflict());
    /// # Ok(()) }
    /// ```
    fn put_if_unchanged<K>(
        &self,
        key: K,
        version: Option<Version>,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        let value = value.into();
        async move {
            let key = to_key(key, Operation::Put)?;
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
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
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
    fn update<K, F>(&self, key: K, change: F) -> impl Future<Output = Result<Option<Version>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        F: FnMut(Option<&Entry>) -> Option<Bytes> + Send,
    {
        self.update_with(key, UpdateOptions::default(), change)
    }

    /// Like [`update`](Self::update), with a fence, a bound of attempts or a deadline of each request.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::UpdateOptions;
    ///
    /// let guard = store.lock("visits").await?;
    /// let options = UpdateOptions::default().with_fence(guard.fence()).with_attempts(1);
    /// assert_eq!(store.update_with("visits", options, |_| None).await?, None);
    /// guard.unlock().await?;
    /// # Ok(()) }
    /// ```
    fn update_with<K, F>(
        &self,
        key: K,
        options: UpdateOptions,
        change: F,
    ) -> impl Future<Output = Result<Option<Version>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        F: FnMut(Option<&Entry>) -> Option<Bytes> + Send,
    {
        async move { update::update(self, &to_key(key, Operation::Put)?, &options, change).await }
    }

    /// Decides what became of a [`put_if_unchanged`](Self::put_if_unchanged) with this version and value
    /// that failed with `applied() == Unknown`: sends the same write again.
    ///
    /// With a version it cannot be applied twice, because it changes what it depends on. With `None` it can:
    /// if the first attempt was applied and somebody deleted the key since, the key is put again. Where that
    /// matters, write on top of a version. For writes without a condition nothing can decide it.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{Settled, Version};
    ///
    /// let version = store.put("a", "old").await?;
    /// // The answer to put_if_unchanged("a", Some(version), "new") was lost on its way:
    /// match store.settle("a", Some(version), "new").await? {
    ///     Settled::Applied(_) => assert_eq!(store.get("a").await?.unwrap().text()?, "new"),
    ///     Settled::Undecided { current } => println!("decide by what is there: {current:?}"),
    ///     _ => unreachable!(),
    /// }
    /// # Ok(()) }
    /// ```
    fn settle<K>(
        &self,
        key: K,
        version: Option<Version>,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Settled>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        let value = value.into();
        async move { update::settle(self, &to_key(key, Operation::Put)?, version, value).await }
    }

    /// Deletes `key` and tells whether it existed.
    fn delete<K>(&self, key: K) -> impl Future<Output = Result<bool>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::Delete)?;
            Ok(self.delete_with(&key, DeleteOptions::default()).await?.existed)
        }
    }

    /// Deletes `key` if it is still at `version`; else `PreconditionFailed`.
    fn compare_and_delete<K>(&self, key: K, version: Version) -> impl Future<Output = Result<()>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::Delete)?;
            let options = DeleteOptions::default().with_precondition(Precondition::At(version));
            self.delete_with(&key, options).await.map(drop)
        }
    }

    /// Deletes `key` if its value is `expected`; else `PreconditionFailed`.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// store.put("leader", "node-1").await?;
    /// assert!(store.compare_value_and_delete("leader", "node-2").await.is_err());
    /// store.compare_value_and_delete("leader", "node-1").await?;
    /// # Ok(()) }
    /// ```
    fn compare_value_and_delete<K>(
        &self,
        key: K,
        expected: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<()>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        let expected = expected.into();
        async move {
            let key = to_key(key, Operation::Delete)?;
            let options = DeleteOptions::default().with_precondition(Precondition::Value(expected));
            self.delete_with(&key, options).await.map(drop)
        }
    }

    /// The entries strictly below `prefix`, as a stream in key order.
    fn list<P>(&self, prefix: P) -> impl Future<Output = Result<Listing>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move { self.list_with(&to_prefix(prefix, Operation::List)?, ListOptions::default()).await }
    }

    /// The entries strictly below `prefix`, all in memory.
    fn entries<P>(&self, prefix: P) -> impl Future<Output = Result<Vec<Entry>>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move { self.list(prefix).await?.entries().await }
    }

    /// The keys strictly below `prefix`, all in memory.
    fn keys<P>(&self, prefix: P) -> impl Future<Output = Result<Vec<Key>>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move {
            let prefix = to_prefix(prefix, Operation::List)?;
            let mut listing = self.list_with(&prefix, ListOptions::default().with_keys_only()).await?;
            let mut keys = Vec::new();
            while let Some(item) = listing.next().await {
                keys.extend(item?.key().cloned());
            }
            Ok(keys)
        }
    }

    /// What lies directly below `prefix`: entries, and prefixes for what lies deeper.
    fn children<P>(&self, prefix: P) -> impl Future<Output = Result<Vec<ListItem>>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move {
            let prefix = to_prefix(prefix, Operation::List)?;
            let mut listing = self.list_with(&prefix, ListOptions::default().with_one_level()).await?;
            let mut items = Vec::new();
            while let Some(item) = listing.next().await {
                items.push(item?);
            }
            Ok(items)
        }
    }

    /// Deletes everything strictly below `prefix` and returns how many entries went.
    fn delete_tree<P>(&self, prefix: P) -> impl Future<Output = Result<u64>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move {
            let prefix = to_prefix(prefix, Operation::DeleteTree)?;
            self.delete_tree_with(&prefix, DeleteTreeOptions::default()).await
        }
    }

    /// Watches everything strictly below `prefix`, from now on.
    fn watch<P>(&self, prefix: P) -> impl Future<Output = Result<Watch>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move {
            let prefix = to_prefix(prefix, Operation::Watch)?;
            self.watch_with(prefix.into(), WatchOptions::default()).await
        }
    }

    /// Watches `key` and everything below it, from now on.
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # use kv_core::StoreExt;
    /// # let store = MemStore::open(MemConfig::new())?;
    /// let mut watch = store.watch_tree("config").await?;
    /// store.put("config", "v2").await?;
    /// store.put("config/limit", "10").await?;
    /// for expected in ["config", "config/limit"] {
    ///     let event = watch.next().await.unwrap()?;
    ///     assert_eq!(event.key().unwrap().as_str(), expected);
    /// }
    /// # Ok(()) }
    /// ```
    fn watch_tree<K>(&self, key: K) -> impl Future<Output = Result<Watch>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::Watch)?;
            self.watch_with(WatchTarget::Tree(key), WatchOptions::default()).await
        }
    }

    /// Watches one key, from now on.
    fn watch_key<K>(&self, key: K) -> impl Future<Output = Result<Watch>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::Watch)?;
            self.watch_with(key.into(), WatchOptions::default()).await
        }
    }

    /// Calls back for each event until the callback breaks, the watch fails or the future is dropped.
    fn watch_each<F>(
        &self,
        target: WatchTarget,
        options: WatchOptions,
        callback: F,
    ) -> impl Future<Output = Result<()>> + Send
    where
        F: FnMut(WatchEvent) -> ControlFlow<()> + Send,
    {
        async move { self.watch_with(target, options).await?.for_each(callback).await }
    }

    /// Waits until what is stored under `key` satisfies `wanted`, and returns it. Looks at the
    /// present state first. States that were there only for a moment can be missed.
    fn wait_for<K, F>(&self, key: K, mut wanted: F) -> impl Future<Output = Result<Option<Entry>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        F: FnMut(Option<&Entry>) -> bool + Send,
    {
        async move {
            let key = to_key(key, Operation::Watch)?;
            let options = WatchOptions::default().with_initial();
            let mut watch = self.watch_with(WatchTarget::key(&key), options).await?;
            let mut state = WatchState::new();
            while let Some(event) = watch.next().await {
                state.apply(event?);
                let entry = state.get(&key);
                if state.is_complete() && wanted(entry) {
                    return Ok(entry.cloned());
                }
            }
            Err(ended_silently())
        }
    }

    /// Waits until `key` is at another version than `known` (`None`: absent) and returns what is
    /// there then.
    fn wait_for_change<K>(
        &self,
        key: K,
        known: Option<Version>,
    ) -> impl Future<Output = Result<Option<Entry>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        self.wait_for(key, move |entry| entry.map(|entry| entry.version) != known)
    }

    /// Waits for the lock named `key`, however long it takes.
    fn lock<K>(&self, key: K) -> impl Future<Output = Result<LockGuard>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move { self.lock_with(&to_key(key, Operation::Lock)?, LockOptions::default()).await }
    }

    /// Takes the lock named `key` if it is free, else `None`.
    fn try_lock<K>(&self, key: K) -> impl Future<Output = Result<Option<LockGuard>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::Lock)?;
            match self.lock_with(&key, LockOptions::default().with_wait(LockWait::Try)).await {
                Ok(guard) => Ok(Some(guard)),
                Err(error) if *error.kind() == ErrorKind::Locked => Ok(None),
                Err(error) => Err(error),
            }
        }
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
    ///
    /// # #[allow(dead_code)]
    /// async fn count(store: &dyn Store) -> Result<()> {
    ///     let write = |fence: Fence| async move {
    ///         let options = PutOptions::default().with_fence(fence);
    ///         store.put_with(&"counter".parse()?, "1".into(), options).await
    ///     };
    ///     store.with_lock("counter", LockOptions::default(), write).await??;
    ///     Ok(())
    /// }
    /// ```
    fn with_lock<K, T, F, W>(
        &self,
        key: K,
        options: LockOptions,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        F: FnOnce(Fence) -> W + Send,
        W: Future<Output = T> + Send,
        T: Send,
    {
        async move {
            let key = to_key(key, Operation::Lock)?;
            let guard = self.lock_with(&key, options).await?;
            let done = {
                let mut work = pin!(work(guard.fence()));
                let mut lost = pin!(guard.lost());
                std::future::poll_fn(|cx| {
                    // The loss is looked at first: work must not go on after it.
                    if let Poll::Ready(loss) = lost.as_mut().poll(cx) {
                        return Poll::Ready(Err(loss));
                    }
                    work.as_mut().poll(cx).map(Ok)
                })
                .await
            };
            match done {
                Ok(value) => match guard.unlock().await {
                    Err(error) if matches!(error.kind(), ErrorKind::NotHeld { .. }) => Err(error),
                    _ => Ok(value),
                },
                Err(loss) => {
                    Err(Error::not_held(loss).with_operation(Operation::Lock).with_key(key.as_str()))
                }
            }
        }
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
    ///
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
    fn watch_lock<K>(&self, key: K) -> impl Future<Output = Result<LockChanges>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::WatchLock)?;
            lock_view(self, Operation::WatchLock)?.watch_lock_with(&key, LockWatchOptions::default()).await
        }
    }

    /// Lists the locks named strictly below `prefix` that are held or waited for.
    ///
    /// `Unsupported` where the store cannot see locks.
    fn locks<P>(&self, prefix: P) -> impl Future<Output = Result<LockListing>> + Send
    where
        P: TryInto<Prefix, Error: Into<Error>> + Send,
    {
        async move {
            let prefix = to_prefix(prefix, Operation::Locks)?;
            lock_view(self, Operation::Locks)?.locks_with(&prefix, LocksOptions::default()).await
        }
    }

    /// Ends the hold of the lock named `key` that has this token, and tells whether it was still held.
    ///
    /// For an operator who knows that the holder is stuck: see
    /// [`LockView::break_lock_with`](crate::LockView::break_lock_with). `Unsupported` where the store
    /// cannot see locks.
    fn break_lock<K>(&self, key: K, token: FencingToken) -> impl Future<Output = Result<bool>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
    {
        async move {
            let key = to_key(key, Operation::BreakLock)?;
            let view = lock_view(self, Operation::BreakLock)?;
            view.break_lock_with(&key, token, BreakLockOptions::default()).await
        }
    }

    /// Carries out a transaction; `Unsupported` where the store has none.
    fn transact(&self, txn: Txn) -> impl Future<Output = Result<TxnResult>> + Send {
        async move {
            match self.as_transact() {
                Some(power) => power.transact_with(txn).await,
                None => Err(Error::lacks(Power::Transactions)
                    .with_operation(Operation::Transact)
                    .with_backend(self.capabilities().backend)),
            }
        }
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

fn lock_view<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn LockView> {
    store.as_lock_view().ok_or_else(|| {
        Error::lacks(Power::LockView).with_operation(operation).with_backend(store.capabilities().backend)
    })
}

async fn put_if<S, K>(store: &S, key: K, value: Bytes, precondition: Precondition) -> Result<Version>
where
    S: Store + ?Sized,
    K: TryInto<Key, Error: Into<Error>> + Send,
{
    let key = to_key(key, Operation::Put)?;
    let options = PutOptions::default().with_precondition(precondition);
    Ok(store.put_with(&key, value, options).await?.version)
}

pub(crate) fn to_key<K: TryInto<Key, Error: Into<Error>>>(key: K, operation: Operation) -> Result<Key> {
    key.try_into().map_err(|error| error.into().with_operation(operation))
}

pub(crate) fn to_prefix<P: TryInto<Prefix, Error: Into<Error>>>(
    prefix: P,
    operation: Operation,
) -> Result<Prefix> {
    prefix.try_into().map_err(|error| error.into().with_operation(operation))
}
