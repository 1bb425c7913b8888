//! What a buffered transaction remembers: what it has read, and the writes that it holds back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::{
    Compare, Condition, Decode, Encode, Entry, Error, ErrorKind, Expiry, Fence, GetOptions, Json, Key,
    Operation, Power, Result, Store, StoreExt as _, Txn, TxnOp, TxnOutcome,
};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::names::to_key;

/// A transaction that is written like ordinary code: it reads from the store, keeps its writes back, and
/// applies all of them at once, if nothing that it read has changed meanwhile.
///
/// [`transaction`](crate::transaction) begins one, commits it, and runs the code again after a conflict: start there. A `Tx` by
/// itself is for programs that decide about conflicts themselves.
///
/// # Guarantee
///
/// - A committed transaction is **serializable**: it has the effect it would have had if it had run alone,
///   at the moment of its commit. A key that was deleted and created again, or that was put with the same
///   value, counts as changed. Where a store does not declare
///   [`CasDetectsRecreate`](kv_core::Guarantee::CasDetectsRecreate) (ZooKeeper), a delete and re-create
///   that falls between the store's own read and its write can go unnoticed.
/// - It is **all or nothing**, and isolated from everything else.
/// - **Its own writes are visible** to its later reads.
/// - Two calls of [`get`](Self::get) can see two moments, so a transaction that is bound to fail may see
///   values that never were there together. [`get_many`](Self::get_many) reads at one moment, and fails at
///   once when what was read before has changed.
///
/// It promises no progress: of transactions on the same keys always one commits, and another can lose many
/// times in a row. Keys that were never read are not watched over: use [`get`](Self::get) on what the
/// result depends on. What lies below a prefix cannot be read in a transaction.
///
/// # Stores
///
/// On a store without [`Power::Transactions`] one key can be read and written. A second key is refused with
/// `Unsupported`, before any I/O, by the call that names it. A transaction takes one operation for each key
/// read and one for each key written; [`Limits::max_txn_ops`](kv_core::Limits) of them fit (Consul: 31), and
/// one more is refused with `TooLarge` by the call that names it.
///
/// # Cost
///
/// One request for each `get` of a new key, one for `get_many`, one for the commit. A transaction that only
/// read, in one request, commits without one.
///
/// # Cancellation
///
/// A `Tx` can be used by several futures at once. Dropping one, or the future of any call but [`commit`](Self::commit), changes nothing in the store.
/// A commit whose future was dropped may or may not apply, as a whole.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use kv_recipes::Tx;
/// use kv_recipes::kv_core::{Result, Store, StoreExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// store.put("stock/apples", "3").await?;
///
/// let tx = Tx::begin(&store);
/// if tx.get("stock/apples").await?.is_some_and(|left| left == "3") {
///     tx.put("stock/apples", "2")?;
///     tx.put("orders/17", "one apple")?;
/// }
/// assert_eq!(tx.get("stock/apples").await?.unwrap(), "2"); // its own write
/// assert_eq!(store.get("stock/apples").await?.unwrap().value, "3"); // nobody else's yet
/// tx.commit().await?;
/// assert!(store.exists("orders/17").await?);
/// # Ok(()) }
/// ```
#[must_use = "a transaction that is not committed changes nothing"]
pub struct Tx {
    pub(super) store: Arc<dyn Store>,
    /// Shared with the loop that commits it.
    pub(super) state: Arc<Mutex<State>>,
}

/// What a transaction remembers.
#[derive(Default)]
pub(super) struct State {
    pub(super) reads: BTreeMap<Key, Option<Entry>>,
    pub(super) writes: BTreeMap<Key, Write>,
    pub(super) fence: Option<Fence>,
    pub(super) timeout: Option<Duration>,
    /// What the refusal of an earlier attempt brought back: entries of one moment, that this attempt has
    /// not read yet.
    pub(super) fresh: BTreeMap<Key, Option<Entry>>,
    pub(super) moments: Moments,
    /// Whether a request found that something read has changed.
    pub(super) conflicted: bool,
}

/// A write that is held back.
#[derive(Clone)]
pub(super) enum Write {
    Put { value: Bytes, expiry: Expiry },
    Delete,
}

/// At how many different moments was read what was read.
#[derive(Default)]
pub(super) struct Moments {
    pub(super) seen: BTreeSet<u32>,
    next: u32,
}

impl Moments {
    /// The moment of what a refusal brought back.
    const FRESH: u32 = 0;

    pub(super) fn add_new(&mut self) {
        self.next += 1;
        self.seen.insert(self.next);
    }

    /// Everything read was seen to be there still, in one request.
    pub(super) fn unite(&mut self) {
        self.seen.clear();
        self.add_new();
    }

    /// Whether everything read so far was there at one moment.
    pub(super) fn is_one(&self) -> bool {
        self.seen.len() <= 1
    }

    /// Whether everything read so far was there at the moment of the refusal.
    fn is_fresh(&self) -> bool {
        self.seen.iter().all(|moment| *moment == Self::FRESH)
    }
}

impl State {
    /// A transaction that goes through if nothing that was read has changed.
    pub(super) fn check(&self) -> Txn {
        let unchanged = self.reads.iter().map(|(key, entry)| match entry {
            Some(entry) => Condition::version(key, Compare::Equal, entry.version),
            None => Condition::absent(key),
        });
        let mut txn = Txn::when(unchanged);
        txn.timeout = self.timeout;
        txn
    }

    pub(super) fn get_options(&self) -> GetOptions {
        let mut options = GetOptions::default();
        options.timeout = self.timeout;
        options
    }

    /// Remembers what was read at one more moment. What was read before stays: only that can be committed.
    pub(super) fn read(&mut self, entries: impl IntoIterator<Item = (Key, Option<Entry>)>) {
        self.moments.add_new();
        self.remember(entries);
    }

    fn remember(&mut self, entries: impl IntoIterator<Item = (Key, Option<Entry>)>) {
        for (key, entry) in entries {
            self.reads.entry(key).or_insert(entry);
        }
    }

    /// The value under a key that was written or read.
    fn value(&self, key: &Key) -> Option<Option<Bytes>> {
        match self.writes.get(key) {
            Some(write) => Some(write.value()),
            None => self.reads.get(key).map(value_of),
        }
    }

    /// Reads keys from what a refusal brought back, if everything read is of that moment and they are
    /// there.
    fn read_fresh(&mut self, keys: &BTreeSet<Key>) -> bool {
        let is_there = self.moments.is_fresh() && keys.iter().all(|key| self.fresh.contains_key(key));
        if is_there {
            self.moments.seen.insert(Moments::FRESH);
            let entries: Vec<_> = keys.iter().filter_map(|key| self.fresh.remove_entry(key)).collect();
            self.remember(entries);
        }
        is_there
    }
}

impl Tx {
    /// Begins a transaction. Nothing is sent.
    pub fn begin(store: &Arc<dyn Store>) -> Self {
        Self { store: Arc::clone(store), state: Arc::default() }
    }

    /// The same transaction, for the code that runs in it.
    pub(super) fn same(&self) -> Self {
        Self { store: Arc::clone(&self.store), state: Arc::clone(&self.state) }
    }

    /// Gives each request a deadline of its own, in place of the store's default.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state.lock().timeout = Some(timeout);
    }

    /// Applies the transaction only while this lock is held; else the commit is `NotHeld`.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a store without [`Power::FencedWrites`].
    pub fn set_fence(&self, fence: Fence) -> Result<()> {
        let capabilities = self.store.capabilities();
        capabilities.require(Power::FencedWrites).map_err(|error| self.about(error))?;
        self.state.lock().fence = Some(fence);
        Ok(())
    }

    /// The value under `key`, or `None`: what this transaction wrote, else what it read before, else what
    /// the store has.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a second key on a store without transactions and `TooLarge` for more keys than
    /// one transaction takes, both before any I/O; what the store's `get` fails with.
    pub async fn get<K>(&self, key: K) -> Result<Option<Bytes>>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let key = to_key(key, Operation::Transact)?;
        let options = {
            let mut state = self.state.lock();
            if let Some(value) = state.value(&key) {
                return Ok(value);
            }
            self.admit(&state, state.reads.keys().chain([&key]), &state.writes, &key)?;
            if let Some(entry) = state.fresh.remove(&key) {
                state.moments.seen.insert(Moments::FRESH);
                let value = value_of(&entry);
                state.reads.insert(key, entry);
                return Ok(value);
            }
            state.get_options()
        };
        let entry = self.store.get_with(&key, options).await?;
        let mut state = self.state.lock();
        state.read([(key.clone(), entry)]);
        Ok(state.value(&key).flatten())
    }

    /// The values under several keys, in the order they were asked for, as they stood at one moment; for
    /// keys that this transaction wrote, what it wrote.
    ///
    /// Everything that was read before is checked to be unchanged at that same moment.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get); `PreconditionFailed` if something that was read before has changed: then
    /// this transaction cannot be committed any more.
    pub async fn get_many<K>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let asked =
            keys.into_iter().map(|key| to_key(key, Operation::Transact)).collect::<Result<Vec<Key>>>()?;
        let reading = {
            let mut state = self.state.lock();
            let missing: BTreeSet<Key> =
                asked.iter().filter(|key| state.value(key).is_none()).cloned().collect();
            if let Some(first) = missing.first() {
                self.admit(&state, state.reads.keys().chain(&missing), &state.writes, first)?;
            }
            let is_there = (missing.is_empty() && state.moments.is_one()) || state.read_fresh(&missing);
            (!is_there).then(|| (missing, state.check(), state.get_options()))
        };
        if let Some((missing, check, options)) = reading {
            self.read_together(missing, check, options).await?;
        }
        let state = self.state.lock();
        Ok(asked.iter().map(|key| state.value(key).flatten()).collect())
    }

    /// Reads keys that were not read before, at a moment at which all that was read before is unchanged.
    async fn read_together(&self, missing: BTreeSet<Key>, check: Txn, options: GetOptions) -> Result<()> {
        if let (1, true, Some(key)) = (missing.len(), check.conditions.is_empty(), missing.first()) {
            let entry = self.store.get_with(key, options).await?;
            self.state.lock().read([(key.clone(), entry)]);
            return Ok(());
        }
        let result = self.store.transact(check.then(missing.iter().map(TxnOp::get))).await?;
        if !result.succeeded {
            self.state.lock().conflicted = true;
            return Err(self.conflict().await);
        }
        let entries = result.outcomes.into_iter().filter_map(|outcome| match outcome {
            TxnOutcome::Get(entry) => Some(entry),
            _ => None,
        });
        let mut state = self.state.lock();
        state.moments.unite();
        state.remember(missing.into_iter().zip(entries));
        Ok(())
    }

    /// Puts a value at the commit. The key keeps the expiry it has, as in
    /// [`StoreExt::update`](kv_core::StoreExt::update): an entry that never expires stays so, and a new one
    /// never expires.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a second key on a store without transactions; `TooLarge` for the value, or for
    /// more than one transaction takes. Nothing is sent.
    pub fn put<K>(&self, key: K, value: impl Into<Bytes>) -> Result<()>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        self.put_expiring(key, value, Expiry::Keep)
    }

    /// Puts a value with this expiry at the commit.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put); `TtlOutOfRange`, and `Unsupported` for an expiry this store does not
    /// have.
    pub fn put_expiring<K>(&self, key: K, value: impl Into<Bytes>, expiry: Expiry) -> Result<()>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        self.write(to_key(key, Operation::Transact)?, Write::Put { value: value.into(), expiry })
    }

    /// Deletes a key at the commit. That it is absent is no error.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    pub fn delete<K>(&self, key: K) -> Result<()>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        self.write(to_key(key, Operation::Transact)?, Write::Delete)
    }

    fn write(&self, key: Key, write: Write) -> Result<()> {
        let mut state = self.state.lock();
        let mut writes = state.writes.clone();
        writes.insert(key.clone(), write);
        self.admit(&state, state.reads.keys(), &writes, &key)?;
        state.writes = writes;
        Ok(())
    }

    /// The value under `key`, decoded. Everything else is as in [`get`](Self::get).
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get); `InvalidValue` if it cannot be decoded: the error names the key and not
    /// the value.
    pub async fn get_as<T, K>(&self, key: K, codec: impl Decode<T>) -> Result<Option<T>>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let key = to_key(key, Operation::Transact)?;
        let Some(value) = self.get(&key).await? else { return Ok(None) };
        codec.decode(&value).map(Some).map_err(|source| self.not_coded(&key, source))
    }

    /// Encodes a value and puts it at the commit, as [`put`](Self::put) does.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put); `InvalidValue` if it cannot be encoded.
    pub fn put_as<T: ?Sized, K>(&self, key: K, value: &T, codec: impl Encode<T>) -> Result<()>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let key = to_key(key, Operation::Transact)?;
        let value = codec.encode(value).map_err(|source| self.not_coded(&key, source))?;
        self.put(&key, value)
    }

    /// The value under `key`, decoded from JSON: [`get_as`](Self::get_as).
    ///
    /// # Errors
    ///
    /// As for [`get_as`](Self::get_as).
    pub async fn get_json<T: DeserializeOwned, K>(&self, key: K) -> Result<Option<T>>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        self.get_as(key, Json).await
    }

    /// Puts a value as JSON at the commit: [`put_as`](Self::put_as).
    ///
    /// # Errors
    ///
    /// As for [`put_as`](Self::put_as).
    pub fn put_json<T: Serialize + ?Sized, K>(&self, key: K, value: &T) -> Result<()>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        self.put_as(key, value, Json)
    }

    /// Ends the transaction without changing anything. Dropping it does the same.
    pub fn abort(self) {}

    /// Refuses what could not be committed with these reads and writes, of which `key` is new.
    fn admit<'k>(
        &self,
        state: &State,
        reads: impl Iterator<Item = &'k Key>,
        writes: &'k BTreeMap<Key, Write>,
        key: &Key,
    ) -> Result<()> {
        let about = |error: Error| self.about(error).with_key(key.as_str());
        let capabilities = self.store.capabilities();
        if self.is_transactional() {
            // Which condition it is matters to no limit.
            let mut txn = Txn::when(reads.map(Condition::absent)).then(self.ops(writes));
            txn.fence.clone_from(&state.fence);
            return capabilities.admit_transact(&txn).map_err(about);
        }
        let keys: BTreeSet<&Key> = reads.chain(writes.keys()).collect();
        if keys.len() > 1 {
            return capabilities.require(Power::Transactions).map_err(about);
        }
        for (key, write) in writes {
            if let Write::Put { value, .. } = write {
                capabilities.limits.check_value(key, value).map_err(about)?;
            }
        }
        Ok(())
    }

    /// The operations these writes are.
    pub(super) fn ops<'w>(
        &self,
        writes: &'w BTreeMap<Key, Write>,
    ) -> impl Iterator<Item = Result<TxnOp>> + use<'w> {
        let keeps = self.store.capabilities().has(Power::KeepExpiry);
        writes.iter().map(move |(key, write)| match write {
            // Without the power the commit sees to it that there is no expiry to keep.
            Write::Put { value, expiry: Expiry::Keep } if !keeps => TxnOp::put(key, value.clone()),
            Write::Put { value, expiry } => TxnOp::put_expiring(key, value.clone(), *expiry),
            Write::Delete => TxnOp::delete(key),
        })
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.store.as_transact().is_some()
    }

    pub(super) fn about(&self, error: Error) -> Error {
        error.with_operation(Operation::Transact).with_backend(self.store.capabilities().backend)
    }

    fn not_coded(&self, key: &Key, source: kv_core::CodecError) -> Error {
        let kind = ErrorKind::InvalidValue { reason: "the codec refused it".to_owned() };
        self.about(Error::new(kind).with_key(key.as_str()).with_source(source).not_applied())
    }
}

impl Write {
    fn value(&self) -> Option<Bytes> {
        match self {
            Self::Put { value, .. } => Some(value.clone()),
            Self::Delete => None,
        }
    }
}

pub(super) fn value_of(entry: &Option<Entry>) -> Option<Bytes> {
    entry.as_ref().map(|entry| entry.value.clone())
}

impl fmt::Debug for Tx {
    // Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Tx")
            .field("reads", &state.reads.keys())
            .field("writes", &state.writes.keys())
            .field("fence", &state.fence)
            .finish_non_exhaustive()
    }
}
