//! Damaged files: the store opens in a state it had, or says `Corrupt`; it never panics and never
//! invents data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it did")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kv_core::{Bytes, ErrorKind, StoreExt};
use kv_sled::{SledConfig, SledStore};

const KEYS: u64 = 40;
const WRITES: u64 = 1500;

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
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("KV_SEED={seed}");
    seed
}

fn config(dir: &Path) -> SledConfig {
    SledConfig::new(dir).with_history(300)
}

/// Write number `n`: every seventh deletes its key.
fn write(n: u64) -> (String, Option<Bytes>) {
    let key = format!("dir{}/key{}", n % 3, n % KEYS);
    if n % 7 == 6 {
        return (key, None);
    }
    let mut value = n.to_string().into_bytes();
    value.resize(if n.is_multiple_of(5) { 20_000 } else { 2_000 }, b' ');
    (key, Some(value.into()))
}

/// The state after `count` writes.
fn state(count: u64) -> BTreeMap<String, Bytes> {
    let mut state = BTreeMap::new();
    for n in 0..count {
        match write(n) {
            (key, Some(value)) => state.insert(key, value),
            (key, None) => state.remove(&key),
        };
    }
    state
}

/// Stores to damage: one as a kill leaves it, one that was closed, one that was opened again.
async fn originals(root: &Path) -> Vec<PathBuf> {
    let live = root.join("live");
    let store = SledStore::open(config(&live)).await.unwrap();
    for n in 0..WRITES {
        match write(n) {
            (key, Some(value)) => drop(store.put(key, value).await.unwrap()),
            (key, None) => drop(store.delete(key).await.unwrap()),
        }
    }
    let killed = root.join("killed");
    copy(&live, &killed);
    store.close().await.unwrap();
    let closed = root.join("closed");
    copy(&live, &closed);
    SledStore::open(config(&live)).await.unwrap().close().await.unwrap();
    vec![killed, closed, live]
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Does something bad to a file and says what.
fn damage(file: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(file).unwrap();
    let len = bytes.len() as u64;
    let at = |random: &mut Random| usize::try_from(random.next(len.max(1))).unwrap();
    let what = match random.next(6) {
        0 => {
            let to = at(random);
            bytes.truncate(to);
            format!("cut off at {to}")
        }
        1 => {
            bytes.clear();
            "emptied".to_owned()
        }
        2 => {
            let from = at(random);
            let to = (from + at(random) / 8).min(bytes.len());
            bytes[from..to].fill(0);
            format!("zeros from {from} to {to}")
        }
        3 => {
            // A block that was never written.
            let from = at(random) / 4096 * 4096;
            let to = (from + 4096).min(bytes.len());
            bytes[from..to].fill(0);
            format!("a block of zeros at {from}")
        }
        4 => {
            let from = at(random);
            let to = (from + 1 + at(random) % 64).min(bytes.len());
            bytes[from..to].iter_mut().for_each(|byte| *byte = u8::try_from(random.next(256)).unwrap());
            format!("noise from {from} to {to}")
        }
        _ => {
            let bit = at(random) * 8 + usize::try_from(random.next(8)).unwrap();
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            format!("bit {bit} flipped")
        }
    };
    fs::write(file, bytes).unwrap();
    what
}

#[derive(Debug, Default)]
struct Tally {
    whole: u32,
    older: u32,
    refused: u32,
}

/// Opens a damaged store and judges what it says.
async fn judge(dir: &Path, what: &str, tally: &mut Tally) {
    let opening = SledStore::open(config(dir));
    let opened = tokio::time::timeout(Duration::from_secs(60), opening).await;
    let store = match opened.unwrap_or_else(|_| panic!("{what}: opening hangs")) {
        Ok(store) => store,
        Err(error) => {
            assert_eq!(
                error.kind(),
                &ErrorKind::Corrupt,
                "{what}: {error}: {:?}",
                std::error::Error::source(&error)
            );
            assert!(error.endpoint().is_some() && error.backend() == Some("sled"), "{error:?}");
            tally.refused += 1;
            return;
        }
    };
    let entries = store.entries("").await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let found: BTreeMap<String, Bytes> =
        entries.into_iter().map(|entry| (entry.key.as_str().to_owned(), entry.value)).collect();
    if found == state(WRITES) {
        tally.whole += 1;
    } else {
        let older = (0..WRITES).rev().find(|count| found == state(*count));
        assert!(older.is_some(), "{what}: a state the store never had, with {} entries", found.len());
        tally.older += 1;
    }
    // It works from there on.
    store.put("after", "1").await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_means_an_older_state_or_a_refusal() {
    let begin = Instant::now();
    let mut random = Random(seed());
    let root = tempfile::tempdir().unwrap();
    let mut tally = Tally::default();
    let rounds = std::env::var("KV_DAMAGE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for original in originals(root.path()).await {
        let names: Vec<_> = fs::read_dir(&original)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name())
            .collect();
        for name in names {
            let rounds = if name == "db" { rounds } else { rounds / 4 };
            for round in 0..rounds {
                let dir = root.path().join("damaged");
                copy(&original, &dir);
                let what = if round == 0 {
                    fs::remove_file(dir.join(&name)).unwrap();
                    "removed".to_owned()
                } else {
                    damage(&dir.join(&name), &mut random)
                };
                let what = format!("{}: {}: {what}", original.display(), name.display());
                judge(&dir, &what, &mut tally).await;
                fs::remove_dir_all(&dir).unwrap();
            }
        }
    }
    println!("{tally:?} in {:?}", begin.elapsed());
    assert!(tally.refused > 0 && tally.whole > 0, "{tally:?}");
}
