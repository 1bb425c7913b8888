//! Puts: one transaction where Consul can decide alone, else read, decide, and a transaction that holds only
//! for what was read.
//!
//! A write is sent again only after Consul refused it for certain.

use std::sync::Arc;

use bytes::Bytes;
use kv_core::{Error, Key, Precondition, PutOptions, PutResult, Result, Version};

use crate::client::api::{Txn, written};
use crate::client::wire::{Content, Kv, Op};
use crate::lock::fence::{check_fence, fence_op};
use crate::ops::precondition::{Seen, check, fence_first, needs_state};
use crate::ops::retries::Retries;
use crate::session::binding::Binding;
use crate::session::holding::{check_holder, retire};
use crate::session::sessions::Sessions;

/// Puts a value.
pub(crate) async fn put(
    sessions: &Arc<Sessions>,
    key: &Key,
    value: Bytes,
    options: PutOptions,
) -> Result<PutResult> {
    let PutOptions { precondition, expiry, fence, timeout, .. } = options;
    sessions.env.names.check_writable(key)?;
    let fence = fence.as_ref().map(fence_op).transpose()?;
    let deadline = sessions.env.deadline(timeout);
    let native = sessions.env.names.native(key);
    let content = Content::new(&value, sessions.env.fresh_flags());
    // The handle's session may have to be made only after a look at the key: a refusal makes none.
    let mut seen = if needs_state(&sessions.env.names, &precondition) {
        Seen::State(sessions.read(&native, &deadline).await.map_err(Error::not_applied)?)
    } else {
        Seen::Nothing
    };
    if let Seen::State(state) = &seen {
        let verdict = check(&sessions.env.names, &precondition, key, state.as_ref());
        fence_first(&sessions.env, fence.as_ref(), verdict, &deadline).await?;
    }
    let mut binding = Binding::new(sessions, expiry, &deadline).await.map_err(Error::not_applied)?;
    let mut retries = Retries::new(sessions);
    loop {
        let state = match &seen {
            Seen::Nothing => None,
            Seen::State(state) => {
                let verdict = check(&sessions.env.names, &precondition, key, state.as_ref());
                fence_first(&sessions.env, fence.as_ref(), verdict, &deadline).await?;
                if let Some(kv) = state {
                    check_holder(sessions, key, kv, binding.session(), &deadline).await?;
                }
                state.as_ref()
            }
        };
        binding.freshen(sessions, &deadline).await.map_err(Error::not_applied)?;
        let holder = match (&seen, &binding, &precondition) {
            (Seen::State(state), _, _) => state.as_ref().and_then(Kv::session).map(str::to_owned),
            (
                Seen::Nothing,
                Binding::Keep,
                Precondition::Any | Precondition::Present | Precondition::At(_),
            ) => sessions.entries.last_seen(&native),
            (Seen::Nothing, _, _) => None,
        };
        let mut ops: Vec<Op> = fence.clone().into_iter().collect();
        put_ops(&mut ops, &native, &content, &precondition, &binding, state, holder.as_deref());
        binding.sending();
        let refused = match sessions
            .env
            .api
            .txn(&ops, None, &deadline)
            .await
            .map_err(|error| tell(&mut binding, error))?
        {
            Txn::Done(slots) => {
                let old = holder.filter(|old| binding.replaces(old));
                retire(&sessions.env, old.into_iter().collect());
                let written = written(&slots, &native)?;
                sessions.entries.saw(&native, written.session());
                let result = PutResult::new(Version::new(written.modify_index));
                return Ok(match binding.granted() {
                    Some(ttl) => result.with_granted_ttl(ttl),
                    None => result,
                });
            }
            Txn::Refused(refused) => refused,
        };
        binding.refused();
        check_fence(fence.is_some(), &refused)?;
        retries.after(&refused, &mut binding, &deadline).await?;
        seen = Seen::State(sessions.read(&native, &deadline).await.map_err(Error::not_applied)?);
    }
}

/// The operations of a put: `state` is what the key was read to be, if it was, and `holder` the session that
/// it is taken to be bound to.
fn put_ops(
    ops: &mut Vec<Op>,
    native: &str,
    content: &Content,
    precondition: &Precondition,
    binding: &Binding,
    state: Option<&Kv>,
    holder: Option<&str>,
) {
    // Only what the precondition is about must still be as it was read.
    let expected = match (precondition, state) {
        (Precondition::At(version), _) => Some(version.get()),
        // A key that is absent by the contract and yet there is a free record of a lock on the key itself.
        (Precondition::Value(_) | Precondition::Absent, Some(kv)) => Some(kv.modify_index),
        _ => None,
    };
    match (binding.session(), holder) {
        // A write that is no lock leaves the session as it is: the check is that it is still that one.
        (None, Some(holder)) if !binding.replaces(holder) => {
            ops.push(Op::check_session(native, holder));
            ops.push(match expected {
                Some(index) => Op::cas(native, content, index),
                None => Op::set(native, content),
            });
        }
        (session, Some(holder)) if session != Some(holder) => {
            ops.extend(expected.map(|index| Op::check_index(native, index)));
            match session {
                None => ops.push(Op::unlock(native, content, holder)),
                Some(session) => {
                    ops.push(Op::unlock(native, &Content::new(b"", 0), holder));
                    ops.push(Op::lock(native, content, session));
                }
            }
        }
        (Some(session), _) => {
            match (precondition, expected) {
                (Precondition::Absent, None) => ops.push(Op::check_not_exists(native)),
                // Bound to this very session already, where it was read to be.
                (Precondition::Present, _) => ops.push(Op::check_session(native, holder.unwrap_or_default())),
                (_, expected) => ops.extend(expected.map(|index| Op::check_index(native, index))),
            }
            ops.push(Op::lock(native, content, session));
        }
        (None, _) => match (precondition, expected) {
            (Precondition::Absent, None) => ops.push(Op::cas(native, content, 0)),
            (_, Some(index)) => {
                ops.push(Op::cas(native, content, index));
                ops.push(Op::check_session(native, ""));
            }
            (Precondition::Present, None) => {
                ops.push(Op::check_session(native, ""));
                ops.push(Op::set(native, content));
            }
            (_, None) => {
                ops.push(Op::set(native, content));
                ops.push(Op::check_session(native, ""));
            }
        },
    }
}

/// An error that proves that nothing was written frees the session that was made for it.
fn tell(binding: &mut Binding, error: Error) -> Error {
    let error = error.with_operation(kv_core::Operation::Put);
    if error.applied() == kv_core::Applied::No {
        binding.refused();
    }
    error
}
