//! Locks between processes, and what becomes of a command whose lock is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use kv_testkit::{Mode, Proxy};

use serde_json::json;

use crate::common::{Place, Run, Running, is_alive, wait_for};

/// Starts `kv lock` with a command that says its process id in a file and hears no TERM.
fn deaf(place: &Place, options: &[&str]) -> Running {
    let script = "trap '' TERM; echo $$ > pid.new; mv pid.new pid; while :; do sleep 0.02; done";
    let mut args = vec!["lock", "jobs/nightly", "--owner", "the deaf one"];
    args.extend(options);
    args.extend(["--", "sh", "-c", script]);
    let running = place.start_all(&args);
    wait_for("the command to start", || place.path("pid").exists());
    running
}

fn pid(place: &Place) -> String {
    fs::read_to_string(place.path("pid")).unwrap()
}

pub(crate) fn commands_exclude_each_other_and_tell_who_holds(place: &Place) {
    let script = "mkdir busy && sleep 0.2 && echo $KV_LOCK_TOKEN >> log && rmdir busy";
    let all: Vec<_> = (0..3).map(|_| place.start(["lock", "a/b", "--", "sh", "-c", script])).collect();
    for running in all {
        let run = running.end();
        assert_eq!(run.code, 0, "{run:?}");
    }
    let log = fs::read_to_string(place.path("log")).unwrap();
    let tokens: Vec<u64> = log.lines().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.len() == 3 && tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    place.kv(["lock", "a/b", "--holder"]).fails(3, &["nobody"]);

    let holder = deaf(place, &[]);
    place
        .kv(["lock", "jobs/nightly", "--try", "--", "true"])
        .fails(5, &["it is held by the deaf one (token "]);
    place.kv(["lock", "jobs/nightly", "--wait", "300ms", "--", "true"]).fails(5, &["the deaf one"]);
    assert!(place.kv(["lock", "jobs/nightly", "--holder"]).ok().text().starts_with("the deaf one (token "));
    // Who waits is told soon whom for.
    let mut waiting = place.start(["lock", "jobs/nightly", "--", "true"]);
    let mut said = String::new();
    BufReader::new(waiting.child().stderr.take().unwrap()).read_line(&mut said).unwrap();
    let told = "kv: waiting for the lock \"jobs/nightly\": it is held by the deaf one (token ";
    assert!(said.starts_with(told), "{said:?}");
    waiting.signal("TERM");
    assert_eq!(waiting.end().code, 143);
    // Its command ignores TERM, but not what ends it now.
    let command = pid(place);
    holder.signal("QUIT");
    assert_eq!(holder.end().code, 131);
    assert!(!is_alive(&command));
    place.kv(["lock", "jobs/nightly", "--try", "--", "true"]).ok();
    fs::remove_file(place.path("pid")).unwrap();
}

pub(crate) fn a_lock_that_is_removed_ends_the_command(place: &Place) {
    let holder = deaf(place, &[]);
    let command = pid(place);
    assert_eq!(place.kv(["del", "--tree", "jobs/nightly"]).code, 0);
    let run = holder.end();
    assert_eq!(run.code, 5, "{run:?}");
    assert!(run.err.contains("\"jobs/nightly\" was lost"), "{run:?}");
    assert!(!is_alive(&command));
}

/// Who holds, who waits, and the end of one hold and no other.
pub(crate) fn locks_are_seen_and_a_hold_is_ended(place: &Place) {
    if !place.has("lock_view") {
        return println!("no lock_view: not looked at");
    }
    let holder = deaf(place, &[]);
    let command = pid(place);
    let waiting = place.start(["lock", "jobs/nightly", "--owner", "the second", "--", "true"]);
    let mut locks = json!(null);
    // Consul keeps no waiters.
    wait_for("the waiter to be seen", || {
        locks = place.kv(["locks", "jobs", "-o", "json"]).ok().json();
        locks[0]["waiters"].as_array().is_none_or(|waiters| !waiters.is_empty())
    });
    let holder_seen = &locks[0]["holder"];
    assert_eq!((&locks[0]["key"], &holder_seen["value"]), (&json!("jobs/nightly"), &json!("the deaf one")));
    assert!(locks[0]["waiters"].is_null() || locks[0]["waiters"][0]["value"] == "the second", "{locks}");
    let table = place.kv(["locks"]).ok();
    let row = table.text().lines().nth(1).unwrap();
    assert!(row.starts_with("jobs/nightly ") && row.contains(" the deaf one "), "{table:?}");
    let first = place.kv(["locks", "--watch", "jobs/nightly", "--count", "1", "-o", "jsonl"]).ok().json();
    assert_eq!(first["holder"]["token"], holder_seen["token"]);
    assert!(place.kv(["locks", "other"]).err.contains("no lock below \"other\""));

    // Neither without being told, nor by another token.
    let other = (holder_seen["token"].as_u64().unwrap() + 1_000_000).to_string();
    place.kv(["lock", "jobs/nightly", "--break"]).fails(2, &["held by the deaf one", "--yes"]);
    let wrong = ["lock", "jobs/nightly", "--break", "--yes", "--token", &other];
    place.kv(wrong).fails(4, &["does not hold it", "the deaf one", "nothing was changed"]);
    assert!(is_alive(&command));

    let mut watching = place.start(["locks", "--watch", "jobs/nightly"]);
    let mut changes = BufReader::new(watching.child().stdout.take().unwrap()).lines();
    assert!(changes.next().unwrap().unwrap().starts_with("the deaf one (token "));
    let ended = place.kv(["lock", "jobs/nightly", "--break", "--yes"]).ok();
    assert!(ended.text().starts_with("ended the hold of the deaf one (token "), "{ended:?}");
    let run = holder.end();
    assert!(run.code == 5 && run.err.contains("was lost"), "{run:?}");
    assert!(!is_alive(&command));
    assert_eq!(waiting.end().code, 0);
    // Others may be merged, and the last state is told.
    assert!(changes.any(|line| line.unwrap() == "nobody"));
    fs::remove_file(place.path("pid")).unwrap();
}

/// A write under a fence is applied during the hold, and not after it.
pub(crate) fn a_fenced_write_needs_the_hold(place: &Place) {
    if !place.has("fenced_writes") {
        return println!("no fenced_writes: not looked at");
    }
    let kv = env!("CARGO_BIN_EXE_kv");
    let script = format!("env | grep ^KV_LOCK_ > fence; {kv} put out during --fence");
    place.kv(["lock", "jobs/fenced", "--", "sh", "-c", &script]).ok();
    let fence = fs::read_to_string(place.path("fence")).unwrap();
    let variables = || fence.lines().filter_map(|line| line.split_once('='));
    for args in [&["put", "out", "after", "--fence"][..], &["del", "out", "--fence"]] {
        let run: Run = place.command(args).envs(variables()).output().unwrap().into();
        assert_eq!(run.code, 5, "{run:?}");
    }
    assert_eq!(place.kv(["get", "out"]).ok().text(), "during");
}

pub(crate) fn a_leader_is_seen_and_gives_up_the_office(place: &Place) {
    if !place.has("lock_view") {
        return println!("no lock_view: not looked at");
    }
    let args = ["elect", "jobs/leader", "--owner", "me", "--proclaim", "10.0.0.7", "--", "sh", "-c"];
    let leads = |place: &Place| {
        let mut all = args.to_vec();
        all.push("touch leading; exec sleep 1000");
        place.start_all(&all)
    };
    let leader = leads(place);
    wait_for("the leader", || place.path("leading").exists());
    let seen = place.kv(["elect", "jobs/leader", "-o", "json"]).ok().json();
    assert_eq!(
        (&seen["leader"]["value"], &seen["leader"]["proclaimed"]["value"]),
        (&json!("me"), &json!("10.0.0.7"))
    );
    let term = seen["leader"]["term"].as_u64().unwrap();
    let words = place.kv(["elect", "jobs/leader"]).ok();
    assert_eq!(words.text(), format!("me (term {term}): 10.0.0.7\n"));

    // A term that is broken is followed by a later one of the same candidate.
    fs::remove_file(place.path("leading")).unwrap();
    place.kv(["lock", "jobs/leader", "--break", "--yes"]).ok();
    wait_for("the next term", || place.path("leading").exists());
    let seen = place.kv(["elect", "jobs/leader", "-o", "json"]).ok().json();
    assert!(seen["leader"]["term"].as_u64().unwrap() > term, "{seen}");
    leader.signal("TERM");
    let run = leader.end();
    assert_eq!(run.code, 143, "{run:?}");
    assert!(run.err.contains("was lost") && run.err.contains("it campaigns again"), "{run:?}");
    place.kv(["elect", "jobs/leader"]).fails(3, &["nobody leads"]);
}

/// The next command under the lock, which would notice the one before it.
fn next_finds_nobody(place: &Place) {
    let look = "if kill -0 $(cat pid) 2>/dev/null; then echo overlap; else echo alone; fi";
    // Whom it waited for is told meanwhile.
    let run = place.kv(["lock", "jobs/nightly", "--", "sh", "-c", look]);
    assert_eq!((run.code, run.text()), (0, "alone\n"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_cut_off_ends_before_the_next_begins() {
    let Some(server) = crate::server("kv-etcd").await else { return };
    let proxy = Proxy::start(server.node(1).endpoint()).await.unwrap();
    for ttl in ["2s", "5s"] {
        let namespace = format!("cut-{ttl}");
        let behind = Place::at(format!("{}/{namespace}", server.url_of(&[proxy.endpoint()]).unwrap()));
        let holder = deaf(&behind, &["--ttl", ttl]);
        proxy.set(Mode::Hold).await;
        let other = Place::at(format!("{}/{namespace}", server.url().unwrap()));
        fs::copy(behind.path("pid"), other.path("pid")).unwrap();
        next_finds_nobody(&other);
        let run = holder.end();
        assert_eq!(run.code, 5, "{run:?}");
        assert!(run.err.contains("was lost"), "{run:?}");
        proxy.set(Mode::Forward).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_stopped_learns_of_its_loss_when_it_goes_on() {
    let Some(server) = crate::server("kv-etcd").await else { return };
    let place = crate::place(&server);
    let holder = deaf(&place, &["--ttl", "2s"]);
    holder.signal("STOP");
    // Somebody else gets the lock; that the stopped one's command still runs, only its fencing token
    // can tell.
    let run = place.kv(["lock", "jobs/nightly", "--wait", "30s", "--", "true"]);
    if run.code != 0 {
        // A process that stands still hears nothing, not even that the test is over.
        holder.signal("CONT");
    }
    assert_eq!(run.code, 0, "{run:?}");
    holder.signal("CONT");
    let run = holder.end();
    assert_eq!(run.code, 5, "{run:?}");
    assert!(!is_alive(&pid(&place)));
    tokio::time::timeout(Duration::from_secs(30), async {
        next_finds_nobody(&place);
    })
    .await
    .unwrap();
}
