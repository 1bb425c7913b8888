//! watch: lines as they happen, an end that says why.

use std::io::{BufRead, BufReader};

use crate::common::{Place, Run};
use serde_json::{Value, json};

/// The same, if it succeeded and said nothing but that it shows what this process alone can see.
#[track_caller]
fn alone(run: Run) -> Run {
    let is_told =
        run.err.starts_with("kv: warning: ") && run.err.contains("no other process can use this store");
    assert!(run.code == 0 && is_told && run.err.lines().count() == 1, "{run:?}");
    run
}

#[test]
fn history_comes_as_json_lines_in_order() {
    let place = Place::new();
    place.kv(["put", "app/a", "one"]).ok();
    place.kv(["put", "other", "not below"]).ok();
    place.kv(["put", "app/a", "two"]).ok();
    place.kv_with(["put", "app/b", "-"], b"\xff").ok();
    place.kv(["del", "app/a"]).ok();
    let lines = alone(place.kv(["watch", "app", "--from", "0", "--count", "4"])).json_lines();
    assert_eq!(
        lines[..3],
        [
            json!({"event": "put", "key": "app/a", "value": "one", "version": 1, "created": 1}),
            json!({"event": "put", "key": "app/a", "value": "two", "version": 3, "created": 1}),
            json!({"event": "put", "key": "app/b", "base64": "/w==", "version": 4, "created": 4}),
        ]
    );
    assert_eq!(lines[3]["event"], "delete");
    assert_eq!((&lines[3]["key"], &lines[3]["cause"]), (&json!("app/a"), &json!("deleted")));

    let from = alone(place.kv(["watch", "app", "--from", "3", "--count", "1"])).json();
    assert_eq!(from["key"], "app/b");
    let deletes = alone(place.kv(["watch", "--from", "0", "--deletes", "--count", "1"])).json();
    assert_eq!(deletes["event"], "delete");
    let key = alone(place.kv(["watch", "--key", "other", "--from", "0", "--count", "1"])).json();
    assert_eq!(key["value"], "not below");
}

#[test]
fn the_initial_state_ends_with_synced() {
    let place = Place::new();
    for key in ["app/a", "app/b"] {
        place.kv(["put", key, "x"]).ok();
    }
    let lines = alone(place.kv(["watch", "app", "--initial", "--count", "3"])).json_lines();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["put", "put", "synced"]);
    assert_eq!(lines[2], json!({"event": "synced"}));
}

/// Also that lines are written when they happen and not when there are enough of them, and that the
/// end of a time to live is a change.
#[test]
fn changes_are_written_at_once_and_ctrl_c_ends_it() {
    let place = Place::new();
    place.kv(["put", "app/a", "x", "--ttl", "2s"]).ok();
    let mut watch = place.start(["watch", "app", "--initial"]);
    let mut lines = BufReader::new(watch.child().stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["event"], "put");
    assert_eq!(next()["event"], "synced");
    let expired = next();
    assert_eq!((&expired["event"], &expired["cause"]), (&json!("delete"), &json!("expired")));

    watch.signal("INT");
    let run = watch.end();
    // On a store for one process nobody else's changes can come: that is told.
    assert!(run.code == 130 && run.err.contains("no other process can use this store"), "{run:?}");
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    // The store was closed: the next command has it at once.
    place.kv(["get", "app/a", "--timeout", "5s"]).fails(3, &[]);
}

#[test]
fn a_watch_ends_when_nobody_reads_it_any_more() {
    let place = Place::new();
    place.kv(["put", "app/a", "x"]).ok();
    let mut watch = place.start(["watch", "app", "--initial"]);
    let mut lines = BufReader::new(watch.child().stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("app/a"), "{line}");
    // No event comes that could fail to be written.
    drop(lines);
    assert_eq!(watch.end().code, 141);
}

/// One command at a time, with the change in its environment and the value on its input.
#[test]
fn a_command_runs_for_each_change() {
    let place = Place::new();
    place.kv(["put", "app/a", "one"]).ok();
    place.kv_with(["put", "app/b", "-"], b"\0two").ok();
    place.kv(["del", "app/a"]).ok();
    let script = "mkdir busy && printf '%s %s %s ' $KV_EVENT $KV_KEY $KV_VERSION >> log && cat >> log && \
                  echo >> log && sleep 0.1 && rmdir busy";
    let run = alone(place.kv(["watch", "app", "--from", "0", "--count", "3", "--", "sh", "-c", script]));
    assert_eq!(run.text(), "");
    let log = std::fs::read(place.path("log")).unwrap();
    let expected = b"put app/a 1 one\nput app/b 2 \0two\ndelete app/a 3 \n";
    assert_eq!(String::from_utf8_lossy(&log), String::from_utf8_lossy(expected));

    // One that fails is told and the next runs; a value that is not read is no failure.
    let run = place.kv(["watch", "app", "--from", "0", "--count", "2", "--", "sh", "-c", "exit 3"]);
    assert_eq!((run.code, run.err.lines().count()), (0, 3), "{run:?}");
    assert!(run.err.contains("\nkv: the command ended with code 3 for put \"app/a\""), "{run:?}");
    place.kv(["watch", "app", "--from", "0", "--", "./nowhere"]).fails(127, &["cannot run"]);
}

#[test]
fn a_signal_ends_the_watch_and_its_command() {
    let place = Place::new();
    place.kv(["put", "app/a", "one"]).ok();
    let watch =
        place.start(["watch", "app", "--initial", "--", "sh", "-c", "echo $$ > pid; exec sleep 1000"]);
    let pid = || std::fs::read_to_string(place.path("pid")).unwrap_or_default();
    crate::common::wait_for("the command to start", || pid().ends_with('\n'));
    watch.signal("TERM");
    assert_eq!(watch.end().code, 143);
    assert!(!crate::common::is_alive(&pid()));
}

/// However the watch is asked for, it would wait in silence for what cannot come.
#[test]
fn a_watch_of_a_store_for_one_process_says_so() {
    let place = Place::new();
    for args in [
        &["watch", "--count", "1"][..],
        &["watch", "a", "--key", "--count", "1"],
        &["watch", "--count", "1", "--", "true"],
        &["watch", "--", "true"],
    ] {
        let mut watch = place.start_all(args);
        let mut line = String::new();
        BufReader::new(watch.child().stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("no other process can use this store"), "{args:?}: {line}");
        watch.signal("TERM");
        assert_eq!(watch.end().code, 143, "{args:?}");
    }
}

#[test]
fn a_version_that_is_still_to_come_is_told() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    let mut watch = place.start(["watch", "--from", "1000", "--count", "1"]);
    let mut said = BufReader::new(watch.child().stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("no other process"), "{line}");
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("at version 1,") && line.contains("version 1000 is still to come"), "{line}");
    watch.signal("TERM");
    assert_eq!(watch.end().code, 143);
}

#[test]
fn another_process_with_the_directory_is_named() {
    let place = Place::new();
    let holder = place.occupy();
    place
        .kv(["watch", "app", "--timeout", "300ms"])
        .fails(5, &[&format!("process id {}", holder.pid()), "in use", "such as etcd"]);
}

#[test]
fn a_history_that_is_gone_is_a_conflict() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    let url = format!("{}?history=10", place.url());
    for number in 0..30 {
        place.kv(["--store", &url, "put", "a", &number.to_string()]).ok();
    }
    place.kv(["--store", &url, "watch", "--from", "1", "--count", "1"]).fails(4, &["history"]);
}
