//! Three servers, one of them cut off from the others: only in the nightly tier.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // It is a test.

mod common;

use std::time::{Duration, Instant};

use common::{key, namespace, open, until, with};
use kv_testkit::{Cluster, Link, Node, is_nightly, require_or_skip};
use kv_zk::ZkStore;
use kv_zk::kv_core::{Expiry, Guarantee, PutOptions, SessionState, Store, StoreExt};

common::on_each_client!(
    a_holder_on_a_server_without_its_leader_knows_in_time,
    reads_are_no_older_than_they_promise,
    a_leader_without_followers_acknowledges_nothing,
);

const SECOND: Duration = Duration::from_secs(1);

async fn cluster() -> Option<Cluster> {
    if !is_nightly() {
        return None;
    }
    Some(require_or_skip(env!("CARGO_MANIFEST_DIR"))?.nodes(3).start().await.unwrap())
}

async fn on(cluster: &Cluster, node: &Node, client: &str, namespace: &str, query: &str) -> ZkStore {
    let url = cluster.url_of(&[node.endpoint()]).unwrap();
    open(&with(&url, client, namespace, query)).await
}

/// A follower goes on answering reads for ten seconds after its leader is gone, while the leader lets
/// the sessions of its clients expire.
async fn a_holder_on_a_server_without_its_leader_knows_in_time(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let leader = cluster.leader().await.unwrap();
    let mut others = cluster.nodes().iter().filter(|node| node.index() != leader.index());
    let (cut_off, other) = (others.next().unwrap(), others.next().unwrap());
    let (namespace, query) = (namespace(), "session_timeout=6s");
    let holder = on(&cluster, cut_off, client, &namespace, query).await;
    let rival = on(&cluster, other, client, &namespace, query).await;
    let session_key = PutOptions::default().with_expiry(Expiry::Session);
    holder.put_with(&key("here"), "x", session_key).await.unwrap();
    let guard = holder.lock("l").await.unwrap();
    let winning = tokio::spawn({
        let rival = rival.clone();
        async move {
            let guard = rival.lock("l").await.unwrap();
            (Instant::now(), guard)
        }
    });
    let lost = tokio::spawn({
        let lost = guard.lost();
        async move { (lost.await, Instant::now()) }
    });
    let begin = Instant::now();
    cut_off.disconnect(Link::Peers).await.unwrap();
    let (won_at, won) = tokio::time::timeout(40 * SECOND, winning).await.unwrap().unwrap();
    assert!(lost.is_finished(), "the rival has it after {:?}, and ours is held", won_at - begin);
    let (loss, lost_at) = lost.await.unwrap();
    println!("lost after {:?} ({loss:?}), the rival has it after {:?}", lost_at - begin, won_at - begin);
    assert!(lost_at < won_at);
    assert!(!guard.is_held());
    assert_eq!(holder.session(), SessionState::Lost);
    assert!(won.token() > guard.token());
    cut_off.reconnect(Link::Peers).await.unwrap();
    until("the cut off handle works again", 60 * SECOND, || async { holder.put("k", "x").await.is_ok() })
        .await;
    assert!(won.is_held());
    won.unlock().await.unwrap();
}

/// What one server acknowledged is read at once through another, where that is promised; and what is
/// written under a condition is never decided on less.
async fn reads_are_no_older_than_they_promise(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let namespace = namespace();
    let mut handles = Vec::new();
    for node in cluster.nodes() {
        // The client's sync alone misses something now and then.
        handles.push(on(&cluster, node, client, &namespace, "barrier_reads=true").await);
    }
    let mut plain = Vec::new();
    for node in cluster.nodes() {
        plain.push(on(&cluster, node, client, &namespace, "").await);
    }
    assert!(handles[0].capabilities().guarantees(Guarantee::LinearizableReads));
    for round in 0..300 {
        let (writer, reader) = (&handles[round % 3], &handles[(round + 1) % 3]);
        let version = writer.put("k", round.to_string()).await.unwrap();
        let entry = reader.get("k").await.unwrap().unwrap();
        assert_eq!(entry.version, version, "round {round}");
        // These promise no such reads on zookeeper-async, and yet such writes.
        let (other, third) = (&plain[(round + 2) % 3], &plain[(round + 1) % 3]);
        let next = other.compare_and_set("k", version, "next").await.unwrap();
        assert!(third.delete("k").await.unwrap(), "round {round}");
        other.create("k", "made again").await.unwrap();
        third.compare_and_set("k", next, "over it").await.unwrap_err();
        assert!(reader.delete("k").await.unwrap(), "round {round}");
        assert!(!third.delete("k").await.unwrap(), "round {round}");
    }
}

async fn a_leader_without_followers_acknowledges_nothing(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let leader = cluster.leader().await.unwrap();
    let namespace = namespace();
    let others: Vec<String> =
        cluster.nodes().iter().filter(|node| node.index() != leader.index()).map(Node::endpoint).collect();
    let minority = on(&cluster, leader, client, &namespace, "timeout=2s").await;
    let majority = open(&with(&cluster.url_of(&others).unwrap(), client, &namespace, "timeout=5s")).await;
    minority.put("k", "before").await.unwrap();
    leader.disconnect(Link::Peers).await.unwrap();
    let cut_at = Instant::now();
    // Until after the others have another leader.
    let mut acknowledged = Vec::new();
    let mut elected = false;
    let mut nth = 0;
    while !elected || cut_at.elapsed() < 15 * SECOND {
        assert!(cut_at.elapsed() < 60 * SECOND, "no other leader");
        nth += 1;
        if minority.put(format!("m/{nth}"), "x").await.is_ok() {
            acknowledged.push(nth);
        }
        elected = elected || majority.put("k", "after").await.is_ok();
    }
    assert_eq!(acknowledged, Vec::<u32>::new(), "acknowledged by a minority");
    leader.reconnect(Link::Peers).await.unwrap();
    until("the minority is back", 60 * SECOND, || async { minority.put("back", "x").await.is_ok() }).await;
    let read = minority.get("k").await.unwrap().unwrap();
    assert_eq!(read.value, "after");
}
