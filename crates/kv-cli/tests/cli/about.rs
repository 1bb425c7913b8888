//! man, completions and conformance.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Place, Run};

#[test]
fn the_manual_has_a_page_for_each_command() {
    let place = Place::new();
    let page = place.kv(["man"]).ok();
    assert!(page.text().contains(".TH kv 1") && page.text().contains("Exit codes"), "{page:?}");
    assert!(place.kv(["man", "put"]).ok().text().contains("if\\-absent"));
    place.kv(["man", "nothing"]).fails(2, &["no command \"nothing\""]);
    fs::create_dir(place.path("man1")).unwrap();
    let run = place.kv(["man", "--dir", "man1"]);
    assert_eq!((run.code, run.text()), (0, ""), "{run:?}");
    for name in ["kv.1", "kv-put.1", "kv-context-use.1"] {
        assert!(place.path("man1").join(name).exists(), "{name}");
    }
    place.kv(["man", "--dir", "nowhere"]).fails(1, &["cannot write pages"]);
}

/// What bash is offered for this line, with the cursor behind its last word.
fn offered(place: &Place, words: &[&str]) -> Vec<String> {
    let mut command = place.command(["--"]);
    command.args(words).env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    command.env("_CLAP_IFS", "\n").env("KV_CONTEXTS", place.path("contexts.toml"));
    let run: Run = command.output().unwrap().into();
    run.ok().text().lines().map(str::to_owned).collect()
}

#[test]
fn completions_look_into_the_store() {
    let place = Place::new();
    for key in ["app/db/host", "app/web", "apple", "zoo"] {
        place.kv(["put", key, "x"]).ok();
    }
    assert_eq!(offered(&place, &["kv", "cap"]), ["capabilities"]);
    assert_eq!(offered(&place, &["kv", "get", "app"]), ["app/", "apple"]);
    assert_eq!(offered(&place, &["kv", "get", "app/"]), ["app/db/", "app/web"]);
    assert_eq!(offered(&place, &["kv", "ls", "z"]), ["zoo"]);
    let other = format!("sled:{}", place.path("other").display());
    place.kv(["--store", &other, "put", "apricot", "x"]).ok();
    assert_eq!(offered(&place, &["kv", "--store", &other, "edit", "ap"]), ["apricot"]);
    assert_eq!(offered(&place, &["kv", "get", "-s", "nosuch:", "a"]), [""; 0]);

    let mut set = place.command(["context", "set", "prod", &other]);
    let set: Run = set.env("KV_CONTEXTS", place.path("contexts.toml")).output().unwrap().into();
    set.ok();
    assert_eq!(offered(&place, &["kv", "context", "use", "p"]), ["prod"]);
    assert_eq!(offered(&place, &["kv", "--store", "@"]), ["@prod"]);
    assert_eq!(offered(&place, &["kv", "--store", "etcd"]), ["etcd://", "etcd+tls://"]);
    assert_eq!(offered(&place, &["kv", "diff", "@p"]), ["@prod"]);
    assert_eq!(offered(&place, &["kv", "-s", "@prod", "get", "ap"]), ["apricot"]);
}

/// A store that is in use is not waited for while somebody types.
#[test]
fn completions_of_a_store_in_use_are_none() {
    let place = Place::new();
    place.kv(["put", "app", "x"]).ok();
    let _holder = place.occupy();
    assert_eq!(offered(&place, &["kv", "get", "ap"]), [""; 0]);
}

#[test]
fn the_suite_runs_on_a_store_and_writes_its_report() {
    let place = Place::new();
    place.kv(["put", "kept", "x"]).ok();
    let args = ["conformance", "--filter", "absent", "--report", "report.json", "--seed", "7"];
    let run = place.kv(args);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.text().contains(" on sled (") && run.text().contains(" 0 failed"), "{run:?}");
    assert!(run.err.contains("below conformance/0000000000000007"), "{run:?}");
    let report: Value =
        serde_json::from_str(&fs::read_to_string(place.path("report.json")).unwrap()).unwrap();
    assert_eq!((&report["seed"], &report["backend"]), (&json!(7), &json!("sled")));
    assert!(report["cases"].as_array().unwrap().len() > 1, "{report}");
    // What it wrote is gone, and nothing else.
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "kept\n");

    let listed = place.kv(["conformance", "--list", "--filter", "absent"]).ok();
    assert_eq!(listed.text().lines().count(), report["cases"].as_array().unwrap().len());
    place.kv(["conformance", "--filter", "no such case"]).fails(2, &["no case has"]);
    place.kv(["conformance", "--read-only"]).fails(2, &["without --read-only"]);
    let run = place.kv(["-s", "etcd://127.0.0.1:1", "conformance", "--timeout", "3s"]);
    assert_eq!((run.code, run.text()), (6, ""), "{run:?}");
}

#[test]
fn a_leader_runs_its_command_and_gives_up_the_office() {
    let place = Place::new();
    let script = "printf '%s %s' \"$KV_LOCK_KEY\" \"$KV_LOCK_TOKEN\"; exit 7";
    let run = place.kv(["elect", "jobs/leader", "--proclaim", "10.0.0.7", "--", "sh", "-c", script]);
    assert_eq!(run.code, 7, "{run:?}");
    let (key, term) = run.text().split_once(' ').unwrap();
    assert_eq!(key, "jobs/leader");
    assert_eq!(run.err, format!("kv: leads \"jobs/leader\" in term {term}\n"));

    let run = place.kv(["elect", "jobs/leader"]);
    assert!(run.code == 3 && run.err.contains("nobody leads") && run.err.contains("use a server"), "{run:?}");
    let run = place.kv(["elect", "jobs/leader", "--watch", "--count", "1", "-o", "json"]);
    assert_eq!((run.code, run.json()), (0, json!({"key": "jobs/leader", "leader": null})));
    place.kv(["elect", ".."]).fails(2, &["invalid key"]);
    assert_eq!(place.kv(["elect", "a", "--proclaim", "x"]).code, 2);
    assert_eq!(place.kv(["elect", "a", "--watch", "--", "true"]).code, 2);
    assert_eq!(place.kv(["elect", "a", "--", "./nowhere"]).code, 127);
}
