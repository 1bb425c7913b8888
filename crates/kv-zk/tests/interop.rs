//! Locks with the real kazoo: each excludes the other, in both orders, in both layouts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{key, namespace, next, until, with};
use futures_util::TryStreamExt;
use kv_testkit::{Cluster, Mode, Proxy, require_or_skip, skip};
use kv_zk::ZkStore;
use kv_zk::kv_core::{ErrorKind, LockOptions, LockWait, Prefix, StoreExt, WatchEvent, WatchOptions};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

common::on_each_client!(
    kazoo_and_we_exclude_each_other,
    kazoo_reads_what_we_write,
    what_kazoo_writes_is_read_listed_and_watched,
    our_end_lets_kazoo_go_on,
    holders_that_use_other_tools_are_seen_and_broken,
);

const SECOND: Duration = Duration::from_secs(1);

/// A Python with kazoo, made when it is first needed.
async fn python() -> Option<PathBuf> {
    static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one_at_a_time = MAKING.lock().await;
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kazoo-venv");
    let python = home.join("bin/python");
    let has_kazoo = |python: PathBuf| async move {
        let check = Command::new(python).args(["-c", "import kazoo"]).stderr(Stdio::null()).status().await;
        check.is_ok_and(|status| status.success())
    };
    if has_kazoo(python.clone()).await {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&home).status().await;
    let pip = Command::new(&python).args(["-m", "pip", "install", "-q", "kazoo==2.11.0"]).status().await;
    if has_kazoo(python.clone()).await {
        return Some(python);
    }
    skip(&format!("kazoo could not be installed: {made:?}, {pip:?}"));
    None
}

struct Setup {
    python: PathBuf,
    cluster: Cluster,
    namespace: String,
    layout: &'static str,
    store: ZkStore,
}

impl Setup {
    fn kazoo(&self, command: &str, path: &str, more: &[&str]) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop.py");
        Command::new(&self.python)
            .arg(script)
            .args([self.cluster.node(1).endpoint().as_str(), self.layout, command])
            .arg(format!("/{}/{path}", self.namespace))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn says(child: &mut Child) -> String {
        let stdout = child.stdout.as_mut().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        tokio::time::timeout(30 * SECOND, stdout.read_line(&mut line)).await.unwrap().unwrap();
        line.trim().to_owned()
    }

    async fn try_lock(&self) -> bool {
        let options = LockOptions::default().with_wait(LockWait::Try);
        match self.store.lock_with(&key("l"), options).await {
            Ok(guard) => {
                guard.unlock().await.unwrap();
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), &ErrorKind::Locked, "{error}");
                false
            }
        }
    }
}

async fn setup(client: &str, layout: &'static str) -> Option<Setup> {
    let servers = require_or_skip(env!("CARGO_MANIFEST_DIR"))?;
    let python = python().await?;
    let cluster = servers.start().await.unwrap();
    let namespace = namespace();
    let query = format!("lock_layout={layout}");
    let store = common::open(&with(&cluster.url().unwrap(), client, &namespace, &query)).await;
    Some(Setup { python, cluster, namespace, layout, store })
}

async fn kazoo_and_we_exclude_each_other(client: &str) {
    for layout in ["kazoo", "curator"] {
        let Some(setup) = setup(client, layout).await else { return };
        // kazoo holds, ours waits; its crash frees the lock.
        let mut holder = setup.kazoo("hold", "l", &[]);
        assert_eq!(Setup::says(&mut holder).await, "held");
        assert!(!setup.try_lock().await, "{layout}: kazoo holds it");
        assert_eq!(setup.store.lock_holder(&key("l")).await.unwrap().unwrap().owner, "kazoo");
        drop(holder.stdin.take());
        holder.wait().await.unwrap();
        assert!(setup.try_lock().await, "{layout}: kazoo has released it");
        let mut holder = setup.kazoo("hold", "l", &[]);
        assert_eq!(Setup::says(&mut holder).await, "held");
        holder.kill().await.unwrap();
        until("kazoo's session ends", 30 * SECOND, || setup.try_lock()).await;
        // Ours holds, kazoo cannot have it.
        let guard = setup.store.lock("l").await.unwrap();
        assert_eq!(Setup::says(&mut setup.kazoo("try", "l", &[])).await, "False", "{layout}: we hold it");
        guard.unlock().await.unwrap();
        assert_eq!(Setup::says(&mut setup.kazoo("try", "l", &[])).await, "True", "{layout}: it is free");
        // A hundred rounds each over a counter that is not atomic.
        until("kazoo's try is over", 30 * SECOND, || setup.try_lock()).await;
        setup.store.put("counter", "0").await.unwrap();
        let counter = format!("/{}/counter=100", setup.namespace);
        let mut rounds = setup.kazoo("rounds", "l", &[&counter]);
        for _ in 0..100 {
            let guard = setup.store.lock("l").await.unwrap();
            let value = setup.store.get("counter").await.unwrap().unwrap().value;
            let value: u32 = std::str::from_utf8(&value).unwrap().parse().unwrap();
            setup.store.put("counter", (value + 1).to_string()).await.unwrap();
            guard.unlock().await.unwrap();
        }
        let status = tokio::time::timeout(60 * SECOND, rounds.wait()).await.unwrap().unwrap();
        assert!(status.success());
        assert_eq!(setup.store.get("counter").await.unwrap().unwrap().value, "200", "{layout}");
    }
}

async fn kazoo_reads_what_we_write(client: &str) {
    let Some(setup) = setup(client, "kazoo").await else { return };
    setup.store.put("a", "plain").await.unwrap();
    setup.store.put("a/b c", "x").await.unwrap();
    setup.store.put("a/ü", "x").await.unwrap();
    assert_eq!(Setup::says(&mut setup.kazoo("data", "a", &[])).await, "plain b c ü");
}

async fn what_kazoo_writes_is_read_listed_and_watched(client: &str) {
    let Some(setup) = setup(client, "kazoo").await else { return };
    let mut watch =
        setup.store.watch_with(Prefix::root(), WatchOptions::default().with_initial()).await.unwrap();
    while !matches!(next(&mut watch).await, WatchEvent::Synced) {}
    assert_eq!(Setup::says(&mut setup.kazoo("write", "k", &[])).await, "written");
    let expected = [("k", &b"changed"[..]), ("k/bytes", b"\x00\xff"), ("k/empty", b"")];
    for (key, value) in expected {
        assert_eq!(setup.store.get(key).await.unwrap().unwrap().value, value, "{key}");
    }
    let keys: Vec<String> = setup.store.keys("").await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(keys, expected.map(|(key, _)| key));
    let mut left = expected.to_vec();
    while !left.is_empty() {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => {
                left.retain(|(key, value)| *key != entry.key.as_str() || *value != &entry.value[..]);
            }
            other => panic!("{other:?}"),
        }
    }
    // And their node is a key of ours like any other.
    let version = setup.store.get("k").await.unwrap().unwrap().version;
    setup.store.compare_and_set("k", version, "ours").await.unwrap();
    assert!(Setup::says(&mut setup.kazoo("data", "k", &[])).await.starts_with("ours"));
}

/// Our holder falls silent, as one does that crashes: kazoo has the lock when the session is over, and
/// not before our guard says that it is lost.
async fn our_end_lets_kazoo_go_on(client: &str) {
    for layout in ["kazoo", "curator"] {
        let Some(setup) = setup(client, layout).await else { return };
        let proxy = Proxy::start(setup.cluster.node(1).endpoint()).await.unwrap();
        let url = setup.cluster.url_of(&[proxy.endpoint()]).unwrap();
        let query = format!("lock_layout={layout}&session_timeout=6s");
        let ours = common::open(&with(&url, client, &setup.namespace, &query)).await;
        let guard = ours.lock("l").await.unwrap();
        let mut waiter = setup.kazoo("hold", "l", &[]);
        let queued = || async {
            // The one who waits is behind us in the line.
            let line = format!("zkCli.sh -server 127.0.0.1:2181 ls /{}/l 2>/dev/null", setup.namespace);
            let names = setup.cluster.node(1).exec(&["sh", "-c", &line]).await.unwrap();
            names.matches("lock").count() == 2
        };
        until("kazoo waits", 60 * SECOND, queued).await;
        assert!(guard.is_held());
        proxy.set(Mode::Hold).await;
        assert_eq!(Setup::says(&mut waiter).await, "held", "{layout}");
        assert!(!guard.is_held(), "{layout}: kazoo has it too");
        drop(waiter.stdin.take());
        waiter.wait().await.unwrap();
    }
}

/// kazoo's lock and election have one kind of record, Curator's mutex and leader selector another.
async fn holders_that_use_other_tools_are_seen_and_broken(client: &str) {
    for layout in ["kazoo", "curator"] {
        let Some(setup) = setup(client, layout).await else { return };
        let store = &setup.store;
        let mut changes = store.watch_lock("l").await.unwrap();
        let mut told = async || {
            tokio::time::timeout(30 * SECOND, changes.next()).await.expect("a change").unwrap().unwrap()
        };
        assert_eq!(told().await, None);
        let (mut holder, owner) = match layout {
            "kazoo" => (setup.kazoo("hold", "l", &[]), "kazoo"),
            _ => (setup.kazoo("curator", "l", &[]), "theirs"),
        };
        let said = Setup::says(&mut holder).await;
        let seen = told().await.expect("a holder");
        assert_eq!(seen.owner, owner, "{layout}");
        let native = seen.native.clone().unwrap();
        match layout {
            "kazoo" => assert!(native.contains("__lock__") && native.contains(", session 0x"), "{native}"),
            _ => assert!(native.contains(said.rsplit('/').next().unwrap()), "{native}"),
        }
        // We wait behind it.
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.lock_with(&key("l"), LockOptions::default().with_owner("ours")).await }
        });
        let queued = || async {
            let locks: Vec<_> = store.locks("").await.unwrap().try_collect().await.unwrap();
            assert_eq!(locks[0].holder.as_ref(), Some(&seen), "{layout}");
            locks[0].waiters.as_ref().unwrap().iter().any(|waiter| waiter.owner == "ours")
        };
        until("we wait", 20 * SECOND, queued).await;
        assert!(store.break_lock("l", seen.token).await.unwrap());
        let guard = tokio::time::timeout(20 * SECOND, waiting).await.unwrap().unwrap().unwrap();
        let seen = told().await.expect("a holder");
        assert_eq!((seen.owner.as_ref(), seen.token), (&b"ours"[..], guard.token()), "{layout}");
        guard.unlock().await.unwrap();
        holder.kill().await.unwrap();
    }
}
