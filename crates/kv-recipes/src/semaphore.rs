//! A number of permits that many processes share.

use std::collections::BTreeSet;
use std::sync::Arc;

use kv_core::{Error, Key, ListOptions, Operation, Prefix, Result, Store, StoreExt, WatchState, WatchTarget};
use tokio::time::Instant;

use crate::follow::{Followed, Following};
use crate::kept::{EntryLoss, Held, Lifetime, OnDrop};
use crate::pace::{Pauses, passes, until};

/// The largest limit: each acquisition lists the permits that are taken.
const MAX_LIMIT: u32 = 10_000;

/// A number of permits that many processes share: at most `limit` are held at one time.
///
/// # What it promises
///
/// - By the server's account there are never more holders than the limit: each permit is a slot that is
///   taken by a put onto an absent key.
/// - The limit is stored, and a process with another limit is refused.
/// - A permit ends with its holder: it lives by the session of its store handle, or by a time to live. A
///   permit whose holder gave up in the middle of acquiring it, or whose answer was lost, is given back.
/// - Waiters are woken by a release, one after the other, in the order they asked where the store declares
///   [`LockFifo`](kv_core::Guarantee::LockFifo). A [`try_acquire`](Self::try_acquire) does not queue and can
///   be faster than they.
///
/// # What it does not promise
///
/// A process that stood still may *believe* to hold a permit that is another's by now. Where that matters
/// use a lock, whose fencing tokens a resource can check.
///
/// # How it is stored
///
/// The entry under the key is the limit in decimal digits; slots are entries below `KEY/slots`, and waiters
/// queue for the lock `KEY/turn`. To change the limit, stop all users and delete the key.
///
/// # Costs
///
/// Two reads and a write to acquire a free permit; a waiter costs a lock, and the first in line a watch. A
/// permit costs a watch on its slot, a delete at its end, and under a time to live its renewals.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use kv_recipes::kv_core::{Result, Store};
/// use kv_recipes::Semaphore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let downloads = Semaphore::open(store, "limits/downloads", 2).await?;
/// let first = downloads.acquire().await?;
/// let _second = downloads.acquire().await?;
/// assert!(downloads.try_acquire().await?.is_none());
/// first.release().await?;
/// assert!(downloads.try_acquire().await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore {
    store: Arc<dyn Store>,
    limit: u32,
    lifetime: Lifetime,
    slots: Prefix,
    turn: Key,
}

impl Semaphore {
    /// A semaphore on this key, whose permits live by the session. Stores the limit if there is none yet.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; `InvalidArgument` for a limit of zero or more than 10,000, and for another limit than
    /// the stored one; `Unsupported` if the store lacks
    /// [`Power::SessionKeys`](kv_core::Power::SessionKeys): use
    /// [`open_with`](Self::open_with) and a time to live. Else as for a get and a put.
    pub async fn open<K>(store: Arc<dyn Store>, key: K, limit: u32) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        Self::open_with(store, key, limit, Lifetime::Session).await
    }

    /// Like [`open`](Self::open), with permits that live by `lifetime`.
    ///
    /// # Errors
    ///
    /// As there, and `TtlOutOfRange`.
    pub async fn open_with<K>(store: Arc<dyn Store>, key: K, limit: u32, lifetime: Lifetime) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let backend = store.capabilities().backend;
        let refuse = |error: Error| error.with_operation(Operation::Put).with_backend(backend);
        let key: Key = key.try_into().map_err(|error| refuse(error.into()))?;
        let refuse = |error: Error| refuse(error).with_key(key.as_str());
        lifetime.admit(store.capabilities()).map_err(refuse)?;
        if !(1..=MAX_LIMIT).contains(&limit) {
            let reason = format!("a semaphore has from 1 to {MAX_LIMIT} permits, not {limit}");
            return Err(refuse(Error::invalid_argument(reason)));
        }
        let slots = key.join("slots").map_err(refuse)?.as_prefix();
        let turn = key.join("turn").map_err(refuse)?;
        agree(&store, &key, limit).await?;
        Ok(Self { store, limit, lifetime, slots, turn })
    }

    /// How many permits there are.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// How many permits are held now, by the server's account. Costs a list.
    ///
    /// # Errors
    ///
    /// As for a list.
    pub async fn taken(&self) -> Result<usize> {
        Ok(self.taken_slots().await?.len())
    }

    /// Waits for a permit. Must be called within a tokio runtime.
    ///
    /// Dropping the future ends the wait and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// As for a lock, a list, a put and a watch. A waiter that is first in line waits out outages.
    pub async fn acquire(&self) -> Result<Permit> {
        if self.store.lock_holder(&self.turn).await?.is_none() {
            // Nobody waits.
            if let Some(permit) = self.try_acquire().await? {
                return Ok(permit);
            }
        }
        // One waiter at a time looks for a free slot. Should this lock be lost, two do: the slots still
        // decide who has a permit.
        let _turn = self.store.lock(&self.turn).await?;
        let target = WatchTarget::below(self.slots.clone());
        let mut following = Following::new(Arc::clone(&self.store), target);
        let mut state = WatchState::new();
        let mut pauses = Pauses::new();
        let mut again_at = None;
        loop {
            tokio::select! {
                biased;
                followed = following.next() => match followed? {
                    Followed::Event(event) => drop(state.apply(event)),
                    Followed::Trouble(_) => continue,
                },
                // Claiming a slot failed: no event says that it can be claimed again.
                () = until(again_at) => {}
            }
            if !state.is_complete() {
                continue;
            }
            let taken = state.entries().map(|entry| entry.key.clone()).collect();
            again_at = match self.claim(&taken).await {
                Ok(Some(permit)) => return Ok(permit),
                Ok(None) => None,
                Err(error) if passes(&error) => Some(Instant::now() + pauses.next()),
                Err(error) => return Err(error),
            };
        }
    }

    /// Acquires a permit if one is free, without waiting.
    ///
    /// `None` says that each permit was seen taken, one after the other: under load one may have been free
    /// in between. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// As for a list and a put.
    pub async fn try_acquire(&self) -> Result<Option<Permit>> {
        self.claim(&self.taken_slots().await?).await
    }

    async fn taken_slots(&self) -> Result<BTreeSet<Key>> {
        let mut listing = self.store.list_with(&self.slots, ListOptions::default().with_keys_only()).await?;
        let mut taken = BTreeSet::new();
        while let Some(item) = listing.next().await {
            taken.extend(item?.key().cloned());
        }
        Ok(taken)
    }

    /// Claims one of the slots that are not taken, in a random order, so that many do not all try the same.
    async fn claim(&self, taken: &BTreeSet<Key>) -> Result<Option<Permit>> {
        let mut free = Vec::new();
        for slot in 0..self.limit {
            let key = self.slots.join(&slot.to_string())?;
            if !taken.contains(&key) {
                free.push(key);
            }
        }
        fastrand::shuffle(&mut free);
        for key in free {
            let value = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
            let held = Held::claim(&self.store, &key, value.into(), self.lifetime, OnDrop::Delete).await?;
            if let Some(held) = held {
                return Ok(Some(Permit { key, held }));
            }
        }
        Ok(None)
    }
}

/// Stores the limit, or compares it with the stored one.
async fn agree(store: &Arc<dyn Store>, key: &Key, limit: u32) -> Result<()> {
    let wanted = limit.to_string();
    let mut created = Ok(());
    for _ in 0..3 {
        if let Some(entry) = store.get(key).await? {
            if entry.value == wanted {
                return Ok(());
            }
            let found = entry.text().unwrap_or("something else");
            let reason =
                format!("the limit is {found:?}, not {wanted:?}: all users of a semaphore have one limit");
            return Err(Error::invalid_argument(reason)
                .with_operation(Operation::Put)
                .with_backend(store.capabilities().backend)
                .with_key(key.as_str()));
        }
        created = match store.create(key, wanted.clone()).await {
            Ok(_) => return Ok(()),
            // What is there now says what became of it, and of others' writes.
            Err(error) if error.is_conflict() || error.is_transient() => Err(error),
            Err(error) => return Err(error),
        };
    }
    created
}

/// A permit that is held. Dropping it gives it back in the background.
#[derive(Debug)]
#[must_use = "dropping a permit gives it back"]
pub struct Permit {
    key: Key,
    held: Held,
}

impl Permit {
    /// The key of the slot.
    #[must_use]
    pub fn slot(&self) -> &Key {
        &self.key
    }

    /// Whether it is held, as far as this process can know now. Under a time to live it turns false before
    /// the server can give the slot to another.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.loss().is_none()
    }

    /// Why it is not held any more; `None` while it is.
    #[must_use]
    pub fn loss(&self) -> Option<EntryLoss> {
        self.held.loss()
    }

    /// Resolves once it is lost. Cancel-safe, and independent of the permit's lifetime.
    pub fn lost(&self) -> impl Future<Output = EntryLoss> + Send + 'static {
        self.held.lost()
    }

    /// Gives it back and waits until that is confirmed. If the future is dropped, it goes on in the
    /// background.
    ///
    /// # Errors
    ///
    /// `NotHeld` if it was lost before: then nothing was touched. Any other error: it goes on in the
    /// background, and the permit ends with its session or time to live at the latest.
    pub async fn release(self) -> Result<()> {
        self.held.release().await
    }
}
