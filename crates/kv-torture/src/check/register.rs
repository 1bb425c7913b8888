//! Whether the operations on each key can be put in one order that respects real time and explains
//! every answer: linearizability of a register, with writes whose outcome nobody knows.
//!
//! The search goes through the history in the order of time and keeps every way in which the
//! operations so far can have taken effect (just-in-time linearization, as Lowe describes it). A write
//! of unknown outcome may take effect at any time after it began, or never. Of two ways that lead to
//! the same state the one that has used fewer such writes can do whatever the other can, so only that
//! one is kept: this bounds the search where a plain one doubles with each unknown outcome.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::findings::Findings;
use crate::history::{Answer, Call, History, Op, Promises, Value, When};

/// How many ways are kept at most before the key counts as undecided.
const MOST_WAYS: usize = 20_000;

type State = Option<Value>;

/// One way in which the operations so far can have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Way {
    state: State,
    /// Operations that are under way, will be answered, and have taken effect.
    answered: Vec<usize>,
    /// Operations of unknown outcome that have taken effect.
    unknown: Vec<usize>,
}

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        let key = match &op.call {
            Call::Put { key, .. } | Call::Delete { key, .. } => key,
            Call::Get { key, stale: false } if history.promises.linearizable_reads => key,
            _ => continue,
        };
        // Other keys expire, which no operation of the history tells.
        if (key.starts_with("reg/") || key.starts_with("fenced/")) && has_effect(op) {
            keys.entry(key).or_default().push(op);
        }
    }
    for (key, ops) in keys {
        match is_linearizable(&ops, &history.promises) {
            Verdict::Yes => {}
            Verdict::Undecided => findings.undecided.push(key.to_owned()),
            Verdict::No { at } => {
                let op = ops[at];
                let before: Vec<_> = ops[at.saturating_sub(6)..at].iter().map(|op| brief(op)).collect();
                findings.add(
                    "not linearizable",
                    op.end_or_never(),
                    format!("{key}: no order explains {}; before it began: {}", brief(op), before.join("; ")),
                );
            }
        }
    }
}

/// Whether an operation changed something or saw something: a call that surely did neither says
/// nothing about the key.
fn has_effect(op: &Op) -> bool {
    match &op.answer {
        Some(Answer::NotHeld | Answer::Failed { surely_not_applied: true, .. }) => false,
        Some(Answer::Failed { .. }) | None => !matches!(op.call, Call::Get { .. }),
        Some(_) => true,
    }
}

fn brief(op: &Op) -> String {
    format!("{:?} -> {:?} [{}..{}]", op.call, op.answer, op.begin, op.end_or_never())
}

enum Verdict {
    Yes,
    No { at: usize },
    Undecided,
}

fn is_linearizable(ops: &[&Op], promises: &Promises) -> Verdict {
    let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(ops.len() * 2);
    for (at, op) in ops.iter().enumerate() {
        times.push((op.begin, false, at));
        if !op.is_unknown() {
            times.push((op.end_or_never(), true, at));
        }
    }
    times.sort_unstable();
    let mut open = BTreeSet::new();
    let mut ways = vec![Way { state: None, answered: Vec::new(), unknown: Vec::new() }];
    for (_, is_end, at) in times {
        if !is_end {
            open.insert(at);
            continue;
        }
        let Some(next) = take_effect(at, &ways, &open, ops, promises) else { return Verdict::Undecided };
        if next.is_empty() {
            return Verdict::No { at };
        }
        open.remove(&at);
        ways = next;
    }
    Verdict::Yes
}

/// The ways in which the operation `last`, which is answered now, has taken effect. `None` if they are
/// too many.
fn take_effect(
    last: usize,
    ways: &[Way],
    open: &BTreeSet<usize>,
    ops: &[&Op],
    promises: &Promises,
) -> Option<Vec<Way>> {
    let mut done = Fewest::default();
    let mut seen = Fewest::default();
    let mut left = Vec::new();
    for way in ways {
        if way.answered.contains(&last) {
            let mut way = way.clone();
            way.answered.retain(|at| *at != last);
            done.add(way);
        } else if seen.add(way.clone()) {
            left.push(way.clone());
        }
    }
    while let Some(way) = left.pop() {
        if let Some(state) = effect(ops[last], way.state, promises) {
            done.add(Way { state, ..way.clone() });
        }
        for &at in open {
            if at == last || way.answered.contains(&at) || way.unknown.contains(&at) {
                continue;
            }
            let Some(state) = effect(ops[at], way.state, promises) else { continue };
            let mut next = Way { state, ..way.clone() };
            let used = if ops[at].is_unknown() {
                if state == way.state {
                    continue;
                }
                &mut next.unknown
            } else {
                &mut next.answered
            };
            used.push(at);
            used.sort_unstable();
            if seen.add(next.clone()) {
                left.push(next);
            }
        }
        if seen.count > MOST_WAYS || done.count > MOST_WAYS {
            return None;
        }
    }
    Some(done.into_ways())
}

/// Ways, of which none can do only what another can do too.
#[derive(Default)]
struct Fewest {
    ways: HashMap<(State, Vec<usize>), Vec<Vec<usize>>>,
    count: usize,
}

impl Fewest {
    /// Adds a way; false if one that is as good is there.
    fn add(&mut self, way: Way) -> bool {
        let sets = self.ways.entry((way.state, way.answered)).or_default();
        if sets.iter().any(|known| is_subset(known, &way.unknown)) {
            return false;
        }
        let before = sets.len();
        sets.retain(|known| !is_subset(&way.unknown, known));
        self.count = self.count + 1 - (before - sets.len());
        sets.push(way.unknown);
        true
    }

    fn into_ways(self) -> Vec<Way> {
        let mut ways = Vec::with_capacity(self.count);
        for ((state, answered), sets) in self.ways {
            for unknown in sets {
                ways.push(Way { state, answered: answered.clone(), unknown });
            }
        }
        ways
    }
}

fn is_subset(few: &[usize], many: &[usize]) -> bool {
    few.iter().all(|at| many.binary_search(at).is_ok())
}

/// The state after the operation took effect on this one; `None` if it cannot have, with its answer.
fn effect(op: &Op, state: State, promises: &Promises) -> Option<State> {
    match (&op.call, &op.answer) {
        (Call::Get { .. }, Some(Answer::Got(seen))) => {
            (seen.map(|seen| seen.value) == state).then_some(state)
        }
        (Call::Put { value, when, .. }, answer) => {
            let holds = holds(*when, state, promises);
            match answer {
                Some(Answer::Refused) => (holds != Some(true)).then_some(state),
                _ => (holds != Some(false)).then_some(Some(*value)),
            }
        }
        (Call::Delete { when, .. }, answer) => {
            let holds = holds(*when, state, promises);
            match answer {
                Some(Answer::Refused) => (holds != Some(true)).then_some(state),
                Some(Answer::Deleted { existed, previous }) => {
                    let told = previous.is_none_or(|seen| Some(seen.value) == state);
                    (holds != Some(false) && *existed == state.is_some() && told).then_some(None)
                }
                _ => (holds != Some(false)).then_some(None),
            }
        }
        _ => None,
    }
}

/// Whether the condition holds; `None` where the store does not promise to tell.
fn holds(when: When, state: State, promises: &Promises) -> Option<bool> {
    match when {
        When::Any => Some(true),
        When::Absent => Some(state.is_none()),
        When::Present => Some(state.is_some()),
        When::Value(value) => Some(state == Some(value)),
        When::At(value) if promises.cas_detects_recreate => Some(state == Some(value)),
        // A delete and re-create between the store's own read and its write may pass.
        When::At(value) if state == Some(value) => None,
        When::At(_) => state.is_none().then_some(false),
    }
}
