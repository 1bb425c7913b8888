//! What a store can be asked for, checked in one place before any I/O.
//!
//! Each options struct knows which powers it needs. A store calls the `admit_…` of an operation first
//! thing: an option that came after the store was written needs a power it does not declare, and is
//! refused here instead of being ignored.

use bytes::Bytes;

use crate::capabilities::Capabilities;
use crate::error::{Error, Measured, Operation, Result};
use crate::key::Key;
use crate::lock::LockOptions;
use crate::options::{
    Consistency, DeleteOptions, DeleteTreeOptions, Expiry, GetOptions, ListOptions, Precondition, PutOptions,
};
use crate::power::Power;
use crate::txn::{Txn, TxnOp};
use crate::watch::{WatchOptions, WatchTarget};

/// What a power is needed for, if it is.
fn when(needed: bool, power: Power) -> Option<Power> {
    needed.then_some(power)
}

impl Consistency {
    fn power(self) -> Option<Power> {
        when(self == Self::Stale, Power::StaleReads)
    }
}

impl Expiry {
    fn power(self) -> Option<Power> {
        match self {
            Self::Never => None,
            Self::Keep => Some(Power::KeepExpiry),
            Self::Ttl(_) => Some(Power::Ttl),
            Self::Session => Some(Power::SessionKeys),
        }
    }
}

impl GetOptions {
    /// The powers a store needs for it.
    pub fn needs(&self) -> impl Iterator<Item = Power> {
        self.consistency.power().into_iter()
    }
}

impl PutOptions {
    /// The powers a store needs for it.
    pub fn needs(&self) -> impl Iterator<Item = Power> {
        [self.expiry.power(), when(self.fence.is_some(), Power::FencedWrites)].into_iter().flatten()
    }
}

impl DeleteOptions {
    /// The powers a store needs for it.
    pub fn needs(&self) -> impl Iterator<Item = Power> {
        when(self.fence.is_some(), Power::FencedWrites).into_iter()
    }
}

impl ListOptions {
    /// The powers a store needs for it.
    pub fn needs(&self) -> impl Iterator<Item = Power> {
        [self.consistency.power(), when(self.expiry, Power::ListExpiry)].into_iter().flatten()
    }
}

impl Txn {
    /// The powers a store needs for it.
    pub fn needs(&self) -> impl Iterator<Item = Power> {
        let expiries = self.then.iter().chain(&self.or_else).filter_map(|op| match op {
            TxnOp::Put { expiry, .. } => expiry.power(),
            TxnOp::Delete { .. } | TxnOp::Get { .. } => None,
        });
        [Some(Power::Transactions), when(self.fence.is_some(), Power::FencedWrites)]
            .into_iter()
            .flatten()
            .chain(expiries)
    }
}

/// For store authors: the first line of each method.
///
/// Every check is made before any I/O, is the same on all stores, and names the operation, the backend
/// and the key. What only one backend refuses it checks itself, afterwards.
impl Capabilities {
    /// Admits or refuses a get.
    ///
    /// # Errors
    ///
    /// `Unsupported` for an option that needs a power this store does not declare.
    pub fn admit_get(&self, key: &Key, options: &GetOptions) -> Result<()> {
        self.require_all(options.needs()).map_err(self.about(Operation::Get, key.as_str()))
    }

    /// Admits or refuses a put.
    ///
    /// # Errors
    ///
    /// `Unsupported` as for [`admit_get`](Self::admit_get); `TooLarge` for the value or the value it is
    /// compared with; `TtlOutOfRange`.
    pub fn admit_put(&self, key: &Key, value: &Bytes, options: &PutOptions) -> Result<()> {
        self.require_all(options.needs())
            .and_then(|()| self.limits.check_value(key, value))
            .and_then(|()| self.admit_precondition(key, &options.precondition))
            .and_then(|()| self.admit_expiry(options.expiry))
            .map_err(self.about(Operation::Put, key.as_str()))
    }

    /// Admits or refuses a delete.
    ///
    /// # Errors
    ///
    /// `Unsupported` as for [`admit_get`](Self::admit_get); `TooLarge` for the value it is compared with.
    pub fn admit_delete(&self, key: &Key, options: &DeleteOptions) -> Result<()> {
        self.require_all(options.needs())
            .and_then(|()| self.admit_precondition(key, &options.precondition))
            .map_err(self.about(Operation::Delete, key.as_str()))
    }

    /// Admits or refuses a list of what lies below `path`.
    ///
    /// # Errors
    ///
    /// `Unsupported` as for [`admit_get`](Self::admit_get); `InvalidArgument` for a list of keys only that
    /// is to tell expiries.
    pub fn admit_list(&self, path: &str, options: &ListOptions) -> Result<()> {
        self.require_all(options.needs())
            .and_then(|()| match options.keys_only && options.expiry {
                true => Err(Error::invalid_argument(
                    "a list of keys only has no entries: with_keys_only and with_expiry exclude each other",
                )),
                false => Ok(()),
            })
            .map_err(self.about(Operation::List, path))
    }

    /// Admits or refuses a list of what was below `path` at an older version.
    ///
    /// # Errors
    ///
    /// As for [`admit_list`](Self::admit_list); `Unsupported` for expiries, of which no history tells.
    pub fn admit_list_at(&self, path: &str, options: &ListOptions) -> Result<()> {
        self.require_all([Power::History].into_iter().chain(options.needs()))
            .and_then(|()| match options.expiry {
                true => Err(Error::unsupported("the expiry of entries as they were at an older version")),
                false => Ok(()),
            })
            .map_err(self.about(Operation::ListAt, path))
    }

    /// Admits or refuses a delete_tree of what lies below `path`.
    ///
    /// # Errors
    ///
    /// None yet: no option of it needs a power.
    pub fn admit_delete_tree(&self, path: &str, options: &DeleteTreeOptions) -> Result<()> {
        let (_, DeleteTreeOptions { timeout: _ }) = (path, options);
        Ok(())
    }

    /// Admits or refuses a watch.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for options with more than one start.
    pub fn admit_watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<()> {
        if options.has_two_starts() {
            return Err(self.about(Operation::Watch, target.path())(Error::invalid_argument(
                "a watch begins in one place: with_from and with_initial exclude each other",
            )));
        }
        Ok(())
    }

    /// Admits or refuses a lock.
    ///
    /// # Errors
    ///
    /// `TooLarge` for the owner value, which is bounded by [`Limits::max_value`](crate::Limits);
    /// `TtlOutOfRange`.
    pub fn admit_lock(&self, key: &Key, options: &LockOptions) -> Result<()> {
        let (size, max) = (options.owner.len(), self.limits.max_value);
        let owner = if size > max { Err(Error::too_large(Measured::OwnerValue, size, max)) } else { Ok(()) };
        owner
            .and_then(|()| match options.ttl {
                Some(ttl) => self.limits.lock_ttl.check(ttl).map(drop),
                None => Ok(()),
            })
            .map_err(self.about(Operation::Lock, key.as_str()))
    }

    /// Admits or refuses a transaction.
    ///
    /// # Errors
    ///
    /// `Unsupported` as for [`admit_get`](Self::admit_get); `TooLarge` for its size, for values, and for
    /// values that are compared; `TtlOutOfRange`; `InvalidArgument` for a key that one branch writes
    /// twice.
    pub fn admit_transact(&self, txn: &Txn) -> Result<()> {
        let about = |error: Error| error.with_operation(Operation::Transact).with_backend(self.backend);
        self.require_all(txn.needs()).and_then(|()| txn.check(&self.limits)).map_err(about)?;
        for op in txn.then.iter().chain(&txn.or_else) {
            if let TxnOp::Put { key, expiry, .. } = op {
                self.admit_expiry(*expiry).map_err(|error| about(error).with_key(key.as_str()))?;
            }
        }
        Ok(())
    }

    fn require_all(&self, mut powers: impl Iterator<Item = Power>) -> Result<()> {
        powers.try_for_each(|power| self.require(power))
    }

    fn admit_precondition(&self, key: &Key, precondition: &Precondition) -> Result<()> {
        match precondition {
            Precondition::Value(value) => self.limits.check_compared(key, value),
            Precondition::Any | Precondition::Absent | Precondition::Present | Precondition::At(_) => Ok(()),
        }
    }

    fn admit_expiry(&self, expiry: Expiry) -> Result<()> {
        match expiry {
            Expiry::Ttl(ttl) => self.limits.ttl.check(ttl).map(drop),
            Expiry::Never | Expiry::Keep | Expiry::Session => Ok(()),
        }
    }

    fn about(&self, operation: Operation, path: &str) -> impl Fn(Error) -> Error {
        let backend = self.backend;
        move |error| error.with_operation(operation).with_backend(backend).with_key(path)
    }
}
