//! Every value is written once. So a value that is seen tells which write was applied, and a value at
//! two versions tells that a write was applied twice.

use std::collections::HashMap;

use super::findings::Findings;
use crate::history::{Answer, Call, Event, History, Note, Op, Seen, Value, When};

/// A sight of a key: what was seen and between which times.
struct Sight<'a> {
    key: &'a str,
    seen: Seen,
    begin: u64,
    end: u64,
    /// Whether the client itself made the write, and was told the version.
    written: bool,
}

pub(super) fn check(history: &History, findings: &mut Findings) {
    let writes: HashMap<Value, &Op> = history
        .ops
        .iter()
        .filter_map(|op| match &op.call {
            Call::Put { value, .. } => Some((*value, op)),
            _ => None,
        })
        .collect();
    let sights = sights(history);
    let mut versions: HashMap<Value, u64> = HashMap::new();
    for sight in &sights {
        let Seen { value, version, created } = sight.seen;
        match writes.get(&value) {
            None => findings.add(
                "invented value",
                sight.end,
                format!("{} holds the value {value}, which nobody wrote", sight.key),
            ),
            Some(op) if op.begin > sight.end => findings.add(
                "value before its write",
                sight.end,
                format!("{} holds the value {value} before its put began at {}", sight.key, op.begin),
            ),
            Some(op) if is_refusal(op) => findings.add(
                "refused write is visible",
                sight.end,
                format!("{} holds the value {value}, whose put was answered {:?}", sight.key, op.answer),
            ),
            Some(_) => {}
        }
        let known = *versions.entry(value).or_insert(version);
        if known != version {
            findings.add(
                "write applied twice",
                sight.end,
                format!("{}: the value {value} was seen at the versions {known} and {version}", sight.key),
            );
        }
        if created > version {
            findings.add(
                "dishonest creation",
                sight.end,
                format!("{}: created at {created}, after its version {version}", sight.key),
            );
        }
        if writes.get(&value).is_some_and(|op| creates(op)) && !sight.written && created != version {
            findings.add(
                "dishonest creation",
                sight.end,
                format!("{}: the put of {value} created it at {version}, it tells {created}", sight.key),
            );
        }
    }
    check_order(&sights, findings);
}

/// Writes of a key, in the order of real time, have rising versions; no write that was acknowledged
/// before another began has the greater version.
fn check_order(sights: &[Sight<'_>], findings: &mut Findings) {
    let mut by_key: HashMap<&str, Vec<&Sight<'_>>> = HashMap::new();
    for sight in sights.iter().filter(|sight| sight.written) {
        by_key.entry(sight.key).or_default().push(sight);
    }
    for (key, mut written) in by_key {
        written.sort_by_key(|sight| sight.end);
        let mut greatest = Vec::with_capacity(written.len());
        let mut so_far = 0;
        for sight in &written {
            so_far = so_far.max(sight.seen.version);
            greatest.push((sight.end, so_far));
        }
        for sight in &written {
            let ended = greatest.partition_point(|(end, _)| *end < sight.begin);
            if ended > 0 && greatest[ended - 1].1 >= sight.seen.version {
                findings.add(
                    "versions fall",
                    sight.end,
                    format!(
                        "{key}: the put of {} has the version {}, after version {} was acknowledged",
                        sight.seen.value,
                        sight.seen.version,
                        greatest[ended - 1].1
                    ),
                );
            }
        }
    }
}

fn is_refusal(op: &Op) -> bool {
    matches!(
        op.answer,
        Some(Answer::Refused | Answer::NotHeld | Answer::Failed { surely_not_applied: true, .. })
    )
}

fn creates(op: &Op) -> bool {
    matches!(op.call, Call::Put { when: When::Absent, .. })
}

fn sights(history: &History) -> Vec<Sight<'_>> {
    let mut sights = Vec::new();
    for op in &history.ops {
        let (key, seen, written) = match (&op.call, &op.answer) {
            (Call::Put { key, value, .. }, Some(Answer::Put { version })) => {
                // The version it was created at is not told to a writer.
                (key, Seen { value: *value, version: *version, created: *version }, true)
            }
            (Call::Get { key, .. }, Some(Answer::Got(Some(seen)))) => (key, *seen, false),
            (Call::Delete { key, .. }, Some(Answer::Deleted { previous: Some(seen), .. })) => {
                (key, *seen, false)
            }
            _ => continue,
        };
        sights.push(Sight { key, seen, begin: op.begin, end: op.end_or_never(), written });
    }
    for noted in &history.notes {
        if let Note::Watched { event: Event::Put { key, seen }, .. } = &noted.note {
            sights.push(Sight { key, seen: *seen, begin: 0, end: noted.at, written: false });
        }
    }
    sights
}
