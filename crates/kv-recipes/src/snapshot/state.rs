//! What a snapshot holds, and what can be done with it.

use std::fmt;

use kv_core::{
    Entry, Key, KeyChange, Operation, Prefix, PutOptions, Result, Store, StoreExt, Version, WatchEvent,
    WatchState,
};

use crate::names::Prefixes;

/// What is known of the moment that a [`Snapshot`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistent {
    /// It is exactly the state at this version.
    AtVersion(Version),
    /// It was listed twice in a row without a difference: all its entries were there together, unchanged,
    /// at a moment between the two lists.
    ///
    /// What was created and deleted again while it was taken may be missing from it, although other
    /// entries were there at the same time.
    Confirmed,
    /// Its entries were read at different moments. Each was there at one of them.
    Fuzzy,
}

/// The entries below some prefixes, as they stood at one moment.
///
/// # Guarantee
///
/// Where a store declares [`ListSnapshot`](kv_core::Guarantee::ListSnapshot) (etcd, Consul, sled and
/// memory), a snapshot is the state at one version, over all its prefixes together. Elsewhere (ZooKeeper) it is listed until two
/// lists in a row agree in all keys and versions, and is then [`Consistent::Confirmed`]: versions never
/// repeat, so nothing in it changed in between. Under steady writes that can fail; then it is refused, or
/// [`Consistent::Fuzzy`] if [`SnapshotOptions::allow_fuzzy`](crate::SnapshotOptions::allow_fuzzy) asked
/// for it. [`consistency`](Self::consistency) tells which of these it is.
///
/// On stores without [`LinearizableReads`](kv_core::Guarantee::LinearizableReads) it was true once and may
/// be old.
///
/// It holds no expiries and no locks, and lies in memory as a whole.
///
/// # Cost
///
/// One list of the innermost prefix that covers all prefixes, from the first to the last; on ZooKeeper
/// two lists and more.
///
/// # Cancellation
///
/// Taking one changes nothing and can be dropped at any point.
///
/// # Examples
///
/// ```
/// use kv_recipes::Snapshot;
/// use kv_recipes::kv_core::StoreExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = kv_mem::MemStore::open(Default::default())?;
/// store.put("app/colour", "red").await?;
/// let before = Snapshot::take(&store, ["app", "users"]).await?;
/// store.put("app/colour", "blue").await?;
///
/// let mut file = Vec::new();
/// before.write(&mut file)?;
/// let before = Snapshot::read(&file[..])?; // refused if it was cut or changed
/// let changes = before.diff(&Snapshot::take(&store, ["app", "users"]).await?);
/// assert_eq!(changes[0].key.as_str(), "app/colour");
/// assert_eq!(changes[0].old.as_ref().unwrap().value, "red");
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) prefixes: Prefixes,
    pub(super) consistency: Consistent,
    pub(super) as_of: Option<Version>,
    /// In the order of their keys.
    pub(super) entries: Vec<Entry>,
}

impl Snapshot {
    /// The prefixes it covers, in order, without those that others cover.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        self.prefixes.as_slice()
    }

    pub(crate) fn covered(&self) -> &Prefixes {
        &self.prefixes
    }

    /// What is known of the moment it shows.
    #[must_use]
    pub fn consistency(&self) -> Consistent {
        self.consistency
    }

    /// The version to watch from, so that snapshot and watch together lose nothing.
    #[must_use]
    pub fn as_of(&self) -> Option<Version> {
        self.as_of
    }

    /// The greatest version that it knows of.
    #[must_use]
    pub fn newest(&self) -> Option<Version> {
        self.entries.iter().map(|entry| entry.version).chain(self.as_of).max()
    }

    /// The entries, in byte order of their keys.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry under `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
        self.entries.get(at)
    }

    /// The entries by themselves.
    #[must_use]
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// What is different in a newer snapshot of the same store, in the order of the keys. Entries are the
    /// same if their versions are.
    #[must_use]
    pub fn diff(&self, newer: &Self) -> Vec<KeyChange> {
        let mut state = WatchState::of(self.entries.iter().cloned());
        state.apply(WatchEvent::Resync);
        for entry in &newer.entries {
            state.apply(WatchEvent::Put(entry.clone()));
        }
        state.apply(WatchEvent::Synced)
    }

    /// Puts all entries into a store, permanent, in the order of their versions, and returns how many.
    ///
    /// The store gives them new versions, in the same order; where two had one version, as after a
    /// transaction, they get two. Entries that are there are replaced, and keys that are not in the snapshot
    /// are left alone. It is not one step: after an error, or when the future is dropped, a part is done.
    /// Doing it again completes it.
    ///
    /// # Errors
    ///
    /// `TooLarge` before any I/O for a value that the store cannot keep; what a put fails with.
    pub async fn put_into<S: Store + ?Sized>(&self, store: &S) -> Result<u64> {
        let capabilities = store.capabilities();
        for entry in &self.entries {
            let checked = capabilities.limits.check_value(&entry.key, &entry.value);
            checked
                .map_err(|error| error.with_operation(Operation::Put).with_backend(capabilities.backend))?;
        }
        let mut oldest_first: Vec<&Entry> = self.entries.iter().collect();
        oldest_first.sort_by_key(|entry| entry.version);
        let mut put = 0;
        for entry in oldest_first {
            store.put_with(&entry.key, entry.value.clone(), PutOptions::default()).await?;
            put += 1;
        }
        Ok(put)
    }

    /// A memory store of its own that begins with these entries, at the versions they have. Its next
    /// version is greater than [`newest`](Self::newest).
    ///
    /// # Errors
    ///
    /// `TooLarge` for a value that a memory store does not take.
    #[cfg(feature = "mem")]
    #[cfg_attr(docsrs, doc(cfg(feature = "mem")))]
    pub fn into_store(self) -> Result<kv_mem::MemStore> {
        let newest = self.newest().unwrap_or_default();
        kv_mem::MemStore::restore(kv_mem::MemConfig::new(), self.entries, newest)
    }
}

impl fmt::Debug for Snapshot {
    // Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("prefixes", &self.prefixes())
            .field("consistency", &self.consistency)
            .field("as_of", &self.as_of)
            .field("entries", &self.entries.len())
            .finish()
    }
}
