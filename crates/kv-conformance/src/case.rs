//! What a case is: a name, the promise it checks, what a store must declare for it to apply, and the
//! check itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use kv_core::{Capabilities, Guarantee, LockTtl, Power};

use crate::fixture::Fixture;

/// One sentence of the contract, as a check.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its name, in snake case; unique, and never reused for another promise.
    pub name: &'static str,
    /// The sentence it checks.
    pub promise: &'static str,
    /// What a store must declare for it to apply.
    pub needs: &'static [Need],
    pub(crate) check: Check,
    /// Whether it changes what all cases share, so that none may run beside it.
    pub(crate) alone: bool,
}

impl Case {
    /// The same, running after the others and beside none.
    pub(crate) const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// A case's code. An error is a broken promise and says what was seen.
pub(crate) type Check = for<'f> fn(&'f Fixture) -> Checking<'f>;

pub(crate) type Checking<'f> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'f>>;

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// Something a store must declare for a case to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// A power. Declared absent, the store must refuse it, and that is checked in the case's place.
    Power(Power),
    /// A guarantee. Declared absent, the case does not apply.
    Guarantee(Guarantee),
    /// Locks whose time to live is declared this way; else the case does not apply.
    LockTtl(LockTtl),
}

impl Need {
    /// Whether a store that declares `capabilities` meets it.
    #[must_use]
    pub fn is_met(self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Power(power) => capabilities.has(power),
            Self::Guarantee(guarantee) => capabilities.guarantees(guarantee),
            Self::LockTtl(lock_ttl) => capabilities.lock_ttl == lock_ttl,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Power(power) => write!(f, "the power {}", power.name()),
            Self::Guarantee(guarantee) => write!(f, "the guarantee {}", guarantee.name()),
            Self::LockTtl(LockTtl::PerLock) => f.write_str("a time to live for each lock"),
            Self::LockTtl(_) => f.write_str("locks that live by the session"),
        }
    }
}

/// A check found that what the store declares is not what it does.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Dishonest(pub(crate) String);

/// A check found that the store's declared limits leave it nothing to try.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BeyondReach(pub(crate) String);

/// The function of this name as a case of this name.
macro_rules! case {
    ($name:ident, $promise:literal $(, $need:expr)* $(,)?) => {
        $crate::case::Case {
            name: stringify!($name),
            promise: $promise,
            needs: &[$($need),*],
            check: |fixture| Box::pin($name(fixture)),
            alone: false,
        }
    };
}
pub(crate) use case;

/// The needs, short enough for a table.
pub(crate) mod needs {
    use super::{Guarantee, Need, Power};

    pub(crate) const TRANSACTIONS: Need = Need::Power(Power::Transactions);
    pub(crate) const TTL: Need = Need::Power(Power::Ttl);
    pub(crate) const SESSION_KEYS: Need = Need::Power(Power::SessionKeys);
    pub(crate) const EXPIRY_CHANGE: Need = Need::Power(Power::ExpiryChange);
    pub(crate) const KEEP_EXPIRY: Need = Need::Power(Power::KeepExpiry);
    pub(crate) const EXPIRY_WITH_CHILDREN: Need = Need::Power(Power::ExpiryWithChildren);
    pub(crate) const FENCED_WRITES: Need = Need::Power(Power::FencedWrites);
    pub(crate) const WATCH_HISTORY: Need = Need::Power(Power::WatchHistory);
    pub(crate) const STALE_READS: Need = Need::Power(Power::StaleReads);
    pub(crate) const LIST_EXPIRY: Need = Need::Power(Power::ListExpiry);
    pub(crate) const LOCK_VIEW: Need = Need::Power(Power::LockView);
    pub(crate) const HISTORY: Need = Need::Power(Power::History);
    pub(crate) const CLUSTER: Need = Need::Power(Power::Cluster);
    pub(crate) const STORAGE: Need = Need::Power(Power::Storage);
    pub(crate) const ACCESS: Need = Need::Power(Power::Access);

    pub(crate) const LINEARIZABLE_READS: Need = Need::Guarantee(Guarantee::LinearizableReads);
    pub(crate) const LIST_SNAPSHOT: Need = Need::Guarantee(Guarantee::ListSnapshot);
    pub(crate) const DELETE_TREE_ATOMIC: Need = Need::Guarantee(Guarantee::DeleteTreeAtomic);
    pub(crate) const WATCH_COMPLETE: Need = Need::Guarantee(Guarantee::WatchComplete);
    pub(crate) const WATCH_EXPIRY: Need = Need::Guarantee(Guarantee::WatchExpiry);
    pub(crate) const WATCH_PREVIOUS: Need = Need::Guarantee(Guarantee::WatchPrevious);
    pub(crate) const CAS_DETECTS_RECREATE: Need = Need::Guarantee(Guarantee::CasDetectsRecreate);
    pub(crate) const LOCK_FIFO: Need = Need::Guarantee(Guarantee::LockFifo);
}
