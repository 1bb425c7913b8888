//! Contexts, --read-only and --audit.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Place, Run};

/// Runs the command with the contexts of this place, and without a variable that names a store.
fn kv(place: &Place, args: &[&str]) -> Run {
    let mut command = place.command(args);
    command.env_remove("KV_STORE").env("KV_CONTEXTS", place.path("contexts.toml"));
    command.env("XDG_DATA_HOME", place.path("data"));
    command.output().unwrap().into()
}

#[test]
fn a_store_has_a_name() {
    let place = Place::new();
    assert_eq!(kv(&place, &["context", "set", "dev", place.url()]).ok().text(), "made dev\n");
    kv(&place, &["--store", "@dev", "put", "a", "x"]).ok();
    assert_eq!(place.kv(["get", "a"]).ok().text(), "x");
    // Until it is used, it is not the default.
    kv(&place, &["get", "a"]).fails(3, &[]);
    assert_eq!(kv(&place, &["context", "use", "dev"]).ok().text(), "dev is used where no store is named\n");
    assert_eq!(kv(&place, &["get", "a"]).ok().text(), "x");
    // As both sides of a copy, too.
    let other = format!("sled:{}", place.path("other").display());
    kv(&place, &["context", "set", "copy", &other]).ok();
    kv(&place, &["sync", "@dev", "@copy"]).ok();
    assert_eq!(kv(&place, &["get", "a", "-s", "@copy"]).ok().text(), "x");

    let list = kv(&place, &["context", "list"]).ok();
    let lines: Vec<_> = list.text().lines().collect();
    assert!(lines[1].starts_with("  copy") && lines[2].starts_with("* dev") && lines.len() == 3, "{list:?}");
    let list = kv(&place, &["context", "list", "-o", "json"]).ok().json();
    let expected = json!({"name": "dev", "current": true, "store": place.url(), "read_only": false, "secret_command": false});
    assert_eq!(list[1], expected);

    kv(&place, &["context", "unuse"]).ok();
    kv(&place, &["get", "a"]).fails(3, &[]);
    kv(&place, &["context", "use", "dev"]).ok();
    assert_eq!(kv(&place, &["context", "delete", "dev"]).ok().text(), "deleted dev\n");
    kv(&place, &["get", "a"]).fails(3, &[]);
}

#[test]
fn contexts_that_make_no_sense() {
    let place = Place::new();
    kv(&place, &["-s", "@nowhere", "get", "a"]).fails(3, &["no context \"nowhere\"", "there are none"]);
    kv(&place, &["context", "use", "nowhere"]).fails(3, &["no context"]);
    kv(&place, &["context", "delete", "nowhere"]).fails(3, &["no context"]);
    kv(&place, &["context", "set", "a b", "mem:"]).fails(2, &["no name"]);
    kv(&place, &["context", "set", "a", "nothing"]).fails(2, &["scheme"]);
    let run =
        kv(&place, &["context", "set", "a", "etcd://root:hush@h"]).fails(2, &["secret", "--secret-command"]);
    assert!(!run.err.contains("hush"), "{run:?}");
    // Nothing was written.
    assert!(!place.path("contexts.toml").exists());
    fs::write(place.path("contexts.toml"), "current = 7\n").unwrap();
    let run = kv(&place, &["get", "a"]).fails(2, &["contexts.toml", "line 1"]);
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    // What does not need them does not look.
    assert_eq!(place.kv(["put", "a", "x"]).code, 0);
}

#[test]
fn the_secret_of_a_command_is_used_and_not_shown() {
    let place = Place::new();
    let url = "etcd://root@127.0.0.1:1/ns";
    kv(&place, &["context", "set", "prod", url, "--secret-command", "touch asked; echo s3cret"]).ok();
    let list = kv(&place, &["context", "list"]).ok();
    assert!(list.text().contains("secret by command") && !list.text().contains("s3cret"), "{list:?}");
    assert!(!place.path("asked").exists());
    let run = kv(&place, &["-s", "@prod", "get", "a", "--timeout", "3s", "-vvv"]);
    assert!(run.code == 6 && !run.err.contains("s3cret") && place.path("asked").exists(), "{run:?}");

    kv(&place, &["context", "set", "prod", url, "--secret-command", "exit 3"]).ok();
    kv(&place, &["-s", "@prod", "get", "a"]).fails(1, &["secret command failed"]);
}

#[test]
fn read_only_refuses_before_anything_is_sent() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    for args in [
        &["put", "a", "y"][..],
        &["del", "a"],
        &["touch", "a"],
        &["del", "--tree", "/", "--yes"],
        &["lock", "a", "--try", "--", "touch", "ran"],
        &["mv", "a", "b"],
    ] {
        let args: Vec<_> =
            args.iter().copied().take(1).chain(["--read-only"]).chain(args[1..].iter().copied()).collect();
        let run = place.start_all(&args).end();
        assert!(run.code == 6 && run.err.contains("read-only"), "{args:?}: {run:?}");
    }
    assert!(!place.path("ran").exists());
    assert_eq!(place.kv(["get", "a", "--read-only"]).ok().text(), "x");

    kv(&place, &["context", "set", "prod", place.url(), "--refuse-writes"]).ok();
    let run = kv(&place, &["-s", "@prod", "put", "a", "y"]);
    assert!(run.code == 6 && run.err.contains("read-only"), "{run:?}");
    let other = format!("sled:{}", place.path("other").display());
    kv(&place, &["-s", &other, "put", "b", "y"]).ok();
    // A context that refuses can be copied from, and not to.
    let run = kv(&place, &["sync", &other, "@prod"]);
    assert!(run.code == 6 && run.err.contains("read-only"), "{run:?}");
    assert_eq!(place.kv(["ls"]).ok().text(), "a\n");
    kv(&place, &["sync", "@prod", &other]).ok();
}

#[test]
fn what_could_change_a_store_is_logged() {
    let place = Place::new();
    let log = place.path("audit.jsonl");
    let log = log.to_str().unwrap();
    place.kv(["put", "a", "hush", "--audit", log]).ok();
    place.kv(["get", "a", "--audit", log]).ok();
    assert_eq!(place.kv(["put", "a", "hush", "--if-absent", "--audit", log]).code, 4);
    assert_eq!(place.kv(["del", "a", "--audit", log, "--read-only"]).code, 6);
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| (&line["operation"], &line["keys"], &line["outcome"])).collect();
    let (put, delete, keys) = (json!("put"), json!("delete"), json!(["a"]));
    let (applied, refused) = (json!("applied"), json!("refused"));
    assert_eq!(told, [(&put, &keys, &applied), (&put, &keys, &refused), (&delete, &keys, &refused)]);
    assert!(!text.contains("hush"), "{text}");
    place.kv(["put", "b", "x", "--audit", "no/such/folder"]).fails(1, &["audit log"]);
    place.kv(["get", "b"]).fails(3, &[]);
}
