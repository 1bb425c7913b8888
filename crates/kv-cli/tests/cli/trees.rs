//! ls, tree and del --tree.

use crate::common::Place;
use serde_json::json;

fn planted() -> Place {
    let place = Place::new();
    for key in ["a", "a-b", "a/b", "a/c/d", "ab", "z/ü"] {
        place.kv(["put", key, key]).ok();
    }
    place
}

#[test]
fn ls_shows_one_level_with_slashes_for_more() {
    let place = planted();
    assert_eq!(place.kv(["ls"]).ok().text(), "a\na-b\na/\nab\nz/\n");
    assert_eq!(place.kv(["ls", "a"]).ok().text(), "a/b\na/c/\n");
    assert_eq!(place.kv(["ls", "/a/"]).ok().text(), "a/b\na/c/\n");
    assert_eq!(place.kv(["ls", "nothing"]).ok().text(), "");
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "a\na-b\na/b\na/c/d\nab\nz/ü\n");
    assert_eq!(place.kv(["ls", "-r", "--limit", "2", "--start-after", "a-b"]).ok().text(), "a/b\na/c/d\n");
    // Page by page, each beginning behind the last line of the one before.
    let (mut lines, mut last) = (Vec::new(), String::new());
    loop {
        let page = match last.as_str() {
            "" => place.kv(["ls", "--limit", "1"]),
            last => place.kv(["ls", "--limit", "1", "--start-after", last]),
        };
        last = page.ok().text().trim_end().to_owned();
        if last.is_empty() {
            break;
        }
        assert!(!lines.contains(&last), "{last} again after {lines:?}");
        lines.push(last.clone());
    }
    assert_eq!(lines.join("\n") + "\n", place.kv(["ls"]).ok().text());
}

#[test]
fn ls_can_tell_more_and_speak_json() {
    let place = planted();
    let long = place.kv(["ls", "--long", "a"]).ok();
    let lines: Vec<Vec<_>> = long.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [["VERSION", "BYTES", "KEY"], ["3", "3", "a/b"], ["-", "-", "a/c/"]]);

    let list = place.kv(["ls", "a", "-o", "json"]).ok().json();
    assert_eq!(list, json!([{"key": "a/b"}, {"prefix": "a/c"}]));
    let long = place.kv(["ls", "a", "-l", "-o", "jsonl"]).ok().json_lines();
    assert_eq!(long[0], json!({"key": "a/b", "bytes": 3, "version": 3, "created": 3}));
    assert_eq!(place.kv(["ls", "nothing", "-o", "json"]).ok().json(), json!([]));
}

#[test]
fn ls_can_tell_when_keys_expire() {
    let place = Place::new();
    place.kv(["put", "a/b", "x"]).ok();
    place.kv(["put", "c", "x", "--ttl", "1h"]).ok();
    let lines = place.kv(["ls", "--expiry"]).ok();
    let lines: Vec<_> = lines.text().lines().collect();
    assert!(lines[0].ends_with("EXPIRES                 KEY"), "{lines:?}");
    assert!(lines[1].ends_with(" -                       a/"), "{lines:?}");
    assert!(lines[2].contains(" in 59 min "), "{lines:?}");
    // The keys stand below each other.
    assert_eq!(
        (lines[1].len() - 2, lines[2].len() - 1),
        (lines[0].len() - 3, lines[0].len() - 3),
        "{lines:?}"
    );
    let all = place.kv(["ls", "-r", "-e", "-o", "jsonl"]).ok().json_lines();
    assert_eq!(all[0]["expiry"], json!({"kind": "never"}));
    assert_eq!((&all[1]["expiry"]["ttl_seconds"], &all[1]["bytes"]), (&json!(3600.0), &json!(1)));
    let all = place.kv(["get", "-r", "/", "--meta"]).ok().json_lines();
    assert_eq!((&all[1]["expiry"]["kind"], &all[1]["value"]), (&json!("ttl"), &json!("x")));
    assert_eq!(place.kv(["ls", "--expiry", "--count"]).code, 2);
}

/// A folder where the key was meant, and a key where the folder was.
#[test]
fn the_wrong_level_is_told() {
    let place = Place::new();
    for key in ["dk/x", "dk/y", "here", "here/below"] {
        place.kv(["put", key, "v"]).ok();
    }
    let said = |args: &[&str], code: i32, out: &str, err: &str| {
        let run = place.start_all(args).end();
        assert_eq!((run.code, run.text(), run.err.as_str()), (code, out, err), "{args:?}");
    };
    let entry = "kv: nothing is below \"dk/x\"; it is an entry: kv get dk/x\n";
    said(&["ls", "dk/x"], 0, "", entry);
    said(&["ls", "dk/x", "--count"], 0, "0\n", entry);
    said(&["ls", "dk/x", "-o", "json"], 0, "[]\n", entry);
    said(&["tree", "dk/x"], 0, "dk/x/\n\n0 keys\n", entry);
    let folder = "there is no such key; 2 keys below it: kv ls dk";
    said(&["get", "dk"], 3, "", &format!("kv: get \"dk\": {folder}\n"));
    said(&["touch", "dk"], 3, "", &format!("kv: touch \"dk\": {folder}\n"));
    said(&["del", "dk"], 0, "was not there\n", &format!("kv: del \"dk\": {folder}\n"));
    let both = "\"dk\" (2 keys below it: kv ls dk), \"other\"";
    said(&["get", "dk", "other"], 3, "", &format!("kv: get: there is no {both}\n"));
    let out = "dk: was not there\nother: was not there\n";
    said(&["del", "dk", "other", "--if-present"], 3, out, &format!("kv: del: {both} did not exist\n"));
    // What is on its level, or on none, is told nothing.
    said(&["ls", "here"], 0, "here/below\n", "");
    said(&["ls", "here", "--limit", "0"], 0, "", "");
    said(&["ls", "here", "--start-after", "here/below"], 0, "", "");
    said(&["ls", "nothing"], 0, "", "");
    said(&["touch", "nothing"], 3, "", "kv: touch \"nothing\": there is no such key\n");
    said(&["del", "nothing"], 0, "was not there\n", "");
}

#[test]
fn ls_can_count() {
    let place = planted();
    assert_eq!(place.kv(["ls", "--count"]).ok().text(), "5\n");
    assert_eq!(place.kv(["ls", "-r", "--count"]).ok().text(), "6\n");
    assert_eq!(place.kv(["ls", "-r", "a", "--count", "-o", "json"]).ok().json(), json!({"count": 2}));
    assert_eq!(place.kv(["ls", "nothing", "--count"]).ok().text(), "0\n");
}

#[test]
fn tree_draws() {
    let place = planted();
    let drawn = "\
/
├── a
├── a/
│   ├── b
│   └── c/
│       └── d
├── a-b
├── ab
└── z/
    └── ü

6 keys
";
    assert_eq!(place.kv(["tree"]).ok().text(), drawn);
    assert_eq!(place.kv(["tree", "a", "--depth", "1"]).ok().text(), "a/\n├── b\n└── c/\n\n2 keys\n");
    let tree = place.kv(["tree", "a", "-o", "json"]).ok().json();
    assert_eq!(tree["name"], "a");
    assert_eq!(tree["children"][1]["children"][0], json!({"name": "d", "key": true, "below": false}));
}

#[test]
fn del_tree_says_how_much_and_stays_within_the_path() {
    let place = planted();
    let run = place.kv(["del", "--tree", "a"]);
    assert_eq!((run.code, run.text(), &*run.err), (0, "deleted 2\n", "kv: deleting 2 keys below \"a\"\n"));
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "a\na-b\nab\nz/ü\n");
    let none = place.kv(["del", "--tree", "a", "-o", "json"]);
    assert_eq!(none.json(), json!({"prefix": "a", "deleted": 0}));
}

#[test]
fn the_whole_namespace_goes_only_when_meant() {
    let place = planted();
    place.kv(["del", "--tree", "/"]).fails(2, &["6 keys", "whole namespace", "--yes"]);
    assert_eq!(place.kv(["ls"]).ok().text().lines().count(), 5);
    let run = place.kv(["del", "--tree", "/", "--yes"]);
    assert_eq!((run.code, run.text()), (0, "deleted 6\n"));
    assert_eq!(place.kv(["ls"]).ok().text(), "");
}
