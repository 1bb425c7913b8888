//! txn: several keys at once or none, from a file that is checked before anything is asked of the store.

use std::fs;

use serde_json::json;

use crate::common::Place;

const TAKE: &str = r#"{
    "conditions": [{"key": "queue/1", "exists": true}, {"key": "taken/1", "exists": false}],
    "then": [{"put": "taken/1", "value": "worker-7", "ttl": "1h"}, {"delete": "queue/1"}, {"delete": "other"}],
    "else": [{"get": "taken/1"}, {"get": "nothing"}]
}"#;

#[test]
fn the_branch_that_the_conditions_choose_is_carried_out() {
    let place = Place::new();
    fs::write(place.path("take.json"), TAKE).unwrap();
    place.kv(["put", "queue/1", "work"]).ok();
    let told = "put taken/1: version 2, for 1 h\ndelete queue/1: deleted\ndelete other: was not there\n";
    assert_eq!(place.kv(["txn", "take.json"]).ok().text(), told);
    place.kv(["get", "queue/1"]).fails(3, &[]);
    let left = &place.kv(["get", "taken/1", "--meta", "-o", "json"]).ok().json()["expiry"]["ttl_seconds"];
    assert_eq!(*left, json!(3600.0));

    // The second one comes too late, and sees who was first.
    let run = place.kv_with(["txn", "-"], TAKE.as_bytes());
    assert_eq!(run.text(), "get taken/1: version 2, worker-7\nget nothing: there is no such key\n");
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("not all conditions hold, so \"else\" was carried out"), "{run:?}");
}

#[test]
fn what_came_of_it_in_json() {
    let place = Place::new();
    place.kv(["put", "queue/1", "work"]).ok();
    let run = place.kv_with(["txn", "-", "-o", "json"], TAKE.as_bytes()).ok();
    let expected = json!({"succeeded": true, "outcomes": [
        {"put": "taken/1", "version": 2, "granted_ttl_seconds": 3600.0},
        {"delete": "queue/1", "existed": true},
        {"delete": "other", "existed": false},
    ]});
    assert_eq!(run.json(), expected);
    let run = place.kv_with(["txn", "-", "-o", "json"], TAKE.as_bytes());
    let json = run.json();
    assert_eq!(
        (run.code, &json["succeeded"], &json["outcomes"][1]["entry"]),
        (4, &json!(false), &json!(null))
    );
    assert_eq!(json["outcomes"][0]["entry"]["value"], "worker-7");
}

#[test]
fn without_else_nothing_is_done() {
    let place = Place::new();
    let text = r#"{"conditions": [{"key": "a", "exists": true}], "then": [{"put": "b", "value": ""}]}"#;
    place.kv_with(["txn", "-"], text.as_bytes()).fails(4, &["so nothing was done"]);
    place.kv(["get", "b"]).fails(3, &[]);
}

#[test]
fn what_is_no_transaction_changes_nothing() {
    let place = Place::new();
    for (text, words) in [
        ("", "EOF"),
        ("{}", "nothing to do"),
        (r#"{"then": [{"put": "..", "value": ""}]}"#, "then[0]: "),
        (r#"{"then": [{"put": "a", "valeu": ""}]}"#, "unknown field `valeu`"),
        (r#"{"then": [{"put": "a", "value": "", "ttl": "5"}]}"#, "then[0]: not a time"),
    ] {
        let run = place.kv_with(["txn", "-"], text.as_bytes()).fails(2, &["kv: txn: ", words]);
        assert_eq!(run.err.lines().count(), 1, "{run:?}");
    }
    place.kv(["txn", "nowhere.json"]).fails(1, &["cannot read \"nowhere.json\""]);
    // Nothing was even opened.
    assert!(!place.path("store").exists());

    let twice = r#"{"then": [{"put": "a", "value": "1"}, {"put": "a", "value": "2"}]}"#;
    place.kv_with(["txn", "-"], twice.as_bytes()).fails(2, &["\"a\"", "twice"]);
    let zero = r#"{"then": [{"put": "a", "value": "1"}, {"put": "b", "value": "2", "ttl": "0s"}]}"#;
    place.kv_with(["txn", "-"], zero.as_bytes()).fails(2, &["time to live"]);
    place.kv(["get", "a"]).fails(3, &[]);
}

#[test]
fn a_fence_is_that_of_a_lock() {
    let place = Place::new();
    for args in [&["txn", "-", "--fence"][..], &["put", "a", "x", "--fence"], &["del", "a", "--fence"]] {
        let mut command = place.command(args);
        for name in ["KV_LOCK_KEY", "KV_LOCK_TOKEN", "KV_LOCK_RECORD"] {
            command.env_remove(name);
        }
        command.stdin(fs::File::open(write(&place, TAKE)).unwrap());
        let run: crate::common::Run = command.output().unwrap().into();
        run.fails(2, &["under kv lock"]);
    }
    place.kv(["get", "a"]).fails(3, &[]);
}

fn write(place: &Place, text: &str) -> std::path::PathBuf {
    let path = place.path("input");
    fs::write(&path, text).unwrap();
    path
}
