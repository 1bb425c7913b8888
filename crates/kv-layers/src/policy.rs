//! What a layer is: a policy that is asked around every call of a store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use kv_core::{
    Capabilities, Error, ErrorKind, Key, Listing, LockGuard, Operation, Prefix, Result, Txn, Watch,
    WatchTarget,
};

/// The future of one call on the store below.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Makes the call on the store below. It may be called any number of times, also not at all; each time
/// it makes the call anew.
pub type Next<'a, T> = &'a (dyn Fn() -> Answer<'a, T> + Send + Sync);

/// What a call is about.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Target<'a> {
    /// The whole store.
    Store,
    /// One key, which is a lock's name where the operation is about a lock.
    Key(&'a Key),
    /// What lies below a prefix.
    Prefix(&'a Prefix),
    /// What a watch covers.
    Watch(&'a WatchTarget),
    /// The keys of a transaction.
    Txn(&'a Txn),
}

impl<'a> Target<'a> {
    /// The key or prefix as text; `None` for the whole store and for transactions, which have many.
    #[must_use]
    pub fn path(&self) -> Option<&'a str> {
        match self {
            Self::Key(key) => Some(key.as_str()),
            Self::Prefix(prefix) => Some(prefix.as_str()),
            Self::Watch(target) => Some(target.path()),
            Self::Store | Self::Txn(_) => None,
        }
    }
}

/// One call of a store, as a policy sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// What is done.
    pub operation: Operation,
    /// What it is done to.
    pub target: Target<'a>,
    /// The backend's name, as in errors: `etcd`, `mem`, …
    pub backend: &'static str,
}

impl<'a> Call<'a> {
    /// A call of this operation on this target of a backend.
    #[must_use]
    pub fn new(operation: Operation, target: Target<'a>, backend: &'static str) -> Self {
        Self { operation, target, backend }
    }

    /// An error of this kind that names the call: its operation, backend and key.
    #[must_use]
    pub fn error(&self, kind: ErrorKind) -> Error {
        let error = Error::new(kind).with_operation(self.operation).with_backend(self.backend);
        match self.target.path() {
            Some(path) => error.with_key(path),
            None => error,
        }
    }
}

/// A layer that treats every call alike: it is asked around each one.
///
/// [`Layered`](crate::Layered) puts a policy around a store. Every method of the store and of its powers
/// that returns a future passes [`around`](Self::around) exactly once per call, so a method that the
/// store gains later passes every policy by itself.
///
/// What does not pass: what a stream delivers after it has begun, a guard's renewal and release, and
/// [`Store::session`](kv_core::Store::session). For the first two there are the hooks
/// [`watch`](Self::watch), [`listing`](Self::listing) and [`guard`](Self::guard).
///
/// # Examples
///
/// A layer that counts calls:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{Call, LayerExt, Next, Policy};
///
/// #[derive(Debug, Default)]
/// struct Count(AtomicU64);
///
/// impl Policy for Count {
///     async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         next().await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?.layered(Count::default());
/// store.put("a", "x").await?;
/// store.get("a").await?;
/// assert_eq!(store.policy().0.load(Ordering::Relaxed), 2);
/// # Ok(()) }
/// ```
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Is asked for each call, in place of the call: `next` makes it on the store below.
    ///
    /// Dropping the returned future must leave nothing behind. A policy that makes a call more than once
    /// answers for it: only one that surely was not applied may be repeated
    /// ([`Error::applied`](kv_core::Error::applied)). [`Operation::Close`] passes here too; a policy that
    /// refuses or delays it keeps the store from releasing what it holds.
    fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        next: Next<'a, T>,
    ) -> impl Future<Output = Result<T>> + Send + 'a;

    /// What the layered store declares, of what the store below declares. A policy that takes a power
    /// away declares it absent here.
    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        inner.clone()
    }

    /// Is given every watch that has begun.
    fn watch(&self, watch: Watch) -> Watch {
        watch
    }

    /// Is given every listing that has begun.
    fn listing(&self, listing: Listing) -> Listing {
        listing
    }

    /// Is given every lock that was acquired.
    fn guard(&self, guard: LockGuard) -> LockGuard {
        guard
    }
}
