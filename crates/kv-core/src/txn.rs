//! Transactions: conditions, two branches of operations, and what came of them.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::capabilities::Limits;
use crate::entry::Entry;
use crate::error::{Error, Measured, Operation, Result};
use crate::fence::Fence;
use crate::key::{IntoKey, Key};
use crate::options::{DeleteResult, Expiry, PutResult};
use crate::timeout::timeout_setter;
use crate::version::Version;

/// How a condition compares what is stored with what is given: stored on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the operators")]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Compare {
    /// Whether `left` and `right` stand in this relation.
    pub fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::Greater => left > right,
        }
    }
}

/// What a [`Condition`] asks of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Test {
    /// It does not exist.
    Absent,
    /// It exists.
    Present,
    /// Its version compares so.
    Version(Compare, Version),
    /// The version it was created with compares so.
    Created(Compare, Version),
    /// Its value compares so, byte by byte.
    Value(Compare, Bytes),
}

/// One condition of a transaction.
///
/// An absent key compares as absent and never as empty or zero: version and value comparisons on it
/// are false, except `NotEqual`, which is true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// The key.
    pub key: Key,
    /// What is asked of it.
    pub test: Test,
}

impl Condition {
    /// The key does not exist.
    pub fn absent(key: impl IntoKey) -> Result<Self> {
        Ok(Self { key: key.into_key(Operation::Transact)?, test: Test::Absent })
    }

    /// The key exists.
    pub fn present(key: impl IntoKey) -> Result<Self> {
        Ok(Self { key: key.into_key(Operation::Transact)?, test: Test::Present })
    }

    /// The key's version compares so.
    pub fn version(key: impl IntoKey, compare: Compare, version: Version) -> Result<Self> {
        Ok(Self { key: key.into_key(Operation::Transact)?, test: Test::Version(compare, version) })
    }

    /// The version the key was created with compares so.
    pub fn created(key: impl IntoKey, compare: Compare, version: Version) -> Result<Self> {
        Ok(Self { key: key.into_key(Operation::Transact)?, test: Test::Created(compare, version) })
    }

    /// The key's value compares so.
    pub fn value(key: impl IntoKey, compare: Compare, value: impl Into<Bytes>) -> Result<Self> {
        Ok(Self { key: key.into_key(Operation::Transact)?, test: Test::Value(compare, value.into()) })
    }

    /// Whether it holds for what is stored under its key.
    #[must_use]
    pub fn holds(&self, stored: Option<&Entry>) -> bool {
        match (&self.test, stored) {
            (Test::Absent, stored) => stored.is_none(),
            (Test::Present, stored) => stored.is_some(),
            (
                Test::Version(Compare::NotEqual, _)
                | Test::Created(Compare::NotEqual, _)
                | Test::Value(Compare::NotEqual, _),
                None,
            ) => true,
            (_, None) => false,
            (Test::Version(compare, version), Some(entry)) => compare.holds(&entry.version, version),
            (Test::Created(compare, version), Some(entry)) => compare.holds(&entry.created, version),
            (Test::Value(compare, value), Some(entry)) => compare.holds(&entry.value, value),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TxnOp {
    /// Puts a value.
    #[non_exhaustive]
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// When it goes by itself.
        expiry: Expiry,
    },
    /// Deletes a key; absent is no error.
    #[non_exhaustive]
    Delete {
        /// The key.
        key: Key,
    },
    /// Reads a key, seeing what earlier operations of the branch wrote.
    #[non_exhaustive]
    Get {
        /// The key.
        key: Key,
    },
}

impl TxnOp {
    /// Puts a permanent value.
    pub fn put(key: impl IntoKey, value: impl Into<Bytes>) -> Result<Self> {
        Self::put_expiring(key, value, Expiry::Never)
    }

    /// Puts a value that goes by itself.
    pub fn put_expiring(key: impl IntoKey, value: impl Into<Bytes>, expiry: Expiry) -> Result<Self> {
        Ok(Self::Put { key: key.into_key(Operation::Transact)?, value: value.into(), expiry })
    }

    /// Deletes a key.
    pub fn delete(key: impl IntoKey) -> Result<Self> {
        Ok(Self::Delete { key: key.into_key(Operation::Transact)? })
    }

    /// Reads a key.
    pub fn get(key: impl IntoKey) -> Result<Self> {
        Ok(Self::Get { key: key.into_key(Operation::Transact)? })
    }

    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Get { key } => key,
        }
    }

    /// Whether it writes.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Get { .. })
    }
}

/// A transaction: if all conditions hold, the `then` branch is carried out, else the `or_else` branch.
///
/// It takes conditions and operations as they are, or as the results of their constructors: a text that is
/// no key makes the transaction `InvalidKey` when it is given to a store, before any I/O.
///
/// ```
/// use kv_core::{Condition, Txn, TxnOp};
///
/// let take = Txn::when([Condition::present("queue/1"), Condition::absent("taken/1")])
///     .then([TxnOp::delete("queue/1"), TxnOp::put("taken/1", "worker-7")])
///     .or_else([TxnOp::get("taken/1")]);
/// assert_eq!(take.conditions.len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Txn {
    /// What must hold for the `then` branch; none: it always runs.
    pub conditions: Vec<Condition>,
    /// Carried out, in order, if all conditions hold.
    pub then: Vec<TxnOp>,
    /// Carried out, in order, if one does not.
    pub or_else: Vec<TxnOp>,
    /// The lock that must be held. Needs [`Power::FencedWrites`](crate::Power::FencedWrites).
    pub fence: Option<Fence>,
    /// Deadline of the call, in place of the store's default.
    pub timeout: Option<Duration>,
    /// The first text that was given as a key and is none.
    invalid: Option<Error>,
}

/// A part of a transaction, or why there is none: what [`Txn`] takes. Not to be implemented by hand.
pub trait IntoPart<T> {
    /// The part.
    ///
    /// # Errors
    ///
    /// What its constructor failed with.
    fn into_part(self) -> Result<T>;
}

impl<T> IntoPart<T> for T {
    fn into_part(self) -> Result<T> {
        Ok(self)
    }
}

impl<T> IntoPart<T> for Result<T> {
    fn into_part(self) -> Result<T> {
        self
    }
}

impl Txn {
    /// A transaction with these conditions.
    pub fn when(conditions: impl IntoIterator<Item: IntoPart<Condition>>) -> Self {
        let mut txn = Self::default();
        txn.conditions = txn.parts(conditions);
        txn
    }

    /// The parts that there are. Why one is missing is noted.
    fn parts<T>(&mut self, parts: impl IntoIterator<Item: IntoPart<T>>) -> Vec<T> {
        let mut known = Vec::new();
        for part in parts {
            match part.into_part() {
                Ok(part) => known.push(part),
                Err(error) => {
                    self.invalid.get_or_insert(error);
                }
            }
        }
        known
    }

    /// A transaction without conditions.
    #[must_use]
    pub fn always() -> Self {
        Self::default()
    }

    /// The same with these operations for the case that all conditions hold.
    #[must_use]
    pub fn then(mut self, ops: impl IntoIterator<Item: IntoPart<TxnOp>>) -> Self {
        let ops = self.parts(ops);
        self.then.extend(ops);
        self
    }

    /// The same with these operations for the case that a condition does not hold.
    #[must_use]
    pub fn or_else(mut self, ops: impl IntoIterator<Item: IntoPart<TxnOp>>) -> Self {
        let ops = self.parts(ops);
        self.or_else.extend(ops);
        self
    }

    /// The same, applied only while this lock is held; else `NotHeld`, whatever the conditions.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    timeout_setter!();

    /// What counts against [`Limits::max_txn_ops`]: the conditions plus the larger branch.
    #[must_use]
    pub fn op_count(&self) -> usize {
        self.conditions.len() + self.then.len().max(self.or_else.len())
    }

    /// What counts against [`Limits::max_txn_bytes`]: all keys and values of the conditions and of
    /// the larger branch.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        let branch = |ops: &[TxnOp]| -> usize {
            ops.iter()
                .map(|op| match op {
                    TxnOp::Put { key, value, .. } => key.as_str().len() + value.len(),
                    TxnOp::Delete { key } | TxnOp::Get { key } => key.as_str().len(),
                })
                .sum()
        };
        let conditions: usize = self
            .conditions
            .iter()
            .map(|condition| {
                condition.key.as_str().len()
                    + match &condition.test {
                        Test::Value(_, value) => value.len(),
                        _ => 0,
                    }
            })
            .sum();
        conditions + branch(&self.then).max(branch(&self.or_else))
    }

    /// Checks that each key is one, limits, the sizes of values and of values that are compared, and that no key is written
    /// twice in one branch. Part of
    /// [`Capabilities::admit_transact`](crate::Capabilities::admit_transact).
    ///
    /// # Errors
    ///
    /// `InvalidKey`, `TooLarge` or `InvalidArgument`.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        let refuse = |error: Error| error.with_operation(Operation::Transact);
        for condition in &self.conditions {
            if let Test::Value(_, value) = &condition.test {
                limits.check_compared(&condition.key, value).map_err(refuse)?;
            }
        }
        for branch in [&self.then, &self.or_else] {
            let mut written = BTreeSet::new();
            for op in branch {
                if op.is_write() && !written.insert(op.key()) {
                    return Err(refuse(
                        Error::invalid_argument("the transaction writes this key twice in one branch")
                            .with_key(op.key().as_str()),
                    ));
                }
                if let TxnOp::Put { key, value, .. } = op {
                    limits.check_value(key, value).map_err(refuse)?;
                }
            }
        }
        // After the single values, so that one that is too large is named with its key.
        for (size, max, of) in [
            (self.op_count(), limits.max_txn_ops, Measured::TxnOps),
            (self.byte_count(), limits.max_txn_bytes, Measured::TxnBytes),
        ] {
            if size > max {
                return Err(refuse(Error::too_large(of, size, max)));
            }
        }
        Ok(())
    }
}

/// What came of one [`TxnOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TxnOutcome {
    /// Of a put.
    Put(PutResult),
    /// Of a delete; it carries no previous entry.
    Delete(DeleteResult),
    /// Of a get.
    Get(Option<Entry>),
}

/// What came of a transaction: which branch ran. A transaction whose conditions do not hold is no error, so
/// look at [`succeeded`](Self::succeeded). Not looking is a warning of the compiler:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// async fn take(store: &dyn kv_core::Store, txn: kv_core::Txn) -> kv_core::Result<()> {
///     kv_core::StoreExt::transact(store, txn).await?;
///     Ok(())
/// }
/// ```
#[must_use = "a transaction whose conditions do not hold is no error: look at `succeeded`"]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TxnResult {
    /// Whether all conditions held and the `then` branch ran.
    pub succeeded: bool,
    /// One outcome for each operation of the branch that ran, in order.
    pub outcomes: Vec<TxnOutcome>,
}

impl TxnResult {
    /// A result.
    pub fn new(succeeded: bool, outcomes: Vec<TxnOutcome>) -> Self {
        Self { succeeded, outcomes }
    }
}

/// The power to change several keys at once: [`Store::as_transact`](crate::Store::as_transact).
#[async_trait]
pub trait Transact: Send + Sync {
    /// Carries out a transaction: all or nothing, isolated from everything else.
    ///
    /// Dropping the future may or may not apply it.
    ///
    /// # Errors
    ///
    /// `TooLarge` and `InvalidArgument` before any I/O; `Unsupported` for an expiry or a fence this
    /// store cannot do; `NotHeld` for a fence whose lock is lost.
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult>;
}
