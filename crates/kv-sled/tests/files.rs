//! The files of a store: whose they are, where they lie, and what happens when no more can be opened.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kv_core::{Error, ErrorKind, StoreExt};
use kv_sled::{SledConfig, SledStore};

/// Runs one of the functions below as another process, after the shell has done `first`.
fn run(first: &str, function: &str, dir: &Path) -> Output {
    Command::new("sh")
        .args(["-c", &format!("{first}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", function, "--nocapture", "--test-threads=1"])
        .env("KV_SLED_FILES", dir)
        .output()
        .unwrap()
}

/// What such a process says on its line.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| line.strip_prefix("said: ")).collect()
}

fn say(what: impl std::fmt::Display) {
    use std::io::Write;
    // The test harness has begun a line.
    std::io::stdout().write_all(format!("\nsaid: {what}\n").as_bytes()).unwrap();
}

fn dir_of_child() -> Option<std::path::PathBuf> {
    std::env::var_os("KV_SLED_FILES").map(Into::into)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn refused(dir: &Path) -> Error {
    let error = SledStore::open(SledConfig::new(dir)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    error
}

#[tokio::test]
async fn a_link_among_the_files_is_refused_and_not_followed() {
    for name in ["kv-sled.lock", "kv-sled.format", "db", "conf", "blobs", "snap.0000"] {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join(name)).unwrap();
        let error = refused(dir.path()).await;
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(names(dir.path()), [name], "what is left in the directory");

        // One that leads nowhere makes nothing there.
        fs::remove_file(&victim).unwrap();
        refused(dir.path()).await;
        assert!(names(elsewhere.path()).is_empty(), "{name} was followed");
    }
}

#[tokio::test]
async fn the_lock_file_of_a_store_cannot_be_replaced_by_a_link() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = SledStore::open(SledConfig::new(dir.path())).await.unwrap();
    store.put("k", "x").await.unwrap();
    store.close().await.unwrap();
    let (lock, victim) = (dir.path().join("kv-sled.lock"), elsewhere.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    fs::remove_file(&lock).unwrap();
    symlink(&victim, &lock).unwrap();
    refused(dir.path()).await;
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    fs::remove_file(&lock).unwrap();
    let store = SledStore::open(SledConfig::new(dir.path())).await.unwrap();
    assert!(store.exists("k").await.unwrap());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_with_something_else_is_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = refused(dir.path()).await;
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert_eq!(names(dir.path()), ["letter.txt"]);
}

/// Not a test: makes a store.
#[tokio::test]
async fn maker() {
    let Some(dir) = dir_of_child() else { return };
    let store = SledStore::open(SledConfig::new(dir)).await.unwrap();
    store.put("k", vec![7; 1 << 20]).await.unwrap();
    store.close().await.unwrap();
}

#[test]
fn only_the_owner_can_read_it_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let parent = tempfile::tempdir().unwrap();
        let existing = parent.path().join("existing");
        fs::create_dir(&existing).unwrap();
        fs::set_permissions(&existing, fs::Permissions::from_mode(0o755)).unwrap();
        for dir in [existing, parent.path().join("new/store")] {
            said(&run(&format!("umask {umask}"), "maker", &dir));
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&dir), 0o700, "{dir:?} with umask {umask}");
            for name in ["kv-sled.lock", "kv-sled.format", "db", "conf"] {
                assert_eq!(mode(&dir.join(name)), 0o600, "{name} with umask {umask}");
            }
            assert_eq!(mode(&dir.join("blobs")), 0o700, "blobs with umask {umask}");
            // Somebody lets others in: the next open is not the place to say no.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
            said(&run(&format!("umask {umask}"), "maker", &dir));
            assert_eq!(mode(&dir), 0o750, "opened again with umask {umask}");
        }
    }
}

/// Not a test: opens a store with ever fewer files left, and works on one when none is left.
#[tokio::test]
async fn short_of_files() {
    let Some(dir) = dir_of_child() else { return };
    let exhaust = || {
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        files
    };
    let check = |what: &str, error: &Error| {
        let text = error.to_string();
        assert!(
            *error.kind() == ErrorKind::Unavailable && text.contains("file descriptors"),
            "{what}: {error:?}"
        );
    };
    let mut refusals = 0;
    for left in 0..16 {
        let mut files = exhaust();
        files.truncate(files.len() - left);
        match SledStore::open(SledConfig::new(dir.join(left.to_string()))).await {
            Ok(store) => drop(store.close().await.map_err(|error| check("close", &error))),
            Err(error) => {
                check(&format!("open with {left} left"), &error);
                refusals += 1;
            }
        }
    }
    assert!(refusals > 2, "{refusals} refusals");

    let store = SledStore::open(SledConfig::new(dir.join("open"))).await.unwrap();
    store.put("before", "x").await.unwrap();
    let files = exhaust();
    for round in 0..50 {
        let put = store.put(format!("k/{round}"), vec![7; 200 << 10]).await;
        put.map(drop).unwrap_or_else(|error| check("put", &error));
        let got = store.get("before").await;
        got.map(drop).unwrap_or_else(|error| check("get", &error));
    }
    drop(files);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.put("after", "x").await.is_err() {
        assert!(Instant::now() < deadline, "it does not work again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(store.exists("before").await.unwrap());
    store.close().await.unwrap();
    say("done");
}

#[test]
fn out_of_files_is_told_as_such_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said(&run("ulimit -n 64", "short_of_files", dir.path())), "done");
}

/// Not a test: wants what its parent has.
#[tokio::test]
async fn child_of_the_holder() {
    let Some(dir) = dir_of_child() else { return };
    let begun = Instant::now();
    let config = SledConfig::new(dir).with_wait(Duration::from_secs(60));
    let error = SledStore::open(config).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for its parent: {:?}", begun.elapsed());
    let ErrorKind::InUse { holder: Some(holder) } = error.kind() else { panic!("{error}") };
    say(format!("{holder} {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_told_that_its_parent_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path())).await.unwrap();
    // Its child, and the child of a shell that is its child.
    for first in [":", "\"$0\" \"$@\"; exit $?"] {
        let text = said(&run(first, "child_of_the_holder", dir.path()));
        let own = std::process::id().to_string();
        assert!(text.starts_with(&own) && text.contains("started this process"), "{text}");
    }
    store.close().await.unwrap();
}
