//! The trait every backend implements.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::admin::{AccessControl, Cluster, History, Storage};
use crate::capabilities::Capabilities;
use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::list::Listing;
use crate::lock::{LockGuard, LockHolder, LockOptions};
use crate::lock_view::LockView;
use crate::options::{
    CallOptions, DeleteOptions, DeleteResult, DeleteTreeOptions, GetOptions, ListOptions, PutOptions,
    PutResult,
};
use crate::session::{SessionState, SessionStates};
use crate::text::escaped;
use crate::txn::Transact;
use crate::watch::{Watch, WatchOptions, WatchTarget};

/// What runs behind a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The product, as it calls itself.
    pub product: String,
    /// Its version, as it tells it.
    pub version: String,
}

impl ServerInfo {
    /// A product at a version. Both are text from outside and are [escaped](crate::text::escape).
    #[must_use]
    pub fn new(product: impl Into<String>, version: impl Into<String>) -> Self {
        Self { product: escaped(product.into()), version: escaped(version.into()) }
    }
}

/// A key-value store: one handle on one namespace of one backend.
///
/// Applications call the methods of [`StoreExt`](crate::StoreExt), which take keys as text and are the
/// same on every backend because they are written once, on top of these. Those here, whose names end in
/// `_opts`, are what a store implements and a layer hands on. A method that is added later has a default,
/// so that it breaks neither. Everything a backend promises is
/// in its [`Capabilities`]; everything common to all is said here.
///
/// - **Writes are linearizable per key.** Reads are where
///   [`LinearizableReads`](crate::Guarantee::LinearizableReads) is declared.
/// - **A refused write changes nothing.** Bad input is refused before any I/O.
/// - **Errors say whether a write may have happened**: see [`Error::applied`](crate::Error::applied).
///   The store never re-sends a write whose outcome it does not know.
/// - **Every request has a deadline**: the options' `timeout`, or the store's default. Lock waits
///   and streams end only by their own options.
/// - **Dropping a future** at any point leaks nothing. A write whose future was dropped may or may
///   not be applied.
/// - Clones of the `Arc` are one handle: one session, closed together.
///
/// # Errors
///
/// Any method can fail with `Timeout`, `Unavailable`, `Unauthenticated`, `PermissionDenied`,
/// `Overloaded`, `Protocol`, `Corrupt`, `Internal`, and with `Closed` after [`close`](Self::close_opts).
/// What else a method can fail with is said there.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What this store can do. Constant for the life of the handle.
    fn capabilities(&self) -> &Capabilities;

    /// The entry under `key`, or `None`.
    ///
    /// # Errors
    ///
    /// `Unsupported` for stale reads where there are none.
    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>>;

    /// Puts a value and returns the version it got: greater than any version `key` ever had, also
    /// when the value is the same.
    ///
    /// The precondition, the write and the expiry are one atomic step. A put without expiry makes a
    /// key permanent that was not.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, `NotFound` or `PreconditionFailed` for a precondition not met, with a state
    /// seen after the refusal; `TooLarge`; `TtlOutOfRange`; `InvalidKey` for a key that is a lock's
    /// record; `Unsupported` for an expiry or a fence this store cannot do; `NotHeld` for a fence
    /// whose lock is lost; `NoSpace`.
    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult>;

    /// Deletes `key`. That it was absent is no error without a precondition, and is told.
    ///
    /// Keys below it stay.
    ///
    /// # Errors
    ///
    /// As for [`put_opts`](Self::put_opts).
    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult>;

    /// The entries strictly below `prefix`, in byte order of the key, as a stream. Empty if there is
    /// nothing.
    ///
    /// # Errors
    ///
    /// `Unsupported` for stale reads where there are none. The stream itself ends after an error.
    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing>;

    /// Deletes every record strictly below `prefix`, lock records and foreign names included (their
    /// holders see the loss), and returns how many entries went.
    ///
    /// A lock on the key `prefix` itself has its record below it and goes too; the entry under the
    /// key `prefix` stays. All or nothing where
    /// [`DeleteTreeAtomic`](crate::Guarantee::DeleteTreeAtomic) is declared.
    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64>;

    /// Watches a key or a prefix, existing or not. When it returns, the watch has begun: every later
    /// change is delivered or covered by a `Resync`.
    ///
    /// A consumer that does not read costs bounded memory, never blocks writers, and gets a `Resync`
    /// with the state when it comes back.
    ///
    /// # Errors
    ///
    /// `Compacted` if the changes since the start version are gone. The stream ends after an error,
    /// and only so.
    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch>;

    /// Waits for the lock named `key` and returns its guard. The entry under `key` is not touched.
    ///
    /// Two guards of one process exclude each other like any two. Dropping the future leaves no
    /// trace.
    ///
    /// # Errors
    ///
    /// `Locked` when the wait is over; `TtlOutOfRange`.
    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard>;

    /// Who holds the lock named `key` now, by the server's account.
    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>>;

    /// How the session of this handle stands, as far as this process can know now.
    fn session(&self) -> SessionState;

    /// The states the session goes through, the present one first.
    fn session_states(&self) -> SessionStates;

    /// What runs behind this store.
    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo>;

    /// Releases locks, session keys, watches, tasks and sockets. Idempotent; afterwards every call
    /// is `Closed` and every watch ends with it.
    ///
    /// It ends within its timeout, whether the backend answers or not.
    ///
    /// # Errors
    ///
    /// If the backend could not be told: everything local is released all the same, and what is left
    /// on the server goes within [`Limits::session_bound`](crate::Limits::session_bound).
    async fn close_opts(&self, options: CallOptions) -> Result<()>;

    /// The power to change several keys at once, where the store has it.
    fn as_transact(&self) -> Option<&dyn Transact> {
        None
    }

    /// The power to see locks, where the store has it.
    fn as_lock_view(&self) -> Option<&dyn LockView> {
        None
    }

    /// The power to read the past and to compact it, where the store has it.
    fn as_history(&self) -> Option<&dyn History> {
        None
    }

    /// The power to see and change the servers behind the store, where the store has it.
    fn as_cluster(&self) -> Option<&dyn Cluster> {
        None
    }

    /// The power to see and tidy what the data take on the disk, where the store has it.
    fn as_storage(&self) -> Option<&dyn Storage> {
        None
    }

    /// The power to manage users and their rights, where the store has it.
    fn as_access(&self) -> Option<&dyn AccessControl> {
        None
    }
}

/// What a method of a store returns, as `async_trait` writes it.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A shared store is a store, so that code generic over `S: Store` takes an `Arc<dyn Store>`.
// The operations on one key hand on the future of the store inside, in place of one around it.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn capabilities(&self) -> &Capabilities {
        (**self).capabilities()
    }

    fn get_opts<'a, 'key, 'async_trait>(
        &'a self,
        key: &'key Key,
        options: GetOptions,
    ) -> Answer<'async_trait, Option<Entry>>
    where
        'a: 'async_trait,
        'key: 'async_trait,
    {
        (**self).get_opts(key, options)
    }

    fn put_opts<'a, 'key, 'async_trait>(
        &'a self,
        key: &'key Key,
        value: Bytes,
        options: PutOptions,
    ) -> Answer<'async_trait, PutResult>
    where
        'a: 'async_trait,
        'key: 'async_trait,
    {
        (**self).put_opts(key, value, options)
    }

    fn delete_opts<'a, 'key, 'async_trait>(
        &'a self,
        key: &'key Key,
        options: DeleteOptions,
    ) -> Answer<'async_trait, DeleteResult>
    where
        'a: 'async_trait,
        'key: 'async_trait,
    {
        (**self).delete_opts(key, options)
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        (**self).list_opts(prefix, options).await
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        (**self).delete_tree_opts(prefix, options).await
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        (**self).watch_opts(target, options).await
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        (**self).lock_opts(key, options).await
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        (**self).lock_holder_opts(key, options).await
    }

    fn session(&self) -> SessionState {
        (**self).session()
    }

    fn session_states(&self) -> SessionStates {
        (**self).session_states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        (**self).server_opts(options).await
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        (**self).close_opts(options).await
    }

    fn as_transact(&self) -> Option<&dyn Transact> {
        (**self).as_transact()
    }

    fn as_lock_view(&self) -> Option<&dyn LockView> {
        (**self).as_lock_view()
    }

    fn as_history(&self) -> Option<&dyn History> {
        (**self).as_history()
    }

    fn as_cluster(&self) -> Option<&dyn Cluster> {
        (**self).as_cluster()
    }

    fn as_storage(&self) -> Option<&dyn Storage> {
        (**self).as_storage()
    }

    fn as_access(&self) -> Option<&dyn AccessControl> {
        (**self).as_access()
    }
}

const _: fn(&dyn Store) = |_| {};
