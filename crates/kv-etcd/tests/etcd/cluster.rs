//! Three members, of which some are cut off, die, stand still and return.

use std::time::{Duration, Instant};

use crate::common::{is_healthy, key, namespace, next, open, start, until, url};
use futures_util::TryStreamExt;
use kv_etcd::kv_core::{
    Applied, Consistency, Expiry, GetOptions, ListOptions, LockLoss, LockOptions, Prefix, PutOptions,
    SessionState, Store, StoreExt, WatchEvent,
};
use kv_testkit::{Link, is_nightly};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_member_without_its_peers_serves_nothing_and_hides_nothing() {
    if !is_nightly() {
        return;
    }
    let Some(cluster) = start(3).await else { return };
    let namespace = namespace();
    let leader = cluster.leader().await.unwrap();
    let others: Vec<_> = cluster
        .nodes()
        .iter()
        .filter(|node| node.index() != leader.index())
        .map(|node| node.endpoint())
        .collect();
    let cut_off = open(&url(&cluster, &[leader.endpoint()], &namespace, "?timeout=2s")).await;
    let majority = open(&url(&cluster, &others, &namespace, "?timeout=5s")).await;
    assert!(is_healthy(&cut_off).await && is_healthy(&majority).await);
    let guard = cut_off.lock_with(&key("l"), LockOptions::default().with_ttl(4 * SECOND)).await.unwrap();
    let mut watch = cut_off.watch("w").await.unwrap();
    let mut versions = vec![majority.put("w/k", "1").await.unwrap()];
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == versions[0]));

    leader.disconnect(Link::Peers).await.unwrap();
    until("the others have a leader", 30 * SECOND, || is_healthy(&majority)).await;
    versions.push(majority.put("w/k", "2").await.unwrap());
    let mut unsure = 0;
    for _ in 0..3 {
        let begin = Instant::now();
        let error = cut_off.get("w/k").await.expect_err("a stale read");
        assert!(error.is_transient() && begin.elapsed() < 3 * SECOND, "{error} {:?}", begin.elapsed());
        let error = cut_off.put("lost", "x").await.expect_err("a write of the minority");
        assert!(error.is_transient(), "{error}");
        unsure += usize::from(error.applied() == Applied::Unknown);
    }
    assert_eq!(majority.get("lost").await.unwrap(), None, "{unsure} writes were unsure");
    let loss = tokio::time::timeout(10 * SECOND, guard.lost()).await.expect("it cannot be renewed");
    assert_eq!(loss, LockLoss::Expired);

    leader.reconnect(Link::Peers).await.unwrap();
    until("the handle works again", 30 * SECOND, || is_healthy(&cut_off)).await;
    versions.push(majority.put("w/k", "3").await.unwrap());
    for version in &versions[1..] {
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == *version));
    }
    let next = majority.lock("l").await.unwrap();
    assert!(next.token() > guard.token());
}

#[tokio::test]
async fn what_is_let_go_without_a_quorum_is_free_as_soon_as_there_is_one() {
    let Some(cluster) = start(3).await else { return };
    let namespace = namespace();
    let leader = cluster.leader().await.unwrap().index();
    // A leader would keep what it is asked for in its log until the others are there again.
    let (ours, away): (Vec<_>, Vec<_>) = (1..=3).partition(|node| *node == 1 + leader % 3);
    let endpoint = [cluster.node(ours[0]).endpoint()];
    let store = open(&url(&cluster, &endpoint, &namespace, "?timeout=1s")).await;
    let ttl = 6 * SECOND;
    let options = || LockOptions::default().with_ttl(ttl);
    let dropped = store.lock_with(&key("dropped"), options()).await.unwrap();
    let unlocked = store.lock_with(&key("unlocked"), options()).await.unwrap();
    for node in &away {
        cluster.node(*node).kill().await.unwrap();
    }
    drop(dropped);
    unlocked.unlock().await.unwrap_err();
    // Longer than the time to live: without a leader no lease ends, and the next one counts anew.
    tokio::time::sleep(ttl + 3 * SECOND).await;
    for node in &away {
        cluster.node(*node).start().await.unwrap();
    }
    until("there is a quorum again", 20 * SECOND, || is_healthy(&store)).await;
    let begin = Instant::now();
    for path in ["dropped", "unlocked"] {
        let free = || async { store.lock_holder(&key(path)).await.is_ok_and(|holder| holder.is_none()) };
        until(path, ttl / 2, free).await;
    }
    assert!(begin.elapsed() < ttl / 2, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn without_a_quorum_a_store_opens_and_stale_reads_answer() {
    let Some(cluster) = start(3).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &[cluster.node(1).endpoint()], &namespace, "?timeout=2s");
    let before = open(&url).await;
    before.put("k", "v").await.unwrap();
    for node in [2, 3] {
        cluster.node(node).kill().await.unwrap();
    }
    let refused = || async { before.get("k").await.is_err() };
    until("there is no quorum", 20 * SECOND, refused).await;
    for store in [&before, &open(&url).await] {
        assert!(!store.server().await.unwrap().version.is_empty());
        let stale = GetOptions::default().with_consistency(Consistency::Stale);
        let entry = store.get_with(&key("k"), stale).await.unwrap().unwrap();
        assert_eq!(entry.value, "v");
        let stale = ListOptions::default().with_consistency(Consistency::Stale);
        let listing = store.list_with(&Prefix::root(), stale).await.unwrap();
        assert_eq!(listing.try_collect::<Vec<_>>().await.unwrap().len(), 1);
        let begin = Instant::now();
        for error in [store.get("k").await.unwrap_err(), store.put("k", "w").await.unwrap_err()] {
            assert!(error.is_transient(), "{error}");
        }
        assert!(store.lock("l").await.unwrap_err().is_transient());
        assert!(begin.elapsed() < 8 * SECOND, "{:?}", begin.elapsed());
    }
    for node in [2, 3] {
        cluster.node(node).start().await.unwrap();
    }
    until("there is a quorum again", 30 * SECOND, || is_healthy(&before)).await;
}

/// A leader that stood still thinks that nobody renewed the leases which others renewed meanwhile, and
/// has them revoked when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_leader_revokes_when_it_goes_on_is_told_as_lost() {
    if !is_nightly() {
        return;
    }
    let Some(cluster) = start(3).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "?timeout=3s&session_ttl=5s&lock_ttl=5s");
    let ttl = 5 * SECOND;
    let direct = open(&url).await;
    for _ in 0..4 {
        let mut holders = Vec::new();
        for at in 0..16 {
            let store = open(&url).await;
            let session = PutOptions::default().with_expiry(Expiry::Session);
            store.put_with(&key(&format!("s/{at}")), "1", session).await.unwrap();
            let guard = store.lock(format!("l/{at}")).await.unwrap();
            holders.push((store, guard));
        }
        let leader = cluster.leader().await.unwrap();
        leader.pause().await.unwrap();
        tokio::time::sleep(ttl + 3 * SECOND).await;
        leader.unpause().await.unwrap();
        tokio::time::sleep(2 * SECOND).await;
        until("there is a quorum again", 30 * SECOND, || is_healthy(&direct)).await;
        for (at, (store, guard)) in holders.iter().enumerate() {
            // By the next renewal at the latest both agree.
            until("a lost session key is told", ttl, || async {
                let there = direct.get(format!("s/{at}")).await.is_ok_and(|entry| entry.is_some());
                there == (store.session() != SessionState::Lost)
            })
            .await;
            until("a lost lock is told", ttl, || async {
                let name = key(&format!("l/{at}"));
                let Ok(holder) = direct.lock_holder(&name).await else { return false };
                guard.is_held() == holder.is_some_and(|holder| holder.token == guard.token())
            })
            .await;
        }
        for (store, guard) in holders {
            drop(guard);
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_member_that_returns_takes_over_from_one_that_dies() {
    if !is_nightly() {
        return;
    }
    let Some(cluster) = start(3).await else { return };
    let two = [cluster.node(1).endpoint(), cluster.node(2).endpoint()];
    let store = open(&url(&cluster, &two, &namespace(), "?timeout=5s")).await;
    let mut watch = store.watch("w").await.unwrap();
    let mut versions = Vec::new();
    for round in 0..4 {
        // Whichever is used: after two rounds each was away once.
        let (away, here) = (cluster.node(1 + round % 2), cluster.node(2 - round % 2));
        away.kill().await.unwrap();
        until("the other one serves", 30 * SECOND, || is_healthy(&store)).await;
        versions.push(store.put("w/k", format!("{round}")).await.unwrap());
        away.start().await.unwrap();
        away.ready().await.unwrap();
        here.ready().await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.last() < versions.last() {
        let WatchEvent::Put(entry) = next(&mut watch).await else { panic!("a gap after {seen:?}") };
        seen.push(entry.version);
    }
    assert_eq!(seen, versions);
}
