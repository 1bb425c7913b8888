//! What slow, silent and closed connections mean for calls, lists, watches and locks.

use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::common::{etcdctl, is_healthy, key, namespace, next, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{
    Applied, Compare, Condition, ErrorKind, ListOptions, Listing, LockOptions, Prefix, StoreExt, Stream, Txn,
    TxnOp, Watch, WatchEvent, WatchOptions, WatchTarget,
};
use kv_testkit::{Cluster, Mode, Proxy, is_nightly};

const SECOND: Duration = Duration::from_secs(1);

fn below(path: &str) -> WatchTarget {
    WatchTarget::from(Prefix::new(path).unwrap())
}

async fn item(listing: &mut Listing) -> Option<Result<String, kv_etcd::kv_core::Error>> {
    let item = std::future::poll_fn(|cx| Stream::poll_next(Pin::new(&mut *listing), cx)).await;
    item.map(|item| item.map(|item| item.path().to_owned()))
}

/// Makes these puts, a hundred in one transaction.
async fn put_all(store: &EtcdStore, paths: impl Iterator<Item = String>, value: &[u8]) {
    let paths: Vec<_> = paths.collect();
    for paths in paths.chunks(100) {
        let ops = paths.iter().map(|path| TxnOp::put(key(path), value.to_vec()));
        let _ = store.transact(Txn::always().then(ops)).await.unwrap();
    }
}

/// Two proxies in front of one server, and a store that knows it by both.
async fn two_ways(cluster: &Cluster, namespace: &str, query: &str) -> ([Proxy; 2], EtcdStore) {
    let server = cluster.node(1).endpoint();
    let ways = [Proxy::start(server.clone()).await.unwrap(), Proxy::start(server).await.unwrap()];
    let store = open(&url(cluster, &[ways[0].endpoint(), ways[1].endpoint()], namespace, query)).await;
    (ways, store)
}

#[tokio::test]
async fn an_idle_watch_notices_that_its_connection_fell_silent() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let (ways, store) = two_ways(&cluster, &namespace, "?keep_alive=5s&timeout=2s").await;
    let mut watch = store.watch("w").await.unwrap();
    direct.put("w/a", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    let used = ways.iter().find(|way| way.counts().open > 0).unwrap();
    // Nothing is reset: the connection looks as if nothing happened.
    used.set(Mode::Hold).await;
    let begin = Instant::now();
    for at in 0..3 {
        direct.put(format!("w/{at}"), "2").await.unwrap();
    }
    for at in 0..3 {
        let told = tokio::time::timeout(20 * SECOND, watch.next()).await.expect("it asks for a sign of life");
        let WatchEvent::Put(entry) = told.unwrap().unwrap() else { panic!("a gap") };
        assert_eq!(entry.key.as_str(), format!("w/{at}"));
    }
    assert!(begin.elapsed() > 4 * SECOND, "it came through the silent connection");
    assert!(is_healthy(&store).await);
}

#[tokio::test]
async fn a_lock_is_kept_over_a_link_of_long_delays() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let server = cluster.node(1).endpoint();
    let mut ways = Vec::new();
    for _ in 0..3 {
        ways.push(Proxy::start(server.clone()).await.unwrap());
    }
    let endpoints: Vec<_> = ways.iter().map(Proxy::endpoint).collect();
    let store = open(&url(&cluster, &endpoints, &namespace, "")).await;
    let guard = store.lock_with(&key("l"), LockOptions::default().with_ttl(3 * SECOND)).await.unwrap();
    // An answer takes 0.4 s, more than a third of the time that a renewal has.
    for way in &ways {
        way.set(Mode::Delay(SECOND / 5)).await;
    }
    let lost = tokio::time::timeout(8 * SECOND, guard.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_state_gets_through_a_slow_link_in_small_pieces() {
    if !is_nightly() {
        return;
    }
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s&keep_alive=60s")).await;
    // The sizes of the first page promise that the second is small too.
    put_all(&direct, (0..300).map(|at| format!("w/a/{at:03}")), b"small").await;
    for at in 0..60 {
        direct.put(format!("w/b/{at:02}"), vec![7; 32 << 10]).await.unwrap();
    }
    let mut watch = store.watch_with(below("w"), WatchOptions::default().with_initial()).await.unwrap();
    proxy.set(Mode::Throttle { bytes_per_second: 400_000 }).await;
    let read = async {
        for at in 0..360 {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Put(_) => {}
                other => panic!("{other:?} after {at}"),
            }
        }
        assert_eq!(watch.next().await.unwrap().unwrap(), WatchEvent::Synced);
    };
    tokio::time::timeout(90 * SECOND, read).await.expect("2 MB in pieces");
}

#[tokio::test]
async fn a_list_on_a_silent_link_ends_in_time() {
    let Some(cluster) = start(1).await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace(), "?timeout=2s")).await;
    proxy.set(Mode::Hold).await;
    let begin = Instant::now();
    let error = store.entries("").await.unwrap_err();
    assert!(begin.elapsed() < 3 * SECOND, "{:?}", begin.elapsed());
    assert_eq!(error.kind(), &ErrorKind::Timeout, "{error}");
    // A question before a transaction changes nothing, whatever becomes of it.
    let conditions = (0..9).map(|at| Condition::value(key(&format!("{at}")), Compare::NotEqual, "x"));
    let txn = Txn::when(conditions).then([TxnOp::put(key("k"), "v")]);
    let error = store.transact(txn).await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::No), "{error}");
}

#[tokio::test]
async fn a_closed_handle_connects_no_more() {
    let Some(cluster) = start(1).await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace(), "")).await;
    // More than the two pages that are fetched when the first is read.
    put_all(&store, (0..25_000).map(|at| format!("l/{at:05}")), b"").await;
    let options = ListOptions::default().with_keys_only();
    let mut listing = store.list_with(&Prefix::new("l").unwrap(), options).await.unwrap();
    assert_eq!(item(&mut listing).await.unwrap().unwrap(), "l/00000");
    // A call that is about to connect when the handle is closed.
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    for _ in 0..5 {
        store.get("k").await.unwrap_err();
    }
    let mut racing = Box::pin(store.get("k"));
    assert!(futures_util::poll!(&mut racing).is_pending(), "it waits until it may try again");
    store.close().await.unwrap();
    proxy.set(Mode::Forward).await;
    let accepted = proxy.counts().accepted;
    let mut read = 1;
    let error = loop {
        match item(&mut listing).await.expect("a list that is cut short says so") {
            Ok(_) => read += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), &ErrorKind::Closed, "{error} after {read}");
    racing.await.unwrap_err();
    assert_eq!((proxy.counts().accepted, proxy.counts().open), (accepted, 0), "a closed handle connected");
}

/// What a reader gets that begins to read only now, up to this many events.
async fn read(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match next(watch).await {
            WatchEvent::Put(entry) => seen.push(entry.key.to_string()),
            WatchEvent::Delete(deletion) => seen.push(format!("-{}", deletion.key)),
            other => panic!("{other:?} after {} events", seen.len()),
        }
    }
    seen
}

#[tokio::test]
async fn a_slow_reader_gets_every_change_in_the_end() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "")).await;
    let mut watch = store.watch("w").await.unwrap();
    let paths = || (0..10_000).map(|at| format!("w/{at:04}"));
    put_all(&store, paths(), b"v").await;
    // The stream has delivered all it would, when another watch on it has.
    let mut other = store.watch("other").await.unwrap();
    store.put("other/k", "v").await.unwrap();
    assert!(matches!(next(&mut other).await, WatchEvent::Put(_)));
    assert_eq!(read(&mut watch, 10_000).await, paths().collect::<Vec<_>>());

    // One change waits, and then comes a single one of more than may wait.
    store.put("w/first", "v").await.unwrap();
    store.put("other/k", "v").await.unwrap();
    assert!(matches!(next(&mut other).await, WatchEvent::Put(_)));
    assert_eq!(store.delete_tree("w").await.unwrap(), 10_001);
    store.put("other/k", "v").await.unwrap();
    assert!(matches!(next(&mut other).await, WatchEvent::Put(_)));
    let seen = read(&mut watch, 10_002).await;
    assert_eq!(seen[0], "w/first");
    assert!(seen[1..].iter().all(|change| change.starts_with('-')));

    // What is compacted meanwhile is a gap for it.
    put_all(&store, paths(), b"v").await;
    let last = store.put("other/k", "v").await.unwrap();
    assert!(matches!(next(&mut other).await, WatchEvent::Put(_)));
    etcdctl(&cluster, &format!("compact {last}")).await;
    loop {
        match next(&mut watch).await {
            WatchEvent::Put(_) => {}
            WatchEvent::Resync => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read(&mut watch, 10_000).await, paths().collect::<Vec<_>>());
    assert_eq!(next(&mut watch).await, WatchEvent::Synced);
}

#[tokio::test]
async fn an_idle_watch_needs_no_history_of_what_it_does_not_watch() {
    let Some(servers) = kv_testkit::require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let often = "--experimental-watch-progress-notify-interval=200ms";
    let cluster = servers.arg(often).start().await.unwrap();
    let namespace = namespace();
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=2s")).await;
    let mut watch = store.watch("w").await.unwrap();
    let mut last = direct.put("other", "0").await.unwrap();
    for at in 0..20 {
        last = direct.put("other", format!("{at}")).await.unwrap();
    }
    // Five times as long as the server takes to tell an idle watch how far it is.
    tokio::time::sleep(SECOND).await;
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    etcdctl(&cluster, &format!("compact {last}")).await;
    proxy.set(Mode::Forward).await;
    until("the handle works again", 10 * SECOND, || is_healthy(&store)).await;
    direct.put("w/a", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)), "a gap where nothing was missed");
}

/// As of a balancer whose servers are all gone: it takes connections and ends them.
#[tokio::test]
async fn connections_that_break_at_once_are_made_at_a_bounded_pace() {
    let Some(cluster) = start(1).await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace(), "?timeout=2s")).await;
    let mut watch = store.watch("w").await.unwrap();
    proxy.set(Mode::CutAfter { reply_bytes: 0 }).await;
    proxy.cut();
    let before = proxy.counts().accepted;
    let begin = Instant::now();
    let call = async |write: bool| {
        while begin.elapsed() < 5 * SECOND {
            let called =
                if write { store.put("k", "v").await.map(drop) } else { store.get("k").await.map(drop) };
            assert!(called.unwrap_err().is_transient());
        }
    };
    tokio::join!(call(true), call(true), call(false), call(false));
    let made = proxy.counts().accepted - before;
    assert!(made <= 30, "{made} connections in {:?}", begin.elapsed());
    proxy.set(Mode::Forward).await;
    until("the handle works again", 5 * SECOND, || is_healthy(&store)).await;
    store.put("w/a", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
}
