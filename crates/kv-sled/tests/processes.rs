//! Two processes and one directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kv_core::{Bytes, ErrorKind, Expiry, Key, PutOptions, StoreExt};
use kv_sled::{SledConfig, SledStore};

/// Not a test: another process, that has the directory until its input ends.
#[test]
fn holder() {
    let Some(dir) = std::env::var_os("KV_SLED_HOLDER") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(SledConfig::new(dir)).await.unwrap();
        let session = PutOptions::default().with_expiry(Expiry::Session);
        store.put_with(&Key::new("session").unwrap(), Bytes::new(), session).await.unwrap();
        store.put("kept", "x").await.unwrap();
        let mut out = std::io::stdout();
        // The test harness has begun a line.
        out.write_all(b"\nopen\n").unwrap();
        out.flush().unwrap();
        std::io::stdin().lines().for_each(drop);
        store.close().await.unwrap();
    });
}

struct Holder {
    child: Child,
}

impl Holder {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holder", "--nocapture", "--test-threads=1"])
            .env("KV_SLED_HOLDER", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "open"), "the holder ended");
        // Its harness may say more: nobody reads it, and the pipe must not break.
        std::thread::spawn(move || lines.count());
        Self { child }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Already gone where the test ended it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn the_second_process_is_told_who_has_it_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let holder = Holder::start(dir.path());
    let error = SledStore::open(SledConfig::new(dir.path())).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InUse { holder: Some(holder.child.id()) });
    let text = error.to_string();
    for part in [&holder.child.id().to_string(), "wait", "server", &*dir.path().display().to_string()] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let begin = Instant::now();
    let wait = Duration::from_millis(300);
    let error = SledStore::open(SledConfig::new(dir.path()).with_wait(wait)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InUse { .. }));
    assert!(begin.elapsed() >= wait && begin.elapsed() < wait + Duration::from_secs(10));
}

#[tokio::test]
async fn whoever_waits_gets_it_when_the_other_closes() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::start(dir.path());
    let waiting =
        tokio::spawn(SledStore::open(SledConfig::new(dir.path()).with_wait(Duration::from_secs(60))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(holder.child.stdin.take());
    let store = waiting.await.unwrap().unwrap();
    assert!(store.exists("kept").await.unwrap());
    assert!(!store.exists("session").await.unwrap());
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_session_keys_of_a_killed_process_are_gone_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::start(dir.path());
    holder.child.kill().unwrap();
    holder.child.wait().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path())).await.unwrap();
    assert!(store.exists("kept").await.unwrap());
    assert!(!store.exists("session").await.unwrap());
    store.close().await.unwrap();
}

/// Until it runs its own program, a child has every file its parent has, and with it every lock.
#[test]
fn children_started_meanwhile_take_no_lock_along() {
    let dir = tempfile::tempdir().unwrap();
    let over = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut child = Command::new(std::env::current_exe().unwrap());
                    child.arg("--help").stdout(Stdio::null()).status().unwrap();
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let opened = (0..300).try_for_each(|_| {
            runtime.block_on(async { SledStore::open(SledConfig::new(dir.path())).await?.close().await })
        });
        over.store(true, Ordering::Relaxed);
        opened
    });
    opened.unwrap();
}
