//! Tokens and their rights, TLS both ways, and that no secret is shown.
//!
//! In a process of its own, because it reads everything that any thread logs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Integration tests.

#[allow(dead_code)] // It needs a part.
#[path = "consul/common/mod.rs"]
mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

use kv_consul::kv_core::{
    Applied, Error, ErrorKind, LockLoss, LockOptions, LockWait, StoreExt, StoreUrl, WatchEvent, WatchOptions,
};
use kv_consul::{ConsulConfig, ConsulStore};
use kv_testkit::require_or_skip;
use kv_testkit::spec::Probe;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::common::acl::{AclServer, ROOT};
use crate::common::{SECOND, key, next};

const LIMITED: &str = "33333333-cccc-3333-3333-333333333333";

/// Everything that is logged, at the finest level, by every crate.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Asserts that the secret was not logged, by whomever.
    fn is_silent_about(&self, secret: &str) {
        let log = self.0.lock().unwrap();
        assert!(!log.is_empty());
        if let Some(at) = log.windows(secret.len()).position(|window| window == secret.as_bytes()) {
            let line = &log[at.saturating_sub(200)..(at + 20).min(log.len())];
            panic!("logged: {}", String::from_utf8_lossy(line));
        }
    }
}

/// The whole error, with all its causes, in every form.
fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut at = std::error::Error::source(error);
    while let Some(cause) = at {
        text = format!("{text} {cause} {cause:?}");
        at = cause.source();
    }
    text
}

#[tokio::test]
async fn tokens_have_the_rights_they_were_given() {
    LazyLock::force(&LOG);
    let Some(server) = AclServer::start("").await else { return };
    let begin = Instant::now();
    let unknown = server.open("app", "22222222-2222-2222-2222-222222222222", "").await.unwrap_err();
    assert_eq!(unknown.kind(), &ErrorKind::Unauthenticated, "{unknown}");
    assert!(begin.elapsed() < SECOND * 3, "not retried");
    assert!(!shown(&unknown).contains("22222222"));

    let some = r#"key_prefix "app/mine/" { policy = "write" } key_prefix "app/read/" { policy = "read" }"#;
    let id = server.token("p", LIMITED, some).await;
    let store = server.open("app", LIMITED, "").await.unwrap();
    assert!(!format!("{store:?}").contains(LIMITED));
    let root = server.open("app", ROOT, "").await.unwrap();
    root.put("read/a", "x").await.unwrap();
    store.put("mine/a", "x").await.unwrap();
    assert_eq!(store.get("read/a").await.unwrap().unwrap().value, "x");
    assert_eq!(store.keys("read").await.unwrap().len(), 1);
    // Of a list Consul leaves out what the token may not read.
    root.put("hidden", "x").await.unwrap();
    let seen: Vec<String> = store.keys("").await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(seen, ["mine/a", "read/a"]);
    let try_only = || LockOptions::default().with_wait(LockWait::Try);
    for (what, refused) in [
        ("put", store.put("read/a", "y").await.map(drop)),
        ("get", store.get("a").await.map(drop)),
        ("delete", store.delete("a").await.map(drop)),
        ("delete_tree", store.delete_tree("read").await.map(drop)),
        ("lock", store.lock_with(&key("mine/l"), try_only()).await.map(drop)),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{what}: {error}");
        assert_eq!(error.applied(), Applied::No, "{what}");
        assert!(!shown(&error).contains(LIMITED));
    }
    let mut watch = store.watch_with(key("mine/a"), WatchOptions::default().with_initial()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.value == "x"));

    let mut tree = store.watch("mine").await.unwrap();
    let mut alone = store.watch_key("read/a").await.unwrap();

    // With the right to sessions it can lock, and loses the lock with that right.
    let more = format!(
        "{some} session_prefix \"\" {{ policy = \"write\" }} node_prefix \"\" {{ policy = \"read\" }}"
    );
    server.change(&id, "p", &more).await;
    let guard = store.lock_with(&key("mine/l"), try_only()).await.unwrap();
    server.change(&id, "p", r#"key_prefix "app/other/" { policy = "read" }"#).await;
    let loss = tokio::time::timeout(SECOND * 40, guard.lost()).await.unwrap();
    assert_eq!(loss, LockLoss::PermissionDenied);
    // The watches end with the reason. What they asked before, they are answered as before, so there must be
    // changes; and what the token may not read any more must not be told as deleted.
    for (watch, name) in [(&mut alone, "read/a"), (&mut tree, "mine/b")] {
        let error = loop {
            root.put(name, "y").await.unwrap();
            match tokio::time::timeout(SECOND, watch.next()).await {
                Ok(Some(Ok(WatchEvent::Put(_)))) | Err(_) => {}
                Ok(Some(Err(error))) => break error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
    }
    LOG.is_silent_about(LIMITED);
    LOG.is_silent_about(ROOT);
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn connect(url: &str) -> Result<ConsulStore, Error> {
    ConsulStore::connect(ConsulConfig::from_url(&StoreUrl::parse(url).unwrap())?).await
}

#[tokio::test]
async fn tls_is_verified_both_ways() {
    LazyLock::force(&LOG);
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (certificate, private) = authority.issue("127.0.0.1");
    let tls = r#"ports { https = 8501 } verify_incoming_https = true ca_file = "/data/ca.pem" cert_file = "/data/server.pem" key_file = "/data/server.key""#;
    let ready =
        Probe { port: Some(8500), http: Some("/v1/status/leader".into()), tcp: None, expect: "8300".into() };
    let cluster = servers
        .port(8501)
        .ready_when(ready)
        .file("ca.pem", authority.0.pem())
        .file("server.pem", certificate)
        .file("server.key", private)
        .arg(&format!("-hcl={tls}"))
        .start()
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, private) = authority.issue("client");
    let ca = write(folder.path(), "ca.pem", &authority.0.pem());
    let other_ca = write(folder.path(), "other.pem", &stranger.0.pem());
    let cert = write(folder.path(), "client.pem", &cert);
    let key = write(folder.path(), "client.key", &private);
    let endpoint = cluster.node(1).endpoint();
    let tls = |query: &str| format!("consul+tls://{endpoint}/app?connect_timeout=4s&{query}");
    let identity = format!("cert={}&key={}", cert.display(), key.display());
    let trusted = format!("ca={}", ca.display());

    let store = connect(&tls(&format!("{trusted}&{identity}"))).await.unwrap();
    store.put("k", "v").await.unwrap();
    let named = connect(&tls(&format!("{trusted}&{identity}&server_name=127.0.0.1"))).await.unwrap();
    assert_eq!(named.get("k").await.unwrap().unwrap().value, "v");
    let blind = connect(&tls(&format!("{identity}&danger_accept_invalid_certs"))).await.unwrap();
    assert_eq!(blind.get("k").await.unwrap().unwrap().value, "v");
    for (url, words) in [
        (tls(&format!("ca={}&{identity}", other_ca.display())), "not issued by a CA that is trusted"),
        (tls(&identity), "not issued by a CA that is trusted"),
        (tls(&format!("{trusted}&{identity}&server_name=elsewhere")), "not for this host"),
        (tls(&trusted), "client certificate"),
        (format!("consul://{endpoint}/app?connect_timeout=4s"), "use consul+tls://"),
    ] {
        let error = connect(&url).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let secret_lines: Vec<_> = private.lines().filter(|line| !line.starts_with("--")).collect();
    LOG.is_silent_about(secret_lines[0]);
}
