//! The built `kv` command on real servers: several processes at a time, and next to the native tools.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests say what they mean with unwrap, and print their seed and what they skip"
)]

#[path = "cli/common.rs"]
mod common;
#[path = "servers/locks.rs"]
mod locks;
#[path = "servers/native.rs"]
mod native;
#[path = "servers/rights.rs"]
mod rights;
#[path = "servers/sync.rs"]
mod sync;
#[path = "servers/watches.rs"]
mod watches;

use kv_testkit::{Cluster, require_or_skip};

use crate::common::Place;

/// The backends, by the folder that says what they are tested on.
const BACKENDS: [&str; 3] = ["kv-etcd", "kv-consul", "kv-zk"];

/// One server of a backend; `None` after saying why there is none.
async fn server(backend: &str) -> Option<Cluster> {
    let folder = format!("{}/../{backend}", env!("CARGO_MANIFEST_DIR"));
    Some(require_or_skip(&folder)?.start().await.unwrap())
}

/// A place in a namespace of its own.
fn place(server: &Cluster) -> Place {
    Place::at(format!("{}/n{:x}", server.url().unwrap(), fastrand::u64(..)))
}

/// What every backend does alike. One server each, for all of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_backend() {
    common::heed_signals().await;
    for backend in BACKENDS {
        let Some(server) = server(backend).await else { continue };
        println!("{backend} {}", server.version());
        the_first_steps(&place(&server));
        watches::changes_of_other_processes_arrive(&place(&server));
        locks::commands_exclude_each_other_and_tell_who_holds(&place(&server));
        locks::a_lock_that_is_removed_ends_the_command(&place(&server));
        locks::locks_are_seen_and_a_hold_is_ended(&place(&server));
        locks::a_fenced_write_needs_the_hold(&place(&server));
        locks::a_leader_is_seen_and_gives_up_the_office(&place(&server));
        changes_of_many_keys(&place(&server));
    }
}

/// Each server of a URL, by itself: which of them is the matter.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_looks_at_each_server() {
    let Some(server) = server("kv-etcd").await else { return };
    // Nothing listens on port 1.
    let alive = server.node(1).endpoint();
    let place = Place::at(server.url_of(&[alive.as_str(), "127.0.0.1:1"]).unwrap());
    let run = place.kv(["doctor"]);
    assert_eq!(run.code, 6, "{run:?}");
    let members: Vec<_> = run.text().lines().filter(|line| line.contains(" member ")).collect();
    assert_eq!(members.len(), 2, "{run:?}");
    assert!(members[0].starts_with("ok") && members[0].contains(&format!("{alive}: etcd 3")), "{members:?}");
    assert!(members[0].ends_with("reads answered"), "{members:?}");
    assert!(members[1].starts_with("FAILED") && members[1].contains("127.0.0.1:1"), "{members:?}");
    assert!(run.text().lines().any(|line| line.starts_with("ok       read ")), "{run:?}");
}

/// Two of three are gone: what is left answers stale reads, and the doctor says who does not.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_stale_reads_are_answered() {
    let folder = format!("{}/../kv-etcd", env!("CARGO_MANIFEST_DIR"));
    let Some(servers) = require_or_skip(&folder) else { return };
    let cluster = servers.nodes(3).start().await.unwrap();
    let place = Place::at(cluster.url().unwrap());
    place.kv(["put", "a", "x"]).ok();
    // Every node has it before two of them go.
    for node in cluster.nodes() {
        let alone = Place::at(cluster.url_of(&[node.endpoint()]).unwrap());
        common::wait_for("the key", || alone.kv(["get", "a", "--stale"]).code == 0);
    }
    for node in &cluster.nodes()[1..] {
        node.kill().await.unwrap();
    }
    let run = place.kv(["get", "a", "--stale", "--timeout", "5s"]);
    assert_eq!((run.code, run.text()), (0, "x"), "{run:?}");
    let linearizable = place.kv(["get", "a", "--timeout", "3s"]);
    assert!([5, 6].contains(&linearizable.code), "{linearizable:?}");

    let run = place.kv(["doctor", "--timeout", "3s"]);
    assert!([5, 6].contains(&run.code), "{run:?}");
    let find = |words: &str| run.text().lines().find(|line| line.contains(words)).map(str::to_owned);
    assert!(find(" stale read ").is_some_and(|line| line.starts_with("ok")), "{run:?}");
    let alive = find(&format!("{}: etcd", cluster.node(1).endpoint())).unwrap();
    assert!(alive.contains("stale reads answered, others not"), "{alive}");
    for node in &cluster.nodes()[1..] {
        assert!(find(&node.endpoint()).is_some(), "{run:?}");
    }
    assert_eq!(run.text().lines().filter(|line| line.starts_with("FAILED   member ")).count(), 2, "{run:?}");
}

/// A server of another kind than the URL says: a question, and not a riddle.
#[tokio::test(flavor = "multi_thread")]
async fn another_product_is_asked_about() {
    let Some(server) = server("kv-etcd").await else { return };
    let place = Place::at(format!("consul://{}/ns", server.node(1).endpoint()));
    let run = place.kv(["get", "a", "--timeout", "5s"]);
    assert!(run.code != 0 && run.err.contains("is it Consul that listens there?"), "{run:?}");
}

/// A transaction, a move, and puts that keep the time to live, as far as the store has what they need.
fn changes_of_many_keys(place: &Place) {
    place.kv(["put", "old/a", "1"]).ok();
    place.kv(["put", "old/b/c", "2"]).ok();
    let run = place.kv(["mv", "old", "new"]).ok();
    assert_eq!(run.text(), "moved 2 keys, 2 bytes; made 2, changed 0, deleted 0, there already 0\n");
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "new/a\nnew/b/c\n");
    assert_eq!(place.kv(["grep", "2", "new"]).ok().text(), "new/b/c:1: 2\n");

    let text = r#"{"conditions": [{"key": "new/a", "value": "1"}, {"key": "x", "exists": false}],
        "then": [{"put": "x", "value": "y"}, {"delete": "new/a"}], "else": [{"get": "x"}]}"#;
    if place.has("transactions") {
        let run = place.kv_with(["txn", "-"], text.as_bytes());
        assert!(run.code == 0 && run.text().ends_with("delete new/a: deleted\n"), "{run:?}");
        let run = place.kv_with(["txn", "-"], text.as_bytes());
        assert!(run.code == 4 && run.text().ends_with(", y\n"), "{run:?}");
    } else {
        place.kv_with(["txn", "-"], text.as_bytes()).fails(2, &["transactions"]);
        place.kv(["get", "x"]).fails(3, &[]);
    }
    if place.has("ttl") && place.has("keep_expiry") {
        place.kv(["put", "t", "1", "--ttl", "1m"]).ok();
        place.kv(["put", "t", "2", "--keep-ttl"]).ok();
        let entry = place.kv(["get", "t", "--meta", "-o", "json"]).ok().json();
        assert_eq!((&entry["value"], &entry["expiry"]["kind"]), (&"2".into(), &"ttl".into()), "{entry}");
    }
    if place.has("list_expiry") {
        let rows = place.kv(["ls", "-e", "-o", "jsonl"]).ok().json_lines();
        assert!(rows.iter().any(|row| row["expiry"]["kind"] == "ttl"), "{rows:?}");
    }
}

fn the_first_steps(place: &Place) {
    let version: u64 = {
        let put = place.kv(["put", "app/greeting", "hello", "-o", "json"]).ok().json();
        put["version"].as_u64().unwrap()
    };
    assert_eq!(place.kv(["get", "app/greeting"]).ok().text(), "hello");
    place.kv(["put", "app/greeting", "x", "--if-absent"]).fails(4, &["exists already"]);
    place.kv(["put", "app/greeting", "x", "--if-version", &(version + 1_000_000).to_string()]).fails(4, &[]);
    place.kv(["put", "app/greeting", "bye", "--if-version", &version.to_string()]).ok();
    place.kv(["get", "nothing"]).fails(3, &[]);
    place.kv(["put", "a", "x", "--ttl", "0s"]).fails(2, &["time to live"]);

    let doctor = place.kv(["doctor", "--write", "-o", "json"]).ok().json();
    // Where the server is old, there are notes on its faults.
    let well = |check: &serde_json::Value| check["outcome"] == "ok" || check["outcome"] == "note";
    assert!(doctor.as_array().unwrap().iter().all(well), "{doctor}");
    let rows = place.kv(["export"]).ok();
    assert_eq!(rows.text(), "{\"key\":\"app/greeting\",\"value\":\"bye\"}\n");
    the_last_of_many_rows_for_one_key_stays(place);
    let deleted = place.kv(["del", "--tree", "/", "--yes"]);
    assert_eq!((deleted.code, deleted.text()), (0, "deleted 2\n"), "{deleted:?}");
}

/// Many puts are under way at a time, and a server is free to take them in any order.
fn the_last_of_many_rows_for_one_key_stays(place: &Place) {
    let rows: String =
        (0..100).map(|number| format!("{{\"key\":\"same\",\"value\":\"{number}\"}}\n")).collect();
    place.kv_with(["import", "-"], rows.as_bytes()).ok();
    assert_eq!(place.kv(["get", "same"]).ok().text(), "99");
}
