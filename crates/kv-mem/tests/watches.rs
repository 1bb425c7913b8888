//! Many watches, slow watches, and watches while everything happens at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]
#![allow(clippy::print_stdout, reason = "a failure's numbers are told")]

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use common::{Wakes, drain, fresh, key, open, poll, seeded, show};
use kv_mem::kv_core::{Key, StoreExt, Version, WatchEvent, WatchOptions, WatchTarget};
use kv_mem::{MemConfig, MemStore};

const MANY: usize = 10_000;

/// How many keys are written while everything happens at once.
const KEYS: u8 = 6;

/// Resident memory, where the system tells.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

/// The time a put takes that wakes one of this many watches.
async fn time_of_a_put(watched: usize) -> Duration {
    let store = fresh();
    let mut watches = Vec::new();
    for number in 0..watched {
        let mut watch = store.watch(format!("jobs/{number}")).await.unwrap();
        assert!(poll(&mut watch, Waker::noop()).is_none());
        watches.push(watch);
    }
    let puts = 2000;
    let begin = Instant::now();
    for number in 0..puts {
        store.put(format!("jobs/{}/state", number % watched), "x").await.unwrap();
    }
    each(begin, puts)
}

/// What each of so many took.
fn each(begin: Instant, count: usize) -> Duration {
    begin.elapsed().div_f64(count as f64)
}

/// Tells what was measured past the capture of a passing test's output.
fn tell(measured: &str) {
    let line = format!("kv-mem, {MANY} watches: {measured}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Looking at every watch for every put would take a hundred times as long.
#[test]
fn a_put_costs_the_same_beside_a_hundred_and_ten_thousand_watches() {
    futures_executor::block_on(async {
        // A busy machine can stop either for a moment: the best of a few counts.
        let mut best = [Duration::MAX; 2];
        for _ in 0..5 {
            for (best, watched) in best.iter_mut().zip([100, MANY]) {
                *best = time_of_a_put(watched).await.min(*best);
            }
        }
        let [few, many] = best;
        tell(&format!("{many:?} a put; beside 100 watches {few:?}"));
        assert!(many < few * 20 + Duration::from_micros(20), "{few:?} a put, beside {MANY} {many:?}");
    });
}

#[test]
fn each_of_ten_thousand_watches_gets_its_own_events_and_only_they_wake_it() {
    futures_executor::block_on(async {
        let store = fresh();
        let before = resident();
        let mut watches = Vec::new();
        for number in 0..MANY {
            let (wakes, waker) = Wakes::new();
            let mut watch = store.watch(format!("jobs/{number}")).await.unwrap();
            assert!(poll(&mut watch, &waker).is_none());
            watches.push((watch, wakes, waker));
        }
        if let (Some(before), Some(after)) = (before, resident()) {
            let bytes = after.saturating_sub(before) / MANY;
            tell(&format!("{bytes} bytes each"));
            assert!(bytes < 16 << 10, "a watch takes {bytes} bytes");
        }

        let begin = Instant::now();
        for number in 0..MANY {
            store.put(format!("jobs/{number}/state"), format!("{number}")).await.unwrap();
        }
        let put = each(begin, MANY);
        assert!(watches.iter().all(|(_, wakes, _)| wakes.count() == 1));

        let begin = Instant::now();
        for (number, (watch, _, waker)) in watches.iter_mut().enumerate() {
            assert_eq!(show(poll(watch, waker).unwrap()), format!("+jobs/{number}/state={number}"));
            assert!(poll(watch, waker).is_none());
        }
        let event = each(begin, MANY);
        tell(&format!("{put:?} a put that wakes one, {event:?} an event"));
        assert!(event < Duration::from_millis(1), "an event takes {event:?}");

        // What nobody watches wakes nobody, and a watch that has not looked is not woken twice.
        for number in 0..1000 {
            store.put(format!("elsewhere/{number}"), "x").await.unwrap();
            store.put("jobs/7/state", "again").await.unwrap();
        }
        for (number, (_, wakes, _)) in watches.iter().enumerate() {
            assert_eq!(wakes.count(), if number == 7 { 2 } else { 1 });
        }
    });
}

#[test]
fn a_watch_that_is_too_slow_gets_the_state_and_holds_up_no_writer() {
    futures_executor::block_on(async {
        let store = open(MemConfig::new().with_history(100));
        store.put("a/gone", "x").await.unwrap();
        let mut watch = store.watch("a").await.unwrap();
        store.delete("a/gone").await.unwrap();
        for number in 0..5000 {
            store.put(format!("a/{}", number % 3), format!("{number}")).await.unwrap();
        }
        let seen = drain(&mut watch);
        assert_eq!(seen, ["resync", "+a/0=4998", "+a/1=4999", "+a/2=4997", "synced"]);
        store.put("a/1", "next").await.unwrap();
        assert_eq!(drain(&mut watch), ["+a/1=next"]);
    });
}

#[test]
fn a_watch_is_late_by_its_own_changes_only() {
    futures_executor::block_on(async {
        let store = open(MemConfig::new().with_history(10));
        let mut watch = store.watch_key("config").await.unwrap();
        store.put("config", "1").await.unwrap();
        store.put("config", "2").await.unwrap();
        for number in 0..5000 {
            store.put("elsewhere", format!("{number}")).await.unwrap();
        }
        assert_eq!(drain(&mut watch), ["+config=1", "+config=2"]);
    });
}

/// Both read a large state in pages while it changes: the one that begins sees one version and every
/// change after it, the one that is late each key's newest state.
#[test]
fn the_state_and_the_changes_after_it_fit_together() {
    futures_executor::block_on(async {
        let store = fresh();
        for number in 0..1000 {
            store.put(format!("a/{number:04}"), "old").await.unwrap();
        }
        let options = WatchOptions::default().with_initial();
        let mut watch = store.watch_with(common::prefix("a"), options).await.unwrap();
        for _ in 0..200 {
            assert!(show(poll(&mut watch, Waker::noop()).unwrap()).ends_with("=old"));
        }
        store.put("a/0000", "new").await.unwrap();
        store.put("a/0999", "new").await.unwrap();
        store.delete("a/0500").await.unwrap();
        let rest = drain(&mut watch);
        assert_eq!(rest.len(), 800 + 1 + 3);
        assert!(rest[..800].iter().all(|event| event.ends_with("=old")));
        assert_eq!(rest[800..], ["synced", "+a/0000=new", "+a/0999=new", "-a/0500 Deleted"]);
    });
}

#[test]
fn a_watch_of_another_namespace_sees_the_same_keys_by_its_own_names() {
    futures_executor::block_on(async {
        let name = "a_watch_of_another_namespace";
        let below = |path: &str| open(MemConfig::new().with_name(name).with_namespace(common::prefix(path)));
        let (root, app, inner) = (below(""), below("app"), below("app/inner"));
        let mut watches = Vec::new();
        for store in [&root, &app, &inner] {
            let options = WatchOptions::default().with_initial();
            let mut watch = store.watch_with(common::prefix(""), options).await.unwrap();
            assert_eq!(drain(&mut watch), ["synced"]);
            watches.push(watch);
        }
        app.put("inner/x", "1").await.unwrap();
        inner.delete("x").await.unwrap();
        let seen: Vec<_> = watches.iter_mut().map(drain).collect();
        assert_eq!(seen[0], ["+app/inner/x=1", "-app/inner/x Deleted"]);
        assert_eq!(seen[1], ["+inner/x=1", "-inner/x Deleted"]);
        assert_eq!(seen[2], ["+x=1", "-x Deleted"]);
    });
}

/// What a watch has told so far, checked as it comes.
struct Follower {
    state: BTreeMap<Key, Version>,
    newest: BTreeMap<Key, Version>,
    syncing: bool,
    resyncs: usize,
}

impl Follower {
    fn follow(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Put(entry) => {
                self.grows(&entry.key, entry.version);
                self.state.insert(entry.key, entry.version);
            }
            WatchEvent::Delete(deletion) => {
                assert!(!self.syncing, "a delete within the state");
                self.grows(&deletion.key, deletion.version.unwrap());
                self.state.remove(&deletion.key);
            }
            WatchEvent::Resync => {
                self.state.clear();
                self.resyncs += 1;
                self.syncing = true;
            }
            WatchEvent::Synced => self.syncing = false,
            other => panic!("{other:?}"),
        }
    }

    fn grows(&mut self, key: &Key, version: Version) {
        let before = self.newest.insert(key.clone(), version);
        // A state may repeat what was told before the gap; changes never do.
        let is_new = if self.syncing { before <= Some(version) } else { before < Some(version) };
        assert!(is_new, "{key}: {version} after {before:?}");
    }
}

/// Writers, watches that come and go and fall behind, all at once: every watch ends on the final
/// state, with each key's versions in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_change_and_no_wake_up_is_lost() {
    let mut random = seeded();
    let store = open(MemConfig::new().with_history(50));
    let (ended, end) = tokio::sync::watch::channel(None::<BTreeMap<Key, Version>>);
    let watching: Vec<_> = (0..8)
        .map(|number| {
            let (store, random, end) = (Arc::clone(&store), random.fork(), end.clone());
            let target: WatchTarget =
                if number % 2 == 0 { common::prefix("a").into() } else { key("a/1").into() };
            tokio::spawn(follow(store, target, random, end))
        })
        .collect();
    let coming_and_going = tokio::spawn({
        let (store, end) = (Arc::clone(&store), end.clone());
        async move {
            while end.borrow().is_none() {
                let mut watch = store.watch("a").await.unwrap();
                drop(tokio::time::timeout(Duration::from_micros(100), watch.next()).await);
            }
        }
    });
    let writers: Vec<_> = (0..3).map(|_| tokio::spawn(write(Arc::clone(&store), random.fork()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // Every key ends with a version it never had before, so nobody takes an earlier state for the end.
    for number in 0..KEYS {
        store.put(format!("a/{number}"), "").await.unwrap();
    }
    let entries = store.entries("a").await.unwrap();
    ended.send_replace(Some(entries.into_iter().map(|entry| (entry.key, entry.version)).collect()));
    coming_and_going.await.unwrap();
    for watching in watching {
        let resyncs = tokio::time::timeout(Duration::from_secs(60), watching).await;
        println!("{} resyncs", resyncs.expect("a watch waits for ever").unwrap());
    }
}

async fn write(store: Arc<MemStore>, mut random: fastrand::Rng) {
    for _ in 0..20_000 {
        let key = format!("a/{}", random.u8(..KEYS));
        if random.u8(..4) == 0 {
            store.delete(key).await.unwrap();
        } else {
            store.put(key, "").await.unwrap();
        }
    }
}

/// Follows a watch until it has told the final state, and tells how often it was late.
async fn follow(
    store: Arc<MemStore>,
    target: WatchTarget,
    mut random: fastrand::Rng,
    mut end: tokio::sync::watch::Receiver<Option<BTreeMap<Key, Version>>>,
) -> usize {
    let options = WatchOptions::default().with_initial();
    let mut watch = store.watch_with(target.clone(), options).await.unwrap();
    let mut follower =
        Follower { state: BTreeMap::new(), newest: BTreeMap::new(), syncing: true, resyncs: 0 };
    loop {
        if !follower.syncing
            && let Some(last) = &*end.borrow()
        {
            let own = last.iter().filter(|(key, _)| target.matches(key));
            if own.eq(&follower.state) {
                break;
            }
        }
        tokio::select! {
            event = watch.next() => follower.follow(event.unwrap().unwrap()),
            _ = end.changed() => {}
        }
        if random.u16(..1000) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(drain(&mut watch), [""; 0]);
    follower.resyncs
}
