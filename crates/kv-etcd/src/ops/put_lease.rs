//! How a put lets its key expire: by which lease, and what becomes of the lease with the put.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_backend::Deadline;
use kv_core::{Applied, Error, Expiry, Result};

use crate::client::error;
use crate::client::{Attach, Check, Done, Name, Step, Tree};
use crate::handle::Handle;
use crate::session::{Granted, Purpose};

/// The lease a put is to use.
pub(crate) enum PutLease<'a> {
    None,
    Own(Granted<'a>),
    Session(i64),
    /// The one that its key has, which exists.
    Same,
    /// The one that its key has, if it exists.
    SameIfAny,
}

impl<'a> PutLease<'a> {
    /// The lease of a put of a key of which is known whether it exists, or is not.
    pub(crate) async fn new(
        handle: &'a Arc<Handle>,
        deadline: Deadline,
        expiry: Expiry,
        exists: Option<bool>,
    ) -> Result<Self> {
        Ok(match expiry {
            Expiry::Ttl(ttl) => Self::Own(
                handle
                    .leases
                    .grant(deadline, Purpose::Own, handle.env.capabilities.limits.ttl.check(ttl)?)
                    .await?,
            ),
            Expiry::Session => Self::Session(handle.session.lease(deadline).await?),
            Expiry::Never | Expiry::Keep => Self::without_grant(expiry, exists),
            _ => return Err(Error::unsupported("this kind of expiry")),
        })
    }

    /// The same for a put that is not sent yet: a lease that is to be granted takes no other room in a
    /// request than none does.
    pub(crate) fn without_grant(expiry: Expiry, exists: Option<bool>) -> Self {
        match (expiry, exists) {
            (Expiry::Keep, Some(true)) => Self::Same,
            (Expiry::Keep, None) => Self::SameIfAny,
            _ => Self::None,
        }
    }
}

impl PutLease<'_> {
    /// The put itself.
    pub(crate) fn step(&self, name: impl Into<Name>, value: Bytes) -> Step {
        let name = name.into();
        let lease = match self {
            Self::None => Attach::Never,
            Self::Own(granted) => Attach::To(granted.id),
            Self::Session(lease) => Attach::To(*lease),
            Self::Same => Attach::Same,
            Self::SameIfAny => {
                // The server refuses to keep the lease of a key that is absent.
                let put = |lease| vec![Step::Put { name: name.clone(), value: value.clone(), lease }];
                return Step::Branch(Tree {
                    when: vec![Check::exists(name.clone())],
                    then: put(Attach::Same),
                    or_else: put(Attach::Never),
                });
            }
        };
        Step::Put { name, value, lease }
    }

    /// The put is about to be sent.
    pub(crate) fn in_flight(&mut self) {
        if let Self::Own(granted) = self {
            granted.in_flight();
        }
    }

    /// The put was not made.
    pub(crate) fn unused(self) {
        if let Self::Own(granted) = self {
            granted.unused();
        }
    }

    /// What the put failed with, and what that means for the lease.
    pub(crate) fn failed(self, handle: &Handle, error: &Error) {
        match self {
            // Otherwise the put may still be made, and its key must not go before its time.
            Self::Own(granted) if error.applied() == Applied::No => granted.unused(),
            Self::Session(lease) if error::lease_gone(error) => handle.session.gone(lease),
            Self::None | Self::Own(_) | Self::Session(_) | Self::Same | Self::SameIfAny => {}
        }
    }

    /// The put was made; returns the time to live its key has by it.
    pub(crate) fn used(self, handle: &Handle, name: &str, revision: i64, done: &Done) -> Option<Duration> {
        match self {
            Self::Own(granted) => {
                let ttl = granted.ttl;
                handle.leases.attached(name.into(), granted.keep(), ttl, revision);
                return Some(ttl);
            }
            Self::None | Self::Session(_) => handle.leases.detached(name.as_bytes(), revision),
            Self::SameIfAny if matches!(done, Done::Branch(inner) if !inner.succeeded) => {
                handle.leases.detached(name.as_bytes(), revision);
            }
            // It lives by the lease by which it lived before, whoever granted that.
            Self::Same | Self::SameIfAny => {}
        }
        None
    }
}
