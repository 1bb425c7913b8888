//! Keys that expire: never before their time, and gone by the bound.

use std::collections::HashMap;

use super::findings::Findings;
use crate::history::{Answer, Call, Client, History, Life, Note, Op};

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut puts: HashMap<&str, Vec<(&Op, Life)>> = HashMap::new();
    for op in &history.ops {
        match &op.call {
            Call::Put { key, life, .. } if *life != Life::Permanent => {
                puts.entry(key).or_default().push((op, *life));
            }
            Call::Get { key, stale: false } if op.answer == Some(Answer::Got(None)) => {
                let Some(puts) = puts.get(key.as_str()) else { continue };
                check_absent(history, key, puts, op, findings);
            }
            _ => {}
        }
    }
    for noted in &history.notes {
        if let Note::Left { keys } = &noted.note {
            for key in keys {
                findings.add("left over", noted.at, format!("{key} is there after its bound"));
            }
        }
    }
}

/// The key is absent: has it gone before its time?
fn check_absent(history: &History, key: &str, puts: &[(&Op, Life)], get: &Op, findings: &mut Findings) {
    let acknowledged = |op: &Op| matches!(op.answer, Some(Answer::Put { .. }));
    let before = puts.iter().rev().find(|(op, _)| acknowledged(op) && op.end_or_never() < get.begin);
    let Some((put, life)) = before else { return };
    match life {
        Life::Ttl(ttl) => {
            let earliest = put.begin.saturating_add(ttl * 1_000_000);
            if get.end_or_never() < earliest {
                findings.add(
                    "expired too early",
                    get.end_or_never(),
                    format!("{key} was put with {ttl} ms at {}, and is absent", put.begin),
                );
            }
        }
        Life::Session => {
            let until = get.end_or_never().saturating_add(history.promises.session_ttl);
            if get.client == put.client && still_held(history, put.client, put.end_or_never(), until) {
                findings.add(
                    "session key gone while held",
                    get.end_or_never(),
                    format!("{key} is absent, and the session of {:?} is held until {until}", put.client),
                );
            }
        }
        Life::Permanent => {}
    }
}

/// Whether the handle lived, and said all that time that its session is held.
fn still_held(history: &History, client: Client, from: u64, until: u64) -> bool {
    let mut told_after = false;
    for noted in history.notes.iter().filter(|noted| noted.client == client && noted.at >= from) {
        if let Note::Session { held, .. } = noted.note {
            if !held && noted.at <= until {
                return false;
            }
            told_after |= noted.at >= until;
        }
    }
    told_after
}
