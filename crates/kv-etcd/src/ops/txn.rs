//! Transactions: conditions of ours as comparisons of etcd's, in one request.
//!
//! A condition can be the opposite of a list of comparisons; see `condition`. It gets a transaction of
//! its own inside, of which the other branch goes on. All comparisons look at the state before the
//! first operation, whatever their depth.
//!
//! A put that keeps its key's expiry is a transaction inside too, unless a condition says whether the key
//! exists.
//!
//! The server limits the operations along a nest. Where it would be exceeded, a first request asks
//! which conditions hold, and the last one carries out what follows, only if their keys did not change
//! in between. Before it is asked which of the keys exist whose expiry is to be kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use kv_backend::Deadline;
use kv_core::{
    Compare, Condition, DeleteResult, Error, Expiry, Measured, PutResult, Result, Txn, TxnOp, TxnOutcome,
    TxnResult,
};

use super::condition::{Term, presence, term};
use super::guards::{Guards, first_page};
use super::put_lease::PutLease;
use crate::client::error;
use crate::client::{Check, Done, Field, Range, Read, Step, Tree, TreeDone};
use crate::env::Env;
use crate::handle::Handle;
use crate::record;

/// What the server takes: the longest lists of comparisons or operations of a nest, one on each level,
/// counted together.
pub(crate) const MAX_OPS: usize = 128;
/// How deep it is nested: each level repeats the other branch.
const MAX_NESTED: usize = 8;
/// How many conditions are asked about in one request; each takes up to three comparisons.
const MAX_ASKED: usize = 64;
/// What the server takes in one request, less its own framing.
const MAX_BYTES: usize = (3 << 19) - (1 << 10);
/// What of it is for keys and values; the rest is for namespaces and for comparisons that take two.
pub(crate) const MAX_TXN_BYTES: usize = (3 << 19) - (96 << 10);
/// How often a transaction whose lease ended before it was used is made anew.
const LEASE_ATTEMPTS: usize = 3;

/// The conditions of a transaction, as the server is asked for them.
#[derive(Debug)]
struct Terms {
    /// One for each condition, with the name it is about.
    single: Vec<(String, Term)>,
    /// The same with those put together that must hold.
    nested: Vec<Term>,
}

impl Terms {
    fn new(env: &Env, conditions: &[Condition]) -> Result<Self> {
        let mut single = Vec::new();
        for condition in conditions {
            let name = env.namespace.native(&condition.key);
            single.extend(term(&name, &condition.test)?.map(|term| (name, term)));
        }
        let (together, apart): (Vec<_>, Vec<_>) =
            single.iter().map(|(_, term)| term).partition(|term| term.holds);
        let together: Vec<_> = together.into_iter().flat_map(|term| term.checks.clone()).collect();
        let together = (!together.is_empty()).then(|| Term::all(together));
        let nested = together.into_iter().chain(apart.into_iter().cloned()).collect();
        Ok(Self { single, nested })
    }
}

/// How a transaction is carried out.
#[derive(Debug)]
enum Plan<'a> {
    /// The server decides, by these terms.
    Nested(&'a [Term]),
    /// The conditions were asked about: whether they held, which is so as long as these comparisons
    /// are true, and which of the names that the branch writes exist then.
    Decided { held: bool, unchanged: Vec<Check>, existing: BTreeMap<String, bool> },
}

/// One branch inside the other, each for one term.
fn nest(terms: &[Term], then: Vec<Step>, or_else: &[Step]) -> Tree {
    let Some((Term { checks, holds }, rest)) = terms.split_first() else { return Tree::always(then) };
    let when = checks.clone();
    let on = if rest.is_empty() { then } else { vec![Step::Branch(nest(rest, then, or_else))] };
    if *holds {
        Tree { when, then: on, or_else: or_else.to_vec() }
    } else {
        Tree { when, then: or_else.to_vec(), or_else: on }
    }
}

/// Whether all terms held, and what came of the branch that ran.
fn unnest(terms: &[Term], done: TreeDone) -> Result<(bool, Vec<Done>)> {
    let Some((term, rest)) = terms.split_first() else { return Ok((true, done.steps)) };
    if done.succeeded != term.holds {
        return Ok((false, done.steps));
    }
    if rest.is_empty() {
        return Ok((true, done.steps));
    }
    unnest(rest, branch(done)?)
}

fn branch(done: TreeDone) -> Result<TreeDone> {
    match done.steps.into_iter().next() {
        Some(Done::Branch(inner)) => Ok(inner),
        _ => Err(error::nonsense("a transaction without its inner one")),
    }
}

/// See [`kv_core::implement::Transact::transact`].
pub(crate) async fn transact(handle: &Arc<Handle>, txn: Txn) -> Result<TxnResult> {
    handle.env.capabilities.admit_transact(&txn)?;
    handle.env.check_open()?;
    let terms = Terms::new(&handle.env, &txn.conditions)?;
    let written: Vec<_> = txn
        .then
        .iter()
        .chain(&txn.or_else)
        .filter(|op| op.is_write())
        .map(|op| handle.env.namespace.native(op.key()))
        .collect();
    let guards = Guards::new(written.iter().map(String::as_str), txn.fence.as_ref())?;
    let deadline = handle.env.deadline(txn.timeout);
    let attempt = Attempt { handle, txn: &txn, terms: &terms, guards: &guards };
    let mut leases_gone = 0;
    loop {
        let plan = attempt.plan(deadline).await?;
        match attempt.make(deadline, &plan).await {
            Ok(Some(result)) => return Ok(result),
            // A key of the plan changed, and nothing was done.
            Ok(None) => {}
            Err(error) if error::lease_gone(&error) && leases_gone < LEASE_ATTEMPTS => leases_gone += 1,
            Err(error) => return Err(error),
        }
    }
}

struct Attempt<'a> {
    handle: &'a Arc<Handle>,
    txn: &'a Txn,
    terms: &'a Terms,
    guards: &'a Guards,
}

impl Attempt<'_> {
    /// Lets the server decide if that fits, and else asks it about the conditions first.
    async fn plan(&self, deadline: Deadline) -> Result<Plan<'_>> {
        let nested = Plan::Nested(&self.terms.nested);
        let tree = self.bare_tree(&nested)?;
        if self.terms.nested.len() <= MAX_NESTED && tree.ops() <= MAX_OPS && tree.size() <= MAX_BYTES {
            return Ok(nested);
        }
        // A question that fails changed nothing, also where its answer is what is missing.
        let (held, mut unchanged) = self.ask(deadline).await.map_err(Error::not_applied)?;
        let ops = if held { &self.txn.then } else { &self.txn.or_else };
        let existing = self.existing(deadline, ops, &mut unchanged).await.map_err(Error::not_applied)?;
        Ok(Plan::Decided { held, unchanged, existing })
    }

    /// Whether the conditions hold, and the comparisons that are true as long as that stays so.
    async fn ask(&self, deadline: Deadline) -> Result<(bool, Vec<Check>)> {
        let mut unchanged = Vec::new();
        for terms in self.terms.single.chunks(MAX_ASKED) {
            let questions = terms.iter().map(|(name, term)| {
                let read = vec![Step::Read(Read::new(Range::one(name.as_str())).keys_only())];
                Step::Branch(Tree { when: term.checks.clone(), then: read.clone(), or_else: read })
            });
            let done = self.handle.env.client.commit(deadline, Tree::always(questions.collect())).await?;
            for ((name, term), done) in terms.iter().zip(done.steps) {
                let Done::Branch(done) = done else {
                    return Err(error::nonsense("a transaction without its inner one"));
                };
                let held = done.succeeded == term.holds;
                let version = first_page(done.steps)?.records.first().map_or(0, |record| record.version);
                let same = Check::new(name.as_str(), Compare::Equal, Field::Version(version));
                if !held {
                    return Ok((held, vec![same]));
                }
                if !unchanged.contains(&same) {
                    unchanged.push(same);
                }
            }
        }
        Ok((true, unchanged))
    }

    /// Which of the names exist whose expiry is to be kept. That they do or do not is checked with
    /// `unchanged`, which knows some already.
    async fn existing(
        &self,
        deadline: Deadline,
        ops: &[TxnOp],
        unchanged: &mut Vec<Check>,
    ) -> Result<BTreeMap<String, bool>> {
        let (mut existing, mut unknown) = (BTreeMap::new(), Vec::new());
        let keeping = ops.iter().filter(|op| matches!(op, TxnOp::Put { expiry: Expiry::Keep, .. }));
        for name in keeping.map(|op| self.handle.env.namespace.native(op.key())) {
            let known = unchanged.iter().find_map(|check| match check.field {
                Field::Version(version) if check.name == name.as_bytes() => Some(version != 0),
                _ => None,
            });
            match known {
                Some(exists) => drop(existing.insert(name, exists)),
                None => unknown.push(name),
            }
        }
        for names in unknown.chunks(MAX_OPS) {
            let read = |name: &String| Step::Read(Read::new(Range::one(name.as_str())).keys_only());
            let asked = Tree::always(names.iter().map(read).collect());
            let done = self.handle.env.client.commit(deadline, asked).await?;
            for (name, done) in names.iter().zip(done.steps) {
                let exists = !first_page(vec![done])?.records.is_empty();
                unchanged.push(if exists { Check::exists(&**name) } else { Check::absent(&**name) });
                existing.insert(name.clone(), exists);
            }
        }
        Ok(existing)
    }

    /// Whether the key of an operation of this branch exists when the branch runs, where that is known.
    fn exists(&self, plan: &Plan<'_>, succeeded: bool, op: &TxnOp) -> Option<bool> {
        match plan {
            Plan::Nested(_) if succeeded => presence(&self.txn.conditions, op.key()),
            Plan::Nested(_) => None,
            Plan::Decided { existing, .. } => {
                existing.get(&self.handle.env.namespace.native(op.key())).copied()
            }
        }
    }

    /// What is sent, with no lease granted yet. Its size does not depend on that.
    fn bare_tree(&self, plan: &Plan<'_>) -> Result<Tree> {
        let bare = |ops: &[TxnOp], succeeded| {
            let lease = |op| match op {
                &TxnOp::Put { expiry, .. } => {
                    PutLease::without_grant(expiry, self.exists(plan, succeeded, op))
                }
                _ => PutLease::None,
            };
            ops.iter().map(lease).collect::<Vec<_>>()
        };
        self.tree(plan, &bare(&self.txn.then, true), &bare(&self.txn.or_else, false))
    }

    /// Makes the transaction; `None` if the plan does not stand any more.
    async fn make(&self, deadline: Deadline, plan: &Plan<'_>) -> Result<Option<TxnResult>> {
        let bare = self.bare_tree(plan)?;
        if bare.ops() > MAX_OPS {
            return Err(Error::too_large(Measured::TxnOps, bare.ops(), MAX_OPS)
                .with_detail("counted with what guards fenced writes and records of locks"));
        }
        let size = bare.size();
        if size > MAX_BYTES {
            return Err(Error::too_large(Measured::TxnBytes, size, MAX_BYTES)
                .with_detail("counted with namespaces and repeated branches included"));
        }
        let mut then = self.leases(deadline, plan, true).await?;
        let mut or_else = self.leases(deadline, plan, false).await?;
        let tree = self.tree(plan, &then, &or_else)?;
        then.iter_mut().chain(&mut or_else).for_each(PutLease::in_flight);
        let done = match self.handle.env.client.commit(deadline, tree).await {
            Ok(done) => done,
            Err(error) => {
                then.into_iter().chain(or_else).for_each(|lease| lease.failed(self.handle, &error));
                return Err(error);
            }
        };
        let revision = done.revision;
        let (succeeded, steps) = match plan {
            Plan::Nested(terms) if self.guards.is_empty() => unnest(terms, done)?,
            _ if !done.succeeded => {
                then.into_iter().chain(or_else).for_each(PutLease::unused);
                self.guards.refusal(&done.steps)?;
                return match plan {
                    Plan::Nested(_) => Err(error::nonsense("a refusal without its reason")),
                    Plan::Decided { .. } => Ok(None),
                };
            }
            Plan::Nested(terms) => unnest(terms, branch(done)?)?,
            Plan::Decided { held, .. } => (*held, done.steps),
        };
        let (ops, leases, unused) =
            if succeeded { (&self.txn.then, then, or_else) } else { (&self.txn.or_else, or_else, then) };
        unused.into_iter().for_each(PutLease::unused);
        if steps.len() != ops.len() {
            return Err(error::nonsense("a transaction without all its answers"));
        }
        let outcomes = ops
            .iter()
            .zip(leases)
            .zip(steps)
            .map(|((op, lease), step)| self.outcome(op, lease, step, revision))
            .collect::<Result<_>>()?;
        Ok(Some(TxnResult::new(succeeded, outcomes)))
    }

    /// A lease for each operation of a branch, of which only puts need one.
    async fn leases(
        &self,
        deadline: Deadline,
        plan: &Plan<'_>,
        succeeded: bool,
    ) -> Result<Vec<PutLease<'_>>> {
        let ops = if succeeded { &self.txn.then } else { &self.txn.or_else };
        try_join_all(ops.iter().map(|op| async move {
            match op {
                TxnOp::Put { expiry, .. } => {
                    let exists = self.exists(plan, succeeded, op);
                    PutLease::new(self.handle, deadline, *expiry, exists).await
                }
                _ => Ok(PutLease::None),
            }
        }))
        .await
    }

    fn tree(&self, plan: &Plan<'_>, then: &[PutLease<'_>], or_else: &[PutLease<'_>]) -> Result<Tree> {
        let steps = |ops: &[TxnOp], leases: &[PutLease<'_>]| {
            ops.iter().zip(leases).map(|(op, lease)| self.step(op, lease)).collect::<Result<Vec<_>>>()
        };
        let (then, or_else) = (steps(&self.txn.then, then)?, steps(&self.txn.or_else, or_else)?);
        let (mut when, then) = match plan {
            Plan::Nested(terms) => {
                let tree = nest(terms, then, &or_else);
                if self.guards.is_empty() {
                    return Ok(tree);
                }
                (Vec::new(), vec![Step::Branch(tree)])
            }
            Plan::Decided { held, unchanged, .. } => (unchanged.clone(), if *held { then } else { or_else }),
        };
        when.extend(self.guards.checks());
        Ok(Tree { when, then, or_else: self.guards.reads() })
    }

    fn step(&self, op: &TxnOp, lease: &PutLease<'_>) -> Result<Step> {
        let name = self.handle.env.namespace.native(op.key());
        Ok(match op {
            TxnOp::Put { value, .. } => lease.step(name, value.clone()),
            TxnOp::Delete { .. } => Step::Delete { range: Range::one(name), previous: false },
            TxnOp::Get { .. } => Step::Read(Read::new(Range::one(name))),
            _ => return Err(Error::unsupported("this kind of operation")),
        })
    }

    fn outcome(&self, op: &TxnOp, lease: PutLease<'_>, done: Done, revision: i64) -> Result<TxnOutcome> {
        let name = self.handle.env.namespace.native(op.key());
        Ok(match (op, done) {
            (TxnOp::Put { .. }, done @ (Done::Put | Done::Branch(_))) => {
                let granted = lease.used(self.handle, &name, revision, &done);
                let result = PutResult::new(record::version(revision));
                TxnOutcome::Put(granted.map_or(result, |ttl| result.with_granted_ttl(ttl)))
            }
            (TxnOp::Delete { .. }, Done::Delete { deleted, .. }) => {
                self.handle.leases.detached(name.as_bytes(), revision);
                TxnOutcome::Delete(if deleted > 0 {
                    DeleteResult::deleted(None)
                } else {
                    DeleteResult::absent()
                })
            }
            (TxnOp::Get { .. }, Done::Read(page)) => {
                let found = page.records.into_iter().next();
                TxnOutcome::Get(found.and_then(|record| record::entry(&self.handle.env.namespace, record)))
            }
            _ => return Err(error::nonsense("another answer than that of its operation")),
        })
    }
}
