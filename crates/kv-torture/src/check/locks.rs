//! Locks: one holder at a time, tokens that rise, fences of the past that are refused, and losses that
//! are reported before another holds.

use std::collections::BTreeMap;

use super::findings::Findings;
use crate::history::{Answer, Call, Client, History, Note, Op};

/// An acquisition.
struct Hold<'a> {
    token: u64,
    client: Client,
    begin: u64,
    end: u64,
    lock: &'a str,
}

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut locks: BTreeMap<&str, Vec<Hold<'_>>> = BTreeMap::new();
    for op in &history.ops {
        if let (Call::Acquire { lock }, Some(Answer::Acquired { token })) = (&op.call, &op.answer) {
            let hold =
                Hold { token: *token, client: op.client, begin: op.begin, end: op.end_or_never(), lock };
            locks.entry(lock).or_default().push(hold);
        }
    }
    for holds in locks.values_mut() {
        holds.sort_by_key(|hold| hold.token);
        check_tokens(holds, findings);
    }
    for noted in &history.notes {
        match &noted.note {
            Note::Held { lock, token } => {
                let next = locks.get(lock.as_str()).and_then(|holds| next_after(holds, *token));
                if let Some(next) = next.filter(|next| next.end < noted.at) {
                    // A hold that is broken from outside is reported within the latency of a watch.
                    if !is_broken(history, lock, *token) {
                        findings.add(
                            "two holders",
                            noted.at,
                            format!(
                                "{lock}: the guard of token {token} said that it holds, after {:?} had \
                                 acquired it with token {} at {}",
                                next.client, next.token, next.end
                            ),
                        );
                    }
                }
            }
            Note::Lost { lock, token, expired: true, grace } => {
                let next = locks.get(lock.as_str()).and_then(|holds| next_after(holds, *token));
                let stalled =
                    || has_stalled(history, noted.client, noted.at.saturating_sub(*grace), noted.at);
                if let Some(next) = next.filter(|next| next.end < noted.at.saturating_add(*grace))
                    && !stalled()
                    && !is_broken(history, lock, *token)
                {
                    findings.add(
                        "grace too short",
                        noted.at,
                        format!(
                            "{lock}: the loss of token {token} was reported with a grace of {grace} ns, \
                                 and token {} was acquired after {} ns",
                            next.token,
                            i128::from(next.end) - i128::from(noted.at)
                        ),
                    );
                }
            }
            _ => {}
        }
    }
    check_fences(history, &locks, findings);
}

fn check_tokens(holds: &[Hold<'_>], findings: &mut Findings) {
    for (at, hold) in holds.iter().enumerate() {
        if at > 0 && holds[at - 1].token == hold.token {
            findings.add(
                "token given twice",
                hold.end,
                format!(
                    "{}: {:?} and {:?} acquired it with token {}",
                    hold.lock,
                    holds[at - 1].client,
                    hold.client,
                    hold.token
                ),
            );
        }
    }
    // In the order of tokens, no acquisition was over before an earlier one began.
    let mut latest_begin = 0;
    for hold in holds {
        if hold.end < latest_begin {
            findings.add(
                "tokens fall",
                hold.end,
                format!(
                    "{}: token {} was acquired before a smaller one was asked for",
                    hold.lock, hold.token
                ),
            );
        }
        latest_begin = latest_begin.max(hold.begin);
    }
}

/// A fenced write that begins after a later hold was acquired is refused; and by the versions it gave,
/// none was applied after one of a later hold.
fn check_fences(history: &History, locks: &BTreeMap<&str, Vec<Hold<'_>>>, findings: &mut Findings) {
    let mut applied: BTreeMap<&str, Vec<(u64, u64, u64)>> = BTreeMap::new();
    for op in &history.ops {
        let Some((key, token, version)) = fenced_put(op) else { continue };
        let Some(lock) = key.strip_prefix("fenced/") else { continue };
        let next = locks.get(lock).and_then(|holds| next_after(holds, token));
        if let Some(next) = next.filter(|next| next.end < op.begin) {
            findings.add(
                "fence of the past passed",
                op.end_or_never(),
                format!(
                    "{key}: a write with token {token} began after token {} was acquired, and was applied",
                    next.token
                ),
            );
        }
        applied.entry(key).or_default().push((version, token, op.end_or_never()));
    }
    for (key, mut writes) in applied {
        writes.sort_unstable();
        let mut greatest = 0;
        for (version, token, at) in writes {
            if token < greatest {
                findings.add(
                    "fence of the past passed",
                    at,
                    format!("{key}: version {version} is by token {token}, after one by token {greatest}"),
                );
            }
            greatest = greatest.max(token);
        }
    }
}

fn fenced_put(op: &Op) -> Option<(&str, u64, u64)> {
    match (&op.call, &op.answer) {
        (Call::Put { key, fence: Some(token), .. }, Some(Answer::Put { version })) => {
            Some((key, *token, *version))
        }
        _ => None,
    }
}

/// The first acquisition of those with a greater token that is known to be over. The holds are in the
/// order of tokens.
fn next_after<'a, 'b>(holds: &'b [Hold<'a>], token: u64) -> Option<&'b Hold<'a>> {
    holds[holds.partition_point(|hold| hold.token <= token)..].iter().min_by_key(|hold| hold.end)
}

fn is_broken(history: &History, lock: &str, token: u64) -> bool {
    history.notes.iter().any(|noted| {
        matches!(&noted.note, Note::Broken { lock: broken, token: of } if broken == lock && *of == token)
    })
}

fn has_stalled(history: &History, client: Client, from: u64, to: u64) -> bool {
    history.notes.iter().any(|noted| {
        noted.client.process == client.process
            && matches!(noted.note, Note::Stalled { since } if since <= to && noted.at >= from)
    })
}
