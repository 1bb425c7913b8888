//! What a kept entry lives by.

use std::time::Duration;

use kv_core::{Capabilities, Expiry, Power, Result};

/// What an entry that a recipe keeps lives by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifetime {
    /// The session of the store handle: it costs no renewal of its own, goes at once when the handle is
    /// closed, and within [`Limits::session_bound`](kv_core::Limits::session_bound) when the process dies.
    /// Needs [`Power::SessionKeys`].
    #[default]
    Session,
    /// A time to live, renewed by a write after each third of it; each renewal is a change that watchers
    /// are told of. The entry goes after this time when the process dies, and stays that long when the
    /// handle is closed. Needs [`Power::Ttl`] and [`Power::ExpiryChange`].
    Ttl(Duration),
}

impl Lifetime {
    /// Refuses what the store cannot keep, before any I/O.
    pub(crate) fn admit(self, capabilities: &Capabilities) -> Result<()> {
        match self {
            Self::Session => capabilities.require(Power::SessionKeys),
            Self::Ttl(ttl) => {
                capabilities.require(Power::Ttl)?;
                capabilities.require(Power::ExpiryChange)?;
                capabilities
                    .limits
                    .ttl
                    .check(ttl)
                    .map(drop)
                    .map_err(|error| error.with_backend(capabilities.backend))
            }
        }
    }

    pub(crate) fn expiry(self) -> Expiry {
        match self {
            Self::Session => Expiry::Session,
            Self::Ttl(ttl) => Expiry::Ttl(ttl),
        }
    }
}
