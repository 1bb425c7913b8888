//! Bad input: each a clear error with its exit code, and nothing changed.

use crate::common::Place;

#[test]
fn names_that_are_no_keys() {
    let place = Place::new();
    for key in ["a/../b", "../etc/passwd", "", "/", "a\nb", "😀", &"k".repeat(513)] {
        place.kv(["put", key, "x"]).fails(2, &["invalid key"]);
        place.kv(["get", key]).fails(2, &["invalid key"]);
        place.kv(["del", key]).fails(2, &["invalid key"]);
    }
    place.kv(["ls", ".."]).fails(2, &["invalid key", "\"..\""]);
    // Nothing was even opened.
    assert!(!place.path("store").exists());
}

#[test]
fn stores_that_are_none() {
    let place = Place::new();
    place.kv(["--store", "nosuch://", "get", "a"]).fails(2, &["\"nosuch\"", "mem", "sled"]);
    place.kv(["--store", "here", "get", "a"]).fails(2, &["scheme"]);
    let failed = place.kv(["--store", "nosuch://user:hush@host/?token=hush", "get", "a"]).fails(2, &[]);
    assert!(!failed.err.contains("hush"), "{failed:?}");
}

/// However a URL or a variable with a password was mistyped.
#[test]
fn no_error_repeats_what_can_be_a_secret() {
    let place = Place::new();
    for url in [
        "etcd://root:12?s3cretpw@127.0.0.1/ns",
        "etcd://127.0.0.1:1/?password=abc&s3cretpw",
        "etcd://root:12/s3cretpw@127.0.0.1:1",
        "etcd://root@127.0.0.1:1/?password_file=s3cretpw",
        "consul://127.0.0.1:1/?token=abc&s3cretpw=1",
        "zk://root:s3cretpw@127.0.0.1:1",
    ] {
        for args in [&["get", "a", "-vvv"][..], &["doctor", "-vvv"], &["watch"]] {
            let run: crate::common::Run = place.command(args).env("KV_STORE", url).output().unwrap().into();
            assert!(run.code == 2 || run.code == 6, "{run:?}");
            assert!(!run.err.contains("s3cretpw") && !run.text().contains("s3cretpw"), "{url}: {run:?}");
        }
    }
    let mut command = place.command(["--store", "etcd://", "get", "a", "-vvv"]);
    command.env("ETCDCTL_ENDPOINTS", "127.0.0.1:1").env("ETCDCTL_USER", "u2:22/s3cretpw?&s3cretpw@h");
    let run: crate::common::Run = command.output().unwrap().into();
    assert!(run.code == 6 && !run.err.contains("s3cretpw"), "{run:?}");
    assert!(run.err.contains("u2:***@127.0.0.1:1"), "{run:?}");
}

#[test]
fn urls_are_explained() {
    let place = Place::new();
    let told = place.kv(["help", "urls"]).ok();
    for words in ["etcd://HOST:2379/NAMESPACE", "session_timeout", "password_env", "plaintext_credentials"] {
        assert!(told.text().contains(words), "{words}");
    }
    assert!(told.text().starts_with("A store is named by a URL"), "{told:?}");
    assert_eq!(place.kv(["urls"]).ok().text().trim(), told.text().trim());
    // A parameter nobody knows lists those that are known.
    let url = format!("{}?colour=red", place.url());
    place.kv(["--store", &url, "get", "a"]).fails(2, &["cache_mib", "history", "durability"]);
}

#[test]
fn the_secret_in_the_variable_is_in_no_help() {
    let place = Place::new();
    let help = place.command(["--help"]).env("KV_STORE", "etcd://user:hush@host/").output().unwrap();
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("KV_STORE") && !text.contains("hush"), "{text}");
}

#[test]
fn a_value_over_the_limit() {
    let place = Place::new();
    let limit = place.kv(["capabilities", "-o", "json"]).ok().json()["limits"]["max_value"].as_u64().unwrap();
    let over = usize::try_from(limit).unwrap() + 1;
    let big = std::fs::File::create(place.path("big")).unwrap();
    big.set_len(over as u64).unwrap();
    place.kv(["put", "a", "@big"]).fails(2, &["too large", &limit.to_string()]);
    place.kv(["get", "a"]).fails(3, &[]);
}

#[test]
fn a_time_to_live_of_zero() {
    let place = Place::new();
    place.kv(["put", "a", "before"]).ok();
    place.kv(["put", "a", "x", "--ttl", "0s"]).fails(2, &["time to live"]);
    assert_eq!(place.kv(["put", "a", "x", "--ttl", "5"]).code, 2);
    assert_eq!(place.kv(["get", "a"]).ok().text(), "before");
}

#[test]
fn conditions_that_do_not_hold() {
    let place = Place::new();
    place.kv(["put", "a", "one", "--if-present"]).fails(3, &["\"a\""]);
    place.kv(["put", "a", "one", "--if-version", "1"]).fails(4, &["absent"]);
    place.kv(["put", "a", "one", "--if-absent"]).ok();
    place.kv(["put", "a", "two", "--if-absent"]).fails(4, &["exists already", "version 1"]);
    place.kv(["put", "a", "two", "--if-version", "1"]).ok();
    place.kv(["put", "a", "three", "--if-version", "1"]).fails(4, &["precondition", "version 2"]);
    place.kv(["del", "a", "--if-version", "1"]).fails(4, &["version 2"]);
    place.kv(["put", "a", "-3", "--if-value", "one"]).fails(4, &["version 2"]);
    place.kv(["del", "a", "--if-value", "one"]).fails(4, &["version 2"]);
    place.kv(["put", "a", "-3", "--if-value", "two"]).ok();
    place.kv(["put", "a", "two", "--if-value", "-3"]).ok();
    assert_eq!(place.kv(["get", "a"]).ok().text(), "two");
    place.kv(["put", "b", "x"]).ok();
    assert_eq!(place.kv(["del", "b", "--if-value", "x"]).ok().text(), "deleted\n");
    assert_eq!(place.kv(["del", "a", "--if-version", "4"]).ok().text(), "deleted\n");
    // Deleting what is not there is no failure unless it had to be there.
    assert_eq!(place.kv(["del", "a"]).ok().text(), "was not there\n");
    assert_eq!(place.kv(["del", "a", "-o", "json"]).ok().json()["existed"], false);
    place.kv(["del", "a", "--if-present"]).fails(3, &[]);
}

#[test]
fn command_lines_that_make_no_sense() {
    let place = Place::new();
    for args in [
        &["put", "a"][..],
        &["put", "a", "x", "--if-absent", "--if-version", "1"],
        &["get", "a", "--hex", "--base64"],
        &["del", "a", "--yes"],
        &["watch", "--from", "1", "--initial"],
        &["lock", "a"],
        &["lock", "a", "--try", "--wait", "1s", "--", "true"],
        &["get", "a", "--timeout", "0s"],
        &["frobnicate"],
        &[],
    ] {
        let run: crate::common::Run = place.command(args).output().unwrap().into();
        assert_eq!((run.code, run.text()), (2, ""), "{args:?}: {run:?}");
    }
    place.kv(["watch", "-o", "table"]).fails(2, &["JSON lines"]);
    assert!(!place.path("store").exists());
}

/// A number or a time below zero is a bad value, and not an option nobody knows.
#[test]
fn what_cannot_be_negative_says_what_it_is() {
    let place = Place::new();
    let number = "not a whole number from ";
    let time = "not a time such as 5s or 1m30s";
    for (args, expected) in [
        (&["watch", "--count", "-1"][..], number),
        (&["watch", "--count", "0"], number),
        (&["watch", "--from", "-1"], number),
        (&["ls", "--limit", "-1"], number),
        (&["tree", "--depth", "-1"], number),
        (&["ping", "-n", "-1"], number),
        (&["put", "a", "b", "--if-version", "-1"], number),
        (&["del", "a", "--if-version", "-1"], number),
        (&["wait", "a", "--after", "-1"], number),
        (&["put", "a", "b", "--ttl", "-5s"], time),
        (&["touch", "a", "--ttl", "-5s"], time),
        (&["wait", "a", "--wait", "-5s"], time),
        (&["lock", "a", "--max-hold", "-5s", "--", "true"], time),
        (&["get", "a", "--timeout", "-5s"], time),
    ] {
        let run = place.start_all(args).end().fails(2, &["invalid value '", expected]);
        assert!(!run.err.contains("tip:"), "{args:?}: {run:?}");
    }
    assert!(!place.path("store").exists());
}

#[test]
fn a_command_without_its_dashes_is_told_where_they_belong() {
    let place = Place::new();
    for (args, expected) in [
        (["lock", "k", "echo", "hi"], "kv lock KEY -- COMMAND"),
        (["watch", "k", "echo", "hi"], "kv watch PREFIX -- COMMAND"),
    ] {
        place.kv(args).fails(2, &["'echo'", "the command to run stands behind `--`", expected]);
    }
    // Every line is a message's first or belongs to the one above.
    let run = place.kv(["watch", "k", "echo"]);
    let is_ours = |line: &str| line.is_empty() || line.starts_with("kv: ") || line.starts_with("  ");
    assert!(run.err.lines().all(is_ours) && run.err.contains("\n  Usage: kv watch "), "{run:?}");
    let run = place.kv(["lock", "k", "--colour"]).fails(2, &["'--colour'"]);
    assert!(!run.err.contains("stands behind"), "{run:?}");
}

#[test]
fn help_and_version_are_no_failures() {
    let place = Place::new();
    assert!(place.kv(["--help"]).ok().text().contains("Exit codes"));
    assert!(place.kv(["--version"]).ok().text().starts_with("kv "));
}
