//! The end of a handle: what lives by its session goes, whatever else is under way, and who cannot be
//! told is not passed over in silence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::time::{Duration, Instant};

use common::{key, namespace, next, open, server, until, with};
use futures_util::FutureExt;
use kv_testkit::{Mode, Proxy, require_or_skip};
use kv_zk::kv_core::{
    ErrorKind, Expiry, ListOptions, Prefix, PutOptions, StoreExt, WatchEvent, WatchOptions,
};

common::on_each_client!(
    closing_ends_the_session_at_once_whatever_is_under_way,
    closing_says_when_no_server_could_be_told,
);

const SECOND: Duration = Duration::from_secs(1);

fn session() -> PutOptions {
    PutOptions::default().with_expiry(Expiry::Session)
}

async fn closing_ends_the_session_at_once_whatever_is_under_way(client: &str) {
    let Some(server) = server().await else { return };
    let namespace = namespace();
    let other = server.open(client, &namespace, "").await;
    for at in 0..300 {
        other.put(format!("t/{at}"), "x").await.unwrap();
    }
    for round in 0..3 {
        let store = server.open(client, &namespace, "").await;
        let mut watch =
            store.watch_with(Prefix::root(), WatchOptions::default().with_initial()).await.unwrap();
        while !matches!(next(&mut watch).await, WatchEvent::Synced) {}
        // A list that has asked ahead, and a call that was begun; nobody goes on with either.
        let mut list = store.list_with(&Prefix::root(), ListOptions::default()).await.unwrap();
        list.next().await.unwrap().unwrap();
        let mut call = Box::pin(store.put("unfinished", "x"));
        assert!(call.as_mut().now_or_never().is_none());
        // The watch looks at it while the handle is closed.
        store.put_with(&key("mine"), "x", session()).await.unwrap();
        let begin = Instant::now();
        store.close().await.unwrap();
        let took = begin.elapsed();
        assert!(took < 2 * SECOND, "round {round}: closing took {took:?}");
        until("the key is gone", SECOND, || async { other.get("mine").await.unwrap().is_none() }).await;
        drop((watch, list, call));
    }
}

async fn closing_says_when_no_server_could_be_told(client: &str) {
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let cluster = servers.start().await.unwrap();
    let (namespace, query) = (namespace(), "session_timeout=4s&max_session_timeout=40s");
    let direct = open(&with(&cluster.url().unwrap(), client, &namespace, query)).await;
    for mode in [Mode::Hold, Mode::Refuse] {
        let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
        let url = with(&cluster.url_of(&[proxy.endpoint()]).unwrap(), client, &namespace, query);
        let (store, idle) = (open(&url).await, open(&url).await);
        store.put_with(&key("mine"), "x", session()).await.unwrap();
        proxy.set(mode).await;
        if mode == Mode::Refuse {
            proxy.cut();
        }
        let begin = Instant::now();
        let error = store.close().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unavailable, "{mode:?}: {error}");
        assert!(error.to_string().contains("session timeout"), "{mode:?}: {error}");
        assert!(begin.elapsed() < 3 * SECOND, "{mode:?}: {:?}", begin.elapsed());
        // Once is enough, and nothing is left of a handle that had nothing there.
        store.close().await.unwrap();
        idle.close().await.unwrap();
        assert_eq!(store.get("a").await.unwrap_err().kind(), &ErrorKind::Closed);
        until("the session is over", 15 * SECOND, || async { direct.get("mine").await.unwrap().is_none() })
            .await;
    }
}

/// Where the child process of [`an_orderly_end_of_the_process_is_silent`] finds its server.
const CHILD: &str = "KV_ZK_CHILD";

/// A child process opens a watch, and comes to its end with it while events arrive.
#[tokio::test(flavor = "multi_thread")]
async fn child_with_a_live_watch() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let (store, writer) = (open(&url).await, open(&url).await);
    let mut watch = store.watch_with(Prefix::root(), WatchOptions::default().with_initial()).await.unwrap();
    while !matches!(next(&mut watch).await, WatchEvent::Synced) {}
    for at in 0..20 {
        let writer = writer.clone();
        tokio::spawn(async move { writer.put(format!("{at}"), "x").await });
    }
    next(&mut watch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_of_the_process_is_silent() {
    let Some(server) = server().await else { return };
    for client in common::CLIENTS.iter().filter(|client| common::is_tested(client)) {
        for round in 0..25 {
            let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "child_with_a_live_watch", "--nocapture"]);
            child.env(CHILD, server.url(client, &namespace()));
            let output = child.output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{client}, {round}: {said}");
            assert!(!said.contains("panicked"), "{client}, {round}: {said}");
        }
    }
}
