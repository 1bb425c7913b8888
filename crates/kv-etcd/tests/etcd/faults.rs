//! What becomes of calls, watches and locks when servers stop, die, or forget.
//!
//! Each test starts servers of its own and asserts health before and after the fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{is_healthy, key, namespace, next, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{
    Applied, ErrorKind, Expiry, ListOptions, LockLoss, LockOptions, Precondition, Prefix, PutOptions,
    SessionState, Store, StoreExt, Version, Watch, WatchEvent, WatchOptions, WatchTarget,
};
use kv_testkit::{Mode, Proxy, require_or_skip};

const SECOND: Duration = Duration::from_secs(1);

async fn put_versions(watch: &mut Watch, count: usize) -> Vec<Version> {
    let mut versions = Vec::new();
    while versions.len() < count {
        match next(watch).await {
            WatchEvent::Put(entry) => versions.push(entry.version),
            other => panic!("a gap: {other:?} after {} events", versions.len()),
        }
    }
    versions
}

#[tokio::test]
async fn a_paused_server_costs_time_and_nothing_else() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "?timeout=1s")).await;
    assert!(is_healthy(&store).await);
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("session"), "1", session).await.unwrap();
    let guard = store.lock("l").await.unwrap();
    let mut watch = store.watch("w").await.unwrap();
    let mut versions = vec![store.put("w/a", "before").await.unwrap()];

    cluster.node(1).pause().await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < 10 * SECOND {
        let called = Instant::now();
        let error = store.get("w/a").await.unwrap_err();
        assert!(called.elapsed() < 2 * SECOND, "{:?}", called.elapsed());
        assert!(error.is_transient(), "{error}");
    }
    // The connection took it, so nobody can know.
    let error = store.put("w/unsure", "during").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::Unknown), "{error}");
    cluster.node(1).unpause().await.unwrap();

    until("the handle works again", 10 * SECOND, || is_healthy(&store)).await;
    if let Some(entry) = store.get("w/unsure").await.unwrap() {
        versions.push(entry.version);
    }
    versions.push(store.put("w/b", "after").await.unwrap());
    assert_eq!(put_versions(&mut watch, versions.len()).await, versions);
    assert_eq!(guard.loss(), None);
    assert!(store.get("session").await.unwrap().is_some());
    let held = || async { store.session() == SessionState::Held };
    until("the session is held again", 10 * SECOND, held).await;
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_keeps_what_it_acknowledged() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "?timeout=2s")).await;
    assert!(is_healthy(&store).await);
    let mut watch = store.watch("w").await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut acked = Vec::new();
            for at in 0.. {
                match store.put(format!("w/{at}"), "x").await {
                    Ok(version) => acked.push((at, version)),
                    Err(error) => {
                        assert!(error.is_transient(), "{error}");
                        break;
                    }
                }
            }
            acked
        }
    });
    tokio::time::sleep(SECOND).await;
    cluster.node(1).kill().await.unwrap();
    let acked = writer.await.unwrap();
    let error = store.put("w/refused", "x").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::No), "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    cluster.node(1).start().await.unwrap();
    until("the handle works again", 20 * SECOND, || is_healthy(&store)).await;

    for (at, version) in &acked {
        let entry = store.get(format!("w/{at}")).await.unwrap().unwrap();
        assert_eq!(entry.version, *version);
    }
    // One more than was acknowledged may have been made.
    let last = store.put("w/last", "x").await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => seen.push(entry.version),
            other => panic!("a gap: {other:?}"),
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b));
    let missing: Vec<_> = acked.iter().filter(|(_, version)| !seen.contains(version)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(seen.len() <= acked.len() + 2);
}

#[tokio::test]
async fn a_server_that_lost_its_data_is_a_gap() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "?timeout=2s")).await;
    for at in 0..20 {
        store.put(format!("w/{at}"), "old").await.unwrap();
    }
    let guard = store.lock("l").await.unwrap();
    let mut watch = store.watch("w").await.unwrap();
    store.put("w/seen", "old").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    cluster.node(1).wipe().await.unwrap();
    cluster.node(1).start().await.unwrap();
    until("the handle works again", 20 * SECOND, || is_healthy(&store)).await;
    assert_eq!(next(&mut watch).await, WatchEvent::Resync);
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    store.put("w/new", "new").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key.as_str() == "w/new"));
    tokio::time::timeout(20 * SECOND, guard.lost()).await.expect("the lock is gone with the data");
}

/// Increments until told to stop; returns how many are unsure.
async fn increment(store: EtcdStore, acked: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let mut unsure = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(entry)) = store.get("counter").await else { continue };
        let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let put = PutOptions::default().with_precondition(Precondition::At(entry.version));
        match store.put_with(&key("counter"), (number + 1).to_string(), put).await {
            Ok(_) => drop(acked.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.applied() == Applied::Unknown => unsure += 1,
            Err(error) => assert!(error.is_conflict() || error.is_transient(), "{error}"),
        }
    }
    unsure
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_no_increment() {
    let Some(cluster) = start(3).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "?timeout=3s");
    let store = open(&url).await;
    store.put("counter", "0").await.unwrap();
    let mut watch = store.watch_key("counter").await.unwrap();
    let stop = Arc::<AtomicBool>::default();
    let (mut writers, mut acks) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let acked = Arc::<AtomicU64>::default();
        acks.push(Arc::clone(&acked));
        writers.push(tokio::spawn(increment(open(&url).await, acked, Arc::clone(&stop))));
    }
    let acked = || acks.iter().map(|acked| acked.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let all = |counts: &[u64], than: &[u64]| counts.iter().zip(than).all(|(count, than)| count > than);
    until("every writer counts", 20 * SECOND, || async { all(&acked(), &[0; 8]) }).await;
    cluster.leader().await.unwrap().kill().await.unwrap();
    let at_kill = acked();
    until("every writer goes on", 30 * SECOND, || async { all(&acked(), &at_kill) }).await;
    // Whichever member is asked first.
    for _ in 0..6 {
        open(&url).await.close().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut unsure = 0;
    for writer in writers {
        unsure += writer.await.unwrap();
    }
    let acked: u64 = acked().into_iter().sum();
    let entry = store.get("counter").await.unwrap().unwrap();
    let counted: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
    assert!(
        (acked..=acked + unsure).contains(&counted),
        "{counted} counted, {acked} acknowledged, {unsure} unsure"
    );
    // The watch moved to another member and has seen every state.
    let mut last = 0;
    while last < counted {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => {
                let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                assert_eq!(number, last + 1);
                last = number;
            }
            other => panic!("a gap: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_compaction_that_overtakes_a_watch_is_a_resync() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let cut_off = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s")).await;
    let first = direct.put("w/a", "1").await.unwrap();
    direct.put("w/b", "1").await.unwrap();
    let target = WatchTarget::from(Prefix::new("w").unwrap());
    let mut watch = cut_off.watch_with(target.clone(), WatchOptions::default()).await.unwrap();

    proxy.set(Mode::Refuse).await;
    proxy.cut();
    direct.delete("w/a").await.unwrap();
    let last = direct.put("w/b", "2").await.unwrap();
    cluster.node(1).exec(&["etcdctl", "compact", &last.to_string()]).await.unwrap();
    proxy.set(Mode::Forward).await;

    assert_eq!(next(&mut watch).await, WatchEvent::Resync);
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == last));
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    let error = direct.watch_with(target, WatchOptions::default().with_from(first)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Compacted { oldest: Some(last) });
}

#[tokio::test]
async fn a_compaction_up_to_a_missed_delete_hides_nothing() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let cut_off = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s")).await;
    let mut watch = cut_off.watch("w").await.unwrap();
    let before = direct.put("w/a", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    direct.delete("w/a").await.unwrap();
    // The delete is the next revision.
    let deleted = (before.get() + 1).to_string();
    cluster.node(1).exec(&["etcdctl", "compact", "--physical", &deleted]).await.unwrap();
    proxy.set(Mode::Forward).await;
    assert_eq!(next(&mut watch).await, WatchEvent::Resync);
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
    direct.put("w/b", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key.as_str() == "w/b"));
}

#[tokio::test]
async fn a_thousand_watches_share_one_connection() {
    let Some(cluster) = start(1).await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace(), "")).await;
    let mut watches = Vec::new();
    for at in 0..1000 {
        watches.push(store.watch(format!("w/{at}")).await.unwrap());
    }
    assert_eq!(proxy.counts().open, 1);
    proxy.cut();
    for at in 0..1000 {
        until("the handle works again", 10 * SECOND, || async {
            store.put(format!("w/{at}/k"), "v").await.is_ok()
        })
        .await;
    }
    for (at, watch) in watches.iter_mut().enumerate() {
        let WatchEvent::Put(entry) = next(watch).await else { panic!("a gap") };
        assert_eq!(entry.key.as_str(), format!("w/{at}/k"));
    }
    assert_eq!(proxy.counts().open, 1);
    drop(watches);
    store.close().await.unwrap();
    let closed = || async { proxy.counts().open == 0 };
    until("nothing is left open", 5 * SECOND, closed).await;
}

#[tokio::test]
async fn a_holder_that_is_cut_off_knows_before_its_rival_acquires() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let rival = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let holder = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s&session_ttl=3s")).await;
    let session = PutOptions::default().with_expiry(Expiry::Session);
    holder.put_with(&key("s"), "1", session).await.unwrap();
    let ttl = LockOptions::default().with_ttl(3 * SECOND);
    let guard = holder.lock_with(&key("l"), ttl).await.unwrap();
    let waiting = tokio::spawn({
        let rival = rival.clone();
        async move { (rival.lock("l").await.unwrap(), Instant::now()) }
    });
    tokio::time::sleep(4 * SECOND).await;
    assert!(guard.is_held(), "renewed while it is connected");

    proxy.set(Mode::Hold).await;
    let loss = tokio::time::timeout(10 * SECOND, guard.lost()).await.unwrap();
    let known = Instant::now();
    assert_eq!(loss, LockLoss::Expired);
    assert!(!guard.is_held());
    let (second, acquired) = tokio::time::timeout(10 * SECOND, waiting).await.unwrap().unwrap();
    assert!(known < acquired, "known {:?} too late", known.duration_since(acquired));
    assert!(second.token() > guard.token());
    // It was renewed at other moments than the lock.
    let lost = || async { holder.session() == SessionState::Lost };
    until("the session is lost", 4 * SECOND, lost).await;
    let gone = || async { rival.get("s").await.unwrap().is_none() };
    until("the session key is gone", 5 * SECOND, gone).await;
    proxy.set(Mode::Forward).await;
    until("the handle works again", 20 * SECOND, || is_healthy(&holder)).await;
    let late = PutOptions::default().with_fence(guard.fence());
    let error = holder.put_with(&key("f"), "x", late).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }));
    let session = PutOptions::default().with_expiry(Expiry::Session);
    holder.put_with(&key("s"), "2", session).await.unwrap();
    assert_eq!(holder.session(), SessionState::Held);
    assert!(second.is_held());
}

#[tokio::test]
async fn a_lease_revoked_from_outside_is_noticed_at_once() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "")).await;
    let guard = store.lock("l").await.unwrap();
    let lease = guard.fence().record().rsplit('/').next().unwrap().to_owned();
    cluster.node(1).exec(&["etcdctl", "lease", "revoke", &lease]).await.unwrap();
    let begin = Instant::now();
    let loss = tokio::time::timeout(SECOND, guard.lost()).await.expect("within a watch's latency");
    assert_eq!(loss, LockLoss::Removed, "{:?}", begin.elapsed());
    let next = store.lock("l").await.unwrap();
    assert!(matches!(guard.unlock().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    assert!(next.is_held());
    assert_eq!(store.lock_holder(&key("l")).await.unwrap().unwrap().token, next.token());
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_sent_again() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=1s")).await;
    let mut watch = direct.watch("w").await.unwrap();
    let before = store.put("w/k", "1").await.unwrap();
    proxy.set(Mode::DropReplies).await;
    let error = store.put("w/k", "2").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::Unknown));
    proxy.set(Mode::Forward).await;
    until("the handle works again", 10 * SECOND, || is_healthy(&store)).await;
    assert_eq!(put_versions(&mut watch, 2).await[0], before);
    direct.put("w/k", "3").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.value == "3"), "sent twice");
}

#[tokio::test]
async fn a_full_database_can_be_read_and_emptied() {
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let cluster = servers.arg("--quota-backend-bytes=8388608").start().await.unwrap();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "")).await;
    let mut full = None;
    for at in 0..64 {
        if let Err(error) = store.put(format!("big/{at:02}"), vec![7; 512 << 10]).await {
            full = Some((at, error));
            break;
        }
    }
    let (at, error) = full.expect("32 MB fit into 8 MB");
    // The write that finds the space used up is made and reported so; the next ones are not made.
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::NoSpace, Applied::Unknown), "{error}");
    let made = store.get(format!("big/{at:02}")).await.unwrap().is_some();
    let error = store.put("small", "x").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");
    assert_eq!(store.get("small").await.unwrap(), None);
    let session = PutOptions::default().with_expiry(Expiry::Session);
    let error = store.put_with(&key("s"), "1", session).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");
    let error = store.lock("l").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");

    assert_eq!(store.keys("").await.unwrap().len(), at + usize::from(made));
    for at in 0..3 {
        assert!(store.delete(format!("big/{at:02}")).await.unwrap(), "{at}");
    }
    let left = u64::try_from(at + usize::from(made)).unwrap() - 3;
    assert_eq!(store.delete_tree("big").await.unwrap(), left);
    // What an administrator then does.
    let last = store.list_with(&Prefix::root(), ListOptions::default()).await.unwrap().as_of().unwrap();
    cluster.node(1).exec(&["etcdctl", "compact", &last.to_string()]).await.unwrap();
    cluster.node(1).exec(&["etcdctl", "defrag"]).await.unwrap();
    cluster.node(1).exec(&["etcdctl", "alarm", "disarm"]).await.unwrap();
    until("it takes writes again", 10 * SECOND, || is_healthy(&store)).await;
}
