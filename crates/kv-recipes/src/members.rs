//! The members of a service: who is registered below a prefix, as a live map.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use kv_core::{Bytes, DeleteCause, Error, Key, Prefix, Result, Store, Stream};

use crate::informer::{Change, Changes, Informer};

/// The members of a service as a live map from name to value: everything below a prefix, such as what
/// [`Registration`](crate::Registration)s put there. A member's name is its key below the prefix.
///
/// Clones share one watch: keep one of them per service and process, and clone it. What it promises and
/// costs is what an [`Informer`] does; a renewal that leaves the value alone is not told as a change.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use kv_recipes::kv_core::{Result, Store, StoreExt};
/// use kv_recipes::{MemberChange, Members};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// store.put_session("services/web/7", "10.0.0.7:80").await?; // or a Registration
/// let members = Members::watch(store.clone(), "services/web").await?;
/// members.ready().await?;
/// assert_eq!(members.get("7").unwrap(), "10.0.0.7:80");
///
/// let mut changes = members.changes();
/// while let Some(change) = changes.next().await {
///     match change? {
///         MemberChange::Joined { name, value, .. } => println!("{name} at {value:?}"),
///         other => println!("{other:?}"),
///     }
/// #   break;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Members {
    informer: Informer,
}

/// What changed among the members.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberChange {
    /// There is one more.
    #[non_exhaustive]
    Joined {
        /// The member's name.
        name: String,
        /// The member's value.
        value: Bytes,
    },
    /// A member has another value.
    #[non_exhaustive]
    Updated {
        /// The member's name.
        name: String,
        /// The value before.
        old: Bytes,
        /// The value now.
        new: Bytes,
    },
    /// A member is gone.
    #[non_exhaustive]
    Left {
        /// The member's name.
        name: String,
        /// Its last value that is known.
        value: Bytes,
        /// Whether it left by itself, or died, where the store tells. `None` if this was found by reading
        /// the state again after a gap.
        cause: Option<DeleteCause>,
    },
}

impl Members {
    /// Begins to watch the members below `prefix`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// As for [`Store::watch_opts`].
    pub async fn watch<P>(store: Arc<dyn Store>, prefix: P) -> Result<Self>
    where
        P: TryInto<Prefix, Error: Into<Error>>,
    {
        Ok(Self { informer: Informer::start(store, prefix).await? })
    }

    /// Waits until the first state is complete. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the watch has ended with before that.
    pub async fn ready(&self) -> Result<()> {
        self.informer.ready().await
    }

    /// Why the map may be behind; see [`Informer::problem`].
    #[must_use]
    pub fn problem(&self) -> Option<Error> {
        self.informer.problem()
    }

    /// The value of a member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        // What is no key is nobody's name.
        let key = self.informer.prefix().join(name).ok()?;
        self.informer.read(|state| state.get(&key).map(|entry| entry.value.clone()))
    }

    /// All members of one moment with their values, by name.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Bytes)> {
        let prefix = self.informer.prefix();
        self.informer.read(|state| {
            state.entries().map(|entry| (name(prefix, &entry.key), entry.value.clone())).collect()
        })
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.informer.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.informer.is_empty()
    }

    /// The members there are, as joined, then each change. A slow reader gets one change for each member:
    /// see [`Changes`].
    #[must_use]
    pub fn changes(&self) -> MemberChanges {
        MemberChanges { prefix: self.informer.prefix().clone(), changes: self.informer.changes() }
    }
}

fn name(prefix: &Prefix, key: &Key) -> String {
    prefix.relative(key).unwrap_or(key.as_str()).to_owned()
}

/// The stream of changes that [`Members::changes`] returns. It ends only after an error, and keeps the watch
/// going.
pub struct MemberChanges {
    prefix: Prefix,
    changes: Changes,
}

impl MemberChanges {
    /// The next change, without needing a stream library. `None` only after an error. Cancel-safe:
    /// dropping the future loses no change.
    pub async fn next(&mut self) -> Option<Result<MemberChange>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// `None` for what changes nothing of a member.
    fn told(&self, change: Change) -> Option<MemberChange> {
        let name = name(&self.prefix, &change.key);
        match (change.old, change.new) {
            (None, Some(new)) => Some(MemberChange::Joined { name, value: new.value }),
            (Some(old), None) => Some(MemberChange::Left { name, value: old.value, cause: change.cause }),
            (Some(old), Some(new)) if old.value != new.value => {
                Some(MemberChange::Updated { name, old: old.value, new: new.value })
            }
            _ => None,
        }
    }
}

impl Stream for MemberChanges {
    type Item = Result<MemberChange>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::task::ready!(Pin::new(&mut self.changes).poll_next(cx)) {
                Some(Ok(change)) => {
                    if let Some(told) = self.told(change) {
                        return Poll::Ready(Some(Ok(told)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for MemberChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberChanges").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
