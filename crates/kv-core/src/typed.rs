//! Values of one type below a prefix.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{CodecError, Decode, Encode};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::ext::StoreExt;
use crate::key::{IntoPrefix, Key, Prefix};
use crate::list::{ListItem, Listing};
use crate::options::{Expiry, ListOptions, Precondition, PutOptions, PutResult};
use crate::store::Store;
use crate::update::{self, UpdateOptions};
use crate::version::Version;
use crate::watch::{DeleteCause, Watch, WatchEvent, WatchOptions, WatchTarget};

/// A value with its key, and the version it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Typed<T> {
    /// The key, below the prefix of the [`TypedStore`].
    pub key: Key,
    /// The value.
    pub value: T,
    /// Its version.
    pub version: Version,
}

/// What a [`TypedWatch`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TypedEvent<T> {
    /// As [`WatchEvent::Put`].
    Put(Typed<T>),
    /// As [`WatchEvent::Delete`].
    #[non_exhaustive]
    Delete {
        /// The key, below the prefix of the [`TypedStore`].
        key: Key,
        /// The version of the deletion, where the backend tells.
        version: Option<Version>,
        /// Why the entry is gone.
        cause: DeleteCause,
    },
    /// As [`WatchEvent::Resync`].
    Resync,
    /// As [`WatchEvent::Synced`].
    Synced,
}

/// The way from a store to values of a type. Not to be implemented by hand.
pub trait TypedExt: Store {
    /// What lies below `prefix`, as values of type `T` in JSON.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if `prefix` is none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> kv_core::Result<()> { let store = kv_mem::MemStore::open(kv_mem::MemConfig::new())?;
    /// use kv_core::TypedExt;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Job {
    ///     command: String,
    ///     tries: u32,
    /// }
    ///
    /// let jobs = store.typed::<Job>("jobs")?;
    /// jobs.create("nightly", &Job { command: "backup".to_owned(), tries: 0 }).await?;
    /// let tried = |job: Option<Job>| job.map(|job| Job { tries: job.tries + 1, ..job });
    /// jobs.update("nightly", tried).await?;
    /// assert_eq!(jobs.get("nightly").await?.unwrap().value.tries, 1);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "serde")]
    fn typed<T>(&self, prefix: impl IntoPrefix) -> Result<TypedStore<&Self, T>> {
        TypedStore::new(self, prefix, crate::codec::Json)
    }

    /// What lies below `prefix`, as values of type `T` that this codec writes and reads.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if `prefix` is none.
    fn typed_with<T, C>(&self, prefix: impl IntoPrefix, codec: C) -> Result<TypedStore<&Self, T, C>> {
        TypedStore::new(self, prefix, codec)
    }
}

impl<S: Store + ?Sized> TypedExt for S {}

/// The codec of a [`TypedStore`] where none is named.
#[cfg(feature = "serde")]
type Standard = crate::codec::Json;
#[cfg(not(feature = "serde"))]
type Standard = ();

/// The entries below a prefix as values of one type. Its keys lie below the prefix, and it shows no others.
///
/// A value that cannot be written or read is `InvalidValue`. The error names the whole key, the backend and
/// the codec's reason, and never the value.
///
/// `R` refers to the store: `&S` as [`TypedExt::typed`] makes it, or an `Arc<dyn Store>` for what is to be
/// sent to another task, by [`new`](Self::new).
pub struct TypedStore<R, T, C = Standard> {
    store: R,
    prefix: Prefix,
    codec: C,
    of: PhantomData<fn() -> T>,
}

impl<R: Deref<Target: Store>, T, C> TypedStore<R, T, C> {
    /// What lies below `prefix` in `store`.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if `prefix` is none.
    pub fn new(store: R, prefix: impl IntoPrefix, codec: C) -> Result<Self> {
        let prefix = prefix.into_prefix(Operation::Get)?;
        Ok(Self { store, prefix, codec, of: PhantomData })
    }

    /// The whole key.
    fn key(&self, key: &str, operation: Operation) -> Result<Key> {
        self.prefix.join(key).map_err(|error| error.with_operation(operation))
    }

    fn not_coded(&self, key: &Key, operation: Operation, error: &CodecError) -> Error {
        Error::new(ErrorKind::InvalidValue { reason: error.to_string() })
            .with_operation(operation)
            .with_backend(self.store.capabilities().backend)
            .with_key(key.as_str())
    }

    fn encode(&self, key: &Key, value: &T) -> Result<Bytes>
    where
        C: Encode<T>,
    {
        self.codec.encode(value).map_err(|error| self.not_coded(key, Operation::Put, &error))
    }

    /// An entry of a store as a value. Its key is the part below the prefix, if it lies there.
    fn decode(&self, entry: &Entry, operation: Operation) -> Result<Typed<T>>
    where
        C: Decode<T>,
    {
        let value = self.codec.decode(&entry.value);
        let value = value.map_err(|error| self.not_coded(&entry.key, operation, &error))?;
        Ok(Typed { key: below(&self.prefix, &entry.key), value, version: entry.version })
    }

    async fn put_if(&self, key: &str, value: &T, options: PutOptions) -> Result<PutResult>
    where
        C: Encode<T>,
    {
        let key = self.key(key, Operation::Put)?;
        let bytes = self.encode(&key, value)?;
        self.store.put_opts(&key, bytes, options).await
    }

    /// The value under `key`, or `None`.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::get`], and `InvalidValue`.
    pub async fn get(&self, key: &str) -> Result<Option<Typed<T>>>
    where
        C: Decode<T>,
    {
        let entry = self.store.get(self.key(key, Operation::Get)?).await?;
        entry.map(|entry| self.decode(&entry, Operation::Get)).transpose()
    }

    /// Puts a permanent value, whether the key exists or not.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::put`], and `InvalidValue`.
    pub async fn put(&self, key: &str, value: &T) -> Result<Version>
    where
        C: Encode<T>,
    {
        Ok(self.put_if(key, value, PutOptions::default()).await?.version)
    }

    /// Puts a permanent value if the key does not exist; else `AlreadyExists`.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::create`], and `InvalidValue`.
    pub async fn create(&self, key: &str, value: &T) -> Result<Version>
    where
        C: Encode<T>,
    {
        let options = PutOptions::default().with_precondition(Precondition::Absent);
        Ok(self.put_if(key, value, options).await?.version)
    }

    /// Puts a value that expires after `ttl`, and tells the time to live that was granted.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::put_ttl`], and `InvalidValue`.
    pub async fn put_ttl(&self, key: &str, value: &T, ttl: Duration) -> Result<PutResult>
    where
        C: Encode<T>,
    {
        self.put_if(key, value, PutOptions::default().with_expiry(Expiry::Ttl(ttl))).await
    }

    /// Puts a value if the key is still at `version`; else `PreconditionFailed`. The entry goes on expiring
    /// as it did.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::put_if_unchanged`], and `InvalidValue`.
    pub async fn compare_and_set(&self, key: &str, version: Version, value: &T) -> Result<Version>
    where
        C: Encode<T>,
    {
        let key = self.key(key, Operation::Put)?;
        let bytes = self.encode(&key, value)?;
        update::put_if_unchanged(&*self.store, &key, Some(version), bytes, &UpdateOptions::default()).await
    }

    /// Changes a value that depends on what is there, as [`StoreExt::update`] does: asks `change` for the
    /// new value, again whenever somebody else was faster, and keeps how the entry expires. `None` from
    /// `change` leaves the key alone.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::update`], and `InvalidValue`, for which nothing is changed.
    pub async fn update(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> Option<T> + Send,
    ) -> Result<Option<Version>>
    where
        C: Encode<T> + Decode<T>,
        R: Sync,
        C: Sync,
    {
        let key = self.key(key, Operation::Put)?;
        let mut failed = None;
        let recoded = |entry: Option<&Entry>| {
            let old = entry.map(|entry| self.decode(entry, Operation::Get)).transpose();
            let new = old.and_then(|old| match change(old.map(|old| old.value)) {
                Some(new) => self.encode(&key, &new).map(Some),
                None => Ok(None),
            });
            new.unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        };
        let updated = update::update(&*self.store, &key, &UpdateOptions::default(), recoded).await;
        match failed {
            Some(error) => Err(error),
            None => updated,
        }
    }

    /// Deletes `key` and tells whether it existed.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::delete`].
    pub async fn delete(&self, key: &str) -> Result<bool> {
        self.store.delete(self.key(key, Operation::Delete)?).await
    }

    /// The values below the prefix, in key order, as they are read.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::list`].
    pub async fn list(&self) -> Result<TypedListing<'_, R, T, C>> {
        Ok(TypedListing {
            of: self,
            listing: self.store.list_opts(&self.prefix, ListOptions::default()).await?,
        })
    }

    /// The values below the prefix, in key order, all in memory.
    ///
    /// # Errors
    ///
    /// As for [`list`](Self::list); `InvalidValue` for the first value that cannot be read.
    pub async fn entries(&self) -> Result<Vec<Typed<T>>>
    where
        C: Decode<T>,
    {
        let mut listing = self.list().await?;
        let mut entries = Vec::new();
        while let Some(entry) = listing.next().await {
            entries.push(entry?);
        }
        Ok(entries)
    }

    /// Follows the values below the prefix.
    ///
    /// # Errors
    ///
    /// As for [`StoreExt::watch_with`].
    pub async fn watch(&self, options: WatchOptions) -> Result<TypedWatch<'_, R, T, C>> {
        let target = WatchTarget::below(&self.prefix);
        Ok(TypedWatch { of: self, watch: self.store.watch_opts(target, options).await? })
    }
}

impl<R, T, C> fmt::Debug for TypedStore<R, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What of a key lies below the prefix. Stores show no others there.
fn below(prefix: &Prefix, key: &Key) -> Key {
    prefix.relative(key).and_then(Key::from_canonical).unwrap_or_else(|| key.clone())
}

/// The values of a list: [`TypedStore::list`].
#[must_use = "a listing fetches only as it is read"]
pub struct TypedListing<'s, R, T, C = Standard> {
    of: &'s TypedStore<R, T, C>,
    listing: Listing,
}

impl<R: Deref<Target: Store>, T, C: Decode<T>> TypedListing<'_, R, T, C> {
    /// The next value; `None` after the last one, or after an error of the list. A value that cannot be read
    /// is `InvalidValue`, and the list goes on behind it.
    ///
    /// Cancel-safe: dropping the future loses no value.
    pub async fn next(&mut self) -> Option<Result<Typed<T>>> {
        loop {
            match self.listing.next().await? {
                Ok(ListItem::Entry(entry)) => return Some(self.of.decode(&entry, Operation::List)),
                Ok(ListItem::Key(_) | ListItem::Prefix(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<R, T, C> fmt::Debug for TypedListing<'_, R, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedListing").field("of", self.of).finish_non_exhaustive()
    }
}

/// The values of a watch: [`TypedStore::watch`].
#[must_use = "dropping a watch ends it"]
pub struct TypedWatch<'s, R, T, C = Standard> {
    of: &'s TypedStore<R, T, C>,
    watch: Watch,
}

impl<R: Deref<Target: Store>, T, C: Decode<T>> TypedWatch<'_, R, T, C> {
    /// The next event; `None` only after an error of the watch. A put whose value cannot be read is
    /// `InvalidValue` with the key, and the watch goes on behind it.
    ///
    /// Cancel-safe: dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Result<TypedEvent<T>>> {
        Some(self.watch.next().await?.and_then(|event| match event {
            WatchEvent::Put(entry) => self.of.decode(&entry, Operation::Watch).map(TypedEvent::Put),
            WatchEvent::Delete(deletion) => Ok(TypedEvent::Delete {
                key: below(&self.of.prefix, &deletion.key),
                version: deletion.version,
                cause: deletion.cause,
            }),
            WatchEvent::Resync => Ok(TypedEvent::Resync),
            WatchEvent::Synced => Ok(TypedEvent::Synced),
        }))
    }
}

impl<R, T, C> fmt::Debug for TypedWatch<'_, R, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedWatch").field("of", self.of).finish_non_exhaustive()
    }
}
