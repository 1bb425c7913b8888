//! Watches on a real server: that none loses a key, and what they cost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Server, key, namespace, next, server};
use futures_util::StreamExt;
use kv_zk::ZkStore;
use kv_zk::kv_core::{Prefix, StoreExt, Watch, WatchEvent, WatchOptions, WatchTarget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

common::on_each_client!(
    the_root_of_one_watch_is_a_key_of_another,
    a_watch_from_now_on_tells_nothing_older,
    an_event_costs_a_bounded_number_of_requests,
    thousands_of_watches_live_on_one_connection,
    an_event_tells_when_a_key_came_to_be_that_was_a_parent,
);

const SECOND: Duration = Duration::from_secs(1);

async fn tree(store: &ZkStore, prefix: &str) -> Watch {
    let prefix: Prefix = prefix.parse().unwrap();
    store.watch_with(prefix, WatchOptions::default()).await.unwrap()
}

async fn one(store: &ZkStore, name: &str) -> Watch {
    store.watch_with(key(name), WatchOptions::default()).await.unwrap()
}

/// The next put and its key.
async fn put(watch: &mut Watch) -> String {
    loop {
        match next(watch).await {
            WatchEvent::Put(entry) => return entry.key.to_string(),
            WatchEvent::Delete(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// In whatever order they come: watches that begin at the same node, above it and below it.
async fn the_root_of_one_watch_is_a_key_of_another(client: &str) {
    let Some(server) = server().await else { return };
    for order in [["a", ""], ["", "a"]] {
        let namespace = namespace();
        let store = server.open(client, &namespace, "").await;
        let writer = server.open(client, &namespace, "").await;
        let mut watches = Vec::new();
        for prefix in order {
            watches.push((prefix, tree(&store, prefix).await));
        }
        watches.push(("a", tree(&store, "a").await));
        let mut exact = one(&store, "a").await;
        for round in 0..3 {
            writer.put("a", "x").await.unwrap();
            writer.put("a/b/c", "x").await.unwrap();
            assert_eq!(put(&mut exact).await, "a", "round {round} of {order:?}");
            for (prefix, watch) in &mut watches {
                if prefix.is_empty() {
                    let seen: BTreeSet<String> = [put(watch).await, put(watch).await].into();
                    assert_eq!(seen, ["a".to_owned(), "a/b/c".to_owned()].into(), "round {round}");
                } else {
                    assert_eq!(put(watch).await, "a/b/c", "round {round}, from {prefix:?}");
                }
            }
            // Nodes and all.
            assert_eq!(writer.delete_tree("").await.unwrap(), 2);
            for (prefix, watch) in &mut watches {
                let mut left = if prefix.is_empty() { 2 } else { 1 };
                while left > 0 {
                    if let WatchEvent::Delete(_) = next(watch).await {
                        left -= 1;
                    }
                }
            }
            while !matches!(next(&mut exact).await, WatchEvent::Delete(_)) {}
        }
    }
}

/// A change that was acknowledged before the watch was asked for is not one of its changes, also where
/// the handle watches the node already.
async fn a_watch_from_now_on_tells_nothing_older(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "").await;
    let other = server.open(client, &namespace, "").await;
    let _standing = (one(&store, "k").await, tree(&store, "").await);
    for round in 0..150 {
        let writer = if round % 2 == 0 { &store } else { &other };
        writer.put("k", format!("before {round}")).await.unwrap();
        let mut watches = [one(&store, "k").await, tree(&store, "").await];
        let version = writer.put("k", format!("after {round}")).await.unwrap();
        for watch in &mut watches {
            match next(watch).await {
                WatchEvent::Put(entry) => assert_eq!(entry.version, version, "{:?}", entry.value),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A change is looked at a few times, not once for each watch or each node.
async fn an_event_costs_a_bounded_number_of_requests(client: &str) {
    const PUTS: u64 = 50;
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "session_timeout=40s").await;
    let writer = server.open(client, &namespace, "").await;
    for at in 0..300 {
        writer.put(format!("t/{}/{at}", at % 10), "x").await.unwrap();
    }
    let mut watches = Vec::new();
    for at in 0..100 {
        let target: WatchTarget = match at % 3 {
            0 => key("t/0/0").into(),
            1 => "t".parse::<Prefix>().unwrap().into(),
            _ => Prefix::root().into(),
        };
        watches.push(store.watch_with(target, WatchOptions::default()).await.unwrap());
    }
    let before = store.requests();
    for at in 0..PUTS {
        let value = format!("{at}");
        writer.put("t/0/0", value.clone()).await.unwrap();
        for watch in &mut watches {
            loop {
                if let WatchEvent::Put(entry) = next(watch).await
                    && entry.value == value
                {
                    break;
                }
            }
        }
    }
    let spent = store.requests() - before;
    assert!(spent <= 2 * PUTS, "{spent} requests for {PUTS} changes of a key that 100 watches share");
    let before = store.requests();
    for at in 0..PUTS {
        writer.put(format!("t/1/new-{at}"), "x").await.unwrap();
        for (nth, watch) in watches.iter_mut().enumerate().filter(|(nth, _)| nth % 3 != 0) {
            assert_eq!(put(watch).await, format!("t/1/new-{at}"), "watch {nth}");
        }
    }
    let spent = store.requests() - before;
    // The names of the parent, and of the new node the entry and the names.
    assert!(spent <= 5 * PUTS, "{spent} requests for {PUTS} new keys");
}

/// How many connections the server has, this question's not counted.
async fn connections(server: &Server) -> Option<u64> {
    let node = server.cluster.as_ref()?.node(1).endpoint();
    let mut stream = TcpStream::connect(node).await.unwrap();
    stream.write_all(b"mntr").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("zk_num_alive_connections"));
    Some(count.expect("a count").trim().parse().unwrap())
}

async fn thousands_of_watches_live_on_one_connection(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "timeout=60s").await;
    let writer = server.open(client, &namespace, "timeout=60s").await;
    let connections = connections(&server).await;
    let mut watches = Vec::new();
    for at in 0..3000 {
        // Many on one key, many on one tree, many on their own.
        let target: WatchTarget = match at % 3 {
            0 => key("shared").into(),
            1 => "tree".parse::<Prefix>().unwrap().into(),
            _ => key(&format!("own/{at}")).into(),
        };
        watches.push(store.watch_with(target, WatchOptions::default()));
    }
    let mut watches: Vec<_> =
        futures_util::stream::iter(watches).buffered(200).map(Result::unwrap).collect().await;
    assert_eq!(self::connections(&server).await, connections);
    let begin = Instant::now();
    writer.put("shared", "x").await.unwrap();
    writer.put("tree/deep/leaf", "x").await.unwrap();
    let own: Vec<String> = (0..3000).filter(|at| at % 3 == 2).map(|at| format!("own/{at}")).collect();
    let puts = own.iter().map(|own| writer.put(own.as_str(), "x"));
    futures_util::future::try_join_all(puts).await.unwrap();
    for (at, watch) in watches.iter_mut().enumerate() {
        assert!(matches!(next(watch).await, WatchEvent::Put(_)), "{at}");
    }
    assert!(begin.elapsed() < 60 * SECOND, "{:?}", begin.elapsed());
}

/// A node that was a parent before is older than its key. Its writer notes that in a second request, and
/// the event does not wait for it.
async fn an_event_tells_when_a_key_came_to_be_that_was_a_parent(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let store = server.open(client, &namespace, "").await;
    let writer = server.open(client, &namespace, "").await;
    for round in 0..20 {
        let dir = format!("dir-{round}");
        writer.put(format!("{dir}/below"), "x").await.unwrap();
        let mut watch = one(&store, &dir).await;
        for value in ["first", "again"] {
            let version = writer.create(dir.as_str(), value).await.unwrap();
            match next(&mut watch).await {
                WatchEvent::Put(entry) => {
                    assert_eq!((entry.version, entry.created), (version, version), "{dir}, {value}");
                }
                other => panic!("{other:?}"),
            }
            let then = writer.put(dir.as_str(), "then").await.unwrap();
            match next(&mut watch).await {
                WatchEvent::Put(entry) => {
                    assert_eq!((entry.version, entry.created), (then, version), "{dir}")
                }
                other => panic!("{other:?}"),
            }
            let got = store.get(dir.as_str()).await.unwrap().unwrap();
            assert_eq!((got.version, got.created), (then, version), "{dir}");
            assert!(writer.delete(dir.as_str()).await.unwrap());
            assert!(matches!(next(&mut watch).await, WatchEvent::Delete(_)));
        }
        // Written twice before anybody looks.
        let version = writer.create(dir.as_str(), "x").await.unwrap();
        writer.put(dir.as_str(), "y").await.unwrap();
        while let WatchEvent::Put(entry) = next(&mut watch).await {
            assert_eq!(entry.created, version, "{dir}");
            if entry.value == "y" {
                break;
            }
        }
    }
}
