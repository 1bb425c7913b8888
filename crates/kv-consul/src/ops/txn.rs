//! Transactions: as one of Consul's where it can decide alone, else read, decide, and one that holds
//! only for what was read.
//!
//! A Consul transaction has no else branch, no comparison of values and no comparison but equality.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kv_backend::Deadline;
use kv_core::{
    Compare, Condition, Consistency, DeleteResult, Error, Key, PutResult, Result, Test, Txn as Request,
    TxnOp, TxnOutcome, TxnResult, Version,
};

use crate::client::api::{Lane, Txn};
use crate::client::error::protocol;
use crate::client::refusal::Refusal;
use crate::client::rights::denied;
use crate::client::wire::{Content, Kv, Op};
use crate::env::names::{has_lock_flags, is_record, to_entry};
use crate::lock::fence::{check_fence, fence_op};
use crate::ops::retries::Retries;
use crate::session::binding::Binding;
use crate::session::holding::{check_holder, retire};
use crate::session::sessions::Sessions;

/// The most operations Consul takes in one transaction.
const NATIVE_OPS: usize = 64;

/// The most conditions plus operations of the larger branch: each condition needs one of Consul's
/// operations, each operation at most two, the fence one.
pub(crate) const MAX_OPS: usize = (NATIVE_OPS - 1) / 2;

/// The most bytes of keys and values, so that the JSON of the longest keys and namespace fits too.
pub(crate) const MAX_BYTES: usize = 300 * 1024;

/// What was read: each key of the transaction, present or absent.
type Known = BTreeMap<Key, Option<Kv>>;

/// Carries out a transaction.
pub(crate) async fn transact(sessions: &Arc<Sessions>, txn: Request) -> Result<TxnResult> {
    for op in txn.then.iter().chain(&txn.or_else).filter(|op| op.is_write()) {
        sessions.env.names.check_writable(op.key())?;
    }
    let fence = txn.fence.as_ref().map(fence_op).transpose()?;
    let deadline = sessions.env.deadline(txn.timeout);
    let mut branches = Branches::default();
    let mut known = None;
    if !expressible(&txn) {
        known = Some(read_all(sessions, &txn, &deadline).await.map_err(Error::not_applied)?);
    }
    let mut retries = Retries::new(sessions);
    loop {
        let mut plan = Plan::new(sessions, known.as_ref(), fence.clone());
        let succeeded = plan.conditions(&txn.conditions)?;
        let ops = if succeeded { &txn.then } else { &txn.or_else };
        if ops.is_empty() && !succeeded && fence.is_none() {
            return Ok(TxnResult::new(false, Vec::new()));
        }
        let bindings =
            branches.bindings(sessions, succeeded, ops, &deadline).await.map_err(Error::not_applied)?;
        for (op, binding) in ops.iter().zip(bindings.iter_mut()).filter(|(op, _)| op.is_write()) {
            if let Some(Some(kv)) = known.as_ref().and_then(|known| known.get(op.key())) {
                check_holder(sessions, op.key(), kv, binding.session(), &deadline).await?;
            }
            binding.freshen(sessions, &deadline).await.map_err(Error::not_applied)?;
        }
        plan.branch(ops, bindings)?;
        if plan.ops.is_empty() {
            let outcomes = plan
                .outcomes
                .iter()
                .map(|outcome| plan.outcome(outcome, &[], bindings))
                .collect::<Result<_>>()?;
            return Ok(TxnResult::new(succeeded, outcomes));
        }
        bindings.iter_mut().for_each(Binding::sending);
        let answer = sessions.env.api.txn(&plan.ops, plan.reading(), &deadline).await;
        let refused = match answer {
            Ok(Txn::Done(slots)) => {
                retire(&sessions.env, std::mem::take(&mut plan.retired));
                let outcomes = plan
                    .outcomes
                    .iter()
                    .map(|outcome| plan.outcome(outcome, &slots, bindings))
                    .collect::<Result<_>>()?;
                return Ok(TxnResult::new(succeeded, outcomes));
            }
            Ok(Txn::Refused(refused)) => refused,
            Err(error) => {
                let error = error.with_operation(kv_core::Operation::Transact);
                if error.applied() == kv_core::Applied::No {
                    bindings.iter_mut().for_each(Binding::refused);
                }
                return Err(error);
            }
        };
        bindings.iter_mut().for_each(Binding::refused);
        check_fence(fence.is_some(), &refused)?;
        if refused.iter().any(|(_, why)| *why == Refusal::NoSession) {
            // Which of the sessions is gone Consul does not say in a form to rely on.
            for binding in bindings.iter_mut().filter(|binding| binding.session().is_some()) {
                binding.renew(sessions, &deadline).await.map_err(Error::not_applied)?;
            }
        } else {
            retries.after(&refused, &mut Binding::Permanent, &deadline).await?;
        }
        known = Some(read_all(sessions, &txn, &deadline).await.map_err(Error::not_applied)?);
    }
}

/// Whether Consul can decide all of it alone, taking the `then` branch or refusing.
fn expressible(txn: &Request) -> bool {
    txn.conditions.iter().all(|condition| {
        matches!(condition.test, Test::Absent | Test::Present)
            || matches!(condition.test, Test::Version(Compare::Equal, version) if version != Version::ZERO)
    })
}

/// Reads every key of a transaction. Not one snapshot: what is decided on is checked again by what is
/// sent then, and one condition that does not hold for what its key was is enough for the other branch.
async fn read_all(sessions: &Sessions, txn: &Request, deadline: &Deadline) -> Result<Known> {
    let ops = txn.then.iter().chain(&txn.or_else).map(TxnOp::key);
    let mut wanted: BTreeSet<&Key> =
        txn.conditions.iter().map(|condition| &condition.key).chain(ops).collect();
    let mut known = Known::new();
    while !wanted.is_empty() {
        let batch: Vec<&Key> = wanted.iter().copied().take(NATIVE_OPS).collect();
        let gets: Vec<Op> = batch.iter().map(|key| Op::get(&sessions.env.names.native(key))).collect();
        match sessions.env.api.txn(&gets, Some(Consistency::Linearizable), deadline).await? {
            Txn::Done(slots) => {
                for (key, slot) in batch.into_iter().zip(slots) {
                    wanted.remove(key);
                    known.insert(key.clone(), slot);
                }
            }
            Txn::Refused(refused) => {
                let mut absent = Vec::with_capacity(refused.len());
                for (at, why) in refused {
                    match batch.get(at) {
                        Some(key) if why == Refusal::Missing => {
                            absent.push(sessions.env.names.native(key));
                            wanted.remove(key);
                            known.insert((*key).clone(), None);
                        }
                        _ => return Err(protocol("a read was refused as only a write can be")),
                    }
                }
                if let Some(hidden) =
                    sessions.env.api.unreadable(Lane::Call, absent, false, deadline).await?.first()
                {
                    return Err(denied(hidden));
                }
            }
        }
    }
    Ok(known)
}

/// The sessions each branch's puts are bound to, made when the branch is tried.
#[derive(Default)]
struct Branches {
    then: Option<Vec<Binding>>,
    or_else: Option<Vec<Binding>>,
}

impl Branches {
    /// One binding for each operation.
    async fn bindings(
        &mut self,
        sessions: &Arc<Sessions>,
        succeeded: bool,
        ops: &[TxnOp],
        deadline: &Deadline,
    ) -> Result<&mut Vec<Binding>> {
        let slot = if succeeded { &mut self.then } else { &mut self.or_else };
        if slot.is_none() {
            let mut bindings = Vec::with_capacity(ops.len());
            for op in ops {
                bindings.push(match op {
                    TxnOp::Put { expiry, .. } => Binding::new(sessions, *expiry, deadline).await?,
                    _ => Binding::Permanent,
                });
            }
            *slot = Some(bindings);
        }
        slot.as_mut().ok_or_else(|| protocol("a branch has no bindings"))
    }
}

/// Where an operation's outcome is found.
enum Outcome {
    /// Of a put: in this slot. The second is the operation's place in its branch.
    Put(usize, usize),
    Deleted(bool),
    Absent,
    /// Of a get: in this slot.
    Got(usize, Key),
}

/// What is sent to Consul.
struct Plan<'a> {
    sessions: &'a Sessions,
    known: Option<&'a Known>,
    fenced: bool,
    ops: Vec<Op>,
    outcomes: Vec<Outcome>,
    /// Keys whose state at the beginning is checked already.
    checked: BTreeSet<Key>,
    /// Sessions whose keys are taken from them.
    retired: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(sessions: &'a Sessions, known: Option<&'a Known>, fence: Option<Op>) -> Self {
        Self {
            sessions,
            known,
            fenced: fence.is_some(),
            ops: fence.into_iter().collect(),
            outcomes: Vec::new(),
            checked: BTreeSet::new(),
            retired: Vec::new(),
        }
    }

    /// The state a key was read to be; `None` if it was not read.
    fn state(&self, key: &Key) -> Option<Option<&'a Kv>> {
        self.known.and_then(|known| known.get(key)).map(Option::as_ref)
    }

    /// Decides on the branch and adds the checks that it is the right one.
    fn conditions(&mut self, conditions: &[Condition]) -> Result<bool> {
        for condition in conditions {
            if let Some(state) = self.state(&condition.key) {
                // A lock's record is invisible to conditions.
                let entry = match state {
                    Some(kv) => self
                        .sessions
                        .env
                        .names
                        .entry(&kv.key, kv.flags)
                        .map(|key| to_entry(key, kv))
                        .transpose()?,
                    None => None,
                };
                if !condition.holds(entry.as_ref()) {
                    let key = condition.key.clone();
                    self.checked.clear();
                    self.ops.truncate(usize::from(self.fenced));
                    self.check(&key, state);
                    return Ok(false);
                }
                self.check(&condition.key, state);
            } else {
                let native = self.sessions.env.names.native(&condition.key);
                self.ops.push(match &condition.test {
                    Test::Absent => Op::check_not_exists(&native),
                    Test::Version(_, version) => Op::check_index(&native, version.get()),
                    _ => Op::get(&native),
                });
            }
        }
        Ok(true)
    }

    /// Checks, once, that a key is still as it was read.
    fn check(&mut self, key: &Key, state: Option<&Kv>) {
        if self.checked.insert(key.clone()) {
            let native = self.sessions.env.names.native(key);
            self.ops.push(match state {
                Some(kv) => Op::check_index(&native, kv.modify_index),
                None => Op::check_not_exists(&native),
            });
        }
    }

    /// Adds the operations of a branch.
    fn branch(&mut self, ops: &[TxnOp], bindings: &[Binding]) -> Result<()> {
        let mut deleted = BTreeSet::new();
        let mut put = BTreeSet::new();
        for (at, (op, binding)) in ops.iter().zip(bindings).enumerate() {
            let key = op.key();
            let native = self.sessions.env.names.native(key);
            let state = self.state(key);
            let outcome = match op {
                TxnOp::Put { value, .. } => {
                    put.insert(key);
                    let content = Content::new(value, self.sessions.env.fresh_flags());
                    self.put(key, &native, &content, binding, state.flatten())?;
                    Outcome::Put(self.ops.len() - 1, at)
                }
                TxnOp::Delete { .. } => {
                    deleted.insert(key);
                    self.delete(key, &native, state)?
                }
                TxnOp::Get { .. } if deleted.contains(key) => Outcome::Absent,
                TxnOp::Get { .. } => match state {
                    Some(None) if !put.contains(key) => {
                        self.check(key, None);
                        Outcome::Absent
                    }
                    _ => {
                        self.ops.push(Op::get(&native));
                        Outcome::Got(self.ops.len() - 1, key.clone())
                    }
                },
                _ => return Err(Error::unsupported("this kind of operation")),
            };
            self.outcomes.push(outcome);
        }
        Ok(())
    }

    /// Adds a put; the last operation added is the one with the version.
    fn put(
        &mut self,
        key: &Key,
        native: &str,
        content: &Content,
        binding: &Binding,
        state: Option<&Kv>,
    ) -> Result<()> {
        self.refuse_record(key, state)?;
        let guess = match (self.known, binding) {
            (None, Binding::Keep) => self.sessions.entries.last_seen(native),
            _ => None,
        };
        match (binding.session(), state.and_then(Kv::session).or(guess.as_deref())) {
            // A write that is no lock leaves the session as it is: the check is that it is still that one.
            (None, Some(holder)) if !binding.replaces(holder) => {
                self.ops.push(Op::check_session(native, holder));
                self.ops.push(Op::set(native, content));
            }
            (session, Some(holder)) if session != Some(holder) => {
                self.retired.push(holder.to_owned());
                match session {
                    None => self.ops.push(Op::unlock(native, content, holder)),
                    Some(session) => {
                        self.ops.push(Op::unlock(native, &Content::new(b"", 0), holder));
                        self.ops.push(Op::lock(native, content, session));
                    }
                }
            }
            (Some(session), _) => self.ops.push(Op::lock(native, content, session)),
            (None, _) => {
                self.ops.push(Op::set(native, content));
                self.ops.push(Op::check_session(native, ""));
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &Key, native: &str, state: Option<Option<&Kv>>) -> Result<Outcome> {
        match state {
            Some(None) => {
                self.check(key, None);
                return Ok(Outcome::Deleted(false));
            }
            Some(Some(kv)) => {
                self.refuse_record(key, Some(kv))?;
                self.check(key, Some(kv));
                // The free record of a lock on the key itself is no entry.
                if kv.session().is_none() && self.sessions.env.names.entry(&kv.key, kv.flags).is_none() {
                    return Ok(Outcome::Deleted(false));
                }
                self.retired.extend(kv.session().map(str::to_owned));
            }
            // Not read: it must exist, and no session may have it.
            None => self.ops.push(Op::check_session(native, "")),
        }
        self.ops.push(Op::delete(native));
        Ok(Outcome::Deleted(true))
    }

    fn refuse_record(&self, key: &Key, state: Option<&Kv>) -> Result<()> {
        if state.is_some_and(|kv| kv.session().is_some() && has_lock_flags(kv)) {
            return Err(is_record(key, "it is the record of a lock that another program holds"));
        }
        Ok(())
    }

    /// How to read, if it only reads.
    fn reading(&self) -> Option<Consistency> {
        (!self.ops.iter().any(Op::is_write)).then_some(Consistency::Linearizable)
    }

    fn outcome(&self, outcome: &Outcome, slots: &[Option<Kv>], bindings: &[Binding]) -> Result<TxnOutcome> {
        let slot = |at: usize| {
            slots
                .get(at)
                .and_then(Option::as_ref)
                .ok_or_else(|| protocol("the answer to a transaction lacks an item"))
        };
        Ok(match outcome {
            Outcome::Put(at, op) => {
                let written = slot(*at)?;
                self.sessions.entries.saw(&written.key, written.session());
                let result = PutResult::new(Version::new(written.modify_index));
                TxnOutcome::Put(match bindings.get(*op).and_then(Binding::granted) {
                    Some(ttl) => result.with_granted_ttl(ttl),
                    None => result,
                })
            }
            Outcome::Deleted(existed) => TxnOutcome::Delete(if *existed {
                DeleteResult::deleted(None)
            } else {
                DeleteResult::absent()
            }),
            Outcome::Absent => TxnOutcome::Get(None),
            Outcome::Got(at, key) => {
                let kv = slot(*at)?;
                let entry =
                    self.sessions.env.names.entry(&kv.key, kv.flags).map(|_| to_entry(key.clone(), kv));
                TxnOutcome::Get(entry.transpose()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_transaction_fits() {
        // Each operation twice, with the longest names, every character of which JSON escapes.
        let name = "\"".repeat(kv_core::MAX_KEY_BYTES + kv_core::MAX_NAMESPACE_BYTES + 1);
        let value = vec![0; (MAX_BYTES - MAX_OPS * kv_core::MAX_KEY_BYTES) / MAX_OPS];
        let session = "0".repeat(36);
        let mut ops = vec![Op::check_session(&name, &session)];
        for _ in 0..MAX_OPS {
            ops.push(Op::unlock(&name, &Content::new(b"", u64::MAX), &session));
            ops.push(Op::lock(&name, &Content::new(&value, u64::MAX), &session));
        }
        assert!(ops.len() <= NATIVE_OPS);
        let body = crate::client::wire::txn_body(&ops).unwrap();
        assert!(body.len() <= crate::client::error::MAX_BODY, "{}", body.len());
        // All of it in one value.
        let value = vec![0; MAX_BYTES];
        let ops = [Op::set(&name, &Content::new(&value, u64::MAX)), Op::check_session(&name, &session)];
        assert!(crate::client::wire::txn_body(&ops).unwrap().len() <= crate::client::error::MAX_BODY);
    }
}
