//! Container nodes of other programs, which the servers remove with their last child: no key is put on
//! one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::time::Duration;

use common::{expiring, key, namespace, next, open, until, with};
use kv_testkit::{Cluster, require_or_skip};
use kv_zk::ZkStore;
use kv_zk::kv_core::{
    DeleteOptions, Error, ErrorKind, Expiry, Power, PutOptions, Store, StoreExt, Txn, TxnOp, WatchEvent,
    WatchOptions,
};

const SECOND: Duration = Duration::from_secs(1);

common::on_each_client!(
    no_key_is_put_on_what_may_be_a_container,
    an_empty_container_is_exchanged_or_left_alone,
    empty_values_of_ours_are_no_containers,
);

/// What Curator's `InterProcessMutex` makes, by another tool.
async fn cli(cluster: &Cluster, line: String) -> String {
    let line = format!("zkCli.sh -server 127.0.0.1:2181 {line} 2>/dev/null");
    cluster.node(1).exec(&["sh", "-c", &line]).await.unwrap()
}

async fn setup(client: &str) -> Option<(Cluster, ZkStore, String)> {
    let cluster = require_or_skip(env!("CARGO_MANIFEST_DIR"))?.start().await.unwrap();
    let namespace = namespace();
    let store = open(&with(&cluster.url().unwrap(), client, &namespace, "")).await;
    store.put("here", "x").await.unwrap();
    Some((cluster, store, format!("/{namespace}")))
}

fn refused(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("container"), "{error}");
}

async fn no_key_is_put_on_what_may_be_a_container(client: &str) {
    let Some((cluster, store, root)) = setup(client).await else { return };
    cli(&cluster, format!("create -c {root}/jobs \"\"")).await;
    cli(&cluster, format!("create {root}/jobs/_c_x-lock-0000000000 owner")).await;
    // Known as a parent to the handle.
    store.put("jobs/key", "x").await.unwrap();
    store.delete("jobs/key").await.unwrap();
    for options in [PutOptions::default(), expiring(60 * SECOND)] {
        refused(&store.put_with(&key("jobs"), "lost", options).await.unwrap_err());
    }
    let version = store.get("jobs").await.unwrap().unwrap().version;
    refused(&store.compare_and_set("jobs", version, "lost").await.unwrap_err());
    for options in [DeleteOptions::default(), DeleteOptions::default().with_previous()] {
        refused(&store.delete_with(&key("jobs"), options).await.unwrap_err());
    }
    if let Some(transact) = store.as_transact() {
        for op in [TxnOp::put(key("jobs"), "lost"), TxnOp::delete(key("jobs"))] {
            refused(&transact.transact_with(Txn::default().then([op])).await.unwrap_err());
        }
    }
    let entry = store.get("jobs").await.unwrap().unwrap();
    assert_eq!((entry.version, entry.value.len()), (version, 0), "something was changed");
    // Locks and keys below it are fine, and the lock waits for the other program's record.
    store.put("jobs/key", "x").await.unwrap();
    assert!(store.lock_holder(&key("jobs")).await.unwrap().is_some());
    // The way out, where the node is an ordinary one.
    cli(&cluster, format!("set {root}/jobs x")).await;
    store.put("jobs", "mine").await.unwrap();
    assert_eq!(store.get("jobs").await.unwrap().unwrap().value, "mine");
}

/// Before its first child and after its last one.
async fn an_empty_container_is_exchanged_or_left_alone(client: &str) {
    let Some((cluster, store, root)) = setup(client).await else { return };
    cli(&cluster, format!("create -c {root}/jobs \"\"")).await;
    let mut watch = store.watch_with(key("jobs"), WatchOptions::default()).await.unwrap();
    let put = store.put("jobs", "mine").await;
    if store.capabilities().has(Power::ExpiryChange) {
        let version = put.unwrap();
        match next(&mut watch).await {
            WatchEvent::Put(entry) => {
                assert_eq!((entry.version, &entry.value[..]), (version, &b"mine"[..]));
            }
            other => panic!("{other:?}"),
        }
        // A container would go now, as another one does.
        cli(&cluster, format!("create -c {root}/another \"\"")).await;
        for name in ["jobs", "another"] {
            cli(&cluster, format!("create {root}/{name}/child x")).await;
            cli(&cluster, format!("delete {root}/{name}/child")).await;
        }
        until("the servers sweep", 60 * SECOND, || async { store.get("another").await.unwrap().is_none() })
            .await;
        assert_eq!(store.get("jobs").await.unwrap().unwrap().value, "mine");
    } else {
        refused(&put.unwrap_err());
        // The way out.
        assert!(store.delete("jobs").await.unwrap());
        store.put("jobs", "mine").await.unwrap();
    }
}

async fn empty_values_of_ours_are_no_containers(client: &str) {
    let Some((_cluster, store, _)) = setup(client).await else { return };
    store.put("empty", "").await.unwrap();
    store.put("empty/below", "x").await.unwrap();
    let entry = store.get("empty").await.unwrap().unwrap();
    assert_eq!((entry.value.len(), entry.created), (0, entry.version));
    assert!(store.delete("empty").await.unwrap());
    store.create("empty", "").await.unwrap();
    store.put("empty", "full").await.unwrap();
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("gone"), "", session).await.unwrap();
    assert!(store.delete("gone").await.unwrap());
    if let Some(transact) = store.as_transact() {
        let put = Txn::default().then([TxnOp::put(key("more"), ""), TxnOp::put(key("more/below"), "x")]);
        assert!(transact.transact_with(put).await.unwrap().succeeded);
        let put = Txn::default().then([TxnOp::put(key("more"), "full")]);
        assert!(transact.transact_with(put).await.unwrap().succeeded);
    }
    assert_eq!(store.get("empty").await.unwrap().unwrap().value, "full");
}
