//! get and put: what goes in comes out, byte for byte.

use crate::common::{Place, random};
use serde_json::json;

#[test]
fn a_value_comes_out_as_it_went_in() {
    let place = Place::new();
    let put = place.kv(["put", "app/greeting", "hello"]).ok();
    assert_eq!(put.text(), "version 1\n");
    // Nothing is added to a pipe, not even a line end.
    assert_eq!(place.kv(["get", "app/greeting"]).ok().text(), "hello");
    assert_eq!(place.kv(["get", "/app//greeting/"]).ok().text(), "hello");
    // The empty value is a value.
    place.kv(["put", "empty", ""]).ok();
    assert_eq!(place.kv(["get", "empty"]).ok().out, b"");
    place.kv(["get", "app"]).fails(3, &["\"app\"", "no such key; 1 key below it: kv ls app\n"]);
    place.kv(["get", "nothing"]).fails(3, &["\"nothing\": there is no such key\n"]);
}

#[test]
fn random_bytes_survive_pipes_and_files() {
    let place = Place::new();
    let (_, mut random) = random();
    for length in [1, 2, 100, 65_537, 1 << 20] {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        place.kv_with(["put", "piped", "-"], &bytes).ok();
        assert!(place.kv(["get", "piped"]).ok().out == bytes, "{length} bytes through a pipe");

        std::fs::write(place.path("value"), &bytes).unwrap();
        place.kv(["put", "from-file", "@value"]).ok();
        assert!(place.kv(["get", "from-file"]).ok().out == bytes, "{length} bytes from a file");

        let hex = place.kv(["get", "piped", "--hex"]).ok().out;
        place.kv_with(["put", "hex", "--hex", "-"], &hex).ok();
        assert!(place.kv(["get", "hex"]).ok().out == bytes, "{length} bytes through hex");

        let base64 = place.kv(["get", "piped", "--base64"]).ok().out;
        place.kv_with(["put", "base64", "--base64", "-"], &base64).ok();
        assert!(place.kv(["get", "base64"]).ok().out == bytes, "{length} bytes through base64");
    }
}

#[test]
fn arguments_can_be_taken_as_they_are() {
    let place = Place::new();
    for value in ["-", "@value", "@"] {
        place.kv(["put", "--raw", "a", value]).ok();
        assert_eq!(place.kv(["get", "a"]).ok().text(), value);
    }
    place.kv(["put", "a", "@nowhere"]).fails(1, &["cannot read \"nowhere\"", "caused by"]);
    place.kv(["put", "a", "--hex", "xyz"]).fails(2, &["hex"]);
    assert_eq!(place.kv(["get", "a"]).ok().text(), "@");
}

#[test]
fn a_pipe_from_get_to_put_does_not_block_on_the_directory() {
    let place = Place::new();
    place.kv(["put", "a", "copied"]).ok();
    let kv = env!("CARGO_BIN_EXE_kv");
    let pipe = format!("{kv} get a | {kv} put b -");
    let output = std::process::Command::new("sh").args(["-c", &pipe]).env("KV_STORE", place.url()).output();
    assert!(output.unwrap().status.success());
    assert_eq!(place.kv(["get", "b"]).ok().text(), "copied");
}

#[test]
fn metadata_is_shown_on_request() {
    let place = Place::new();
    place.kv(["put", "a", "one"]).ok();
    place.kv(["put", "a", "two", "--ttl", "1h"]).ok();
    let shown = place.kv(["get", "--meta", "a"]).ok();
    for line in ["key      a", "version  2", "created  1", "bytes    3", "value    two"] {
        assert!(shown.text().lines().any(|shown| shown == line), "{line:?} is not in {}", shown.text());
    }
    assert!(shown.text().contains("of 1 h"), "{}", shown.text());

    let full = place.kv(["get", "--meta", "a", "-o", "json"]).ok().json();
    assert_eq!(full["expiry"]["kind"], "ttl");
    assert_eq!(full["expiry"]["ttl_seconds"], 3600.0);
    assert!(full["expiry"]["remaining_seconds"].as_f64().unwrap() <= 3600.0);
    // Without --meta the expiry, which can cost a round trip, is not asked for.
    let plain = place.kv(["get", "a", "-o", "json"]).ok().json();
    assert_eq!(plain, json!({"key": "a", "value": "two", "version": 2, "created": 1}));
    place.kv(["put", "a", "three"]).ok();
    let permanent = place.kv(["get", "--meta", "a", "-o", "jsonl"]).ok().json();
    assert_eq!(permanent["expiry"], json!({"kind": "never"}));
}

#[test]
fn what_is_not_text_is_base64_in_json() {
    let place = Place::new();
    place.kv_with(["put", "a", "-"], b"\x00\xff").ok();
    assert_eq!(place.kv(["get", "a", "-o", "json"]).ok().json()["base64"], "AP8=");
    let shown = place.kv(["get", "--meta", "a"]).ok();
    assert!(shown.text().contains("not text"));
    assert!(place.kv(["get", "--meta", "--hex", "a"]).ok().text().contains("00ff"));
}

#[test]
fn put_tells_what_it_did_in_json() {
    let place = Place::new();
    let put = place.kv(["put", "a", "x", "--ttl", "90s", "-o", "json"]).ok().json();
    assert_eq!(put, json!({"key": "a", "version": 1, "granted_ttl_seconds": 90.0}));
    assert!(place.kv(["put", "a", "x", "--ttl", "90s"]).ok().text().contains("for 1 min 30 s"));
}

#[test]
fn several_keys_are_read_in_their_order() {
    let place = Place::new();
    for key in ["b", "a", "c/d"] {
        place.kv(["put", key, &format!("of {key}")]).ok();
    }
    let run = place.kv(["get", "c/d", "a", "b"]).ok();
    assert_eq!(
        run.json_lines(),
        [
            json!({"key": "c/d", "value": "of c/d"}),
            json!({"key": "a", "value": "of a"}),
            json!({"key": "b", "value": "of b"}),
        ]
    );
    let run = place.kv(["get", "a", "b", "-o", "json"]).ok().json();
    assert_eq!(run[1], json!({"key": "b", "value": "of b", "version": 1, "created": 1}));
    assert!(place.kv(["get", "a", "b", "-o", "table"]).ok().text().contains("\n\nkey      b\n"));
    // What is there is printed, and what is not is told.
    let run = place.kv(["get", "nothing", "a", "c"]);
    assert_eq!((run.code, run.json()), (3, json!({"key": "a", "value": "of a"})), "{run:?}");
    assert_eq!(run.err, "kv: get: there is no \"nothing\", \"c\" (1 key below it: kv ls c)\n");
    place.kv(["get", "a", "b", "--hex"]).fails(2, &["one key"]);
    place.kv(["get", "a", ".."]).fails(2, &["invalid key"]);
}

#[test]
fn several_keys_are_deleted() {
    let place = Place::new();
    for key in ["a", "b", "c", "d"] {
        place.kv(["put", key, ""]).ok();
    }
    assert_eq!(place.kv(["del", "a", "x", "b"]).ok().text(), "a: deleted\nx: was not there\nb: deleted\n");
    let run = place.kv(["del", "x", "c", "--if-present", "-o", "json"]);
    assert_eq!(run.json(), json!([{"key": "x", "existed": false}, {"key": "c", "existed": true}]));
    assert!(run.code == 3 && run.err.contains("\"x\" did not exist"), "{run:?}");
    place.kv(["del", "d", "..", "--if-present"]).fails(2, &["invalid key"]);
    place.kv(["del", "d", "e", "--if-version", "1"]).fails(2, &["one key"]);
    place.kv(["del", "--tree", "d", "e"]).fails(2, &["one prefix"]);
    assert_eq!(place.kv(["ls"]).ok().text(), "d\n");
}

#[test]
fn a_touch_renews_what_was_granted() {
    let place = Place::new();
    place.kv(["put", "a", "value", "--ttl", "1h"]).ok();
    place.kv(["put", "b", "for good"]).ok();
    let expiry = |key: &str| place.kv(["get", key, "--meta", "-o", "json"]).ok().json()["expiry"].clone();
    let before = expiry("a")["remaining_seconds"].as_f64().unwrap();
    let run = place.kv(["touch", "a", "b"]).ok();
    assert_eq!(run.text(), "a: version 3, for 1 h\nb: version 4, for good\n");
    assert!(expiry("a")["remaining_seconds"].as_f64().unwrap() + 1.0 > before);
    assert_eq!(expiry("a")["ttl_seconds"], 3600.0);
    assert_eq!(place.kv(["get", "a"]).ok().text(), "value");
    let run = place.kv(["touch", "b", "--ttl", "2h", "-o", "json"]).ok().json();
    assert_eq!(run, json!([{"key": "b", "version": 5, "granted_ttl_seconds": 7200.0}]));
    place.kv(["touch", "b", "--permanent"]).ok();
    assert_eq!(expiry("b"), json!({"kind": "never"}));
    place.kv(["touch", "nothing"]).fails(3, &["no such key"]);
    place.kv(["touch", "b", "--ttl", "0s"]).fails(2, &["time to live"]);
}

#[test]
fn a_wait_ends_when_the_key_is_as_it_should_be() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    place.kv(["wait", "a"]).ok();
    place.kv(["wait", "a", "--value", "x"]).ok();
    place.kv(["wait", "b", "--absent"]).ok();
    assert_eq!(place.kv(["wait", "a", "--after", "0", "-o", "json"]).ok().json()["value"], "x");
    for args in [&["a", "--absent"][..], &["a", "--value", "y"], &["a", "--after", "1"], &["b"]] {
        let run = place.start_all(&[&["wait"], args, &["--wait", "200ms"]].concat()).end();
        assert_eq!((run.code, run.text()), (5, ""), "{run:?}");
        let state =
            if args[0] == "a" { "it is at version 1, after 200 ms" } else { "it does not exist, after" };
        assert!(run.err.contains(state), "{run:?}");
        // Nobody else can use the store meanwhile.
        assert!(run.err.contains("no other process can use this store"), "{run:?}");
    }
    // But a time to live can end.
    place.kv(["put", "a", "x", "--ttl", "500ms"]).ok();
    assert_eq!(place.kv(["wait", "a", "--absent", "--wait", "50s"]).code, 0);
    place.kv(["wait", "a", "--absent", "--value", "x"]).fails(2, &["cannot be used with"]);
}

#[test]
fn a_ping_tells_how_long_reads_take() {
    let place = Place::new();
    let run = place.kv(["ping", "-n", "5", "-o", "json"]).ok().json();
    assert_eq!(run["requests"], 5);
    assert!(run["min_ms"].as_f64().unwrap() <= run["max_ms"].as_f64().unwrap(), "{run}");
    assert!(place.kv(["ping"]).ok().text().starts_with("20 reads: min "));
    place.kv(["--store", "etcd://127.0.0.1:1", "ping"]).fails(6, &["unavailable"]);
}

#[test]
fn a_negative_number_is_a_value() {
    let place = Place::new();
    for value in ["-100", "-1.5"] {
        place.kv(["put", "a", value]).ok();
        assert_eq!(place.kv(["get", "a"]).ok().text(), value);
    }
}

/// What stands in a value or a key cannot act on the terminal it is shown on, and is whole in a pipe.
#[test]
fn a_terminal_gets_nothing_that_acts_on_it() {
    let place = Place::new();
    let value = "safe\u{202e}exe\u{1b}[2J\u{9b}x\tü\nend";
    place.kv(["put", "k\u{202e}y", value]).ok();
    assert_eq!(place.kv(["get", "k\u{202e}y"]).ok().text(), value);
    assert_eq!(place.kv(["ls"]).ok().text(), "k\u{202e}y\n");
    for line in [
        "kv get 'k\u{202e}y'",
        "kv get --meta 'k\u{202e}y'",
        "kv get 'k\u{202e}y' -o json",
        "kv ls",
        "kv ls -l",
        "kv ls -o json",
        "kv tree",
        "kv watch --initial --count 1",
        "kv export",
        "kv get nothing/'k\u{202e}y'",
    ] {
        let Some(run) = place.on_terminal("xterm", 80, line) else { return };
        for c in ['\u{202e}', '\u{1b}', '\u{9b}'] {
            assert!(!run.text().contains(c), "{c:?} of {line:?}: {run:?}");
        }
        assert!(run.text().contains("202e"), "{line:?}: {run:?}");
    }
    let run = place.on_terminal("xterm", 80, "kv get 'k\u{202e}y' | cat").unwrap();
    assert!(run.text().contains("safe\u{202e}exe\u{1b}[2J"), "{run:?}");
}

#[test]
fn a_time_to_live_ends() {
    let place = Place::new();
    place.kv(["put", "a", "x", "--ttl", "300ms"]).ok();
    crate::common::wait_for("the key to go", || place.kv(["get", "a"]).code == 3);
}

#[test]
fn a_put_can_keep_the_time_to_live() {
    let place = Place::new();
    place.kv(["put", "a", "x", "--ttl", "1h"]).ok();
    place.kv(["put", "a", "y", "--keep-ttl"]).ok();
    let entry = place.kv(["get", "a", "--meta", "-o", "json"]).ok().json();
    assert_eq!((&entry["value"], &entry["expiry"]["ttl_seconds"]), (&json!("y"), &json!(3600.0)));
    place.kv(["put", "b", "y", "--keep-ttl"]).ok();
    assert_eq!(
        place.kv(["get", "b", "--meta", "-o", "json"]).ok().json()["expiry"],
        json!({"kind": "never"})
    );
    for args in [["--keep-ttl", "--session"], ["--ttl=5s", "--keep-ttl"], ["--ttl=5s", "--session"]] {
        assert_eq!(place.kv(["put", "a", "z", args[0], args[1]]).code, 2);
    }
    assert_eq!(place.kv(["get", "a"]).ok().text(), "y");
}

#[test]
fn a_session_key_lives_as_long_as_its_command() {
    let place = Place::new();
    let mut holder = place.start(["put", "members/a", "here", "--session"]);
    let mut said = String::new();
    let stdout = std::io::BufReader::new(holder.child().stdout.take().unwrap());
    std::io::BufRead::read_line(&mut { stdout }, &mut said).unwrap();
    assert_eq!(said, "version 1\n");
    holder.signal("TERM");
    let run = holder.end();
    assert_eq!((run.code, run.err.as_str()), (143, ""), "{run:?}");
    place.kv(["get", "members/a"]).fails(3, &[]);
}
