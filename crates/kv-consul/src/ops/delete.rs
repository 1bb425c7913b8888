//! Deletes: one transaction where Consul can decide alone, else read, decide, and one that holds only for what
//! was read.

use std::sync::Arc;

use kv_core::{DeleteOptions, DeleteResult, Error, Key, Precondition, Result};

use crate::client::api::Txn;
use crate::client::refusal::Refusal;
use crate::client::wire::{Kv, Op};
use crate::env::names::to_entry;
use crate::lock::fence::{check_fence, fence_op};
use crate::ops::precondition::{Seen, check, fence_first, is_entry, needs_state};
use crate::ops::retries::Retries;
use crate::session::binding::Binding;
use crate::session::holding::{check_holder, retire};
use crate::session::sessions::Sessions;

/// Deletes a key.
pub(crate) async fn delete(
    sessions: &Arc<Sessions>,
    key: &Key,
    options: DeleteOptions,
) -> Result<DeleteResult> {
    let DeleteOptions { precondition, previous, fence, timeout, .. } = options;
    sessions.env.names.check_writable(key)?;
    let fence = fence.as_ref().map(fence_op).transpose()?;
    let deadline = sessions.env.deadline(timeout);
    let native = sessions.env.names.native(key);
    let must_look = precondition == Precondition::Absent || sessions.env.names.locks_keys();
    let mut seen = if must_look || needs_state(&sessions.env.names, &precondition) {
        Seen::State(sessions.read(&native, &deadline).await.map_err(Error::not_applied)?)
    } else {
        Seen::Nothing
    };
    let mut retries = Retries::new(sessions);
    loop {
        let state = match &seen {
            Seen::Nothing => None,
            Seen::State(state) => {
                let verdict = check(&sessions.env.names, &precondition, key, state.as_ref());
                fence_first(&sessions.env, fence.as_ref(), verdict, &deadline).await?;
                if let Some(kv) = state {
                    check_holder(sessions, key, kv, None, &deadline).await?;
                }
                Some(state.as_ref())
            }
        };
        let mut ops: Vec<Op> = fence.clone().into_iter().collect();
        let begin = ops.len();
        let expected = match (&precondition, state) {
            (Precondition::At(version), _) => Some(version.get()),
            (_, Some(Some(kv))) => Some(kv.modify_index),
            _ => None,
        };
        let holder = state.flatten().and_then(Kv::session);
        let nothing = matches!(state, Some(state) if !is_entry(&sessions.env.names, state));
        if nothing {
            // Nothing to delete, which the fence may still have to allow.
            if fence.is_none() {
                return Ok(DeleteResult::absent());
            }
            ops.push(match expected {
                Some(index) => Op::check_index(&native, index),
                None => Op::check_not_exists(&native),
            });
        } else {
            match expected {
                Some(index) => ops.push(Op::check_index(&native, index)),
                None => ops.push(Op::check_session(&native, "")),
            }
            if state.is_none() && expected.is_some() {
                ops.push(Op::check_session(&native, ""));
            }
            if previous {
                ops.push(Op::get(&native));
            }
            ops.push(Op::delete(&native));
        }
        let old_session = holder.map(str::to_owned);
        let refused = match sessions.env.api.txn(&ops, None, &deadline).await? {
            Txn::Done(slots) => {
                if nothing {
                    return Ok(DeleteResult::absent());
                }
                retire(&sessions.env, old_session.into_iter().collect());
                let entry = match (previous, slots.last_chunk::<2>()) {
                    (true, Some([Some(kv), _])) if sessions.env.names.entry(&kv.key, kv.flags).is_some() => {
                        Some(to_entry(key.clone(), kv)?)
                    }
                    _ => None,
                };
                return Ok(DeleteResult::deleted(entry));
            }
            Txn::Refused(refused) => refused,
        };
        check_fence(fence.is_some(), &refused)?;
        let missing = refused.iter().any(|(at, why)| *at == begin && *why == Refusal::Missing);
        if missing {
            seen = Seen::State(None);
        } else {
            retries.after(&refused, &mut Binding::Permanent, &deadline).await?;
            seen = Seen::State(sessions.read(&native, &deadline).await.map_err(Error::not_applied)?);
        }
    }
}
