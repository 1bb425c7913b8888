//! grep, du and get --recursive.

use serde_json::json;

use crate::common::Place;

fn planted() -> Place {
    let place = Place::new();
    for (key, value) in
        [("app", "x"), ("app/db/host", "db1\nport 5432\n"), ("app/db/user", "root"), ("app/web", "Port 80")]
    {
        place.kv(["put", key, value]).ok();
    }
    place.kv(["put", "app/icon", "ff706f7274", "--hex"]).ok();
    place
}

#[test]
fn grep_finds_lines_of_values() {
    let place = planted();
    let out = "app/db/host:2: port 5432\napp/icon: a match in a value that is not text\n";
    assert_eq!(place.kv(["grep", "port"]).ok().text(), out);
    assert_eq!(place.kv(["grep", "-i", "^port [0-9]+$", "app"]).ok().text().lines().count(), 2);
    assert_eq!(place.kv(["grep", "-l", "port"]).ok().text(), "app/db/host\napp/icon\n");
    assert_eq!(place.kv(["grep", "--names", "^app/db/"]).ok().text(), "app/db/host\napp/db/user\n");
    let found = place.kv(["grep", "5432", "-o", "json"]).ok().json();
    let lines = json!([{"number": 2, "text": "port 5432"}]);
    assert_eq!(found, json!([{"key": "app/db/host", "version": 2, "lines": lines}]));
    let found = place.kv(["grep", "-i", "port", "-o", "jsonl"]).ok().json_lines();
    assert_eq!((found.len(), &found[1]), (3, &json!({"key": "app/icon", "version": 5})));
}

#[test]
fn grep_of_nothing_and_of_nonsense() {
    let place = planted();
    place.kv(["grep", "nothing"]).fails(3, &["grep: no value below the whole namespace matches \"nothing\""]);
    place.kv(["grep", "-n", "nothing", "app"]).fails(3, &["no name below \"app\""]);
    let run = place.kv(["grep", "(open"]).fails(2, &["\"(open\" is no pattern", "unclosed group", "--fixed"]);
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    place.kv(["grep", "-F", "(open"]).fails(3, &[]);
    place.kv(["grep", "x", ".."]).fails(2, &["invalid key"]);
}

#[test]
fn du_counts_keys_and_bytes() {
    let place = planted();
    let rows = |args: &[&str]| -> Vec<Vec<String>> {
        let run = place.start_all(args).end().ok();
        run.text().lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    assert_eq!(
        rows(&["du"]),
        [["KEYS", "BYTES", "NAME"], ["1", "1", "app"], ["4", "30", "app/"], ["5", "31", "/"]]
    );
    let below = rows(&["du", "app"]);
    assert_eq!(below[1..4], [["2", "18", "app/db/"], ["1", "5", "app/icon"], ["1", "7", "app/web"]]);
    assert_eq!(below[4], ["4", "30", "app/"]);
    let deep = place.kv(["du", "app", "--depth", "2", "-o", "jsonl"]).ok().json_lines();
    assert_eq!(deep[0], json!({"name": "app/db/host", "keys": 1, "bytes": 14, "key_bytes": 11}));
    assert_eq!(deep.len(), 4);
    assert_eq!(place.kv(["du", "nothing", "-o", "json"]).ok().json(), json!([]));
    place.kv(["du", ".."]).fails(2, &["invalid key"]);
    assert_eq!(place.kv(["du", "--depth", "0"]).code, 2);
}

#[test]
fn get_reads_all_below_a_prefix() {
    let place = planted();
    let all = place.kv(["get", "-r", "app"]).ok().json_lines();
    let keys: Vec<_> = all.iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["app/db/host", "app/db/user", "app/icon", "app/web"]);
    assert_eq!(all[1], json!({"key": "app/db/user", "value": "root"}));
    let full = place.kv(["get", "-r", "app/db", "-o", "json"]).ok().json();
    assert_eq!(full[1], json!({"key": "app/db/user", "value": "root", "version": 3, "created": 3}));
    assert_eq!(place.kv(["get", "-r", "--values", "app/db"]).ok().out, b"db1\nport 5432\nroot\n");
    assert_eq!(place.kv(["get", "-r", "--values", "--hex", "app/db"]).ok().text().lines().count(), 2);
    assert_eq!(place.kv(["get", "-r", "/"]).ok().json_lines().len(), 5);
    assert_eq!(place.kv(["get", "-r", "nothing"]).ok().text(), "");
    place.kv(["get", "-r", "app", "other"]).fails(2, &["one prefix"]);
    place.kv(["get", "-r", "app", "--hex"]).fails(2, &["--values"]);
    assert_eq!(place.kv(["get", "app", "--values"]).code, 2);
}
