//! Calls end by their deadline, handles serve again after the faults, and closing leaves nothing.

use std::collections::HashMap;

use super::findings::Findings;
use crate::history::{Call, History, Note};

/// How much later than its deadline a call may return on a busy machine.
const SLACK: u64 = 2_000_000_000;

/// How long a handle may take to serve again once the servers are whole.
const RECOVERY: u64 = 60_000_000_000;

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut stalls: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
    for noted in &history.notes {
        if let Note::Stalled { since } = noted.note {
            stalls.entry(noted.client.process).or_default().push((since, noted.at));
        }
    }
    for op in &history.ops {
        // A wait for a lock ends by its own options, and a read of all keys is several requests.
        if matches!(op.call, Call::Acquire { .. } | Call::Total { .. }) {
            continue;
        }
        let Some(end) = op.end else { continue };
        // A transfer reads, then writes.
        let requests = if matches!(op.call, Call::Transfer { .. }) { 2 } else { 1 };
        let took = end.saturating_sub(op.begin);
        let of_process = stalls.get(&op.client.process).into_iter().flatten();
        let stalled: u64 = of_process
            .filter(|(since, until)| *since < end && *until > op.begin)
            .map(|(since, until)| until - since)
            .sum();
        if took > history.promises.timeout * requests + SLACK + stalled {
            findings.add("deadline passed", end, format!("{:?} of {:?} took {took} ns", op.call, op.client));
        }
    }
    let healed = history.notes.iter().rev().find(|noted| noted.note == Note::Healed).map(|noted| noted.at);
    let Some(healed) = healed else { return };
    for noted in history.notes.iter().filter(|noted| noted.note == Note::Opened) {
        let of_process = |note: &Note| {
            history
                .notes
                .iter()
                .filter(|other| other.client == noted.client && other.at > healed)
                .find(|other| other.note == *note)
                .map(|other| other.at)
        };
        let process = noted.client.process;
        let killed = history
            .notes
            .iter()
            .any(|other| matches!(other.note, Note::Killed { process: killed } if killed == process));
        if killed {
            continue;
        }
        match of_process(&Note::Recovered) {
            Some(at) if at - healed <= RECOVERY => {}
            Some(at) => findings.add(
                "no recovery",
                at,
                format!("{:?} served {} ns after the servers were whole", noted.client, at - healed),
            ),
            None => findings.add("no recovery", healed, format!("{:?} never served again", noted.client)),
        }
    }
    for noted in &history.notes {
        if let Note::Closed { descriptors_before, descriptors_after } = noted.note
            && descriptors_after > descriptors_before
        {
            findings.add(
                "descriptors left open",
                noted.at,
                format!(
                    "process {} had {descriptors_before} descriptors before it opened its handles and \
                         {descriptors_after} after it closed them",
                    noted.client.process
                ),
            );
        }
    }
}
