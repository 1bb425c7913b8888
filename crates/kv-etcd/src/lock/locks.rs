//! What the locks of one handle are made of.

use std::sync::Arc;
use std::time::Duration;

use crate::env::Env;
use crate::feed::Hub;
use crate::session::Leases;

/// See the module.
pub(crate) struct Locks {
    pub(crate) env: Arc<Env>,
    /// Tells what becomes of records.
    pub(super) hub: Arc<Hub>,
    pub(super) leases: Arc<Leases>,
    /// How long a lock lives without renewal, unless it is asked for.
    pub(super) ttl: Duration,
}

impl Locks {
    pub(crate) fn new(env: Arc<Env>, hub: Arc<Hub>, leases: Arc<Leases>, ttl: Duration) -> Arc<Self> {
        Arc::new(Self { env, hub, leases, ttl })
    }
}
