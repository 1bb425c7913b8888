//! Concurrent histories on this store and on kv-mem are linearizable, key by key, also with writes
//! whose outcome nobody knows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it did")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kv_core::{
    Bytes, DeleteOptions, ErrorKind, Key, Precondition, PutOptions, Store, StoreExt, Version, WatchEvent,
};
use kv_mem::{MemConfig, MemStore};
use kv_sled::{Durability, SledConfig, SledStore};

/// What a client asked for. Values are numbers that are written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Put(u64),
    /// Put if absent.
    Create(u64),
    /// Put if this is the value.
    Swap(u64, u64),
    /// Put if the version is the one this value was seen at.
    SwapAt(u64, u64),
    Delete,
    Get,
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Done,
    Refused,
    Existed(bool),
    Value(Option<u64>),
}

#[derive(Clone, Copy, Debug)]
struct Op {
    call: Call,
    begin: u64,
    /// With the time of the answer; none where nobody knows what became of it.
    answer: Option<(Answer, u64)>,
    /// The version that was put or seen.
    version: Option<Version>,
}

/// What a register does with a call: its next state and its answer.
fn carry_out(state: Option<u64>, call: Call) -> (Option<u64>, Answer) {
    match call {
        Call::Put(value) => (Some(value), Answer::Done),
        Call::Create(value) if state.is_none() => (Some(value), Answer::Done),
        // Each value is written once, so it has one version.
        Call::Swap(expected, value) | Call::SwapAt(expected, value) if state == Some(expected) => {
            (Some(value), Answer::Done)
        }
        Call::Create(_) | Call::Swap(..) | Call::SwapAt(..) => (state, Answer::Refused),
        Call::Delete => (None, Answer::Existed(state.is_some())),
        Call::Get => (state, Answer::Value(state)),
    }
}

/// Whether the operations on one key can be put in an order that respects real time and explains
/// every answer. An operation without an answer may be anywhere after its beginning, or nowhere.
fn is_linearizable(ops: &[Op]) -> bool {
    assert!(ops.len() <= 128);
    let answered = ops.iter().enumerate().filter(|(_, op)| op.answer.is_some());
    let all_answered = answered.fold(0u128, |mask, (at, _)| mask | 1 << at);
    let mut seen = HashSet::new();
    let mut open = vec![(0u128, None)];
    while let Some((done, state)) = open.pop() {
        if done & all_answered == all_answered {
            return true;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        let left = || ops.iter().enumerate().filter(|(at, _)| done & (1 << at) == 0);
        // Whatever was answered first must come before what began later.
        let first_end = left().filter_map(|(_, op)| Some(op.answer?.1)).min().unwrap_or(u64::MAX);
        for (at, op) in left().filter(|(_, op)| op.begin <= first_end) {
            let (next, answer) = carry_out(state, op.call);
            if op.answer.is_none_or(|(told, _)| told == answer) {
                open.push((done | 1 << at, next));
            }
        }
    }
    false
}

/// Whether each write has a greater version than what was put or seen before it began, and no read an
/// older one.
fn versions_grow(ops: &[Op]) -> bool {
    let known = |op: &Op| Some((op.begin, op.answer?.1, op.version?, op.call == Call::Get));
    let known: Vec<_> = ops.iter().filter_map(known).collect();
    known.iter().all(|(begin, _, version, is_read)| {
        let before = known.iter().filter(|(_, end, ..)| end < begin);
        before
            .map(|(_, _, earlier, _)| earlier)
            .all(|earlier| earlier < version || *is_read && earlier == version)
    })
}

#[test]
fn the_checker_tells_histories_apart() {
    let op = |call, begin, answer| Op { call, begin, answer, version: None };
    let at = |op: Op, version| Op { version: Some(Version::new(version)), ..op };
    let put = |value, begin, end| op(Call::Put(value), begin, Some((Answer::Done, end)));
    let get = |value, begin, end| op(Call::Get, begin, Some((Answer::Value(value), end)));
    assert!(is_linearizable(&[put(1, 0, 10), get(None, 1, 2), get(Some(1), 3, 4)]));
    assert!(!is_linearizable(&[put(1, 0, 10), get(Some(1), 1, 2), get(None, 3, 4)]), "back in time");
    assert!(!is_linearizable(&[put(1, 0, 1), get(None, 2, 3)]), "an acknowledged write is not seen");
    assert!(!is_linearizable(&[put(1, 0, 1), put(2, 2, 3), get(Some(1), 4, 5)]), "a stale read");
    assert!(!is_linearizable(&[get(Some(1), 0, 1), put(1, 2, 3)]), "seen before it was asked for");
    let unknown = op(Call::Put(7), 0, None);
    assert!(is_linearizable(&[unknown, get(None, 1, 2)]));
    assert!(is_linearizable(&[unknown, get(None, 1, 2), get(Some(7), 3, 4)]));
    assert!(!is_linearizable(&[unknown, get(Some(7), 1, 2), get(None, 3, 4)]), "applied, then not");
    let created = |value, begin, end| op(Call::Create(value), begin, Some((Answer::Done, end)));
    assert!(!is_linearizable(&[created(1, 0, 9), created(2, 0, 9)]), "both cannot win");
    let refused = op(Call::Swap(1, 2), 2, Some((Answer::Refused, 3)));
    assert!(!is_linearizable(&[put(1, 0, 1), refused]), "refused without a reason");
    let swapped = op(Call::SwapAt(1, 3), 4, Some((Answer::Done, 5)));
    assert!(!is_linearizable(&[put(1, 0, 1), put(2, 2, 3), swapped]), "the version was another");
    assert!(versions_grow(&[at(put(1, 0, 1), 5), at(get(Some(1), 2, 3), 5), at(put(2, 4, 5), 6)]));
    assert!(versions_grow(&[at(put(1, 0, 9), 6), at(put(2, 1, 8), 5)]), "at the same time, any order");
    assert!(!versions_grow(&[at(put(1, 0, 1), 5), at(put(2, 2, 3), 5)]), "one version twice");
    assert!(!versions_grow(&[at(put(2, 0, 1), 6), at(get(Some(1), 2, 3), 5)]), "back in time");
}

/// A generator good enough to be repeatable: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// Time as the test sees it: a counter that every beginning and every end moves on.
static TIME: AtomicU64 = AtomicU64::new(0);

fn tick() -> u64 {
    TIME.fetch_add(1, Ordering::SeqCst)
}

fn bytes(value: u64) -> Bytes {
    value.to_string().into()
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// The versions values were seen at, by those who saw them.
type Seen = Option<(u64, Version)>;

async fn ask(store: &dyn Store, key: &Key, call: Call, seen: Seen) -> (Answer, Option<Version>) {
    let put = |value, precondition| {
        let options = PutOptions::default().with_precondition(precondition);
        async move {
            match store.put_with(key, bytes(value), options).await {
                Ok(put) => (Answer::Done, Some(put.version)),
                Err(error) if error.is_conflict() => (Answer::Refused, None),
                Err(error) => panic!("{error}"),
            }
        }
    };
    match call {
        Call::Put(value) => put(value, Precondition::Any).await,
        Call::Create(value) => put(value, Precondition::Absent).await,
        Call::Swap(expected, value) => put(value, Precondition::Value(bytes(expected))).await,
        Call::SwapAt(_, value) => {
            let (_, version) = seen.expect("a version to compare with");
            put(value, Precondition::At(version)).await
        }
        Call::Delete => {
            let deleted = store.delete_with(key, DeleteOptions::default()).await.unwrap();
            (Answer::Existed(deleted.existed), None)
        }
        Call::Get => {
            let entry = store.get_with(key, kv_core::GetOptions::default()).await.unwrap();
            let version = entry.as_ref().map(|entry| entry.version);
            (Answer::Value(entry.map(|entry| number(&entry.value))), version)
        }
    }
}

/// One client: some calls after each other. Now and then it gives up, and does not know.
async fn client(store: Arc<dyn Store>, mut random: Random, keys: Vec<Key>) -> Vec<(usize, Op)> {
    static VALUES: AtomicU64 = AtomicU64::new(0);
    let mut history = Vec::new();
    // Of each key.
    let mut seen: Vec<Seen> = vec![None; keys.len()];
    for _ in 0..10 {
        let at = usize::try_from(random.next(keys.len() as u64)).unwrap();
        let value = VALUES.fetch_add(1, Ordering::Relaxed);
        let call = match (random.next(9), seen[at]) {
            (0 | 1, _) => Call::Put(value),
            (2, _) => Call::Create(value),
            (3, Some((last_seen, _))) => Call::Swap(last_seen, value),
            (4, Some((last_seen, _))) => Call::SwapAt(last_seen, value),
            (5, _) => Call::Delete,
            _ => Call::Get,
        };
        let patience = if random.next(6) == 0 {
            Duration::from_micros(random.next(600))
        } else {
            Duration::from_secs(60)
        };
        let begin = tick();
        let answer = tokio::time::timeout(patience, ask(&*store, &keys[at], call, seen[at])).await.ok();
        // As if the answer had been lost on its way: a store in memory is never too slow.
        let answer = answer.filter(|_| random.next(10) > 0).map(|answer| (answer, tick()));
        let version = answer.and_then(|((_, version), _)| version);
        let answer = answer.map(|((answer, _), end)| (answer, end));
        if let (Some((Answer::Value(Some(value)), _)), Some(version)) = (answer, version) {
            seen[at] = Some((value, version));
        }
        history.push((at, Op { call, begin, answer, version }));
        if random.next(3) == 0 {
            tokio::task::yield_now().await;
        }
    }
    history
}

/// Many short histories, each on keys of its own, by clients of two handles.
async fn check(name: &str, handles: [Arc<dyn Store>; 2], rounds: u64) {
    let seed = std::env::var("KV_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("{name}: KV_SEED={seed}");
    let mut unknown = 0;
    for round in 0..rounds {
        let keys: Vec<Key> = (0..2).map(|n| Key::new(&format!("round{round}/{n}")).unwrap()).collect();
        let clients = (0..6).map(|n| {
            let store = Arc::clone(&handles[n % 2]);
            let random = Random(seed ^ (round << 8) ^ (n as u64) << 56);
            tokio::spawn(client(store, random, keys.clone()))
        });
        let mut by_key: BTreeMap<usize, Vec<Op>> = BTreeMap::new();
        for client in clients.collect::<Vec<_>>() {
            for (at, op) in client.await.unwrap() {
                unknown += u32::from(op.answer.is_none());
                by_key.entry(at).or_default().push(op);
            }
        }
        for (at, ops) in &mut by_key {
            // What it came to in the end is seen by everybody.
            let begin = tick();
            let (last, version) = ask(&*handles[0], &keys[*at], Call::Get, None).await;
            ops.push(Op { call: Call::Get, begin, answer: Some((last, tick())), version });
            ops.sort_by_key(|op| op.begin);
            assert!(versions_grow(ops), "{name}, seed {seed}, round {round}, {}: {ops:#?}", keys[*at]);
            assert!(is_linearizable(ops), "{name}, seed {seed}, round {round}, {}: {ops:#?}", keys[*at]);
        }
    }
    println!("{name}: {rounds} histories, {unknown} operations of unknown outcome");
    assert!(unknown > 0, "no outcome was unknown: the test has lost its point");
    for handle in handles {
        handle.close().await.unwrap();
    }
}

async fn sled_handles(dir: &tempfile::TempDir, durability: Durability) -> [Arc<dyn Store>; 2] {
    let config = || SledConfig::new(dir.path()).with_durability(durability);
    [Arc::new(SledStore::open(config()).await.unwrap()), Arc::new(SledStore::open(config()).await.unwrap())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_on_sled_are_linearizable() {
    let dir = tempfile::tempdir().unwrap();
    check("sled", sled_handles(&dir, Durability::Process).await, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_on_sled_without_flushes_are_linearizable() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Durability::Interval(Duration::from_millis(5));
    check("sled, interval", sled_handles(&dir, interval).await, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_on_sled_with_a_sync_for_each_group_are_linearizable() {
    let dir = tempfile::tempdir().unwrap();
    check("sled, power", sled_handles(&dir, Durability::Power).await, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_on_the_model_are_linearizable() {
    let open = || MemStore::open(MemConfig::new().with_name("linearizable")).unwrap();
    check("mem", [Arc::new(open()), Arc::new(open())], 300).await;
}

/// A write that was given up does not come back to life after the store was opened again: by then it
/// is decided, one way or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_write_is_decided_when_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::new("a").unwrap();
    for round in 0..30u64 {
        let [store, other] = sled_handles(&dir, Durability::Process).await;
        let patience = Duration::from_micros(round * 20);
        drop(tokio::time::timeout(patience, ask(&*store, &key, Call::Put(round), None)).await);
        store.close().await.unwrap();
        other.close().await.unwrap();
        let [store, other] = sled_handles(&dir, Durability::Process).await;
        let mut watch = other.watch("").await.unwrap();
        let first = store.get("a").await.unwrap().map(|entry| entry.version);
        // Whatever was still on its way would come before these.
        let last = [store.put("b", "").await.unwrap(), other.put("b", "").await.unwrap()];
        for version in last {
            let event = watch.next().await.unwrap().unwrap();
            assert!(matches!(&event, WatchEvent::Put(entry) if entry.version == version), "{event:?}");
        }
        assert_eq!(other.get("a").await.unwrap().map(|entry| entry.version), first);
        store.close().await.unwrap();
        assert_eq!(store.get("a").await.unwrap_err().kind(), &ErrorKind::Closed);
        other.close().await.unwrap();
    }
}
