//! lock: the command runs while the lock is held, and nothing of it outlives the hold.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Place, Running, heed_signals, is_alive, wait_for};

/// Starts `kv lock` with a script and waits until it has written its first line to this file.
fn locked(place: &Place, options: &[&str], script: &str) -> Running {
    let started = place.path("started");
    let script = format!("echo $$ > starting; mv starting started; {script}");
    let mut args = vec!["lock", "jobs/nightly"];
    args.extend(options);
    args.extend(["--", "sh", "-c", &script]);
    let running = place.start_all(&args);
    wait_for("the command to start", || started.exists());
    running
}

fn started_pid(place: &Place) -> String {
    fs::read_to_string(place.path("started")).unwrap()
}

#[test]
fn the_command_knows_its_lock_and_its_code_is_ours() {
    let place = Place::new();
    let show = "printf '%s %s' \"$KV_LOCK_KEY\" \"$KV_LOCK_TOKEN\"";
    let mut before = 0;
    for _ in 0..3 {
        let run = place.kv(["lock", "/jobs//nightly", "--", "sh", "-c", show]).ok();
        let (key, token) = run.text().split_once(' ').unwrap();
        assert_eq!(key, "jobs/nightly");
        let token: u64 = token.parse().unwrap();
        assert!(token > before, "{token} after {before}");
        before = token;
    }
    for code in [0, 1, 3, 42, 255] {
        assert_eq!(place.kv(["lock", "a", "--", "sh", "-c", &format!("exit {code}")]).code, code);
    }
    assert_eq!(place.kv(["lock", "a", "--", "sh", "-c", "kill -KILL $$"]).code, 137);
    assert_eq!(place.kv_with(["lock", "a", "--", "cat"], b"\0through\xff").ok().out, b"\0through\xff");
}

#[test]
fn a_command_that_cannot_start_leaves_no_lock() {
    let place = Place::new();
    place.kv(["lock", "a", "--", "./nowhere"]).fails(127, &["cannot run \"./nowhere\"", "caused by"]);
    fs::write(place.path("no-program"), "").unwrap();
    place.kv(["lock", "a", "--", "./no-program"]).fails(126, &["cannot run"]);
    place.kv(["lock", "a", "--holder"]).fails(3, &["nobody"]);
    place.kv(["lock", "a", "--try", "--", "true"]).ok();
}

#[test]
fn commands_under_one_lock_exclude_each_other() {
    let place = Place::new();
    let script = "mkdir busy && sleep 0.2 && echo ran >> log && rmdir busy";
    let all: Vec<_> =
        (0..4).map(|_| place.start(["lock", "jobs/nightly", "--", "sh", "-c", script])).collect();
    for running in all {
        assert_eq!(running.end().code, 0);
    }
    assert_eq!(fs::read_to_string(place.path("log")).unwrap(), "ran\n".repeat(4));
}

#[test]
fn waiting_can_be_bounded() {
    let place = Place::new();
    let holder = place.occupy();
    let named = format!("process id {}", holder.pid());
    let begin = Instant::now();
    place.kv(["lock", "occupied", "--try", "--", "touch", "ran"]).fails(5, &[&named]);
    place.kv(["lock", "occupied", "--wait", "300ms", "--", "touch", "ran"]).fails(5, &[&named]);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(!place.path("ran").exists());

    // Without a bound it says what it waits for, and a signal ends it.
    let mut waiting = place.start(["lock", "occupied", "--", "touch", "ran"]);
    let mut said = std::io::BufReader::new(waiting.child().stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.contains("waiting") && line.contains(&holder.pid().to_string()), "{line}");
    waiting.signal("TERM");
    assert_eq!(waiting.end().code, 143);
    assert!(!place.path("ran").exists());
}

#[tokio::test]
async fn signals_are_passed_on() {
    heed_signals().await;
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("QUIT", 3), ("USR1", 10), ("USR2", 12)] {
        let place = Place::new();
        // A handler of the command's own …
        let script =
            format!("trap 'echo got {name}; exit 7' {name}; touch ready; while :; do sleep 0.02; done");
        let running = locked(&place, &[], &script);
        wait_for("the handler", || place.path("ready").exists());
        running.signal(name);
        let run = running.end();
        assert_eq!((run.code, run.text()), (7, format!("got {name}\n").as_str()), "{name}: {run:?}");

        // … and what the system does without one.
        let place = Place::new();
        let running = locked(&place, &[], "ulimit -c 0; exec sleep 1000");
        running.signal(name);
        let run = running.end();
        assert_eq!((run.code, run.err.as_str()), (128 + number, ""), "{name}");
        assert!(!is_alive(&started_pid(&place)));
    }
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let place = Place::new();
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_kv")).args(["lock", "a", "--", "sh", "-c"]);
    command.arg("touch ready; while test ! -e go; do sleep 0.02; done; exit 4");
    command.env("KV_STORE", place.url()).current_dir(place.path(""));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running::from(command.spawn().unwrap());
    wait_for("the command to start", || place.path("ready").exists());
    running.signal("HUP");
    fs::write(place.path("go"), "").unwrap();
    assert_eq!(running.end().code, 4);
}

#[test]
fn nothing_the_command_started_is_left() {
    let place = Place::new();
    let script = "\
        sleep 1000 & echo $! >> left
        sh -c 'sleep 1000 & echo $! >> left; exec sleep 1000' & echo $! >> left
        sh -c 'trap \"\" TERM; echo $$ >> left; touch deaf; while :; do sleep 0.02; done' &
        while test ! -e deaf; do sleep 0.02; done
        while test $(wc -l < left) -lt 4; do sleep 0.02; done
        exit 9";
    let run = place.kv(["lock", "a", "--grace", "200ms", "--", "sh", "-c", script]);
    assert_eq!((run.code, run.err.as_str()), (9, ""));
    let left = fs::read_to_string(place.path("left")).unwrap();
    assert_eq!(left.lines().count(), 4, "{left}");
    for pid in left.lines() {
        assert!(!is_alive(pid), "{pid} is left");
    }
    // Nor what is stopped and hears no signal but KILL.
    let script = "sh -c 'echo $$ >> stopped; kill -STOP $$' & while test ! -s stopped; do sleep 0.02; done";
    place.kv(["lock", "a", "--", "sh", "-c", script]).ok();
    assert!(!is_alive(&fs::read_to_string(place.path("stopped")).unwrap()));
    place.kv(["lock", "a", "--try", "--", "true"]).ok();
}

#[test]
fn a_command_that_holds_the_lock_too_long_is_stopped() {
    let place = Place::new();
    let begin = Instant::now();
    let run = place.kv(["lock", "a", "--max-hold", "300ms", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    assert_eq!(run.code, 5, "{run:?}");
    assert!(run.err.contains("longer than --max-hold"), "{run:?}");
    assert!(!is_alive(run.text()));
    assert!(begin.elapsed() < Duration::from_secs(30));

    // One that does not listen to TERM is killed, with all it started.
    let deaf = "trap '' TERM; (trap '' TERM; while :; do sleep 0.02; done) & echo $!; echo $$; while :; do sleep 0.02; done";
    let run = place.kv(["lock", "a", "--max-hold", "300ms", "--grace", "100ms", "--", "sh", "-c", deaf]);
    assert_eq!(run.code, 5, "{run:?}");
    assert_eq!(run.text().lines().count(), 2);
    for pid in run.text().lines() {
        assert!(!is_alive(pid), "{pid} is left");
    }
    // One that listens can end in its own way; the code still says that it was too long.
    let neat = "trap 'echo neat; exit 0' TERM; while :; do sleep 0.02; done";
    let run = place.kv(["lock", "a", "--max-hold", "300ms", "--grace", "20s", "--", "sh", "-c", neat]);
    assert_eq!((run.code, run.text()), (5, "neat\n"), "{run:?}");
}

#[test]
fn a_holder_that_was_stopped_too_long_ends_the_command_when_it_goes_on() {
    let place = Place::new();
    let running = locked(&place, &["--max-hold", "1s"], "exec sleep 1000");
    running.signal("STOP");
    // Not a wait for something to happen: nothing may happen while the time of the hold passes.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(is_alive(&started_pid(&place)));
    running.signal("CONT");
    let run = running.end();
    assert_eq!(run.code, 5, "{run:?}");
    assert!(!is_alive(&started_pid(&place)));
}

/// The lock's process has the directory until the command ends: waiting for it would never end.
#[test]
fn a_command_under_a_lock_on_the_same_directory_is_told_at_once() {
    let place = Place::new();
    let kv = env!("CARGO_BIN_EXE_kv");
    let begin = Instant::now();
    for inner in [&["put", "y", "z"][..], &["get", "y", "--timeout", "50s"], &["lock", "y", "--", "true"]] {
        let args = [&["lock", "x", "--", kv], inner].concat();
        let run = place.start_all(&args).end();
        assert_eq!(run.code, 5, "{run:?}");
        for words in ["the kv lock this command runs under", "etcd, Consul or ZooKeeper"] {
            assert!(run.err.contains(words), "{run:?}");
        }
    }
    // Also where a shell or a lock on another store is between the two.
    let other = format!("sled:{}", place.path("other").display());
    let nested = format!("{kv} --store {other} lock b -- {kv} put y z");
    let run = place.kv(["lock", "x", "--", "sh", "-c", &nested]);
    assert!(run.code == 5 && run.err.contains("runs under"), "{run:?}");
    assert!(begin.elapsed() < Duration::from_secs(40));
    // A store of one's own is no matter.
    place.kv(["lock", "x", "--", kv, "--store", &other, "put", "y", "z"]).ok();
}

#[test]
fn a_lock_without_a_command_is_told_in_words() {
    let place = Place::new();
    place.kv(["lock", "a b"]).fails(2, &["no command to run", "kv lock 'a b' -- COMMAND", "--holder"]);
    let run = place.kv(["lock", "a", "sleep", "1"]);
    assert!(run.code == 2 && run.err.contains("behind `--`"), "{run:?}");
    assert!(!place.path("store").exists());
}

#[test]
fn times_to_live_the_store_cannot_keep() {
    let place = Place::new();
    place.kv(["lock", "a", "--ttl", "0s", "--", "touch", "ran"]).fails(2, &["time to live"]);
    assert!(!place.path("ran").exists());
}

/// On a store for one process nobody else can hold a lock, which is told.
#[test]
fn locks_that_nobody_holds() {
    let place = Place::new();
    let run = place.kv(["locks", "jobs"]);
    assert_eq!((run.code, run.text()), (0, ""), "{run:?}");
    assert!(
        run.err.contains("no lock below \"jobs\" is held") && run.err.contains("use a server"),
        "{run:?}"
    );
    assert_eq!(place.kv(["locks", "-o", "json"]).json(), serde_json::json!([]));
    let run = place.kv(["locks", "--watch", "jobs/a", "--count", "1", "-o", "jsonl"]);
    assert_eq!((run.code, run.json()), (0, serde_json::json!({"key": "jobs/a", "holder": null})));
    place.kv(["lock", "jobs/a", "--break", "--yes"]).fails(3, &["nobody holds it"]);
    place.kv(["lock", "jobs/a", "--break", "--token", "7"]).fails(3, &["nobody holds it"]);
}

#[test]
fn questions_about_locks_that_make_no_sense() {
    let place = Place::new();
    place.kv(["locks", ".."]).fails(2, &["invalid key"]);
    place.kv(["locks", "--watch", ""]).fails(2, &["invalid key"]);
    place.kv(["lock", "..", "--break"]).fails(2, &["invalid key"]);
    for args in [
        &["locks", "a", "--watch", "b"][..],
        &["locks", "--count", "1"],
        &["lock", "a", "--break", "--token", "-1"],
        &["lock", "a", "--token", "1", "--", "true"],
        &["lock", "a", "--break", "--", "true"],
        &["lock", "a", "--break", "--holder"],
        &["lock", "a", "--yes", "--", "true"],
    ] {
        let run = place.start_all(args).end();
        assert!(run.code == 2 && run.err.starts_with("kv: "), "{args:?}: {run:?}");
    }
    assert!(!place.path("store").exists());
}

/// The command has the terminal: it can read from it, and Ctrl-C goes to it.
#[test]
fn on_a_terminal_the_command_is_in_the_foreground() {
    let place = Place::new();
    let kv = env!("CARGO_BIN_EXE_kv");
    let line =
        format!("{kv} lock a -- sh -c 'read x; echo got $x; touch ready; exec sleep 1000'; echo code $?");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("KV_STORE", place.url()).current_dir(place.path(""));
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = match script.spawn() {
        Ok(child) => Running::from(child),
        Err(error) => {
            return kv_testkit::skip(&format!("script, which gives a terminal, is not there: {error}"));
        }
    };
    let mut terminal = running.child().stdin.take().unwrap();
    std::io::Write::write_all(&mut terminal, b"words\n").unwrap();
    wait_for("the command to read", || place.path("ready").exists());
    std::io::Write::write_all(&mut terminal, b"\x1a\x03").unwrap();
    let run = running.end();
    assert!(run.text().contains("got words") && run.text().contains("code 130"), "{run:?}");
}
