//! Which store, whether it is there, and what becomes of the output.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Place, Run};

#[test]
fn the_default_store_is_in_the_data_directory() {
    let place = Place::new();
    // With what means something in a URL in its name.
    let home = place.path("a b?c#d%20e");
    let put = |place: &Place| {
        let mut command = place.command(["put", "a", "x"]);
        command.env_remove("KV_STORE").env_remove("XDG_DATA_HOME").env("HOME", &home);
        command
    };
    Run::from(put(&place).output().unwrap()).ok();
    assert!(home.join(".local/share/kv").is_dir());
    Run::from(put(&place).env("XDG_DATA_HOME", place.path("data")).output().unwrap()).ok();
    assert!(place.path("data/kv").is_dir());
    // One that is there and empty was meant to name another.
    Run::from(put(&place).env("KV_STORE", "").output().unwrap()).fails(2, &["empty", "KV_STORE"]);
    let mut command = place.command(["--store", "", "put", "a", "x"]);
    Run::from(command.env("HOME", &home).output().unwrap()).fails(2, &["empty", "--store"]);
    Run::from(command.env("KV_STORE", "").output().unwrap()).fails(2, &["empty"]);
    // What is given counts more than the variable.
    let other = format!("sled:{}", place.path("other").display());
    place.kv(["--store", &other, "put", "a", "x"]).ok();
    assert!(place.path("other").is_dir() && !place.path("store").exists());
}

#[test]
fn everything_is_there_after_a_restart() {
    let place = Place::new();
    for number in 0..20 {
        place.kv(["put", &format!("n/{number:02}"), &number.to_string()]).ok();
    }
    let rows = place.kv(["export"]).ok();
    assert_eq!(rows.text().lines().count(), 20);
    assert_eq!(place.kv(["get", "n/07"]).ok().text(), "7");
}

#[test]
fn a_command_waits_for_the_directory() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    let holder = place.occupy();
    let begin = Instant::now();
    let named = format!("process id {}", holder.pid());
    place.kv(["get", "a", "--timeout", "700ms"]).fails(5, &["in use", &named, "--timeout", "such as etcd"]);
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(700), "{waited:?}");

    let waiting = place.start(["get", "a", "--timeout", "50s"]);
    holder.signal("TERM");
    assert_eq!(holder.end().code, 143);
    let run = waiting.end();
    assert_eq!((run.code, run.text()), (0, "x"), "{run:?}");
}

#[test]
fn memory_is_a_store_too() {
    let place = Place::new();
    place.kv(["--store", "mem:", "get", "a"]).fails(3, &[]);
    let text = b"{\"key\":\"a\",\"value\":\"\"}\n";
    assert_eq!(
        place.kv_with(["--store", "mem:", "import", "-"], text).ok().text(),
        "imported 1 keys, 0 bytes\n"
    );
    assert_eq!(place.kv(["--store", "mem:", "lock", "a", "--", "echo", "ran"]).ok().text(), "ran\n");
}

#[test]
fn capabilities_are_shown_whole() {
    let place = Place::new();
    let shown = place.kv(["capabilities"]).ok();
    for name in kv_core::Power::ALL
        .iter()
        .map(|power| power.name())
        .chain(kv_core::Guarantee::ALL.iter().map(|guarantee| guarantee.name()))
        .chain(["sled", "max_value", "lock_ttl", "session_bound"])
    {
        assert!(shown.text().lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}");
    }
    let json = place.kv(["capabilities", "-o", "json"]).ok().json();
    assert_eq!(json["backend"], "sled");
    assert_eq!(json["powers"].as_object().unwrap().len(), kv_core::Power::ALL.len());
    assert_eq!(json["guarantees"].as_object().unwrap().len(), kv_core::Guarantee::ALL.len());
}

#[test]
fn the_doctor_looks_without_touching_unless_told_to() {
    let place = Place::new();
    let run = place.kv(["doctor"]).ok();
    let checks = ["open", "server", "read", "list", "write", "capabilities"];
    let shown: Vec<_> =
        run.text().lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
    for (shown, check) in shown.iter().zip(checks) {
        let outcome = if check == "write" { "skipped" } else { "ok" };
        assert_eq!(shown[..], [outcome, check]);
    }
    assert_eq!(shown.len(), checks.len());

    let json = place.kv(["doctor", "--write", "-o", "json"]).ok().json();
    assert!(json.as_array().unwrap().iter().all(|check| check["outcome"] == "ok"), "{json}");
    assert_eq!(place.kv(["ls", "-r"]).ok().text(), "");
}

#[test]
fn the_doctor_says_what_fails_and_with_which_code() {
    let place = Place::new();
    let holder = place.occupy();
    let run = place.kv(["doctor", "--timeout", "200ms"]);
    assert_eq!(run.code, 5, "{run:?}");
    assert!(run.text().starts_with("FAILED") && run.text().contains(&holder.pid().to_string()), "{run:?}");
    assert_eq!(run.err, "kv: not everything is well\n");
}

/// Nor anything else than text, on a terminal that shows nothing else or where it was asked for.
#[test]
fn no_colours_where_they_are_not_wanted() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    for number in 0..300 {
        fs::write(place.path("tree").join(number.to_string()), "x").unwrap();
    }
    for (kind, line) in [
        (
            "dumb",
            "export CI=true; kv help; kv frobnicate; kv get nothing; kv import tree -vv; kv capabilities",
        ),
        ("xterm", "export NO_COLOR=1; kv help; kv frobnicate; kv get nothing; kv export"),
    ] {
        let Some(run) = place.on_terminal(kind, 80, line) else { return };
        assert!(run.text().contains("Usage:") && run.text().contains("unrecognized subcommand"), "{run:?}");
        assert!(!run.text().contains('\u{1b}'), "{run:?}");
    }
    let run = place.on_terminal("xterm", 80, "kv import tree -vv 2>said").unwrap();
    assert!(run.text().contains("imported 300 keys"), "{run:?}");
    let said = fs::read_to_string(place.path("said")).unwrap();
    assert!(!said.contains('\u{1b}') && said.lines().all(|line| line.starts_with("kv: ")), "{said:?}");
}

#[test]
fn a_table_fits_its_terminal() {
    let place = Place::new();
    for columns in [80, 60] {
        let Some(run) = place.on_terminal("xterm", columns, "kv capabilities") else { return };
        for line in run.text().lines() {
            assert!(line.trim_end().chars().count() <= usize::from(columns), "{columns}: {line}");
        }
        let words: Vec<_> = run.text().split_whitespace().collect();
        assert!(words.windows(2).any(|words| words == ["lock_fifo", "yes"]), "{run:?}");
    }
}

#[test]
fn verbose_tells_each_request_with_its_time() {
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    let run = place.kv(["get", "a", "-v"]);
    assert_eq!((run.code, run.text()), (0, "x"), "{run:?}");
    let lines: Vec<_> = run.err.lines().collect();
    assert!(lines[0].starts_with(&format!("kv: open {:?}: done in ", place.url())), "{run:?}");
    assert!(lines[1].starts_with("kv: get \"a\": done in "), "{run:?}");
    assert!(lines[2].starts_with("kv: all of it took ") && lines.len() == 3, "{run:?}");
    let run = place.kv(["put", "a", "x", "--if-absent", "-v"]);
    assert!(run.err.contains("kv: put \"a\": it exists already, at version 1, after "), "{run:?}");
}

#[test]
fn completions_are_those_of_the_shell() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.kv(["completions", shell]).ok();
        assert!(script.text().contains("COMPLETE"), "{shell}: {script:?}");
    }
    assert!(!place.path("store").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_failure_to_talk_about() {
    let place = Place::new();
    let rows: String =
        (0..5000).map(|number| format!("{{\"key\":\"k/{number:040}\",\"value\":\"\"}}\n")).collect();
    place.kv_with(["import", "-"], rows.as_bytes()).ok();
    let mut child =
        place.command(["ls", "-r"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // What it writes is more than a pipe holds, so that it is still writing when the reader goes.
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.err.as_str()), (141, ""));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        return kv_testkit::skip("there is no /dev/full");
    };
    let place = Place::new();
    place.kv(["put", "a", "x"]).ok();
    for args in [&["get", "a"][..], &["ls"], &["export"], &["capabilities"], &["completions", "bash"]] {
        let run: Run = place.command(args).stdout(full.try_clone().unwrap()).output().unwrap().into();
        run.fails(1, &["cannot write the output", "No space left"]);
    }
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let place = Place::new();
    for scheme in ["etcd", "consul", "zk"] {
        // Nothing listens on port 1, and nobody but the system may.
        let url = format!("{scheme}://127.0.0.1:1/ns");
        let run = place.kv(["--store", &url, "get", "a"]).fails(6, &["open", "127.0.0.1:1", "unavailable"]);
        // At most one cause, and none that only a programmer can read.
        assert!(run.err.lines().count() <= 2 && !run.err.contains("Error"), "{run:?}");
        assert!(run.err.lines().skip(1).all(|line| line.starts_with("  ")), "{run:?}");
        let all = place.kv(["--store", &url, "get", "a", "-v"]);
        assert!(all.err.matches("caused by").count() >= run.err.matches("caused by").count(), "{all:?}");
        let doctor = place.kv(["--store", &url, "doctor", "-o", "json"]);
        assert_eq!((doctor.code, doctor.json()[0]["outcome"].as_str()), (6, Some("failed")), "{doctor:?}");
    }
}

#[test]
fn the_native_tools_variables_fill_in_what_the_url_leaves_out() {
    let place = Place::new();
    let mut command = place.command(["--store", "etcd:///ns", "get", "a"]);
    command.env("ETCDCTL_ENDPOINTS", "127.0.0.1:1").env("ETCDCTL_USER", "root:hush");
    let run = Run::from(command.output().unwrap());
    assert!(
        run.err.starts_with("kv: etcd://root:***@127.0.0.1:1/ns, from ETCDCTL_ENDPOINTS, ETCDCTL_USER\n")
    );
    assert!(!run.err.contains("hush"), "{run:?}");
    assert_eq!(run.code, 6);
    place.kv(["--store", "etcd:///ns", "get", "a"]).fails(2, &["host"]);
}
