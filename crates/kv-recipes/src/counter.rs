//! A number that many add to, and ids that are never handed out twice.

use std::ops::Range;
use std::sync::Arc;

use kv_core::{Error, ErrorKind, Key, Operation, Result, Store, StoreExt as _};
use tokio::sync::Mutex;

use crate::names::to_key;
use crate::tx::{TxOptions, transaction_with};

/// A number under a key that any number of programs add to. It begins at 0 and is stored as decimal text.
///
/// # Guarantee
///
/// Every [`add`](Self::add) that returns a number was counted exactly once, at one moment, and no other
/// returns the sum of the same additions. One that fails with [`applied`](Error::applied) `Unknown` was
/// counted once or not at all, and is never sent again.
///
/// It promises no speed: each addition is a consensus write, and additions at the same time disturb each
/// other, as [`transaction_with`] says, within the bounds of [`TxOptions`]. A key that is deleted begins at
/// 0 again.
///
/// It needs no power of the store.
///
/// # Cost
///
/// A read and a write for each addition, and a write more for each time that another was faster.
///
/// # Cancellation
///
/// An addition whose future was dropped was counted once or not at all.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use kv_recipes::Counter;
/// use kv_recipes::kv_core::{Result, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let visits = Counter::new(&store, "stats/visits")?;
/// assert_eq!(visits.add(2).await?, 2);
/// assert_eq!(visits.add(-1).await?, 1);
/// assert_eq!(visits.get().await?, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Counter {
    store: Arc<dyn Store>,
    key: Key,
    options: TxOptions,
}

impl Counter {
    /// The counter under this key. Nothing is sent.
    ///
    /// # Errors
    ///
    /// `InvalidKey` for a key that is none.
    pub fn new<K>(store: &Arc<dyn Store>, key: K) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let key = to_key(key, Operation::Open)?;
        Ok(Self { store: Arc::clone(store), key, options: TxOptions::default() })
    }

    /// Changes how often and how long an addition is tried, its fence, and the deadline of its requests.
    #[must_use]
    pub fn with_options(mut self, options: TxOptions) -> Self {
        self.options = options;
        self
    }

    /// The number now; 0 where nothing was added yet.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for an entry that is no number; what a get fails with.
    pub async fn get(&self) -> Result<i64> {
        let entry = self.store.get(&self.key).await?;
        entry.map_or(Ok(0), |entry| self.number(&entry.value))
    }

    /// Adds to the number and returns the sum.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for an entry that is no number, or if the sum is none that 64 bits hold;
    /// `PreconditionFailed` if others were faster to the end of all attempts. An error with
    /// [`applied`](Error::applied) `Unknown` may have been counted.
    pub async fn add(&self, amount: i64) -> Result<i64> {
        let added = transaction_with(&self.store, self.options.clone(), async |tx| {
            let now = tx.get(&self.key).await?.map_or(Ok(0), |value| self.number(&value))?;
            let sum =
                now.checked_add(amount).ok_or_else(|| self.invalid("the sum needs more than 64 bits"))?;
            tx.put(&self.key, sum.to_string())?;
            Ok(sum)
        });
        Ok(added.await?.value)
    }

    fn number(&self, value: &[u8]) -> Result<i64> {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| self.invalid("it is no number of 64 bits in decimal text"))
    }

    fn invalid(&self, reason: &str) -> Error {
        Error::new(ErrorKind::InvalidValue { reason: reason.to_owned() })
            .with_backend(self.store.capabilities().backend)
            .with_key(self.key.as_str())
            .not_applied()
    }
}

/// Hands out numbers that nobody else gets, from blocks that it takes from a [`Counter`].
///
/// # Guarantee
///
/// All allocators on one key, in any processes, hand out **different** numbers, each greater than 0. One
/// allocator's numbers rise.
///
/// There are gaps: a block is lost with the process that took it, with a future that was dropped while it
/// took one, and when the outcome of taking it is unknown. Numbers of different allocators are in no
/// order. The promise ends where somebody deletes the key or puts an older state back: numbers repeat
/// then.
///
/// It needs no power of the store.
///
/// # Cost
///
/// A read and a write for each block, 100 numbers unless
/// [`with_block`](Self::with_block) says otherwise; nothing for the numbers in between.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use kv_recipes::IdAllocator;
/// use kv_recipes::kv_core::{Result, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let (one, other) =
///     (IdAllocator::new(&store, "ids/orders")?, IdAllocator::new(&store, "ids/orders")?);
/// assert_eq!((one.next().await?, one.next().await?), (1, 2));
/// assert_eq!(other.next().await?, 101);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct IdAllocator {
    counter: Counter,
    block: u32,
    left: Mutex<Range<u64>>,
}

impl IdAllocator {
    /// An allocator on this key. Nothing is sent.
    ///
    /// # Errors
    ///
    /// `InvalidKey` for a key that is none.
    pub fn new<K>(store: &Arc<dyn Store>, key: K) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        Ok(Self { counter: Counter::new(store, key)?, block: 100, left: Mutex::new(0..0) })
    }

    /// Changes how many numbers are taken at once; zero counts as one. Allocators of one key may differ.
    #[must_use]
    pub fn with_block(mut self, numbers: u32) -> Self {
        self.block = numbers.max(1);
        self
    }

    /// Changes how often and how long taking a block is tried, its fence, and the deadline of its requests.
    #[must_use]
    pub fn with_options(mut self, options: TxOptions) -> Self {
        self.counter = self.counter.with_options(options);
        self
    }

    /// The next number.
    ///
    /// # Errors
    ///
    /// As for [`Counter::add`]. After an error nothing was handed out; the next call takes another block.
    pub async fn next(&self) -> Result<u64> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let taken = self.counter.add(i64::from(self.block)).await?;
            let last = u64::try_from(taken).map_err(|_| self.counter.invalid("it is below 0"))?;
            let first = last
                .checked_sub(u64::from(self.block))
                .ok_or_else(|| self.counter.invalid("it was below 0"))?;
            // The end of the range is no number of the block, and fits: the counter holds 63 bits.
            *left = first + 1..last + 1;
        }
        // There is one: the block is no smaller than that.
        left.next().ok_or_else(|| self.counter.invalid("the block is empty"))
    }
}
