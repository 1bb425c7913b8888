//! The checker is tested by faults: each is put into a clean history and must be found by name, and
//! the clean history must pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use kv_torture::check::check;
use kv_torture::history::{
    Answer, Call, Client, Event, History, Life, Note, Noted, Op, Promises, Seen, When,
};

const SECOND: u64 = 1_000_000_000;
const A: Client = Client { process: 1, handle: 0 };
const B: Client = Client { process: 2, handle: 0 };

fn op(client: Client, begin: u64, end: u64, call: Call, answer: Answer) -> Op {
    Op { client, begin: begin * SECOND, end: Some(end * SECOND), call, answer: Some(answer) }
}

fn put(key: &str, value: u64, when: When) -> Call {
    Call::Put { key: key.into(), value, when, fence: None, life: Life::Permanent }
}

fn fenced(value: u64, token: u64) -> Call {
    Call::Put { key: "fenced/l".into(), value, when: When::Any, fence: Some(token), life: Life::Permanent }
}

fn expiring(key: &str, value: u64, life: Life) -> Call {
    Call::Put { key: key.into(), value, when: When::Any, fence: None, life }
}

fn get(key: &str) -> Call {
    Call::Get { key: key.into(), stale: false }
}

fn delete(key: &str, when: When) -> Call {
    Call::Delete { key: key.into(), when }
}

fn at(version: u64) -> Answer {
    Answer::Put { version }
}

fn seen(value: u64, version: u64, created: u64) -> Answer {
    Answer::Got(Some(Seen { value, version, created }))
}

fn note(client: Client, at: u64, note: Note) -> Noted {
    Noted { client, at: at * SECOND, note }
}

fn watched(at: u64, event: Event) -> Noted {
    note(A, at, Note::Watched { watch: 1, event })
}

fn event(value: u64, version: u64, created: u64) -> Event {
    Event::Put { key: "reg/k".into(), seen: Seen { value, version, created } }
}

fn acquire(client: Client, begin: u64, end: u64, token: u64) -> Op {
    op(client, begin, end, Call::Acquire { lock: "l".into() }, Answer::Acquired { token })
}

fn held(client: Client, at: u64, token: u64) -> Noted {
    note(client, at, Note::Held { lock: "l".into(), token })
}

fn lost(client: Client, at: u64, token: u64, grace: u64) -> Noted {
    note(client, at, Note::Lost { lock: "l".into(), token, expired: true, grace: grace * SECOND })
}

fn failed(surely_not_applied: bool) -> Answer {
    Answer::Failed { surely_not_applied, error: "it failed".into() }
}

/// A history with something of everything and nothing wrong.
fn clean() -> History {
    let promises = Promises {
        linearizable_reads: true,
        watch_complete: true,
        cas_detects_recreate: true,
        timeout: 3 * SECOND,
        session_ttl: 5 * SECOND,
        units: 500,
        unit_keys: 5,
    };
    let mut ops = vec![
        op(A, 10, 11, put("reg/k", 1, When::Absent), at(100)),
        op(A, 12, 13, get("reg/k"), seen(1, 100, 100)),
        op(B, 12, 14, put("reg/k", 2, When::At(1)), at(101)),
        op(A, 15, 16, put("reg/k", 3, When::At(1)), Answer::Refused),
        op(A, 17, 18, get("reg/k"), seen(2, 101, 100)),
        // Nobody knows what became of this one; the read shows that it was applied.
        op(B, 19, 22, put("reg/k", 4, When::Any), failed(false)),
        op(A, 23, 24, get("reg/k"), seen(4, 102, 100)),
        // This one was surely not applied.
        op(B, 25, 26, put("reg/k", 5, When::Any), failed(true)),
        op(
            A,
            27,
            28,
            delete("reg/k", When::Present),
            Answer::Deleted { existed: true, previous: Some(Seen { value: 4, version: 102, created: 100 }) },
        ),
        op(A, 29, 30, get("reg/k"), Answer::Got(None)),
        op(A, 31, 32, put("reg/k", 6, When::Absent), at(104)),
        op(B, 40, 41, Call::Total { at_once: true }, Answer::Sum { sum: 500, keys: 5 }),
        acquire(A, 50, 51, 7),
        op(A, 52, 53, fenced(7, 7), at(110)),
        acquire(B, 52, 60, 8),
        op(A, 61, 62, fenced(8, 7), Answer::NotHeld),
        op(B, 62, 63, fenced(9, 8), at(111)),
        op(B, 64, 65, Call::Release { lock: "l".into(), token: 8 }, Answer::Done),
        op(A, 70, 71, expiring("ttl/1", 10, Life::Ttl(5_000)), at(120)),
        op(B, 72, 73, get("ttl/1"), seen(10, 120, 120)),
        op(B, 76, 77, get("ttl/1"), Answer::Got(None)),
        op(A, 70, 71, expiring("sess/1", 11, Life::Session), at(121)),
        op(A, 72, 73, get("sess/1"), seen(11, 121, 121)),
    ];
    // Its process was killed: no answer.
    ops.push(Op {
        client: B,
        begin: 33 * SECOND,
        end: None,
        call: put("reg/k", 12, When::Any),
        answer: None,
    });
    let notes = vec![
        note(A, 1, Note::Opened),
        note(B, 1, Note::Opened),
        watched(9, Event::Synced),
        watched(11, event(1, 100, 100)),
        watched(14, event(2, 101, 100)),
        watched(24, event(4, 102, 100)),
        watched(28, Event::Delete { key: "reg/k".into(), version: Some(103) }),
        watched(32, event(6, 104, 104)),
        watched(33, Event::Resync),
        watched(33, event(6, 104, 104)),
        watched(33, Event::Synced),
        held(A, 52, 7),
        lost(A, 55, 7, 1),
        held(B, 61, 8),
        note(A, 71, Note::Session { handle: 0, held: true }),
        note(A, 90, Note::Session { handle: 0, held: true }),
        note(A, 95, Note::Healed),
        note(A, 96, Note::Recovered),
        note(B, 96, Note::Recovered),
        note(A, 97, Note::Settled { watch: 1, differences: Vec::new() }),
        note(A, 98, Note::Closed { descriptors_before: 9, descriptors_after: 9 }),
        note(A, 99, Note::Left { keys: Vec::new() }),
    ];
    History { promises, ops, notes }
}

fn sorted(mut history: History) -> History {
    history.ops.sort_by_key(|op| op.begin);
    history.notes.sort_by_key(|note| note.at);
    history
}

/// Puts a fault in and asks for the rule that names it.
#[track_caller]
fn finds(rule: &str, fault: impl FnOnce(&mut History)) {
    let mut history = clean();
    fault(&mut history);
    let findings = check(&sorted(history));
    let rules: Vec<_> = findings.violations.iter().map(|violation| violation.rule).collect();
    assert!(rules.contains(&rule), "{rule} is not among {:#?}", findings.violations);
    assert_eq!(findings.undecided, Vec::<String>::new());
}

fn at_begin(history: &mut History, begin: u64) -> &mut Op {
    history.ops.iter_mut().find(|op| op.begin == begin * SECOND).expect("an operation begins then")
}

#[test]
fn a_clean_history_passes() {
    let findings = check(&sorted(clean()));
    assert_eq!(findings.violations, Vec::new());
    assert_eq!(findings.undecided, Vec::<String>::new());
}

#[test]
fn a_read_of_the_past() {
    finds("not linearizable", |history| at_begin(history, 17).answer = Some(seen(1, 100, 100)));
}

#[test]
fn a_lost_write() {
    finds("not linearizable", |history| at_begin(history, 29).answer = Some(seen(4, 102, 100)));
}

#[test]
fn a_condition_that_did_not_hold_and_passed() {
    finds("not linearizable", |history| at_begin(history, 15).answer = Some(at(102)));
}

#[test]
fn a_condition_that_held_and_was_refused() {
    finds("not linearizable", |history| at_begin(history, 31).answer = Some(Answer::Refused));
}

#[test]
fn a_delete_that_tells_the_wrong_entry() {
    finds("not linearizable", |history| {
        let previous = Some(Seen { value: 2, version: 101, created: 100 });
        at_begin(history, 27).answer = Some(Answer::Deleted { existed: true, previous });
    });
}

#[test]
fn a_delete_that_says_nothing_was_there() {
    finds("not linearizable", |history| {
        let nothing = Answer::Deleted { existed: false, previous: None };
        at_begin(history, 27).call = delete("reg/k", When::Any);
        at_begin(history, 27).answer = Some(nothing);
    });
}

#[test]
fn a_write_applied_twice() {
    finds("write applied twice", |history| at_begin(history, 17).answer = Some(seen(2, 103, 100)));
}

#[test]
fn a_refused_write_that_is_seen() {
    finds("refused write is visible", |history| at_begin(history, 29).answer = Some(seen(5, 103, 100)));
    finds("refused write is visible", |history| at_begin(history, 17).answer = Some(seen(3, 102, 100)));
}

#[test]
fn a_value_that_nobody_wrote() {
    finds("invented value", |history| at_begin(history, 17).answer = Some(seen(77, 101, 100)));
}

#[test]
fn a_value_from_the_future() {
    finds("value before its write", |history| at_begin(history, 12).answer = Some(seen(6, 104, 104)));
}

#[test]
fn a_version_that_falls() {
    finds("versions fall", |history| at_begin(history, 31).answer = Some(at(99)));
}

#[test]
fn a_creation_that_is_told_wrongly() {
    finds("dishonest creation", |history| at_begin(history, 72).answer = Some(seen(10, 120, 125)));
    finds("dishonest creation", |history| at_begin(history, 12).answer = Some(seen(1, 100, 50)));
}

#[test]
fn a_unit_that_is_seen_twice() {
    finds("units lost or made", |history| {
        at_begin(history, 40).answer = Some(Answer::Sum { sum: 501, keys: 5 });
    });
}

#[test]
fn a_key_that_is_missing_in_a_snapshot() {
    finds("units lost or made", |history| {
        at_begin(history, 40).answer = Some(Answer::Sum { sum: 500, keys: 4 });
    });
}

#[test]
fn two_holders() {
    finds("two holders", |history| history.notes.push(held(A, 61, 7)));
}

#[test]
fn a_token_for_two() {
    finds("token given twice", |history| history.ops.push(acquire(B, 66, 67, 8)));
}

#[test]
fn a_token_that_falls() {
    finds("tokens fall", |history| history.ops.push(acquire(B, 66, 67, 6)));
}

#[test]
fn a_fence_of_the_past() {
    finds("fence of the past passed", |history| at_begin(history, 61).answer = Some(at(112)));
}

#[test]
fn a_fenced_write_that_comes_late() {
    // It began in time; its version tells that it was applied after one of the next hold.
    finds("fence of the past passed", |history| at_begin(history, 52).answer = Some(at(112)));
}

#[test]
fn a_grace_that_is_not_kept() {
    finds("grace too short", |history| history.notes.push(lost(A, 56, 7, 10)));
}

#[test]
fn a_stopped_process_is_no_fault() {
    let mut history = clean();
    history.notes.push(lost(A, 61, 7, 1));
    history.notes.push(note(A, 61, Note::Stalled { since: 54 * SECOND }));
    assert_eq!(check(&sorted(history)).violations, Vec::new());
}

#[test]
fn a_hold_that_is_broken_is_no_fault() {
    let mut history = clean();
    history.notes.push(held(A, 61, 7));
    history.notes.push(note(B, 59, Note::Broken { lock: "l".into(), token: 7 }));
    assert_eq!(check(&sorted(history)).violations, Vec::new());
}

#[test]
fn a_watch_out_of_order() {
    finds("watch in disorder", |history| history.notes.push(watched(25, event(2, 101, 100))));
}

#[test]
fn a_watch_that_doubles() {
    finds("watch doubles", |history| history.notes.push(watched(26, event(4, 102, 100))));
}

#[test]
fn a_watch_that_misses_a_change() {
    finds("watch misses a change", |history| {
        history.notes.retain(|noted| noted.at != 14 * SECOND && noted.at != 33 * SECOND);
    });
}

#[test]
fn a_resync_that_goes_back() {
    finds("resync goes back", |history| {
        for noted in history.notes.iter_mut().filter(|noted| noted.at == 33 * SECOND) {
            if let Note::Watched { event: Event::Put { seen, .. }, .. } = &mut noted.note {
                *seen = Seen { value: 4, version: 102, created: 100 };
            }
        }
    });
}

#[test]
fn a_watch_that_tells_another_state_than_the_list() {
    finds("watch does not tell the state", |history| {
        history.notes.push(note(A, 97, Note::Settled { watch: 1, differences: vec!["reg/k".into()] }));
    });
}

#[test]
fn a_key_that_expires_too_early() {
    finds("expired too early", |history| at_begin(history, 72).answer = Some(Answer::Got(None)));
}

#[test]
fn a_session_key_that_goes_while_the_session_is_held() {
    finds("session key gone while held", |history| {
        history.ops.push(op(A, 75, 76, get("sess/1"), Answer::Got(None)));
    });
}

#[test]
fn a_session_key_that_goes_with_its_session_is_no_fault() {
    let mut history = clean();
    history.ops.push(op(A, 75, 76, get("sess/1"), Answer::Got(None)));
    history.notes.push(note(A, 78, Note::Session { handle: 0, held: false }));
    assert_eq!(check(&sorted(history)).violations, Vec::new());
}

#[test]
fn a_key_that_is_left() {
    finds("left over", |history| {
        history.notes.push(note(A, 99, Note::Left { keys: vec!["sess/1".into()] }));
    });
}

#[test]
fn a_call_past_its_deadline() {
    finds("deadline passed", |history| {
        history.ops.push(op(A, 80, 86, put("reg/other", 20, When::Any), failed(false)));
    });
}

#[test]
fn a_call_of_a_stopped_process_may_be_late() {
    let mut history = clean();
    history.ops.push(op(A, 80, 86, put("reg/other", 20, When::Any), failed(false)));
    history.notes.push(note(A, 85, Note::Stalled { since: 81 * SECOND }));
    assert_eq!(check(&sorted(history)).violations, Vec::new());
}

#[test]
fn a_handle_that_never_serves_again() {
    finds("no recovery", |history| history.notes.retain(|noted| noted.note != Note::Recovered));
}

#[test]
fn a_handle_that_serves_again_too_late() {
    finds("no recovery", |history| {
        for noted in history.notes.iter_mut().filter(|noted| noted.note == Note::Recovered) {
            noted.at = 200 * SECOND;
        }
    });
}

#[test]
fn a_descriptor_that_is_left_open() {
    finds("descriptors left open", |history| {
        let note_ = Note::Closed { descriptors_before: 9, descriptors_after: 12 };
        history.notes.push(note(A, 98, note_));
    });
}

/// Many unknown outcomes on one key are decided, not given up: only those that are needed count.
#[test]
fn unknown_outcomes_do_not_double_the_search() {
    let mut history = clean();
    for number in 0..40 {
        let call = put("reg/u", 1_000 + number, When::Any);
        history.ops.push(op(A, 200 + number, 240, call, failed(false)));
    }
    let end = |n: u64| 300 + n;
    for number in 0..10 {
        let read = seen(1_000 + number * 3, 500 + number, 500);
        history.ops.push(op(B, end(number), end(number), get("reg/u"), read));
    }
    let findings = check(&sorted(history));
    assert_eq!(findings.undecided, Vec::<String>::new());
    let rules: Vec<_> = findings.violations.iter().map(|violation| violation.rule).collect();
    assert!(rules.iter().all(|rule| *rule == "deadline passed"), "{:#?}", findings.violations);
}
