//! `kill -9` of a writer: nothing acknowledged is missing, and the store opens every time.
//!
//! The writer is this test binary again, running [`writer`] alone. It says through a pipe what it is
//! about to write and what was acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it did")]
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use kv_core::{Bytes, Key, StoreExt, Txn, TxnOp, Version};
use kv_sled::{SledConfig, SledStore};

const TASKS: u64 = 8;
const INTERVAL: &str = "interval&flush_interval=20ms";
const KEYS_PER_TASK: u64 = 20;
const TURNS: u64 = 50;

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

fn seed() -> u64 {
    let seed = std::env::var("KV_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed
        .unwrap_or_else(|| u64::from(std::process::id()) ^ Instant::now().elapsed().subsec_nanos() as u64);
    println!("KV_SEED={seed}");
    seed
}

/// The value with this number: one in eight is larger than a chunk, one in four larger than what is
/// stored inline.
fn value(number: u64) -> Bytes {
    let len = match number % 8 {
        0 => 40_000,
        1 | 2 => 3_000,
        _ => 20,
    };
    let mut value = number.to_string().into_bytes();
    value.resize(len.max(value.len()), b' ');
    value.into()
}

fn number_of(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().trim_end().parse().unwrap()
}

/// A short history, so that it is trimmed all the time and opening is quick.
fn config(dir: &Path, durability: &str) -> SledConfig {
    let url = format!("sled:{}?history=200&wait=20s&durability={durability}", dir.display());
    SledConfig::from_url(&url.parse().unwrap()).unwrap()
}

/// What a writer was told to do with a key, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Value(u64),
    Absent,
}

/// The state each key may be in: the last acknowledged one or, for the one write of each task that
/// was on its way, that.
#[derive(Default)]
struct Expected {
    keys: BTreeMap<String, State>,
    on_the_way: BTreeMap<String, Vec<(String, State)>>,
    last_version: u64,
    acknowledged: u64,
}

impl Expected {
    /// `try TASK KEY=NUMBER KEY=-` before, `ack TASK VERSION` after.
    fn learn(&mut self, line: &str) {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("try"), Some(task)) => {
                let writes = words.map(|word| {
                    let (key, state) = word.split_once('=').unwrap();
                    let state =
                        if state == "-" { State::Absent } else { State::Value(state.parse().unwrap()) };
                    (key.to_owned(), state)
                });
                self.on_the_way.insert(task.to_owned(), writes.collect());
            }
            (Some("ack"), Some(task)) => {
                let version: u64 = words.next().unwrap().parse().unwrap();
                self.keys.extend(self.on_the_way.remove(task).unwrap());
                self.last_version = self.last_version.max(version);
                self.acknowledged += 1;
            }
            _ => {}
        }
    }

    async fn check(&mut self, store: &SledStore, round: u32) {
        let entries = store.entries("").await.unwrap();
        let found: BTreeMap<String, (u64, Version)> = entries
            .into_iter()
            .map(|entry| {
                let number = number_of(&entry.value);
                assert_eq!(entry.value, value(number), "round {round}: invented data under {}", entry.key);
                (entry.key.as_str().to_owned(), (number, entry.version))
            })
            .collect();
        let state = |key: &str| found.get(key).map_or(State::Absent, |(number, _)| State::Value(*number));
        for writes in std::mem::take(&mut self.on_the_way).into_values() {
            let applied = writes.iter().filter(|(key, new)| state(key) == *new).count();
            let as_before = |(key, _): &(String, State)| {
                state(key) == self.keys.get(key).copied().unwrap_or(State::Absent)
            };
            assert!(
                applied == writes.len() || writes.iter().all(as_before),
                "round {round}: half of a transaction is there: {writes:?}"
            );
            if applied == writes.len() {
                self.keys.extend(writes);
            }
        }
        for (key, expected) in &self.keys {
            assert_eq!(state(key), *expected, "round {round}: {key}");
        }
        for key in found.keys() {
            assert!(self.keys.contains_key(key), "round {round}: nobody wrote {key}");
        }
        let version = store.put("check", value(3)).await.unwrap();
        assert!(version.get() > self.last_version, "round {round}: {version} was given before");
        self.last_version = version.get();
        self.keys.insert("check".to_owned(), State::Value(3));
    }
}

struct Writer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Writer {
    fn start(dir: &Path, seed: u64, durability: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env("KV_SLED_WRITER", dir)
            .env("KV_SLED_WRITER_DURABILITY", durability)
            .env("KV_SEED", seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn wait_until_open(&mut self) {
        let mut line = String::new();
        while line.trim_end() != "open" {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the writer ended");
        }
    }

    /// Kills it and returns every whole line it wrote.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let mut lines = Vec::new();
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
        }
        self.child.wait().unwrap();
        lines
    }
}

/// Not a test: what a writer does when it is told to by the environment.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os("KV_SLED_WRITER") else { return };
    let durability = std::env::var("KV_SLED_WRITER_DURABILITY").unwrap();
    let (durability, tree) =
        durability.split_once("&tree").map_or((&*durability, false), |(mode, _)| (mode, true));
    let (durability, turns) =
        durability.split_once("&turns").map_or((durability, false), |(mode, _)| (mode, true));
    let config = config(Path::new(&dir), durability);
    let seed: u64 = std::env::var("KV_SEED").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(config).await.unwrap();
        // The test harness has begun a line.
        say("\nopen");
        if tree {
            store.delete_tree("tree").await.unwrap();
            say("deleted");
            return std::future::pending().await;
        }
        if turns {
            for n in seed.. {
                store.put(turn(n), value(n)).await.unwrap();
                say(&format!("ack {n}"));
            }
        }
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| tokio::spawn(write(store.clone(), task, Random(seed ^ (task << 32)))))
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// The key whose turn it is.
fn turn(number: u64) -> String {
    format!("turn/{}", number % TURNS)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

async fn write(store: SledStore, task: u64, mut random: Random) {
    let key = |number: u64| Key::new(&format!("task{task}/{number}")).unwrap();
    loop {
        let (first, second) = (random.next(KEYS_PER_TASK), random.next(KEYS_PER_TASK));
        let number = random.next(1 << 40);
        match random.next(40) {
            0 => {
                let all: Vec<String> =
                    (0..KEYS_PER_TASK).map(|number| format!("{}=-", key(number))).collect();
                say(&format!("try {task} {}", all.join(" ")));
                store.delete_tree(format!("task{task}")).await.unwrap();
                say(&format!("ack {task} 0"));
            }
            1..10 => {
                say(&format!("try {task} {}=-", key(first)));
                store.delete(key(first)).await.unwrap();
                say(&format!("ack {task} 0"));
            }
            10..20 if first != second => {
                say(&format!("try {task} {}={number} {}=-", key(first), key(second)));
                let ops = [TxnOp::put(key(first), value(number)), TxnOp::delete(key(second))];
                assert!(StoreExt::transact(&store, Txn::always().then(ops)).await.unwrap().succeeded);
                say(&format!("ack {task} 0"));
            }
            _ => {
                say(&format!("try {task} {}={number}", key(first)));
                let version = store.put(key(first), value(number)).await.unwrap();
                say(&format!("ack {task} {version}"));
            }
        }
    }
}

/// Kills writers and looks what is left. Returns how many writes were acknowledged.
async fn kill_writers(durability: &str, rounds: u32) -> u64 {
    let begin = Instant::now();
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Expected::default();
    for round in 0..rounds {
        let mut writer = Writer::start(dir.path(), random.next(u64::MAX), durability);
        // Most are killed at work, some while they open.
        if round % 8 != 0 {
            writer.wait_until_open();
        }
        std::thread::sleep(Duration::from_micros(random.next(50_000)));
        for line in writer.kill() {
            expected.learn(&line);
        }
        let store = SledStore::open(config(dir.path(), durability)).await.unwrap();
        expected.check(&store, round).await;
        store.close().await.unwrap();
    }
    println!("{durability}: {} acknowledged writes in {:?}", expected.acknowledged, begin.elapsed());
    expected.acknowledged
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_200_kills() {
    let acknowledged = kill_writers("process", 200).await;
    assert!(acknowledged > 2_000, "only {acknowledged} writes were made");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_the_power_mode_either() {
    let acknowledged = kill_writers("power", 40).await;
    assert!(acknowledged > 100, "only {acknowledged} writes were made");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_where_opening_verifies_nothing() {
    let acknowledged = kill_writers("process&verify=read", 40).await;
    assert!(acknowledged > 400, "only {acknowledged} writes were made");
}

/// Deleting what is too large for one batch goes on over several, and is all or nothing all the same.
#[tokio::test]
async fn a_large_subtree_is_gone_or_there_after_a_kill() {
    const COUNT: u32 = 5_000;
    const BOTH: u32 = 3;
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let (mut gone, mut there, mut left) = (0, 0, 0);
    // Closing in on the moment at which it is decided.
    let mut delay = Duration::from_millis(10);
    while gone < BOTH || there < BOTH {
        assert!(begin.elapsed() < Duration::from_secs(180), "gone {gone} times, there {there} times");
        if left == 0 {
            let store = SledStore::open(config(dir.path(), "process")).await.unwrap();
            for numbers in (0..COUNT).collect::<Vec<_>>().chunks(1000) {
                let puts =
                    numbers.iter().map(|n| TxnOp::put(Key::new(&format!("tree/{n:05}")).unwrap(), value(3)));
                assert!(StoreExt::transact(&store, Txn::always().then(puts)).await.unwrap().succeeded);
            }
            store.close().await.unwrap();
        }
        let mut writer = Writer::start(dir.path(), 0, "process&tree=1");
        writer.wait_until_open();
        std::thread::sleep(delay.mul_f64(0.5 + random.next(1000) as f64 / 1000.0));
        let acknowledged = writer.kill().iter().any(|line| line == "deleted");
        let store = SledStore::open(config(dir.path(), "process")).await.unwrap();
        left = store.keys("tree").await.unwrap().len();
        assert!(left == 0 || left == COUNT as usize && !acknowledged, "{left} are left");
        if left == 0 {
            gone += 1;
            delay /= 2;
        } else {
            there += 1;
            delay *= 2;
        }
        store.close().await.unwrap();
    }
    println!("gone {gone} times, there {there} times");
}

/// In the interval mode a kill may cost the newest writes; what is left is a state the store had.
#[tokio::test]
async fn the_interval_mode_keeps_a_state_the_store_had() {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let mut last_version = 0;
    for round in 0..20 {
        let mut writer = Writer::start(dir.path(), random.next(u64::MAX), INTERVAL);
        writer.wait_until_open();
        std::thread::sleep(Duration::from_micros(random.next(100_000)));
        let lines = writer.kill();
        let acknowledged =
            lines.iter().filter_map(|line| line.strip_prefix("ack ")?.split(' ').nth(1)?.parse().ok());
        last_version = acknowledged.fold(last_version, u64::max);

        // Opening verifies that every record of that one state is there.
        let store = SledStore::open(config(dir.path(), INTERVAL)).await.unwrap();
        for entry in store.entries("task0").await.unwrap() {
            assert_eq!(entry.value, value(number_of(&entry.value)), "round {round}");
        }
        // Also versions that were given out and lost do not come again.
        let version = store.put("check", "x").await.unwrap().get();
        assert!(version > last_version, "round {round}: {version} after {last_version}");
        last_version = version;
        store.close().await.unwrap();
    }
}

/// Writes that follow each other go from key to key: what is left has all of them up to one, and none
/// after it.
#[tokio::test]
async fn the_interval_mode_loses_the_newest_writes_and_no_others() {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let (mut last, mut lost) = (0, 0);
    for round in 0..20 {
        let mut writer = Writer::start(dir.path(), last + 1, &format!("{INTERVAL}&turns=1"));
        writer.wait_until_open();
        std::thread::sleep(Duration::from_micros(random.next(150_000)));
        let lines = writer.kill();
        let told = lines.iter().filter_map(|line| line.strip_prefix("ack ")?.parse::<u64>().ok());
        let acknowledged = told.max().unwrap_or(last);

        let store = SledStore::open(config(dir.path(), INTERVAL)).await.unwrap();
        let entries = store.entries("turn").await.unwrap();
        let found: BTreeMap<String, u64> =
            entries.iter().map(|entry| (entry.key.as_str().to_owned(), number_of(&entry.value))).collect();
        let newest = found.values().copied().max().unwrap_or(0);
        assert!(newest >= last, "round {round}: what was closed in good order is lost");
        assert!(newest <= acknowledged + 1, "round {round}: nobody wrote {newest} yet");
        let expected = (newest.saturating_sub(TURNS - 1).max(1)..=newest).map(|n| (turn(n), n));
        assert_eq!(found, expected.collect(), "round {round}: {newest} is there, and an older one is not");
        lost += acknowledged.saturating_sub(newest);
        last = newest;
        store.close().await.unwrap();
    }
    println!("{last} writes kept, {lost} acknowledged ones lost");
    assert!(last > 200, "only {last} writes were made");
}
