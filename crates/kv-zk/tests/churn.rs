//! Many tasks create, delete and re-create the same keys and their parents: no acknowledged key is
//! ever destroyed by somebody else's cleaning up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // It is a test.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::server;
use kv_testkit::is_nightly;
use kv_zk::ZkStore;
use kv_zk::kv_core::{
    ErrorKind, Expiry, Key, ListItem, ListOptions, Prefix, PutOptions, StoreExt, Version, WatchEvent,
    WatchOptions,
};

common::on_each_client!(
    no_acknowledged_key_is_destroyed_by_another,
    each_key_ends_at_its_last_acknowledged_write,
    a_watch_tells_each_key_in_the_order_of_its_versions,
);

const HOUR: Duration = Duration::from_secs(3600);

/// Each task owns keys nobody else writes, in a tree of parents all share: so what it was told must
/// be what it finds, whatever the others do to the parents.
async fn no_acknowledged_key_is_destroyed_by_another(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let seed = common::seed();
    let until = Instant::now() + Duration::from_secs(10);
    let mut tasks = Vec::new();
    for task in 0..12_u64 {
        let store = server.open(client, &namespace, "").await;
        tasks.push(tokio::spawn(owner(store, task, seed, until)));
    }
    let mut steps = 0;
    for task in tasks {
        steps += task.await.unwrap();
    }
    assert!(steps > 200, "{steps} steps tell nothing");
}

async fn owner(store: ZkStore, task: u64, seed: u64, until: Instant) -> usize {
    let mut random = fastrand::Rng::with_seed(seed ^ task);
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    let mut steps = 0;
    while Instant::now() < until {
        // A parent of one task is a leaf of another: p/q is everybody's directory, p/q/3 is the key of
        // task 3 and the directory of its own keys.
        let key = match random.u8(0..4) {
            0 => format!("p/q/{task}"),
            1 => format!("p/q/{task}/a"),
            2 => format!("p/{}/{task}/deep/er", random.u8(0..3)),
            _ => format!("p/q/{}/by-{task}", random.u64(0..12)),
        };
        let value = format!("{task}-{steps}");
        match random.u8(0..7) {
            // Below what is this task's alone all goes at once, and comes back.
            5 => {
                let below = format!("own/{task}/{}", random.u8(0..2));
                if random.bool() {
                    let name = format!("{below}/x/{}", random.u8(0..3));
                    store.put(name.as_str(), value.clone()).await.unwrap();
                    model.insert(name, value);
                } else {
                    let prefix = format!("{below}/");
                    let expected = model.keys().filter(|key| key.starts_with(&prefix)).count();
                    let went = store.delete_tree(below.as_str()).await.unwrap();
                    assert_eq!(went, u64::try_from(expected).unwrap(), "seed {seed}: {below}");
                    model.retain(|key, _| !key.starts_with(&prefix));
                }
            }
            // Keys that expire, none of which may have others below it.
            6 => {
                let name = format!("p/{}/leaf-{task}", random.u8(0..3));
                let expiry = if task.is_multiple_of(2) { Expiry::Session } else { Expiry::Ttl(HOUR) };
                if random.bool() {
                    let options = PutOptions::default().with_expiry(expiry);
                    store.put_with(&name, value.clone(), options).await.unwrap();
                    model.insert(name, value);
                } else {
                    let there = store.delete(name.as_str()).await.unwrap();
                    assert_eq!(there, model.remove(&name).is_some(), "seed {seed}: delete {name}");
                }
            }
            0 | 1 => {
                store.put(key.as_str(), value.clone()).await.unwrap();
                model.insert(key, value);
            }
            2 => match store.create(key.as_str(), value.clone()).await {
                Ok(_) => assert_eq!(model.insert(key.clone(), value), None, "seed {seed}: {key} was there"),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::AlreadyExists { .. }), "{error}");
                    assert!(model.contains_key(&key), "seed {seed}: {key} was not there");
                }
            },
            3 => {
                let there = store.delete(key.as_str()).await.unwrap();
                assert_eq!(there, model.remove(&key).is_some(), "seed {seed}: delete {key}");
            }
            _ => {
                let found = store.get(key.as_str()).await.unwrap().map(|entry| entry.value);
                let expected = model.get(&key).cloned().map(Into::into);
                assert_eq!(found, expected, "seed {seed}: get {key} of task {task}");
            }
        }
        steps += 1;
    }
    for (key, value) in &model {
        let entry = store.get(key.as_str()).await.unwrap();
        assert_eq!(entry.map(|entry| entry.value), Some(value.clone().into()), "seed {seed}: {key}");
    }
    steps
}

/// Everybody writes everybody's keys: each key ends at what its greatest version was told to be.
async fn each_key_ends_at_its_last_acknowledged_write(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let seed = common::seed();
    let mut tasks = Vec::new();
    for task in 0..8_u64 {
        let store = server.open(client, &namespace, "").await;
        tasks.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed ^ task);
            let mut puts = BTreeMap::new();
            for step in 0..150 {
                let key = ["a", "a/b", "a/b/c", "a/x"][random.usize(0..4)];
                if random.u8(0..3) == 0 {
                    store.delete(key).await.unwrap();
                } else {
                    let value = format!("{task}-{step}");
                    let version = store.put(key, value.clone()).await.unwrap();
                    puts.insert((key, version), value);
                }
            }
            puts
        }));
    }
    let mut puts = BTreeMap::new();
    for task in tasks {
        for (at, value) in task.await.unwrap() {
            assert_eq!(puts.insert(at, value), None, "seed {seed}: two puts got the version {at:?}");
        }
    }
    let store = server.open(client, &namespace, "").await;
    for key in ["a", "a/b", "a/b/c", "a/x"] {
        let key: Key = key.parse().unwrap();
        let Some(entry) = store.get(&key).await.unwrap() else { continue };
        assert_eq!(
            puts.get(&(key.as_str(), entry.version)).cloned(),
            Some(String::from_utf8(entry.value.to_vec()).unwrap())
        );
        let newest =
            puts.keys().filter(|(other, _)| *other == key.as_str()).map(|(_, version)| *version).max();
        assert_eq!(newest, Some(entry.version), "seed {seed}: {key}");
    }
}

/// Keys come and go while a watch looks on: the events of each key come in the order
/// of its versions and none twice, and the last one is how it ended.
async fn a_watch_tells_each_key_in_the_order_of_its_versions(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let seed = common::seed();
    let store = server.open(client, &namespace, "").await;
    let mut watch = store.watch_with(Prefix::root(), WatchOptions::default().with_initial()).await.unwrap();
    let time = Duration::from_secs(if is_nightly() { 60 } else { 12 });
    let until = Instant::now() + time;
    let mut tasks = Vec::new();
    for task in 0..8_u64 {
        let store = server.open(client, &namespace, "").await;
        tasks.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed ^ task);
            while Instant::now() < until {
                let key = format!("{}/{}", random.u8(0..2), random.u8(0..4));
                if random.bool() {
                    store.delete(key.as_str()).await.unwrap();
                } else {
                    store.put(key.as_str(), "x").await.unwrap();
                }
            }
        }));
    }
    let mut told: BTreeMap<Key, (Version, bool)> = BTreeMap::new();
    let mut events = 0;
    let mut take = |event: Option<WatchEvent>| {
        let Some(event) = event else { return (told.clone(), events) };
        events += 1;
        match event {
            WatchEvent::Put(entry) => {
                let before = told.insert(entry.key.clone(), (entry.version, true));
                assert!(
                    before.is_none_or(|(version, _)| version < entry.version),
                    "seed {seed}: {} at {:?} after {before:?}",
                    entry.key,
                    entry.version
                );
            }
            WatchEvent::Delete(deletion) => {
                let before = told.get(&deletion.key).copied();
                let (version, there) = before.expect("a put before a delete");
                assert!(there, "seed {seed}: {} deleted twice", deletion.key);
                assert!(deletion.version.is_none_or(|by| by > version), "seed {seed}: {deletion:?}");
                told.insert(deletion.key, (deletion.version.unwrap_or(version), false));
            }
            WatchEvent::Synced => {}
            other => panic!("seed {seed}: {other:?}"),
        }
        (BTreeMap::new(), events)
    };
    while Instant::now() < until {
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
            take(Some(event.unwrap().unwrap()));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    // How it ended.
    let mut there = BTreeMap::new();
    let mut list = store.list_with(&Prefix::root(), ListOptions::default()).await.unwrap();
    while let Some(item) = list.next().await {
        if let ListItem::Entry(entry) = item.unwrap() {
            there.insert(entry.key, entry.version);
        }
    }
    loop {
        let (told, events) = take(None);
        let now = told.into_iter().filter(|(_, (_, there))| *there).map(|(key, (version, _))| (key, version));
        if now.collect::<BTreeMap<_, _>>() == there {
            println!("{client}: {events} events");
            return;
        }
        take(Some(common::next(&mut watch).await));
    }
}
