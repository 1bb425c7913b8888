//! What a store can do beyond the required methods, what it guarantees, and its limits.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Measured, Result};
use crate::key::Key;
use crate::power::{Guarantee, Power};
use crate::text::duration;

/// Whose time to live a lock has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockTtl {
    /// Each lock its own.
    #[default]
    PerLock,
    /// All locks of a handle that of its session; asking for another is `TtlOutOfRange`.
    PerSession,
}

/// The times to live a store can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TtlRange {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// What is asked for is rounded up to a multiple of this.
    pub granularity: Duration,
}

impl TtlRange {
    /// A range.
    #[must_use]
    pub const fn new(min: Duration, max: Duration, granularity: Duration) -> Self {
        Self { min, max, granularity }
    }

    /// `ttl` rounded up to the granularity.
    ///
    /// # Errors
    ///
    /// `TtlOutOfRange` if `ttl` is outside the range.
    pub fn check(&self, ttl: Duration) -> Result<Duration> {
        if ttl < self.min || ttl > self.max {
            return Err(Error::new(ErrorKind::TtlOutOfRange { min: self.min, max: self.max })
                .with_detail(format!("{} was asked for", duration(ttl))));
        }
        let step = self.granularity.as_nanos().max(1);
        let rounded = ttl.as_nanos().div_ceil(step) * step;
        Ok(u64::try_from(rounded).map_or(self.max, Duration::from_nanos).min(self.max))
    }
}

/// How late an expired key may go, absent a leader change: `factor` times its time to live plus `slack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiryBound {
    /// Times the time to live.
    pub factor: u32,
    /// On top of it.
    pub slack: Duration,
}

impl ExpiryBound {
    /// A bound.
    #[must_use]
    pub const fn new(factor: u32, slack: Duration) -> Self {
        Self { factor, slack }
    }

    /// The longest a key with this time to live may stay after its last put.
    #[must_use]
    pub fn latest(&self, ttl: Duration) -> Duration {
        ttl.saturating_mul(self.factor).saturating_add(self.slack)
    }
}

/// The sizes and times a store can keep. Checked before any I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest value, in bytes.
    pub max_value: usize,
    /// The most conditions plus operations of the larger branch of a transaction.
    pub max_txn_ops: usize,
    /// The most bytes of keys and values in a transaction.
    pub max_txn_bytes: usize,
    /// The times to live of keys; meaningful with [`Power::Ttl`].
    pub ttl: TtlRange,
    /// How late a key goes after its time to live.
    pub ttl_bound: ExpiryBound,
    /// How long session keys and locks of a process that died stay at most.
    pub session_bound: Duration,
    /// The times to live of locks.
    pub lock_ttl: TtlRange,
}

impl Limits {
    /// Refuses a value that is too large.
    ///
    /// # Errors
    ///
    /// `TooLarge`.
    pub fn check_value(&self, key: &Key, value: &Bytes) -> Result<()> {
        self.check_size(key, value, Measured::Value)
    }

    /// Refuses a value that is only compared and is larger than any that is stored.
    pub(crate) fn check_compared(&self, key: &Key, value: &Bytes) -> Result<()> {
        self.check_size(key, value, Measured::ComparedValue)
    }

    fn check_size(&self, key: &Key, value: &Bytes, of: Measured) -> Result<()> {
        if value.len() > self.max_value {
            return Err(Error::too_large(of, value.len(), self.max_value).with_key(key.as_str()));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let ttl = TtlRange::new(Duration::from_millis(1), YEAR, Duration::from_millis(1));
        Self {
            max_value: 1 << 20,
            max_txn_ops: 128,
            max_txn_bytes: 1 << 20,
            ttl,
            ttl_bound: ExpiryBound::new(1, Duration::from_secs(1)),
            session_bound: Duration::from_secs(30),
            lock_ttl: ttl,
        }
    }
}

/// What a store can do. Start from [`new`](Self::new) and add what is true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The backend's name, as in errors: `etcd`, `mem`, …
    pub backend: &'static str,
    powers: u32,
    guarantees: u32,
    /// How to get a power that is absent.
    advice: Vec<(Power, &'static str)>,
    /// Whose time to live a lock has.
    pub lock_ttl: LockTtl,
    /// Sizes and times.
    pub limits: Limits,
}

impl Capabilities {
    /// A store that declares nothing.
    #[must_use]
    pub fn new(backend: &'static str) -> Self {
        Self {
            backend,
            powers: 0,
            guarantees: 0,
            advice: Vec::new(),
            lock_ttl: LockTtl::default(),
            limits: Limits::default(),
        }
    }

    /// The same with these powers.
    #[must_use]
    pub fn with_powers(mut self, powers: &[Power]) -> Self {
        self.powers = powers.iter().fold(self.powers, |set, power| set | power.bit());
        self
    }

    /// The same without this power.
    #[must_use]
    pub fn without_power(mut self, power: Power) -> Self {
        self.powers &= !power.bit();
        self
    }

    /// The same, saying in refusals why this power is absent and how to get it.
    #[must_use]
    pub fn with_advice(mut self, power: Power, advice: &'static str) -> Self {
        self.advice.retain(|(advised, _)| *advised != power);
        self.advice.push((power, advice));
        self
    }

    /// The same with these guarantees.
    #[must_use]
    pub fn with_guarantees(mut self, guarantees: &[Guarantee]) -> Self {
        self.guarantees = guarantees.iter().fold(self.guarantees, |set, guarantee| set | guarantee.bit());
        self
    }

    /// The same without this guarantee.
    #[must_use]
    pub fn without_guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantees &= !guarantee.bit();
        self
    }

    /// The same with locks that live so.
    #[must_use]
    pub fn with_lock_ttl(mut self, lock_ttl: LockTtl) -> Self {
        self.lock_ttl = lock_ttl;
        self
    }

    /// The same with these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether the store has this power.
    #[must_use]
    pub fn has(&self, power: Power) -> bool {
        self.powers & power.bit() != 0
    }

    /// Whether the store gives this guarantee.
    #[must_use]
    pub fn guarantees(&self, guarantee: Guarantee) -> bool {
        self.guarantees & guarantee.bit() != 0
    }

    /// `Unsupported` unless the store has this power.
    ///
    /// # Errors
    ///
    /// `Unsupported`, naming the power and, where the store [advises](Self::with_advice), the way to it.
    pub fn require(&self, power: Power) -> Result<()> {
        if self.has(power) {
            return Ok(());
        }
        let advice = self.advice.iter().find(|(advised, _)| *advised == power);
        let refused = match advice {
            Some((_, advice)) => {
                let what = format!("{}: {advice}", power.name());
                Error::new(ErrorKind::Unsupported { power: Some(power), what })
            }
            None => Error::lacks(power),
        };
        Err(refused.with_backend(self.backend))
    }
}
