//! Puts and deletes: one transaction where Consul can decide alone, else read, decide, and a
//! transaction that holds only for what was read.
//!
//! A write is sent again only after Consul refused it for certain.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_backend::{Deadline, check_precondition};
use kv_core::{
    Consistency, DeleteOptions, DeleteResult, Error, Key, Precondition, PutOptions, PutResult, Result,
    Version,
};

use crate::api::Txn;
use crate::ephemeral::{check_holder, retire};
use crate::error::protocol;
use crate::fence::{check_fence, fence_op};
use crate::names::is_record;
use crate::refusal::Refusal;
use crate::session::Binding;
use crate::shared::{Shared, has_lock_flags};
use crate::store::to_entry;
use crate::wire::{Content, Kv, Op};

/// How long a key's last holder keeps others away, at most, is Consul's affair: ask again after this.
pub(crate) const LOCK_DELAY_POLL: Duration = Duration::from_millis(500);

/// What is known of the key.
enum Seen {
    Nothing,
    State(Option<Kv>),
}

/// Puts a value.
pub(crate) async fn put(
    shared: &Arc<Shared>,
    key: &Key,
    value: Bytes,
    options: PutOptions,
) -> Result<PutResult> {
    let PutOptions { precondition, expiry, fence, timeout, .. } = options;
    shared.names.check_writable(key)?;
    let fence = fence.as_ref().map(fence_op).transpose()?;
    let deadline = shared.deadline(timeout);
    let native = shared.names.native(key);
    let content = Content::new(&value, shared.fresh_flags());
    // The handle's session may have to be made only after a look at the key: a refusal makes none.
    let mut seen = if needs_state(shared, &precondition) {
        Seen::State(shared.read(&native, &deadline).await.map_err(Error::not_applied)?)
    } else {
        Seen::Nothing
    };
    if let Seen::State(state) = &seen {
        let verdict = check(shared, &precondition, key, state.as_ref());
        fence_first(shared, fence.as_ref(), verdict, &deadline).await?;
    }
    let mut binding = Binding::new(shared, expiry, &deadline).await.map_err(Error::not_applied)?;
    let mut retries = Retries::new(shared);
    loop {
        let state = match &seen {
            Seen::Nothing => None,
            Seen::State(state) => {
                let verdict = check(shared, &precondition, key, state.as_ref());
                fence_first(shared, fence.as_ref(), verdict, &deadline).await?;
                if let Some(kv) = state {
                    check_holder(shared, key, kv, binding.session(), &deadline).await?;
                }
                state.as_ref()
            }
        };
        binding.freshen(shared, &deadline).await.map_err(Error::not_applied)?;
        let holder = match (&seen, &binding, &precondition) {
            (Seen::State(state), _, _) => state.as_ref().and_then(Kv::session).map(str::to_owned),
            (
                Seen::Nothing,
                Binding::Keep,
                Precondition::Any | Precondition::Present | Precondition::At(_),
            ) => shared.ephemeral.last_seen(&native),
            (Seen::Nothing, _, _) => None,
        };
        let mut ops: Vec<Op> = fence.clone().into_iter().collect();
        put_ops(&mut ops, &native, &content, &precondition, &binding, state, holder.as_deref());
        binding.sending();
        let refused =
            match shared.api.txn(&ops, None, &deadline).await.map_err(|error| tell(&mut binding, error))? {
                Txn::Done(slots) => {
                    let old = holder.filter(|old| binding.replaces(old));
                    retire(shared, old.into_iter().collect());
                    let written = written(&slots, &native)?;
                    shared.ephemeral.saw(&native, written.session());
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
        seen = Seen::State(shared.read(&native, &deadline).await.map_err(Error::not_applied)?);
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

/// Deletes a key.
pub(crate) async fn delete(shared: &Arc<Shared>, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
    let DeleteOptions { precondition, previous, fence, timeout, .. } = options;
    shared.names.check_writable(key)?;
    let fence = fence.as_ref().map(fence_op).transpose()?;
    let deadline = shared.deadline(timeout);
    let native = shared.names.native(key);
    let must_look = precondition == Precondition::Absent || shared.names.locks_keys();
    let mut seen = if must_look || needs_state(shared, &precondition) {
        Seen::State(shared.read(&native, &deadline).await.map_err(Error::not_applied)?)
    } else {
        Seen::Nothing
    };
    let mut retries = Retries::new(shared);
    loop {
        let state = match &seen {
            Seen::Nothing => None,
            Seen::State(state) => {
                let verdict = check(shared, &precondition, key, state.as_ref());
                fence_first(shared, fence.as_ref(), verdict, &deadline).await?;
                if let Some(kv) = state {
                    check_holder(shared, key, kv, None, &deadline).await?;
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
        let nothing = matches!(state, Some(state) if !is_entry(shared, state));
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
        let refused = match shared.api.txn(&ops, None, &deadline).await? {
            Txn::Done(slots) => {
                if nothing {
                    return Ok(DeleteResult::absent());
                }
                retire(shared, old_session.into_iter().collect());
                let entry = match (previous, slots.last_chunk::<2>()) {
                    (true, Some([Some(kv), _])) if shared.names.entry(&kv.key, kv.flags).is_some() => {
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
            seen = Seen::State(shared.read(&native, &deadline).await.map_err(Error::not_applied)?);
        }
    }
}

/// Whether only this side can tell if a precondition holds.
fn needs_state(shared: &Shared, precondition: &Precondition) -> bool {
    match precondition {
        Precondition::Value(_) => true,
        // The free record of a lock is no entry, and Consul knows no difference.
        Precondition::Present => shared.names.locks_keys(),
        // Consul's compare-and-set takes index 0 for "does not exist".
        Precondition::At(version) => *version == Version::ZERO,
        _ => false,
    }
}

/// Whether what was read is an entry, or a record that is none, or nothing.
fn is_entry(shared: &Shared, state: Option<&Kv>) -> bool {
    // What another program holds as a lock can be read.
    state.is_some_and(|kv| kv.session().is_some() || shared.names.entry(&kv.key, kv.flags).is_some())
}

/// Checks a precondition against what was read.
fn check(shared: &Shared, precondition: &Precondition, key: &Key, state: Option<&Kv>) -> Result<()> {
    if state.is_some_and(|kv| kv.session().is_some() && has_lock_flags(kv)) {
        return Err(is_record(key, "it is the record of a lock that another program holds"));
    }
    let stored = state.filter(|_| is_entry(shared, state)).map(|kv| to_entry(key.clone(), kv)).transpose()?;
    check_precondition(precondition, stored.as_ref())
}

/// A refusal by a precondition, unless the lock is lost, which counts first.
async fn fence_first(
    shared: &Shared,
    fence: Option<&Op>,
    verdict: Result<()>,
    deadline: &Deadline,
) -> Result<()> {
    if let (Err(_), Some(fence)) = (&verdict, fence) {
        let fence = std::slice::from_ref(fence);
        if let Txn::Refused(refused) = shared
            .api
            .txn(fence, Some(Consistency::Linearizable), deadline)
            .await
            .map_err(Error::not_applied)?
        {
            check_fence(true, &refused)?;
        }
    }
    verdict
}

/// An error that proves that nothing was written frees the session that was made for it.
fn tell(binding: &mut Binding, error: Error) -> Error {
    let error = error.with_operation(kv_core::Operation::Put);
    if error.applied() == kv_core::Applied::No {
        binding.refused();
    }
    error
}

/// The key as a write left it.
pub(crate) fn written<'a>(slots: &'a [Option<Kv>], native: &str) -> Result<&'a Kv> {
    slots
        .iter()
        .rev()
        .flatten()
        .find(|kv| kv.key == native)
        .ok_or_else(|| protocol("the answer to a write does not name the key"))
}

/// The pauses between attempts of one write.
pub(crate) struct Retries<'a> {
    shared: &'a Arc<Shared>,
    attempts: u32,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, attempts: 0 }
    }

    /// Does what a refusal asks for before the next attempt.
    pub(crate) async fn after(
        &mut self,
        refused: &[(usize, Refusal)],
        binding: &mut Binding,
        deadline: &Deadline,
    ) -> Result<()> {
        let any = |wanted: Refusal| refused.iter().any(|(_, why)| *why == wanted);
        if any(Refusal::NoSession) {
            return binding.renew(self.shared, deadline).await.map_err(Error::not_applied);
        }
        self.attempts += 1;
        let pause = if any(Refusal::LockDelay) {
            LOCK_DELAY_POLL
        } else if self.attempts > 1 {
            // The first loss of a race is an accident; more of them are contention.
            self.shared.jitter(Duration::from_millis(2) * self.attempts.min(10))
        } else {
            return Ok(());
        };
        deadline
            .run(async {
                tokio::time::sleep(pause).await;
                Ok(())
            })
            .await
            .map_err(Error::not_applied)
    }
}
