//! import and export: every key and every byte, or a line that says why not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{Place, Run, random};
use serde_json::json;

type Tree = BTreeMap<String, Vec<u8>>;

/// A random tree of files whose names are keys, written below `root`.
fn grow(root: &Path, random: &mut fastrand::Rng) -> Tree {
    const PARTS: [&str; 12] =
        ["a", "b c", "ü", "u\u{308}", "100%25", "q?x#y", "+", "'\"", "\\", ".hidden", "-o", "日本"];
    let mut tree = Tree::new();
    for number in 0..300 {
        let depth = random.usize(1..5);
        let mut name: Vec<String> =
            (1..depth).map(|_| PARTS[random.usize(..PARTS.len())].to_owned()).collect();
        name.push(format!("{}{number}", PARTS[random.usize(..PARTS.len())]));
        let length = if random.u8(..) < 8 { random.usize(..200_000) } else { random.usize(..100) };
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let name = name.join("/");
        let path = root.join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        tree.insert(name, bytes);
    }
    tree
}

/// What the rows of an export say.
fn rows(text: &str) -> Tree {
    text.lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let value = match row["base64"].as_str() {
                Some(code) => data_encoding::BASE64.decode(code.as_bytes()).unwrap(),
                None => row["value"].as_str().unwrap().as_bytes().to_vec(),
            };
            (row["key"].as_str().unwrap().to_owned(), value)
        })
        .collect()
}

#[track_caller]
fn imported(run: &Run, keys: usize) {
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    assert!(run.text().starts_with(&format!("imported {keys} keys, ")), "{run:?}");
}

#[test]
fn a_generated_tree_goes_in_and_comes_out() {
    let place = Place::new();
    let (_, mut random) = random();
    fs::create_dir(place.path("tree")).unwrap();
    let tree = grow(&place.path("tree"), &mut random);
    imported(&place.kv(["import", "tree", "app/etc"]), tree.len());
    for name in tree.keys().take(5) {
        assert!(place.kv(["get", &format!("app/etc/{name}")]).ok().out == tree[name], "{name:?}");
    }

    let export = place.kv(["export", "app/etc", "--relative"]).ok();
    assert!(rows(export.text()) == tree, "the export is not the tree");
    let mut keys: Vec<_> = rows(export.text()).into_keys().collect();
    keys.sort();
    let in_order: Vec<_> = export.text().lines().map(|line| rows(line).into_keys().next().unwrap()).collect();
    assert_eq!(in_order, keys, "an export is in the order of its keys");

    // Through a file, a pipe and the format of consul into stores of their own: always the same.
    let whole = place.kv(["export"]).ok();
    place.kv(["export", "--file", "export.jsonl"]);
    assert!(fs::read(place.path("export.jsonl")).unwrap() == whole.out);
    place.kv(["export", "--consul", "--file", "export.json"]);
    for source in ["export.jsonl", "export.json"] {
        let other = Place::new();
        imported(&other.kv(["import", place.path(source).to_str().unwrap()]), tree.len());
        assert!(other.kv(["export"]).ok().out == whole.out, "{source}");
    }
    let other = Place::new();
    imported(&other.kv_with(["import", "-"], &whole.out), tree.len());
    assert!(other.kv(["export"]).ok().out == whole.out);
}

#[test]
fn what_cannot_become_a_key_is_listed() {
    let place = Place::new();
    let root = place.path("tree");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("sub/good"), "good").unwrap();
    fs::write(root.join("emoji😀"), "").unwrap();
    std::os::unix::fs::symlink("sub/good", root.join("link")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    let big = fs::File::create(root.join("big")).unwrap();
    big.set_len(1 << 40).unwrap();

    let run = place.kv(["import", "tree"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.text(), "imported 1 keys, 4 bytes\n");
    for line in [
        "kv: refused \"big\": too large: 1099511627776 bytes",
        "kv: refused \"emoji😀\": invalid key",
        "kv: left out 1 symbolic link (--follow reads what they point to): \"link\"",
        "kv: left out 1 special file: \"pipe\"",
        "kv: 2 refused",
    ] {
        assert!(run.err.lines().any(|said| said.starts_with(line)), "{line:?} is not in {}", run.err);
    }
    let run = place.kv(["import", "tree", "--skip-refused", "-o", "json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.json(), json!({"imported": 1, "bytes": 4, "refused": 2, "left_out": 2}));
    assert_eq!(run.err.lines().count(), 4);
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "sub/good\n");
}

#[test]
fn rows_that_are_refused_and_rows_that_are_none() {
    let place = Place::new();
    let text = b"{\"key\":\"a/../b\",\"value\":\"\"}\n{\"key\":\"c\",\"value\":\"kept\"}\n";
    let run = place.kv_with(["import", "-"], text);
    assert_eq!((run.code, run.text()), (1, "imported 1 keys, 4 bytes\n"), "{run:?}");
    assert!(run.err.contains("refused \"a/../b\""), "{run:?}");

    let broken = b"{\"key\":\"d\",\"value\":\"\"}\n{\"key\":\"e\"}\n{\"key\":\"f\",\"value\":\"\"}\n";
    let run = place.kv_with(["import", "-"], broken);
    assert_eq!((run.code, run.text()), (2, ""), "{run:?}");
    assert!(run.err.contains("line 2"), "{run:?}");
    // Nothing was put, not even the row before it.
    assert_eq!(place.kv(["ls"]).ok().text(), "c\n");
}

#[test]
fn links_are_told_in_one_line_and_are_no_failure() {
    let place = Place::new();
    let root = place.path("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    for number in 0..20 {
        std::os::unix::fs::symlink("file", root.join(format!("l{number:02}"))).unwrap();
    }
    std::os::unix::fs::symlink("nowhere", root.join("lost")).unwrap();
    let run = place.kv(["import", "tree", "at"]);
    assert_eq!((run.code, run.text()), (0, "imported 1 keys, 1 bytes\n"), "{run:?}");
    let names = "\"l00\", \"l01\", \"l02\", \"l03\", \"l04\" and 16 more";
    let line = format!("kv: left out 21 symbolic links (--follow reads what they point to): {names}\n");
    assert_eq!(run.err, line);
    let run = place.kv(["import", "tree", "at", "--follow"]);
    assert_eq!((run.code, run.text()), (0, "imported 21 keys, 21 bytes\n"), "{run:?}");
    assert_eq!(run.err, "kv: left out 1 symbolic link that leads nowhere: \"lost\"\n");
    place.kv_with(["import", "-", "--follow"], b"").fails(2, &["--follow"]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_dump() {
    let place = Place::new();
    let rows = "\u{feff}{\"key\":\"a\",\"value\":\"x\"}\n";
    imported(&place.kv_with(["import", "-"], rows.as_bytes()), 1);
    fs::write(place.path("dump"), "\u{feff}\n[{\"key\":\"b\",\"flags\":0,\"value\":\"\"}]").unwrap();
    imported(&place.kv(["import", "dump"]), 1);
    imported(&place.kv(["import", "dump", "--format", "consul"]), 1);
    assert_eq!(place.kv(["ls"]).ok().text(), "a\nb\n");
}

#[test]
fn a_row_of_consul_is_bounded_by_what_the_store_takes() {
    let place = Place::new();
    let limit = place.kv(["capabilities", "-o", "json"]).ok().json()["limits"]["max_value"].as_u64().unwrap();
    let length = usize::try_from(limit).unwrap() * 7;
    let rows = format!(
        r#"[{{"key":"big","flags":0,"value":"{}"}},{{"key":"small","flags":0,"value":""}}]"#,
        "A".repeat(length)
    );
    fs::write(place.path("dump"), rows).unwrap();
    let run = place.kv(["import", "dump"]);
    assert_eq!((run.code, run.text()), (1, "imported 1 keys, 0 bytes\n"), "{run:?}");
    assert!(run.err.contains("refused row 1: more than"), "{run:?}");
}

#[test]
fn a_time_to_live_goes_with_its_key() {
    let place = Place::new();
    place.kv(["put", "for-good", "x"]).ok();
    place.kv(["put", "short", "x", "--ttl", "1h"]).ok();
    let export = place.kv(["export"]).ok();
    let rows = export.json_lines();
    assert_eq!(rows[0], json!({"key": "for-good", "value": "x"}));
    assert_eq!(rows[1]["expiry"]["kind"], "ttl");
    assert_eq!(rows[1]["expiry"]["ttl_seconds"], 3600.0);
    assert!(rows[1]["expiry"]["remaining_seconds"].as_f64().unwrap() < 3600.0);
    assert!(!place.kv(["export", "--no-expiry"]).ok().text().contains("expiry"));

    let left = |args: &[&str], rows: &[u8]| -> serde_json::Value {
        let other = Place::new();
        fs::write(other.path("rows"), rows).unwrap();
        let run = other.start_all(&[&["import", "rows"], args].concat()).end();
        assert_eq!(run.code, 0, "{run:?}");
        other.kv(["get", "short", "--meta", "-o", "json"]).ok().json()["expiry"].clone()
    };
    // What was left of it, whatever that was …
    let row =
        r#"{"key":"short","value":"","expiry":{"kind":"ttl","ttl_seconds":7200,"remaining_seconds":1800}}"#;
    assert_eq!(left(&[], row.as_bytes())["ttl_seconds"], 1800.0);
    assert_eq!(left(&["--expiry", "granted"], row.as_bytes())["ttl_seconds"], 7200.0);
    assert_eq!(left(&["--expiry", "none"], row.as_bytes()), json!({"kind": "never"}));
    // … and where it is not known, all of it.
    let row = r#"{"key":"short","value":"","expiry":{"kind":"ttl","ttl_seconds":7200}}"#;
    assert_eq!(left(&[], row.as_bytes())["ttl_seconds"], 7200.0);
    let own = left(&[], &export.out)["ttl_seconds"].as_f64().unwrap();
    assert!(own > 3000.0 && own < 3600.0, "{own}");

    // What ends with a session cannot be kept, and a nonsense expiry changes nothing.
    let session = br#"{"key":"s","value":"","expiry":{"kind":"session"}}"#;
    let run = place.kv_with(["import", "-"], session);
    assert!(run.code == 1 && run.err.contains("session") && run.err.contains("--expiry none"), "{run:?}");
    let long = br#"{"key":"s","value":"","expiry":{"kind":"ttl","ttl_seconds":1e12}}"#;
    let run = place.kv_with(["import", "-"], long);
    assert!(run.code == 1 && run.err.contains("at most"), "{run:?}");
    let rows = b"{\"key\":\"first\",\"value\":\"\"}\n{\"key\":\"b\",\"value\":\"\",\"expiry\":{\"kind\":\"ttl\",\"ttl_seconds\":-1}}\n";
    place.kv_with(["import", "-"], rows).fails(2, &["line 2", "\"b\"", "not a time: -1"]);
    let rows = br#"{"key":"first","value":""}
{"key":"b","value":"","expiry":{"kind":"ttl","ttl_seconds":5,"remaining_seconds":3600}}"#;
    place.kv_with(["import", "-"], rows).fails(2, &["line 2", "\"b\"", "remaining_seconds", "more than"]);
    assert_eq!(place.kv(["ls"]).ok().text(), "for-good\nshort\n");
}

#[test]
fn an_import_that_is_broken_off_tells_how_far_it_came() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    // Every put is a write to the disk of its own: thousands of them take their time.
    let rows: String =
        (0..200_000).map(|number| format!("{{\"key\":\"k/{number}\",\"value\":\"\"}}\n")).collect();
    fs::write(place.path("rows"), rows).unwrap();
    let import = place.start(["import", "rows"]);
    let data = place.path("store");
    let size = || -> u64 {
        let files = fs::read_dir(&data).unwrap().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    };
    let mut sizes = std::collections::BTreeSet::new();
    crate::common::wait_for("some puts", || {
        sizes.insert(size());
        sizes.len() > 5
    });
    import.signal("INT");
    let run = import.end();
    assert_eq!((run.code, run.text()), (130, ""), "{run:?}");
    let told = run.err.lines().find_map(|line| line.strip_prefix("kv: broken off: ")).unwrap();
    let told: usize = told.split_whitespace().next().unwrap().parse().unwrap();
    let there = place.kv(["ls", "k"]).ok().text().lines().count();
    assert!(told <= there && there <= told + 32, "{told} told, {there} there: {run:?}");
}

#[test]
fn the_last_of_two_rows_for_one_key_stays() {
    let place = Place::new();
    let rows: String =
        (0..200).map(|number| format!("{{\"key\":\"same\",\"value\":\"{number}\"}}\n")).collect();
    imported(&place.kv_with(["import", "-"], rows.as_bytes()), 200);
    assert_eq!(place.kv(["get", "same"]).ok().text(), "199");
}

#[test]
fn what_consul_exports_is_imported() {
    let place = Place::new();
    let export = r#"[
	{
		"key": "app/",
		"flags": 0,
		"value": ""
	},
	{
		"key": "app/port",
		"flags": 42,
		"value": "ODA4MA=="
	},
	{
		"key": "jobs/.lock",
		"flags": 3304740253564472344,
		"value": ""
	}
]
"#;
    let run = place.kv_with(["import", "-", "dc1"], export.as_bytes());
    assert_eq!((run.code, run.text()), (1, "imported 1 keys, 4 bytes\n"), "{run:?}");
    assert!(run.err.contains("refused \"app/\"") && run.err.contains("refused \"jobs/.lock\""), "{run:?}");
    assert_eq!(place.kv(["export"]).ok().text(), "{\"key\":\"dc1/app/port\",\"value\":\"8080\"}\n");
    let back = place.kv(["export", "dc1", "--relative", "--consul"]).ok().json();
    assert_eq!(back, json!([{"key": "app/port", "flags": 0, "value": "ODA4MA=="}]));
    let run = place.kv(["export", "nothing", "--consul"]);
    assert_eq!((run.code, run.json()), (0, json!([])), "{run:?}");
    assert_eq!(run.err, "kv: nothing was exported: there are no keys below \"nothing\"\n");
}

#[test]
fn plain_json_is_imported_when_it_is_said_to_be() {
    let place = Place::new();
    let text = br#"{"app":{"colour":"blue","port":8080,"debug":false}}"#;
    let run = place.kv_with(["import", "-", "--format", "json"], text).ok();
    assert_eq!(run.text(), "imported 3 keys, 13 bytes\n");
    let list = "{\"key\":\"app/colour\",\"value\":\"blue\"}\n{\"key\":\"app/debug\",\"value\":\"false\"}\n{\"key\":\"app/port\",\"value\":\"8080\"}\n";
    assert_eq!(place.kv(["export"]).ok().text(), list);
    place.kv_with(["import", "-"], text).fails(2, &["line 1"]);
    let dump = br#"{"header":{"revision":4},"kvs":[{"key":"YS9i","version":1,"value":"AP8="}],"count":1}"#;
    imported(&place.kv_with(["import", "-"], dump), 1);
    assert_eq!(place.kv(["get", "a/b"]).ok().out, [0, 255]);
}

#[test]
fn sources_that_are_none() {
    let place = Place::new();
    fs::write(place.path("text"), "key: value\n").unwrap();
    fs::create_dir(place.path("dir")).unwrap();
    place.kv(["import", "nowhere"]).fails(1, &["cannot read \"nowhere\""]);
    place.kv(["import", "text"]).fails(2, &["neither"]);
    place.kv(["import", "dir", "--format", "jsonl"]).fails(2, &["is a directory"]);
    place.kv(["import", "text", "--format", "dir"]).fails(2, &["not a directory"]);
    place.kv(["import", "text", "--format", "consul"]).fails(2, &[]);
    assert!(place.kv(["ls", "-r"]).ok().out.is_empty());
    imported(&place.kv(["import", "dir"]), 0);
}

#[test]
fn an_export_that_is_broken_off_leaves_the_file_as_it_was() {
    let place = Place::new();
    let rows: String =
        (0..20_000).map(|number| format!("{{\"key\":\"k/{number}\",\"value\":\"\"}}\n")).collect();
    place.kv_with(["import", "-"], rows.as_bytes()).ok();
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/export"), "before").unwrap();
    let export = place.start(["export", "--file", "out/export"]);
    // The file that takes the name in the end.
    crate::common::wait_for("a new file", || fs::read_dir(place.path("out")).unwrap().count() > 1);
    export.signal("TERM");
    let run = export.end();
    assert_eq!((run.code, &*run.err), (143, "kv: broken off: \"out/export\" was not written\n"), "{run:?}");
    assert_eq!(fs::read(place.path("out/export")).unwrap(), b"before");
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1);
}

#[test]
fn an_export_that_fails_leaves_the_file_as_it_was() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    fs::write(place.path("export"), "before").unwrap();
    place.kv(["export", "..", "--file", "export"]).fails(2, &[]);
    place.kv(["export", "--file", "no/such/dir/export"]).fails(1, &["cannot write"]);
    assert_eq!(fs::read(place.path("export")).unwrap(), b"before");
    // A device is written to and not replaced.
    assert_eq!(place.kv(["export", "--file", "/dev/null"]).code, 0);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let run = place.kv(["export", "--file", "export", "--meta"]);
    assert_eq!((run.code, &*run.err), (0, "kv: exported 1 keys, 1 bytes\n"));
    let row: serde_json::Value = serde_json::from_slice(&fs::read(place.path("export")).unwrap()).unwrap();
    assert_eq!(row, json!({"key": "a", "value": "x", "version": 1, "created": 1}));
}

#[test]
fn an_import_can_leave_alone_what_is_there() {
    let place = Place::new();
    place.kv(["put", "a", "mine"]).ok();
    let rows = b"{\"key\":\"a\",\"value\":\"theirs\"}\n{\"key\":\"b\",\"value\":\"new\"}\n";
    let run = place.kv_with(["import", "-", "--if-absent"], rows).ok();
    assert_eq!(run.text(), "imported 1 keys, 3 bytes; 1 were there already\n");
    let run = place.kv_with(["import", "-", "--if-absent", "-o", "json"], rows).ok();
    let expected = serde_json::json!({"imported": 0, "bytes": 0, "refused": 0, "left_out": 0, "existed": 2});
    assert_eq!(run.json(), expected);
    assert_eq!(place.kv(["get", "a"]).ok().text(), "mine");
    place.kv_with(["import", "-"], rows).ok();
    assert_eq!(place.kv(["get", "a"]).ok().text(), "theirs");
}
