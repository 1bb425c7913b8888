//! Judging a precondition by what was read.

use kv_backend::{Deadline, check_precondition};
use kv_core::{Consistency, Error, Key, Precondition, Result, Version};

use crate::client::api::Txn;
use crate::client::wire::{Kv, Op};
use crate::env::Env;
use crate::env::names::{Names, has_lock_flags, is_record, to_entry};
use crate::lock::fence::check_fence;

/// What is known of the key.
pub(crate) enum Seen {
    Nothing,
    State(Option<Kv>),
}

/// Whether only this side can tell if a precondition holds.
pub(crate) fn needs_state(names: &Names, precondition: &Precondition) -> bool {
    match precondition {
        Precondition::Value(_) => true,
        // The free record of a lock is no entry, and Consul knows no difference.
        Precondition::Present => names.locks_keys(),
        // Consul's compare-and-set takes index 0 for "does not exist".
        Precondition::At(version) => *version == Version::ZERO,
        _ => false,
    }
}

/// Whether what was read is an entry, or a record that is none, or nothing.
pub(crate) fn is_entry(names: &Names, state: Option<&Kv>) -> bool {
    // What another program holds as a lock can be read.
    state.is_some_and(|kv| kv.session().is_some() || names.entry(&kv.key, kv.flags).is_some())
}

/// Checks a precondition against what was read.
pub(crate) fn check(names: &Names, precondition: &Precondition, key: &Key, state: Option<&Kv>) -> Result<()> {
    if state.is_some_and(|kv| kv.session().is_some() && has_lock_flags(kv)) {
        return Err(is_record(key, "it is the record of a lock that another program holds"));
    }
    let stored = state.filter(|_| is_entry(names, state)).map(|kv| to_entry(key.clone(), kv)).transpose()?;
    check_precondition(precondition, stored.as_ref())
}

/// A refusal by a precondition, unless the lock is lost, which counts first.
pub(crate) async fn fence_first(
    env: &Env,
    fence: Option<&Op>,
    verdict: Result<()>,
    deadline: &Deadline,
) -> Result<()> {
    if let (Err(_), Some(fence)) = (&verdict, fence) {
        let fence = std::slice::from_ref(fence);
        if let Txn::Refused(refused) =
            env.api.txn(fence, Some(Consistency::Linearizable), deadline).await.map_err(Error::not_applied)?
        {
            check_fence(true, &refused)?;
        }
    }
    verdict
}
