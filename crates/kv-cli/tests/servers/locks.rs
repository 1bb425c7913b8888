//! Locks between processes, and what becomes of a command whose lock is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use kv_testkit::{Mode, Proxy};

use crate::common::{Place, Running, is_alive, wait_for};

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
