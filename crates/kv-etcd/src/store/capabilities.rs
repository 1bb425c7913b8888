//! What the store declares.

use std::time::Duration;

use kv_core::{Capabilities, ExpiryBound, Guarantee, Limits, Power};

use crate::client::error::{BACKEND, TTL};
use crate::ops;

/// The largest value: below etcd's limit of 1.5 MiB per request by what keys and framing take, and
/// small values it is compared with.
const MAX_VALUE: usize = (3 << 19) - (16 << 10);

/// What a store can do whose session and locks live this long without renewal.
pub(crate) fn capabilities(session_ttl: Duration, lock_ttl: Duration) -> Capabilities {
    // The server looks for leases that are over twice a second, and we count whole seconds.
    let slack = Duration::from_secs(2);
    let mut limits = Limits::default();
    limits.max_value = MAX_VALUE;
    limits.max_txn_ops = ops::MAX_OPS;
    limits.max_txn_bytes = ops::MAX_TXN_BYTES;
    limits.ttl = TTL;
    limits.ttl_bound = ExpiryBound::new(1, slack);
    limits.session_bound = session_ttl.max(lock_ttl) + slack;
    limits.lock_ttl = TTL;
    Capabilities::new(BACKEND)
        .with_powers(&[
            Power::Transactions,
            Power::Ttl,
            Power::SessionKeys,
            Power::ExpiryChange,
            Power::KeepExpiry,
            Power::ExpiryWithChildren,
            Power::FencedWrites,
            Power::WatchHistory,
            Power::StaleReads,
            Power::ListExpiry,
            Power::LockView,
            Power::History,
            Power::Cluster,
            Power::Storage,
            Power::Access,
        ])
        .with_guarantees(&[
            Guarantee::LinearizableReads,
            Guarantee::ListSnapshot,
            Guarantee::ListPaged,
            Guarantee::DeleteTreeAtomic,
            Guarantee::WatchComplete,
            Guarantee::WatchPrevious,
            Guarantee::CasDetectsRecreate,
            Guarantee::LockFifo,
        ])
        .with_limits(limits)
}
