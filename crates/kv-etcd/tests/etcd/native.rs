//! Side by side with `etcdctl`: the same entries, and locks that exclude each other.

use std::time::{Duration, Instant};

use crate::common::{etcdctl, key, namespace, open, start, until, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{LockOptions, PutOptions, StoreExt};
use kv_testkit::{Mode, Proxy, is_nightly};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn etcdctl_and_we_exclude_each_other() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let name = format!("{namespace}/l");
    let node = cluster.node(1);
    let native = |command: &str| {
        let line = format!("etcdctl lock --ttl 10 {name} {command}");
        async move { node.exec(&["sh", "-c", &line]).await.unwrap() }
    };

    let guard = store.lock("l").await.unwrap();
    let waits = native("echo locked");
    tokio::pin!(waits);
    assert!(tokio::time::timeout(2 * SECOND, &mut waits).await.is_err(), "etcdctl did not wait");
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    assert_eq!(tokio::time::timeout(5 * SECOND, waits).await.unwrap(), "locked");

    let holds = native("sleep 4");
    let ours = async {
        until("etcdctl holds it", 10 * SECOND, || async {
            store.lock_holder(&key("l")).await.unwrap().is_some()
        })
        .await;
        assert!(store.try_lock("l").await.unwrap().is_none());
        let begin = Instant::now();
        let guard = store.lock("l").await.unwrap();
        assert!(begin.elapsed() > 2 * SECOND, "{:?}", begin.elapsed());
        guard
    };
    let (_, guard) = tokio::join!(holds, ours);
    drop(guard);

    // Entries of a native tool are entries here, and the other way round.
    node.exec(&["etcdctl", "put", &format!("{namespace}/n/a"), "native"]).await.unwrap();
    assert_eq!(store.get("n/a").await.unwrap().unwrap().value, "native");
    store.put("n/b", "ours").await.unwrap();
    let shown = node.exec(&["etcdctl", "get", "--prefix", &format!("{namespace}/n/")]).await.unwrap();
    let lines: Vec<_> = shown.lines().map(|line| line.replace(&namespace, "ns")).collect();
    assert_eq!(lines, ["ns/n/a", "native", "ns/n/b", "ours"]);
}

async fn number(store: &EtcdStore) -> u64 {
    let entry = store.get("counter").await.unwrap().unwrap();
    std::str::from_utf8(&entry.value).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_under_locks_of_both_kinds_misses_nothing() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let store = open(&url).await;
    store.put("counter", "0").await.unwrap();
    // A hundred rounds in all, of two on each side at a time.
    let rounds: u64 = if is_nightly() { 25 } else { 5 };
    let add = format!(
        "v=$(etcdctl get --print-value-only {namespace}/counter); etcdctl put {namespace}/counter $((v+1))"
    );
    let script = format!(
        "for i in $(seq {rounds}); do etcdctl lock --ttl 10 {namespace}/l -- sh -c '{add}' >/dev/null || exit 1; done"
    );
    let native = || {
        let (node, script) = (cluster.node(1).clone(), script.clone());
        tokio::spawn(async move { node.exec(&["sh", "-c", &script]).await.map(drop).unwrap() })
    };
    let ours = |store: EtcdStore| {
        tokio::spawn(async move {
            for _ in 0..rounds {
                let guard = store.lock("l").await.unwrap();
                // Not a compare-and-set: the lock alone keeps the others away.
                let next = number(&store).await + 1;
                let fenced = PutOptions::default().with_fence(guard.fence());
                store.put_with(&key("counter"), next.to_string(), fenced).await.unwrap();
                guard.unlock().await.unwrap();
            }
        })
    };
    let all = [native(), ours(open(&url).await), native(), ours(open(&url).await)];
    for one in all {
        tokio::time::timeout(120 * SECOND, one).await.expect("nobody waits for ever").unwrap();
    }
    assert_eq!(number(&store).await, 4 * rounds);
}

#[tokio::test]
async fn who_dies_with_a_lock_is_followed_by_the_other_kind() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let name = format!("{namespace}/l");
    // Killed: nothing is revoked.
    let holder = format!(
        "etcdctl lock --ttl 3 {name} sleep 60 >/dev/null 2>&1 & \
         until etcdctl get --prefix --keys-only {name}/ | grep -q .; do sleep 0.1; done; kill -9 $!"
    );
    cluster.node(1).exec(&["sh", "-c", &holder]).await.unwrap();
    assert!(store.lock_holder(&key("l")).await.unwrap().is_some(), "its record stays until the lease ends");
    assert!(store.try_lock("l").await.unwrap().is_none());
    let guard = tokio::time::timeout(15 * SECOND, store.lock("l")).await.unwrap().unwrap();
    guard.unlock().await.unwrap();

    // Cut off for good, which is what a killed process of ours is to the server.
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let dying = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=1s")).await;
    let options = LockOptions::default().with_ttl(3 * SECOND);
    let guard = dying.lock_with(&key("l"), options).await.unwrap();
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    let begin = Instant::now();
    let line = format!("lock --ttl 10 {name} echo locked");
    let locked = tokio::time::timeout(15 * SECOND, etcdctl(&cluster, &line)).await.unwrap();
    assert_eq!(locked, "locked");
    assert!(begin.elapsed() > SECOND, "{:?}", begin.elapsed());
    assert!(guard.loss().is_some(), "it knew before");
}
