//! mv: what is copied is compared before it is deleted at the old place.

use std::fs;

use serde_json::json;

use crate::common::{Place, wait_for};

fn put(place: &Place, key: &str, value: &str) {
    place.kv(["put", key, value]).ok();
}

fn all(place: &Place) -> String {
    place.kv(["export", "--no-expiry"]).ok().text().to_owned()
}

fn planted() -> Place {
    let place = Place::new();
    for (key, value) in [("old", "0"), ("old/a", "1"), ("old/b/c", "22"), ("older", "x"), ("new/kept", "k")] {
        put(&place, key, value);
    }
    place
}

#[test]
fn an_entry_goes_with_all_that_is_below_it() {
    let place = planted();
    let before = all(&place);
    let plan = place.kv(["mv", "old", "new", "--plan"]);
    assert_eq!(plan.text(), "+ new  1 bytes\n+ new/a  1 bytes\n+ new/b/c  2 bytes\n");
    assert_eq!(plan.code, 4, "{plan:?}");
    let told = "kv: to make 3, to change 0, to delete 0, refused 0, there already 0; 4 bytes to copy, then 3 keys \
                to delete at the old place\n";
    assert_eq!(plan.err, told);
    let plan = place.kv(["mv", "old", "new", "--plan", "--delete", "-o", "jsonl"]).json_lines();
    assert_eq!(plan[1], json!({"action": "make", "key": "new/a", "from": "old/a", "bytes": 1}));
    assert_eq!(plan[3], json!({"action": "delete", "key": "new/kept"}));
    assert_eq!(all(&place), before, "a plan changes nothing");

    let run = place.kv(["mv", "old", "new"]).ok();
    assert_eq!(run.text(), "moved 3 keys, 4 bytes; made 3, changed 0, deleted 0, there already 0\n");
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "new\nnew/a\nnew/b/c\nnew/kept\nolder\n");
    assert_eq!(place.kv(["get", "new/b/c"]).ok().text(), "22");
    place.kv(["mv", "old", "new"]).fails(3, &["nothing at or below \"old\""]);

    let run = place.kv(["mv", "new/b", "x", "-o", "json"]).ok();
    let json = json!({"moved": 1, "made": 1, "changed": 0, "deleted": 0, "bytes": 2, "refused": 0});
    assert_eq!(run.json(), json);
}

#[test]
fn what_is_there_already_is_not_replaced_unless_meant() {
    let place = planted();
    put(&place, "new/a", "other");
    put(&place, "new/b/c", "22");
    let before = all(&place);
    let run = place.kv(["mv", "old", "new", "--plan"]);
    assert_eq!(run.text(), "+ new  1 bytes\n! new/a  another value is there; --overwrite replaces it\n");
    assert!(run.code == 4 && run.err.contains("refused 1, there already 1"), "{run:?}");
    let run =
        place.kv(["mv", "old", "new"]).fails(1, &["refused \"new/a\": another value", "nothing was changed"]);
    assert_eq!(all(&place), before, "{run:?}");

    let run = place.kv(["mv", "old", "new", "--skip-refused"]);
    assert_eq!(run.text(), "moved 2 keys, 1 bytes; made 1, changed 0, deleted 0, there already 1\n");
    assert!(run.code == 0 && run.err.contains("1 key stayed at the old place"), "{run:?}");
    assert_eq!(place.kv(["get", "new/a"]).ok().text(), "other");
    let run = place.kv(["mv", "old", "new", "--overwrite", "--delete"]).ok();
    // All but what is moved goes.
    assert_eq!(run.text(), "moved 1 key, 1 bytes; made 0, changed 1, deleted 3, there already 0\n");
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "new/a\nolder\n");
}

#[test]
fn a_moved_key_goes_when_it_would_have_gone() {
    let place = Place::new();
    place.kv(["put", "a", "x", "--ttl", "1h"]).ok();
    place.kv(["mv", "a", "b"]).ok();
    let expiry = |key| place.kv(["get", key, "--meta", "-o", "json"]).ok().json()["expiry"].clone();
    let left = expiry("b")["remaining_seconds"].as_f64().unwrap();
    assert!(left > 3000.0 && left < 3600.0, "{left}");

    // The same value is there already, and would expire: the one that would not stays.
    put(&place, "kept", "x");
    let run = place.kv(["mv", "kept", "b"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("left alone \"kept\"") && run.err.contains("expires there"), "{run:?}");
    assert_eq!(place.kv(["get", "kept"]).ok().text(), "x");
}

#[test]
fn places_that_lie_within_each_other() {
    let place = planted();
    let before = all(&place);
    for (from, to) in [("old", "old"), ("old", "old/a/b"), ("old/a", "old")] {
        place.kv(["mv", from, to]).fails(2, &["within each other"]);
    }
    place.kv(["mv", "old", "/"]).fails(2, &["invalid key"]);
    place.kv(["mv", "..", "new"]).fails(2, &["invalid key"]);
    // A name that would be too long at the new place is told before anything is moved.
    let long = "k".repeat(511);
    let plan = place.kv(["mv", "old", &long, "--plan"]);
    assert!(plan.code == 4 && plan.err.contains("refused 2"), "{plan:?}");
    place.kv(["mv", "old", &long]).fails(1, &["refused \"old/a\"", "nothing was changed"]);
    assert_eq!(all(&place), before);
}

#[test]
fn a_move_that_is_broken_off_goes_on_where_it_was() {
    let place = Place::new();
    let rows: String = (0..20_000)
        .map(|number| format!("{}\n", json!({"key": format!("a/{number}"), "value": "x"})))
        .collect();
    place.kv_with(["import", "-"], rows.as_bytes()).ok();
    let size = || -> u64 {
        let files = fs::read_dir(place.path("store")).unwrap().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    };
    let running = place.start(["mv", "a", "b"]);
    let mut sizes = std::collections::BTreeSet::new();
    wait_for("some puts", || {
        sizes.insert(size());
        sizes.len() > 30
    });
    running.signal("INT");
    let run = running.end();
    assert!(run.code == 130 && run.err.contains("kv: broken off: "), "{run:?}");
    assert!(run.err.contains("the same command goes on there"), "{run:?}");
    // Nothing is lost: each key is at one place or at both.
    let count =
        |prefix| -> u64 { place.kv(["ls", "-r", prefix, "--count"]).ok().text().trim().parse().unwrap() };
    assert!(count("a") + count("b") >= 20_000);
    place.kv(["mv", "a", "b"]).ok();
    assert_eq!((count("a"), count("b")), (0, 20_000));
}
