//! Holders in processes of their own: one is killed, one is stopped and goes on.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kv_consul::kv_core::{Expiry, PutOptions, Store, StoreExt};
use tokio::sync::mpsc;

use crate::common::{self, SECOND, key, own_server};

const URL: &str = "KV_TEST_HOLDER_URL";
const LOCK: &str = "KV_TEST_HOLDER_LOCK";

/// No test by itself: what the other process runs.
#[tokio::test]
async fn the_other_process() {
    let (Ok(url), Ok(name)) = (std::env::var(URL), std::env::var(LOCK)) else { return };
    let store = common::open(&url).await;
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key(&format!("alive/{name}")), "yes", session).await.unwrap();
    let guard = store.lock(name.as_str()).await.unwrap();
    println!("\ntoken {}", guard.token());
    let mut told = false;
    loop {
        let held = guard.is_held();
        if !held && !std::mem::replace(&mut told, true) {
            println!("told {}", micros());
        }
        println!("{}", if held { "held" } else { "lost" });
        // As a holder that does not look would.
        let fenced = PutOptions::default().with_fence(guard.fence());
        drop(store.put_with(&key(&format!("written/{name}")), "by the first", fenced).await);
        tokio::time::sleep(SECOND / 20).await;
    }
}

/// The time as every process of this machine has it.
fn micros() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()
}

/// A process that holds a lock; killed on drop.
struct Holder {
    child: Child,
    /// When it was told that the lock is lost.
    told: Option<u128>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Holder {
    async fn start(url: &str, lock: &str) -> (Self, u64) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::the_other_process", "--nocapture"])
            .env(URL, url)
            .env(LOCK, lock)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let mut holder = Self { child, told: None, lines };
        loop {
            let line = holder.line().await;
            if let Some(token) = line.strip_prefix("token ") {
                return (holder, token.parse().unwrap());
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            let line =
                tokio::time::timeout(SECOND * 30, self.lines.recv()).await.expect("a line").expect("a line");
            match line.strip_prefix("told ") {
                Some(at) => self.told = at.parse().ok(),
                None => return line,
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_holder_that_is_killed_or_stopped_loses_within_the_bound() {
    let Some(server) = own_server().await else { return };
    let url = server.url_at(&server.endpoint(), "app", "lock_ttl=10s&session_ttl=10s&lock_delay=0s");
    let store = common::open(&url).await;
    let bound = store.capabilities().limits.session_bound;
    let (mut killed, _) = Holder::start(&url, "killed").await;
    let (mut stopped, first) = Holder::start(&url, "stopped").await;
    assert!(store.try_lock("killed").await.unwrap().is_none());
    assert!(store.try_lock("stopped").await.unwrap().is_none());
    stopped.signal("-STOP");
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let begin = Instant::now();
    let (one, other) = tokio::join!(store.lock("killed"), store.lock("stopped"));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(begin.elapsed() <= bound, "{:?}, not {bound:?}", begin.elapsed());
    assert!(other.token().get() > first);
    common::until("their session keys should be gone", bound, || async {
        store.keys("alive").await.unwrap().is_empty()
    })
    .await;

    let fenced = PutOptions::default().with_fence(other.fence());
    store.put_with(&key("written/stopped"), "by the second", fenced).await.unwrap();
    while stopped.lines.try_recv().is_ok() {}
    stopped.signal("-CONT");
    // One line may have been on its way when it was stopped.
    let lines = [stopped.line().await, stopped.line().await];
    assert!(lines.contains(&"lost".to_owned()), "{lines:?}");
    for _ in 0..20 {
        assert_eq!(stopped.line().await, "lost");
    }
    assert_eq!(store.get("written/stopped").await.unwrap().unwrap().value, "by the second");
    assert!(one.is_held() && other.is_held());
    one.unlock().await.unwrap();
    other.unlock().await.unwrap();
}

/// Stopped until its lock is lost by its own clock, and not yet by Consul's, it has the grace to stop what it
/// does once it goes on.
#[tokio::test]
async fn a_holder_that_stood_still_has_its_grace() {
    let Some(server) = own_server().await else { return };
    let url = server.url_at(&server.endpoint(), "app", "lock_ttl=20s&session_ttl=60s&lock_delay=0s");
    let store = std::sync::Arc::new(common::open(&url).await);
    let (mut holder, _) = Holder::start(&url, "l").await;
    let waiting = tokio::spawn({
        let store = std::sync::Arc::clone(&store);
        async move {
            let guard = store.lock("l").await.unwrap();
            let had_at = micros();
            guard.unlock().await.unwrap();
            had_at
        }
    });
    holder.signal("-STOP");
    // Behind its loss after 19 s, and before Consul ends the session.
    tokio::time::sleep(SECOND * 20).await;
    assert!(!waiting.is_finished(), "Consul has ended the session already");
    holder.signal("-CONT");
    while holder.told.is_none() {
        holder.line().await;
    }
    let had_at = tokio::time::timeout(SECOND * 60, waiting).await.unwrap().unwrap();
    let after = Duration::from_micros(u64::try_from(had_at - holder.told.unwrap()).unwrap());
    assert!(after >= SECOND, "another had the lock {after:?} after its holder was told of the loss");
}
