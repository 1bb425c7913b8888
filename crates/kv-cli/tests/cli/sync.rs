//! diff and sync: two stores that are alike at the end, or a line that says why not.

use std::fs;

use serde_json::json;

use crate::common::{Place, Run, random, wait_for};

/// The URL of a store of its own in this place.
fn url(place: &Place, name: &str) -> String {
    format!("sled:{}", place.path(name).display())
}

fn import(place: &Place, url: &str, rows: &str) {
    place.kv_with(["--store", url, "import", "-"], rows.as_bytes()).ok();
}

fn row(key: &str, value: &str) -> String {
    format!("{}\n", json!({"key": key, "value": value}))
}

fn export(place: &Place, url: &str) -> String {
    place.kv(["--store", url, "export"]).ok().text().to_owned()
}

#[track_caller]
fn says(run: &Run, code: i32, words: &str) {
    assert!(run.code == code && run.err.contains(words), "{words:?}: {run:?}");
}

#[test]
fn what_differs_is_told_and_made_the_same() {
    let place = Place::new();
    let (a, b) = (url(&place, "a"), url(&place, "b"));
    import(
        &place,
        &a,
        &(row("app/new", "1") + &row("app/other", "22") + &row("app/same", "x") + &row("zoo", "")),
    );
    import(&place, &b, &(row("app/gone", "1") + &row("app/other", "2") + &row("app/same", "x")));

    let plan = "+ app/new  1 bytes\n~ app/other  2 bytes\n";
    let diff = place.kv(["diff", &a, &b, "app"]);
    assert_eq!(diff.text(), format!("- app/gone\n{plan}"));
    says(&diff, 4, "only in the first 1, different 1, only in the second 1, the same 1");

    let run = place.kv(["sync", &a, &b, "app", "--plan"]);
    assert_eq!(run.text(), plan);
    says(&run, 4, "to make 1, to change 1, to delete 0, refused 0, the same 1; 3 bytes to copy");
    let run = place.kv(["sync", &a, &b, "app", "--plan", "--delete", "-o", "jsonl"]);
    assert_eq!(run.json_lines()[0], json!({"action": "delete", "key": "app/gone"}));
    assert_eq!(run.json_lines()[1], json!({"action": "make", "key": "app/new", "bytes": 1}));
    // A plan changes nothing.
    assert_eq!(place.kv(["diff", &a, &b, "app"]).text(), diff.text());

    let run = place.kv(["sync", &a, &b, "app"]).ok();
    assert_eq!(run.text(), "made 1, changed 1, deleted 0, 3 bytes; 1 were the same\n");
    says(&place.kv(["diff", &a, &b, "app"]), 4, "only in the first 0, different 0, only in the second 1");
    let run = place.kv(["sync", &a, &b, "app", "--delete", "-o", "json"]).ok();
    assert_eq!(run.json(), json!({"made": 0, "changed": 0, "deleted": 1, "bytes": 0, "refused": 0}));
    says(&place.kv(["diff", &a, &b, "app"]), 0, "different 0");
    says(&place.kv(["sync", &a, &b, "app", "--delete", "--plan"]), 0, "to make 0, to change 0, to delete 0");
    // Only the prefix was copied.
    assert!(!export(&place, &b).contains("zoo"));
    place.kv(["sync", &a, &b]).ok();
    assert_eq!(export(&place, &a), export(&place, &b));
}

#[test]
fn random_stores_are_alike_at_the_end() {
    let place = Place::new();
    let (_, mut random) = random();
    let (a, b) = (url(&place, "a"), url(&place, "b"));
    for store in [&a, &b] {
        let rows: String = (0..500)
            .map(|_| row(&format!("k/{}/{}", random.u8(..8), random.u8(..)), &random.u8(..3).to_string()))
            .collect();
        import(&place, store, &rows);
    }
    let run = place.kv(["sync", &a, &b, "--delete"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    assert_eq!(export(&place, &a), export(&place, &b));
    assert_eq!(place.kv(["diff", &a, &b]).code, 0);
}

#[test]
fn times_to_live_are_copied_where_they_are_to_be_kept() {
    let place = Place::new();
    let (a, b, c) = (url(&place, "a"), url(&place, "b"), url(&place, "c"));
    place.kv(["--store", &a, "put", "k", "x", "--ttl", "1h"]).ok();
    place.kv(["sync", &a, &b, "--keep-ttl"]).ok();
    let expiry = |store: &str| {
        place.kv(["--store", store, "get", "k", "--meta", "-o", "json"]).ok().json()["expiry"].clone()
    };
    let left = expiry(&b)["remaining_seconds"].as_f64().unwrap();
    assert!(left > 3000.0 && left < 3600.0, "{left}");
    place.kv(["sync", &a, &c]).ok();
    assert_eq!(expiry(&c), json!({"kind": "never"}));
}

#[test]
fn a_copy_that_is_broken_off_goes_on_where_it_was() {
    let place = Place::new();
    let (a, b) = (url(&place, "a"), url(&place, "b"));
    let rows: String = (0..20_000).map(|number| row(&format!("k/{number:05}"), "x")).collect();
    import(&place, &a, &rows);
    place.kv(["--store", &b, "put", "k/00000", "x"]).ok();
    let size = || -> u64 {
        let files = fs::read_dir(place.path("b")).unwrap().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    };
    let copy = place.start(["sync", &a, &b]);
    let mut sizes = std::collections::BTreeSet::new();
    // Opening a store changes its size a few times, and putting all of it some hundred times.
    wait_for("some puts", || {
        sizes.insert(size());
        sizes.len() > 30
    });
    copy.signal("INT");
    let run = copy.end();
    says(&run, 130, "kv: broken off: ");
    assert!(run.err.contains("the same command goes on there"), "{run:?}");
    let there: u64 = place.kv(["--store", &b, "ls", "-r", "--count"]).ok().text().trim().parse().unwrap();
    assert!(there < 20_000, "{there}");
    let run = place.kv(["sync", &a, &b, "-o", "json"]).ok().json();
    assert_eq!(run["made"].as_u64().unwrap() + there, 20_000);
    assert_eq!(place.kv(["diff", &a, &b]).code, 0);
}

#[test]
fn places_that_make_no_sense() {
    let place = Place::new();
    let a = url(&place, "a");
    place.kv(["sync", &a, &a]).fails(2, &["within each other"]);
    place.kv(["sync", "etcd://h/a", "etcd://h/a/b"]).fails(2, &["within each other"]);
    place.kv(["sync", "nosuch://h", &a]).fails(2, &["nosuch"]);
    place.kv(["sync", &a, "mem:", "--store", &a]).fails(2, &["no --store"]);
    place.kv(["diff", &a, ""]).fails(2, &["scheme"]);
    place.kv(["sync", &a, "mem:", ".."]).fails(2, &["invalid key"]);
}

#[test]
fn prefixes_can_be_mapped() {
    let place = Place::new();
    let (a, b) = (url(&place, "a"), url(&place, "b"));
    import(&place, &a, &(row("app/x", "1") + &row("app/y/z", "2") + &row("apple", "3")));
    import(&place, &b, &row("mirror/y/z", "old"));
    let run = place.kv(["sync", &a, &b, "--prefix-map", "app=mirror", "--plan"]);
    assert_eq!(run.text(), "+ mirror/x  1 bytes\n~ mirror/y/z  1 bytes\n");
    let run = place.kv(["sync", &a, &b, "--prefix-map", "app=mirror"]).ok();
    assert_eq!(run.text(), "made 1, changed 1, deleted 0, 2 bytes; 0 were the same\n");
    assert_eq!(place.kv(["diff", &a, &b, "--prefix-map", "app=mirror"]).code, 0);
    // From and to the whole namespace.
    place.kv(["sync", &a, &b, "--prefix-map", "=all"]).ok();
    let all = place.kv(["--store", &b, "ls", "-r"]).ok();
    assert_eq!(all.text(), "all/app/x\nall/app/y/z\nall/apple\nmirror/x\nmirror/y/z\n");
    let run = place.kv(["diff", &b, &a, "--prefix-map", "mirror=", "-o", "jsonl"]).json_lines();
    assert!(run.contains(&json!({"action": "make", "key": "x", "from": "mirror/x", "bytes": 1})), "{run:?}");

    for map in ["app", "a=b=c", "..=b", "a=.."] {
        let run = place.kv(["sync", &a, &b, "--prefix-map", map]).fails(2, &[]);
        assert_eq!(run.err.lines().count(), 1, "{run:?}");
    }
    assert_eq!(place.kv(["sync", &a, &b, "app", "--prefix-map", "app=b"]).code, 2);
    place.kv(["sync", "etcd://h", "etcd://h", "--prefix-map", "a=a/b"]).fails(2, &["within each other"]);
}
