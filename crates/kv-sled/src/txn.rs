//! Writes as requests: what each asks for, and carrying it out on a [`Stage`].

use async_trait::async_trait;
use bytes::Bytes;
use kv_backend::check_precondition;
use kv_core::implement::Transact;
use kv_core::{
    Condition, DeleteCause, DeleteResult, Error, Operation, Precondition, PutResult, Result, Store, Txn,
    TxnOp, TxnOutcome, TxnResult, Version,
};

use crate::group::{MAX_EXPIRED, delete_some};
use crate::name::Name;
use crate::record::space;
use crate::stage::{Live, NewExpiry, Stage, look_up, no_space};
use crate::store::SledStore;
use crate::tree::{MAX_SMALL_BYTES, TreeSize, count_below};

/// A write as the committer gets it.
#[derive(Debug)]
pub(crate) enum Write {
    Put {
        name: Name,
        value: Bytes,
        precondition: Precondition,
        expiry: NewExpiry,
    },
    Delete {
        name: Name,
        precondition: Precondition,
        previous: bool,
    },
    DeleteTree {
        prefix: String,
    },
    Transact {
        conditions: Vec<(Name, Condition)>,
        then: Vec<Step>,
        or_else: Vec<Step>,
    },
    /// The session is over: its keys go.
    EndSession {
        session: u64,
    },
    /// States before a version are forgotten.
    Compact {
        up_to: u64,
    },
}

impl Write {
    /// Whether it looks only at what is committed, and so must be the first of its group.
    pub(crate) fn goes_first(&self) -> bool {
        matches!(self, Self::DeleteTree { .. } | Self::EndSession { .. } | Self::Compact { .. })
    }

    /// The session that its keys are to live with.
    pub(crate) fn session(&self) -> Option<u64> {
        let of = |expiry: &NewExpiry| match expiry {
            NewExpiry::Session(session) => Some(*session),
            NewExpiry::Never | NewExpiry::Keep | NewExpiry::Ttl(_) => None,
        };
        match self {
            Self::Put { expiry, .. } => of(expiry),
            Self::Transact { then, or_else, .. } => then.iter().chain(or_else).find_map(|step| match step {
                Step::Put { expiry, .. } => of(expiry),
                Step::Delete { .. } | Step::Get { .. } => None,
            }),
            Self::Delete { .. }
            | Self::DeleteTree { .. }
            | Self::EndSession { .. }
            | Self::Compact { .. } => None,
        }
    }
}

/// One operation of a transaction.
#[derive(Debug)]
pub(crate) enum Step {
    Put { name: Name, value: Bytes, expiry: NewExpiry },
    Delete { name: Name },
    Get { name: Name },
}

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Outcome {
    Put(PutResult),
    Delete(DeleteResult),
    Count(u64),
    Txn(TxnResult),
    /// The oldest version that is left.
    Oldest(Version),
    /// A part is done; the same again does the next.
    More,
}

/// Carries out a write. The outer error means that the stage is spoilt: part of the write may be on it.
pub(crate) fn carry_out(write: &Write, stage: &mut Stage<'_>) -> Result<Result<Outcome>> {
    match write {
        Write::Put { name, value, precondition, expiry } => put(stage, name, value, precondition, *expiry),
        Write::Delete { name, precondition, previous } => delete(stage, name, precondition, *previous),
        Write::DeleteTree { prefix } => delete_tree(stage, prefix),
        Write::Transact { conditions, then, or_else } => transact(stage, conditions, then, or_else),
        Write::EndSession { session } => end_session(stage, *session),
        Write::Compact { up_to } => Ok(stage.compact(*up_to).map(Outcome::Oldest)),
    }
}

/// Hands a refusal to whoever asked; the stage is as it was.
macro_rules! refuse {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        }
    };
}

fn put(
    stage: &mut Stage<'_>,
    name: &Name,
    value: &Bytes,
    precondition: &Precondition,
    expiry: NewExpiry,
) -> Result<Result<Outcome>> {
    let old = refuse!(stage.get(name));
    refuse!(check(stage, name, precondition, old.as_ref()));
    refuse!(stage.room().take_for_puts(1, value.len()));
    let version = stage.put(name, old, value.clone(), expiry);
    Ok(Ok(Outcome::Put(put_result(version, expiry))))
}

fn put_result(version: Version, expiry: NewExpiry) -> PutResult {
    match expiry {
        NewExpiry::Ttl(granted) => PutResult::new(version).with_granted_ttl(granted),
        NewExpiry::Never | NewExpiry::Keep | NewExpiry::Session(_) => PutResult::new(version),
    }
}

fn delete(
    stage: &mut Stage<'_>,
    name: &Name,
    precondition: &Precondition,
    wants_previous: bool,
) -> Result<Result<Outcome>> {
    let old = refuse!(stage.get(name));
    refuse!(check(stage, name, precondition, old.as_ref()));
    let Some(old) = old else { return Ok(Ok(Outcome::Delete(DeleteResult::absent()))) };
    refuse!(stage.room().take_for_deletes(1));
    let previous = if wants_previous { Some(stage.entry(name, &old)?) } else { None };
    stage.delete(name, old, DeleteCause::Deleted)?;
    Ok(Ok(Outcome::Delete(DeleteResult::deleted(previous))))
}

fn delete_tree(stage: &mut Stage<'_>, prefix: &str) -> Result<Result<Outcome>> {
    let up_to = |stage: &Stage<'_>, max| count_below(stage.client(), stage.doomed(), prefix, max);
    let small = stage.small_tree();
    let found = refuse!(up_to(stage, TreeSize { entries: small + 1, bytes: MAX_SMALL_BYTES + 1 }));
    let is_small = found.entries <= small && found.bytes <= MAX_SMALL_BYTES;
    if is_small && stage.room().take_for_deletes(usize::try_from(found.entries).unwrap_or(usize::MAX)).is_ok()
    {
        let below = refuse!(stage.below(prefix));
        let count = below.len() as u64;
        for (name, live) in below {
            stage.delete(&name, live, DeleteCause::Deleted)?;
        }
        return Ok(Ok(Outcome::Count(count)));
    }
    let count = refuse!(up_to(stage, TreeSize { entries: u64::MAX, bytes: u64::MAX })).entries;
    // One small record, and room for much: also where there is no space for deletes one by one.
    if stage.room().take_for_removals(1) == 0 {
        return Ok(Err(no_space("the disk is full: free space on it; the store goes on then")));
    }
    stage.doom(prefix, count);
    Ok(Ok(Outcome::Count(count)))
}

/// Deletes some of the keys of a session, until there are none.
fn end_session(stage: &mut Stage<'_>, session: u64) -> Result<Result<Outcome>> {
    let found = refuse!(look_up(stage.client(), space::SESSION, session, session, MAX_EXPIRED));
    if found.is_empty() {
        return Ok(Ok(Outcome::Count(0)));
    }
    if delete_some(stage, found)? == 0 {
        return Ok(Err(no_space("the disk is full: the keys of the session go when there is space")));
    }
    Ok(Ok(Outcome::More))
}

fn check(stage: &Stage<'_>, name: &Name, precondition: &Precondition, old: Option<&Live>) -> Result<()> {
    let stored = match old {
        Some(old) if matches!(precondition, Precondition::Value(_)) => Some(stage.entry(name, old)?),
        // No other precondition looks at the value, which may be large.
        Some(old) => Some(stage.entry_without_value(name, old)),
        None => None,
    };
    check_precondition(precondition, stored.as_ref())
}

fn transact(
    stage: &mut Stage<'_>,
    conditions: &[(Name, Condition)],
    then: &[Step],
    or_else: &[Step],
) -> Result<Result<Outcome>> {
    let mut succeeded = true;
    for (name, condition) in conditions {
        let live = refuse!(stage.get(name));
        let entry = refuse!(live.as_ref().map(|live| stage.entry(name, live)).transpose());
        succeeded &= condition.holds(entry.as_ref());
    }
    let steps = if succeeded { then } else { or_else };
    refuse!(take_room(stage, steps));
    let mut outcomes = Vec::with_capacity(steps.len());
    for step in steps {
        outcomes.push(match step {
            Step::Put { name, value, expiry } => {
                let old = stage.get(name)?;
                let version = stage.put(name, old, value.clone(), *expiry);
                TxnOutcome::Put(put_result(version, *expiry))
            }
            Step::Delete { name } => match stage.get(name)? {
                Some(old) => {
                    stage.delete(name, old, DeleteCause::Deleted)?;
                    TxnOutcome::Delete(DeleteResult::deleted(None))
                }
                None => TxnOutcome::Delete(DeleteResult::absent()),
            },
            Step::Get { name } => {
                let live = stage.get(name)?;
                TxnOutcome::Get(live.map(|live| stage.entry(name, &live)).transpose()?)
            }
        });
    }
    Ok(Ok(Outcome::Txn(TxnResult::new(succeeded, outcomes))))
}

fn take_room(stage: &mut Stage<'_>, steps: &[Step]) -> Result<()> {
    let puts = steps.iter().filter_map(|step| match step {
        Step::Put { value, .. } => Some(value.len()),
        Step::Delete { .. } | Step::Get { .. } => None,
    });
    let (count, bytes) = puts.fold((0, 0), |(count, bytes), len| (count + 1, bytes + len));
    let deletes = steps.iter().filter(|step| matches!(step, Step::Delete { .. })).count();
    if count > 0 {
        stage.room().take_for_puts(count + deletes, bytes)
    } else {
        stage.room().take_for_deletes(deletes)
    }
}

#[async_trait]
impl Transact for SledStore {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        self.capabilities().admit_transact(&txn)?;
        let refuse = |error: Error| self.decorate(error, Operation::Transact, None);
        let handle = self.open_handle(Operation::Transact)?;
        let step = |op: TxnOp| -> Result<Step> {
            Ok(match op {
                TxnOp::Put { key, value, expiry, .. } => {
                    let expiry = handle.expiry(expiry).map_err(|error| error.with_key(key.as_str()))?;
                    Step::Put { name: handle.name(&key), value, expiry }
                }
                TxnOp::Delete { key, .. } => Step::Delete { name: handle.name(&key) },
                TxnOp::Get { key, .. } => Step::Get { name: handle.name(&key) },
                _ => return Err(Error::unsupported("this operation of a transaction")),
            })
        };
        let steps = |ops: Vec<TxnOp>| ops.into_iter().map(step).collect::<Result<Vec<_>>>();
        let write = Write::Transact {
            conditions: txn
                .conditions
                .into_iter()
                .map(|condition| (handle.name(&condition.key), condition))
                .collect(),
            then: steps(txn.then).map_err(refuse)?,
            or_else: steps(txn.or_else).map_err(refuse)?,
        };
        let fence = handle.fences(txn.fence.as_ref());
        match handle.write(write, fence, txn.timeout).await.map_err(refuse)? {
            Outcome::Txn(result) => Ok(result),
            other => Err(refuse(crate::store::unexpected(&other))),
        }
    }
}
