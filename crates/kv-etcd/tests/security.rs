//! Users, rights, TLS, and that no secret is shown.
//!
//! A program of its own: it reads what all threads log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

#[path = "etcd/common/mod.rs"]
mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use common::{etcdctl, key, next, until};
use kv_etcd::kv_core::{Applied, Error, ErrorKind, LockOptions, PutOptions, StoreExt, StoreUrl, WatchEvent};
use kv_etcd::{EtcdConfig, EtcdStore};
use kv_testkit::{Cluster, Proxy, require_or_skip};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::AsyncWriteExt;

const SECOND: Duration = Duration::from_secs(1);
const PASSWORD: &str = "canary-password-7f3a";

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
    fn position(log: &[u8], text: &str) -> Option<usize> {
        log.windows(text.len()).position(|window| window == text.as_bytes())
    }

    /// Asserts that the log has what these crates say at the finest level: it would have a secret too.
    fn has_all_of(&self, crates: &[&str]) {
        let log = self.0.lock().unwrap();
        for name in crates {
            assert!(Self::position(&log, &format!("TRACE {name}")).is_some(), "nothing of {name} is logged");
        }
    }

    /// Asserts that the secret was not logged, by whomever.
    fn is_silent_about(&self, secret: &str) {
        let log = self.0.lock().unwrap();
        if let Some(at) = Self::position(&log, secret) {
            let line = &log[at.saturating_sub(200)..(at + 20).min(log.len())];
            panic!("logged: {}", String::from_utf8_lossy(line));
        }
    }
}

async fn connect(url: &str) -> Result<EtcdStore, Error> {
    let config = EtcdConfig::from_url(&StoreUrl::parse(url).unwrap())?;
    assert!(!format!("{config:?}").contains(PASSWORD));
    EtcdStore::connect(config).await
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

/// A server with a user `app` that may use what lies below `app/`.
async fn with_users(args: &[&str]) -> Option<Cluster> {
    let mut servers = require_or_skip(env!("CARGO_MANIFEST_DIR"))?;
    for arg in args {
        servers = servers.arg(arg);
    }
    let cluster = servers.start().await.unwrap();
    for line in [
        "user add root:rootpw".to_owned(),
        "role add root".to_owned(),
        "user grant-role root root".to_owned(),
        format!("user add app:{PASSWORD}"),
        "role add app".to_owned(),
        "role grant-permission app --prefix=true readwrite app/".to_owned(),
        "user grant-role app app".to_owned(),
        "auth enable".to_owned(),
    ] {
        etcdctl(&cluster, &line).await;
    }
    Some(cluster)
}

#[tokio::test]
async fn users_have_the_rights_they_were_given() {
    LazyLock::force(&LOG);
    let Some(cluster) = with_users(&[]).await else { return };
    let endpoint = cluster.node(1).endpoint();
    let url = |user: &str, namespace: &str| format!("etcd://{user}{endpoint}/{namespace}?timeout=2s");

    let error = connect(&url("app:wrong-canary-91@", "app")).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unauthenticated, "{error}");
    assert!(!shown(&error).contains("wrong-canary-91"));
    let nobody = connect(&url("", "app")).await.unwrap();
    let error = nobody.put("k", "v").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unauthenticated, Applied::No), "{error}");

    let store = connect(&url(&format!("app:{PASSWORD}@"), "app")).await.unwrap();
    store.put("k", "v").await.unwrap();
    let guard = store.lock("l").await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    let outside = connect(&url(&format!("app:{PASSWORD}@"), "other")).await.unwrap();
    // A range of which only a part may be read is refused as a whole.
    let whole = connect(&url(&format!("app:{PASSWORD}@"), "")).await.unwrap();
    for (what, error) in [
        ("list of a part", whole.list("").await.unwrap_err()),
        ("get", outside.get("k").await.unwrap_err()),
        ("put", outside.put("k", "v").await.unwrap_err()),
        ("list", outside.list("").await.unwrap_err()),
        ("watch", outside.watch("").await.unwrap_err()),
        ("watch of the future", outside.watch_key("k").await.unwrap_err()),
        ("lock", outside.lock_with(&key("l"), LockOptions::default()).await.unwrap_err()),
        ("delete_tree", outside.delete_tree("").await.unwrap_err()),
    ] {
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{what}: {error}");
        assert_eq!(error.applied(), Applied::No);
        assert!(!shown(&error).contains(PASSWORD));
    }

    // A server that was started anew knows no token: each handle signs in again, and once.
    let version = store.get("k").await.unwrap().unwrap().version;
    cluster.node(1).restart().await.unwrap();
    let signs_in = || async { store.put("k", "w").await.is_ok() };
    until("the handle signs in again", 10 * SECOND, signs_in).await;
    let WatchEvent::Put(entry) = next(&mut watch).await else { panic!() };
    assert!(entry.version > version);
    assert_eq!(store.get("k").await.unwrap().unwrap().version, entry.version, "applied once");
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    LOG.has_all_of(&["h2::", "hyper_util::"]);
    LOG.is_silent_about(PASSWORD);
    LOG.is_silent_about("wrong-canary-91");
}

/// The tokens the server gave out, which it tells at its finest level.
async fn tokens(cluster: &Cluster) -> Vec<String> {
    let logs = cluster.node(1).logs().await.unwrap();
    let mut tokens: Vec<_> = logs
        .split("\"token\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|token| token.contains('.'))
        .map(str::to_owned)
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[tokio::test]
async fn a_token_that_ends_is_replaced_everywhere_and_shown_nowhere() {
    LazyLock::force(&LOG);
    let args = ["--auth-token-ttl=2", "--logger=zap", "--log-level=debug"];
    let Some(cluster) = with_users(&args).await else { return };
    let url = format!("etcd://app:{PASSWORD}@{}/app?timeout=2s&lock_ttl=3s", cluster.node(1).endpoint());
    let (store, rival) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let mut old = store.watch("w").await.unwrap();
    let guard = store.lock("l").await.unwrap();
    let mut version = store.put("w/a", "0").await.unwrap();
    assert!(matches!(next(&mut old).await, WatchEvent::Put(entry) if entry.version == version));
    for round in 0..3 {
        // Renewals and watches need no token, so that it ends.
        tokio::time::sleep(5 * SECOND).await;
        let mut new = store.watch_key(format!("w/{round}")).await.unwrap();
        let next_version = store.put(format!("w/{round}"), "1").await.unwrap();
        assert_eq!(next_version.get(), version.get() + 1, "applied once");
        version = next_version;
        for watch in [&mut old, &mut new] {
            assert!(matches!(next(watch).await, WatchEvent::Put(entry) if entry.version == version));
        }
        version = version.max(store.put("health", "well").await.unwrap());
    }
    // A lock watches its own record, and who waits for it watches that too.
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(guard.loss(), None);
    let waiting = tokio::spawn(async move { rival.lock("l").await.unwrap().loss() });
    let other = store.lock("other").await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(other.loss(), None);
    guard.unlock().await.unwrap();
    assert_eq!(tokio::time::timeout(5 * SECOND, waiting).await.unwrap().unwrap(), None);

    let tokens = tokens(&cluster).await;
    assert!(tokens.len() > 4, "{tokens:?}");
    LOG.has_all_of(&["h2::", "hyper_util::"]);
    for token in tokens {
        LOG.is_silent_about(&token);
    }
    LOG.is_silent_about(PASSWORD);
}

#[tokio::test]
async fn rights_that_are_withdrawn_end_what_needs_them() {
    LazyLock::force(&LOG);
    let Some(cluster) = with_users(&[]).await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let url = format!("etcd://app:{PASSWORD}@{}/app?timeout=2s", proxy.endpoint());
    let store = connect(&url).await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    let guard = store.lock("l").await.unwrap();
    etcdctl(&cluster, "--user root:rootpw role revoke-permission app --prefix=true app/").await;
    // The server looks at rights when a watch begins, so at the next connection.
    proxy.cut();
    let ended = tokio::time::timeout(15 * SECOND, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(ended.kind(), &ErrorKind::PermissionDenied, "{ended}");
    assert!(watch.next().await.is_none());
    let fenced = PutOptions::default().with_fence(guard.fence());
    let error = store.put_with(&key("k"), "v", fenced).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
    let lost = tokio::time::timeout(15 * SECOND, guard.lost()).await.unwrap();
    assert_eq!(lost, kv_etcd::kv_core::LockLoss::PermissionDenied);
    let requests = store.requests();
    tokio::time::sleep(2 * SECOND).await;
    assert!(store.requests() - requests <= 2, "it goes on asking");
}

/// A certificate authority and what it issues.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
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

#[tokio::test]
async fn tls_is_verified_both_ways() {
    LazyLock::force(&LOG);
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (certificate, private) = authority.issue("127.0.0.1");
    let cluster = servers
        .scheme("https")
        .file("ca.pem", authority.pem())
        .file("server.pem", certificate)
        .file("server.key", private)
        .arg("--cert-file=/data/server.pem")
        .arg("--key-file=/data/server.key")
        .arg("--trusted-ca-file=/data/ca.pem")
        .arg("--client-cert-auth")
        .start()
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, private) = authority.issue("client");
    let ca = write(folder.path(), "ca.pem", &authority.pem());
    let other_ca = write(folder.path(), "other.pem", &stranger.pem());
    let cert = write(folder.path(), "client.pem", &cert);
    let key = write(folder.path(), "client.key", &private);
    let endpoint = cluster.node(1).endpoint();
    let tls = |query: &str| format!("etcd+tls://{endpoint}/app?connect_timeout=4s&{query}");
    let identity = format!("cert={}&key={}", cert.display(), key.display());
    let trusted = format!("ca={}", ca.display());

    let store = connect(&tls(&format!("{trusted}&{identity}"))).await.unwrap();
    store.put("k", "v").await.unwrap();
    let named = connect(&tls(&format!("{trusted}&{identity}&server_name=127.0.0.1"))).await.unwrap();
    assert_eq!(named.get("k").await.unwrap().unwrap().value, "v");

    for (url, words) in [
        (tls(&format!("ca={}&{identity}", other_ca.display())), "not issued by a CA that is trusted"),
        (tls(&identity), "not issued by a CA that is trusted"),
        (tls(&format!("{trusted}&{identity}&server_name=elsewhere")), "not for this host"),
        (tls(&trusted), "client certificate"),
    ] {
        let error = connect(&url).await.unwrap_err();
        // Of a missing client certificate the server may tell only by hanging up.
        let misconfigured = matches!(error.kind(), ErrorKind::InvalidConfig { .. });
        assert!(misconfigured || words == "client certificate", "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains(&endpoint), "{error}");
    }
    let error =
        connect(&format!("etcd://app:{PASSWORD}@{endpoint}/app?connect_timeout=4s")).await.unwrap_err();
    assert!(error.to_string().contains("etcd+tls://"), "{error}");
    LOG.has_all_of(&["h2::", "hyper_util::"]);
    LOG.is_silent_about(PASSWORD);
    let secret_lines: Vec<_> = private.lines().filter(|line| !line.starts_with("--")).collect();
    LOG.is_silent_about(secret_lines[0]);

    let plain = require_or_skip(env!("CARGO_MANIFEST_DIR")).unwrap().start().await.unwrap();
    let error = connect(&format!("etcd+tls://{}/?{trusted}", plain.node(1).endpoint())).await.unwrap_err();
    assert!(error.to_string().contains("use etcd://"), "{error}");
}

#[tokio::test]
async fn a_dead_or_silent_endpoint_is_named_in_time() {
    // Nobody listens, and somebody listens who never answers, or only nonsense.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().map(|address| (silent, address)).unwrap();
    for hosts in [dead.to_string(), silent.1.to_string(), format!("{dead},{}", silent.1)] {
        let begin = std::time::Instant::now();
        let error = connect(&format!("etcd://{hosts}/app?connect_timeout=2s")).await.unwrap_err();
        assert!(begin.elapsed() < 3 * SECOND, "{:?}", begin.elapsed());
        assert!(error.is_transient(), "{error}");
        for host in hosts.split(',') {
            assert!(error.to_string().contains(host), "{error}");
        }
    }
    let babbling = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = babbling.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = babbling.accept().await.unwrap();
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        }
    });
    let error = connect(&format!("etcd://{address}/app?connect_timeout=2s")).await.unwrap_err();
    assert!(error.to_string().contains("is it an etcd server"), "{error}");
}
