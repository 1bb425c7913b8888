//! Seeing locks, those of `etcdctl lock` too, through broken connections, compactions and slow readers.

use std::time::Duration;

use crate::common::{etcdctl, key, namespace, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{
    ErrorKind, FencingToken, LockChanges, LockGuard, LockHolder, LockLoss, LockOptions, LockState, StoreExt,
};
use kv_testkit::{Cluster, Mode, Proxy};

const SECOND: Duration = Duration::from_secs(1);

/// The next change of hands, which must come soon.
async fn next(changes: &mut LockChanges) -> Option<LockHolder> {
    tokio::time::timeout(15 * SECOND, changes.next()).await.expect("a change").unwrap().unwrap()
}

async fn holder(changes: &mut LockChanges) -> LockHolder {
    next(changes).await.expect("a holder and no vacancy")
}

/// Everything up to this holder; tokens must not fall on the way.
async fn until_token(changes: &mut LockChanges, last: FencingToken) -> Vec<Option<LockHolder>> {
    let mut seen: Vec<Option<LockHolder>> = Vec::new();
    loop {
        let change = next(changes).await;
        let before = seen.iter().flatten().map(|holder| holder.token).max();
        if let (Some(holder), Some(before)) = (&change, before) {
            assert!(holder.token > before, "{} came after {before}", holder.token);
        }
        let is_last = change.as_ref().is_some_and(|holder| holder.token == last);
        seen.push(change);
        if is_last {
            return seen;
        }
    }
}

fn owned(owner: impl Into<kv_etcd::kv_core::Bytes>) -> LockOptions {
    LockOptions::default().with_owner(owner)
}

async fn locks(store: &EtcdStore, prefix: &str) -> Vec<LockState> {
    let mut listing = store.locks(prefix).await.unwrap();
    let mut locks = Vec::new();
    while let Some(lock) = listing.next().await {
        locks.push(lock.unwrap());
    }
    locks
}

/// The lease that a guard's lock lives by, as `etcdctl` prints it.
fn lease(guard: &LockGuard) -> String {
    lease_of(guard.fence().record())
}

fn lease_of(record: &str) -> String {
    format!("lease {:0>16}", record.rsplit('/').next().unwrap())
}

/// The names of the records below a path, in the order they were created.
async fn records(cluster: &Cluster, path: &str) -> Vec<String> {
    let line = format!("get --prefix --keys-only --sort-by=CREATE {path}/");
    etcdctl(cluster, &line).await.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Waits until so many stand in the queue.
async fn queued(store: &EtcdStore, path: &str, count: usize) {
    until("they queue", 10 * SECOND, || async {
        let below = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let found = locks(store, below).await.into_iter().find(|lock| lock.key.as_str() == path);
        found.map_or(0, |lock| 1 + lock.waiters.unwrap().len()) == count
    })
    .await;
}

#[tokio::test]
async fn etcdctl_is_seen_coming_and_going() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let name = format!("{namespace}/d/l");
    let native = |command: &str| {
        let (node, line) = (cluster.node(1).clone(), format!("etcdctl lock --ttl 10 {name} {command}"));
        tokio::spawn(async move { node.exec(&["sh", "-c", &line]).await.unwrap() })
    };
    let mut changes = store.watch_lock("d/l").await.unwrap();
    assert_eq!(next(&mut changes).await, None, "nobody has it");
    for round in 0..2 {
        let locked = native("echo locked");
        let told = holder(&mut changes).await;
        assert_eq!(told.owner, "", "round {round}");
        let native = told.native.clone().unwrap();
        assert!(
            native.strip_prefix("lease ").is_some_and(|id| i64::from_str_radix(id, 16).is_ok()),
            "{native}"
        );
        assert_eq!(next(&mut changes).await, None, "it is gone");
        assert_eq!(locked.await.unwrap(), "locked");
    }

    // It holds, another one waits, then we do; and the other way round.
    let holds = native("sleep 5");
    let first = holder(&mut changes).await;
    let waits = native("echo locked");
    queued(&store, "d/l", 2).await;
    let ours = tokio::spawn({
        let store = store.clone();
        async move { store.lock_with(&key("d/l"), owned("ours")).await.unwrap() }
    });
    queued(&store, "d/l", 3).await;
    let [lock] = &locks(&store, "d").await[..] else { panic!("one lock") };
    assert_eq!((lock.key.as_str(), lock.holder.as_ref()), ("d/l", Some(&first)));
    let leases: Vec<_> = records(&cluster, &name).await;
    let listed: Vec<_> = lock.holder.iter().chain(lock.waiters.iter().flatten()).collect();
    for (record, listed) in leases.iter().zip(&listed) {
        assert_eq!(listed.native, Some(lease_of(record)));
    }
    assert_eq!(listed.iter().map(|one| one.owner.as_ref()).collect::<Vec<_>>(), [&b""[..], b"", b"ours"]);
    assert_eq!(
        store.lock_holder(&key("d/l")).await.unwrap().as_ref(),
        Some(&first),
        "told the same everywhere"
    );

    // Broken, its record goes and no other one.
    let waiter = listed[1].token;
    assert!(!store.break_lock("d/l", waiter).await.unwrap(), "a waiter holds nothing");
    assert_eq!(records(&cluster, &name).await, leases);
    assert!(store.break_lock("d/l", first.token).await.unwrap());
    assert!(!store.break_lock("d/l", first.token).await.unwrap(), "it holds it no more");
    let second = holder(&mut changes).await;
    assert_eq!(second.token, waiter);
    let third = holder(&mut changes).await;
    let guard = ours.await.unwrap();
    assert_eq!((third.token, third.native), (guard.token(), Some(lease(&guard))));
    assert_eq!(waits.await.unwrap(), "locked");
    assert!(guard.is_held());
    let waits = native("echo locked");
    queued(&store, "d/l", 2).await;
    assert!(store.break_lock("d/l", guard.token()).await.unwrap());
    assert_eq!(tokio::time::timeout(SECOND, guard.lost()).await.unwrap(), LockLoss::Removed);
    assert!(holder(&mut changes).await.token > guard.token());
    assert_eq!(next(&mut changes).await, None, "nobody is left");
    assert_eq!(waits.await.unwrap(), "locked");
    drop(holds.await.unwrap());
    assert!(locks(&store, "d").await.is_empty());
}

#[tokio::test]
async fn each_change_of_hands_is_told_at_once_and_takes_no_request() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (store, other) = (open(&url).await, open(&url).await);
    // What lies below the name and is no record of this lock does not count.
    store.put("l/abc", "an entry").await.unwrap();
    let nested = other.lock("l/5").await.unwrap();
    let before = store.requests();
    let mut changes = store.watch_lock("l").await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(store.requests() - before, 2, "the stream of all watches, and the state");
    let guard = other.lock_with(&key("l"), owned("x")).await.unwrap();
    let mut second = store.watch_lock("l").await.unwrap();
    assert_eq!(store.requests() - before, 4, "the state and the owner");
    assert_eq!(holder(&mut second).await, holder(&mut changes).await);
    let token = guard.token();
    guard.unlock().await.unwrap();
    for changes in [&mut changes, &mut second] {
        assert_eq!(next(changes).await, None);
    }

    let mut last = token;
    for round in 0..30 {
        let guard = other.lock_with(&key("l"), owned(format!("round {round}"))).await.unwrap();
        other.put("l/abc", "an entry, put anew").await.unwrap();
        other.lock("l/6").await.unwrap().unlock().await.unwrap();
        assert!(guard.token() > last);
        last = guard.token();
        guard.unlock().await.unwrap();
        other.lock("l/6").await.unwrap().unlock().await.unwrap();
    }
    for changes in [&mut changes, &mut second] {
        let mut before = token;
        for round in 0..30 {
            let told = holder(changes).await;
            assert!(told.token > before);
            before = told.token;
            assert_eq!(told.owner, format!("round {round}"));
            assert_eq!(next(changes).await, None, "round {round}");
        }
    }
    assert_eq!(store.requests() - before, 4);
    assert_eq!(locks(&store, "").await.len(), 1);
    assert_eq!(store.requests() - before, 6, "a page of names, and the owners");
    assert!(store.break_lock("l/5", nested.token()).await.unwrap());
    assert_eq!(store.requests() - before, 8, "who holds it, and the deletion");
}

#[tokio::test]
async fn owners_are_told_however_large_and_whenever_the_watch_began() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (store, other) = (open(&url).await, open(&url).await);
    let large = |byte: u8| vec![byte; 1 << 20];
    let mut from_the_start = store.watch_lock("d/l").await.unwrap();
    assert_eq!(next(&mut from_the_start).await, None);
    let mut guard = other.lock_with(&key("d/l"), owned(large(b'0'))).await.unwrap();
    let mut waiting = Vec::new();
    for byte in [b'1', b'2', b'3'] {
        let other = other.clone();
        waiting.push(tokio::spawn(
            async move { other.lock_with(&key("d/l"), owned(large(byte))).await.unwrap() },
        ));
        queued(&store, "d/l", waiting.len() + 1).await;
    }
    let mut from_the_middle = store.watch_lock("d/l").await.unwrap();
    waiting.reverse();
    for byte in [b'0', b'1', b'2', b'3'] {
        for changes in [&mut from_the_start, &mut from_the_middle] {
            let told = holder(changes).await;
            assert_eq!((told.owner, told.token), (large(byte).into(), guard.token()));
        }
        let Some(next) = waiting.pop() else { break };
        guard.unlock().await.unwrap();
        guard = next.await.unwrap();
    }
    // Written over with its lease it is the same holder with another owner; without, it is a vacancy.
    let record = guard.fence().record().to_owned();
    etcdctl(&cluster, &format!("put --ignore-lease {record} other")).await;
    let told = holder(&mut from_the_middle).await;
    assert_eq!((told.owner, told.token), ("other".into(), guard.token()));
    etcdctl(&cluster, &format!("put {record} theirs")).await;
    assert_eq!(next(&mut from_the_middle).await, None);
}

#[tokio::test]
async fn nothing_is_missed_over_a_broken_connection() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s")).await;
    let mut changes = store.watch_lock("l").await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    for compacts in [false, true] {
        proxy.set(Mode::Refuse).await;
        proxy.cut();
        let mut expected = Vec::new();
        for _ in 0..5 {
            let guard = direct.lock("l").await.unwrap();
            expected.extend([Some(guard.token()), None]);
            guard.unlock().await.unwrap();
        }
        let last = direct.lock_with(&key("l"), owned("last")).await.unwrap();
        expected.push(Some(last.token()));
        if compacts {
            let put = etcdctl(&cluster, &format!("put {namespace}/other x -w json")).await;
            let revision = put.split("\"revision\":").nth(1).unwrap();
            let revision = revision.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            etcdctl(&cluster, &format!("compact {revision}")).await;
        }
        proxy.set(Mode::Forward).await;
        let told = until_token(&mut changes, last.token()).await;
        if compacts {
            assert_eq!(told.len(), 1, "what is left of it is the state: {told:?}");
        } else {
            let told: Vec<_> = told.iter().map(|told| told.as_ref().map(|holder| holder.token)).collect();
            assert_eq!(told, expected, "each of them");
        }
        assert_eq!(told.last().unwrap().as_ref().unwrap().owner, "last");
        last.unlock().await.unwrap();
        assert_eq!(next(&mut changes).await, None);
    }
    // What waits for the server is not lost with the server's word of it.
    proxy.set(Mode::Hold).await;
    let guard = direct.lock("l").await.unwrap();
    proxy.set(Mode::Forward).await;
    proxy.cut();
    assert_eq!(holder(&mut changes).await.token, guard.token());
}

#[tokio::test]
async fn a_slow_reader_gets_the_latest_holder() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (store, other) = (open(&url).await, open(&url).await);
    let mut changes = store.watch_lock("l").await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    // More than the 4 MiB that wait for a reader.
    for _ in 0..8 {
        let guard = other.lock_with(&key("l"), owned(vec![b'x'; 1 << 20])).await.unwrap();
        guard.unlock().await.unwrap();
    }
    let last = other.lock_with(&key("l"), owned("last")).await.unwrap();
    let told = until_token(&mut changes, last.token()).await;
    assert_eq!(told.last().unwrap().as_ref().unwrap().owner, "last");
    assert!(told.len() < 17, "{} changes waited", told.len());
    last.unlock().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
}

#[tokio::test]
async fn a_token_that_falls_ends_the_watch() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    // An entry that another program makes a record of when somebody holds the lock already.
    let granted = etcdctl(&cluster, "lease grant 600").await;
    // Records are named without the zeros that etcdctl prints.
    let foreign = granted.split_whitespace().nth(1).unwrap().trim_start_matches('0');
    etcdctl(&cluster, &format!("put {namespace}/l/{foreign} x")).await;
    let guard = store.lock("l").await.unwrap();
    let mut changes = store.watch_lock("l").await.unwrap();
    assert_eq!(holder(&mut changes).await.token, guard.token());
    etcdctl(&cluster, &format!("put --lease={foreign} {namespace}/l/{foreign} x")).await;
    let ended = tokio::time::timeout(5 * SECOND, changes.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(ended.kind(), &ErrorKind::Protocol);
    assert!(ended.to_string().contains("fencing tokens fell"), "{ended}");
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn many_locks_are_listed_in_the_order_of_their_names() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    // The records' names come in another order than the locks'.
    let mut names: Vec<_> = (0..70).map(|at| format!("d/{at}")).collect();
    names.extend(["d/a", "d/a b", "d/a-b", "d/a/5", "d/a/5/c", "d/a/g", "d/ab"].map(str::to_owned));
    let mut guards = Vec::new();
    for name in &names {
        guards.push(store.lock_with(&key(name), owned(name.clone())).await.unwrap());
    }
    // Owners that do not fit one answer.
    for at in 0..40 {
        let name = format!("d/large/{at:02}");
        guards.push(store.lock_with(&key(&name), owned(vec![b'x'; 1 << 20])).await.unwrap());
        names.push(name);
    }
    for at in 0..50 {
        store.put(format!("d/{at}/entry"), "no lock").await.unwrap();
    }
    names.sort();
    let found = locks(&store, "d").await;
    assert_eq!(found.iter().map(|lock| lock.key.as_str()).collect::<Vec<_>>(), names);
    for lock in &found {
        let guard = guards.iter().find(|guard| *guard.key() == lock.key).unwrap();
        let holder = lock.holder.as_ref().unwrap();
        assert_eq!((holder.token, holder.native.clone()), (guard.token(), Some(lease(guard))));
        let is_own = holder.owner == lock.key.as_str() || holder.owner.len() == 1 << 20;
        assert!(is_own, "{}: {:?}", lock.key, holder.owner.len());
    }
    assert_eq!(locks(&store, "d/a").await.len(), 3, "strictly below");
    // What is read later is the state of the beginning.
    let mut listing = store.locks("d").await.unwrap();
    drop(listing.next().await.unwrap().unwrap());
    drop(guards);
    let mut count = 1;
    while let Some(lock) = listing.next().await {
        assert!(lock.unwrap().holder.is_some());
        count += 1;
    }
    assert_eq!(count, names.len());
}
