//! Credentials, access control lists, TLS, and that no secret is shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use common::{namespace, with};
use kv_testkit::require_or_skip;
use kv_zk::kv_core::{ErrorKind, Result, StoreExt, StoreUrl};
use kv_zk::{ZkConfig, ZkStore};

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

async fn connect(url: &str) -> Result<ZkStore> {
    let config = ZkConfig::from_url(&StoreUrl::parse(url).unwrap())?;
    assert!(!format!("{config:?}").contains(PASSWORD));
    ZkStore::connect(config).await
}

common::on_each_client!(what_credentials_create_is_theirs, credentials_go_to_no_other_machine_in_the_clear,);

/// They are refused before a connection is made: the address is one of no machine.
async fn credentials_go_to_no_other_machine_in_the_clear(client: &str) {
    LazyLock::force(&LOG);
    let (begin, none) = (std::time::Instant::now(), "192.0.2.1:2181");
    let url = |more: &str| format!("zk://ann:{PASSWORD}@127.0.0.1:9,{none}/?client={client}{more}");
    let error = connect(&url("")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("plaintext_credentials=true") && text.contains(none), "{text}");
    assert!(begin.elapsed() < std::time::Duration::from_millis(900), "{:?}", begin.elapsed());
    let error = connect(&url("&plaintext_credentials=true&connect_timeout=1s")).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable, "{error}");
}

async fn what_credentials_create_is_theirs(client: &str) {
    LazyLock::force(&LOG);
    let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
    let cluster = servers.start().await.unwrap();
    let (plain, namespace) = (cluster.url().unwrap(), namespace());
    let secure = plain.replace("zk://", &format!("zk://ann:{PASSWORD}@"));
    // To this machine the password may travel in the clear.
    let ann = connect(&with(&secure, client, &namespace, "")).await.unwrap();
    let open = "plaintext_credentials=true";
    ann.put("a/b", "hers").await.unwrap();
    ann.put("a", "hers too").await.unwrap();
    let guard = ann.lock("l").await.unwrap();
    guard.unlock().await.unwrap();
    let eve = secure.replace(PASSWORD, "another");
    for other in [
        connect(&with(&plain, client, &namespace, "")).await,
        connect(&with(&eve, client, &namespace, open)).await,
    ] {
        let other = other.unwrap();
        for refused in [
            other.get("a/b").await.map(drop),
            other.put("a/b", "x").await.map(drop),
            other.put("a/c", "x").await.map(drop),
            other.delete("a/b").await.map(drop),
            other.lock("l").await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
            assert!(!format!("{error} {error:?}").contains(PASSWORD));
        }
    }
    let again = connect(&with(&secure, client, &namespace, open)).await.unwrap();
    assert_eq!(again.get("a").await.unwrap().unwrap().value, "hers too");
    assert!(!format!("{ann:?}").contains(PASSWORD));
    LOG.is_silent_about(PASSWORD);
    the_documented_filter_hides_the_session_password(client);
}

/// The README says which crate logs the session's password, and by which directives it does not.
fn the_documented_filter_hides_the_session_password(client: &str) {
    let readme = include_str!("../README.md");
    let directives = "info,zookeeper_async=warn";
    assert!(readme.contains(directives));
    let filter: tracing_subscriber::filter::Targets = directives.parse().unwrap();
    let log = String::from_utf8_lossy(&LOG.0.lock().unwrap()).into_owned();
    let showing: Vec<&str> = log.lines().filter(|line| shows_a_password(line)).collect();
    assert!(!showing.is_empty() || client != "zookeeper-async", "nothing to filter");
    for line in showing {
        let mut words = line.split_whitespace().skip(1);
        let level: tracing_subscriber::filter::LevelFilter = words.next().unwrap().parse().unwrap();
        let target = words.find(|word| word.ends_with(':') && !word.contains('{')).unwrap();
        let passes = filter.would_enable(target.trim_end_matches(':'), &level.into_level().unwrap());
        assert!(!passes, "it passes the filter: {line}");
    }
}

fn shows_a_password(line: &str) -> bool {
    ["passwd", "password"].iter().any(|word| line.to_lowercase().contains(word))
}

#[cfg(feature = "sasl")]
mod sasl {
    use super::*;

    const USERS: &str = "Server {
  org.apache.zookeeper.server.auth.DigestLoginModule required
  user_ann=\"canary-password-7f3a\" user_bob=\"bobs\";
};
";

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_user_of_sasl_creates_is_theirs() {
        if !common::is_tested("zookeeper-client") {
            return;
        }
        LazyLock::force(&LOG);
        let Some(servers) = require_or_skip(env!("CARGO_MANIFEST_DIR")) else { return };
        let flags = "-Djava.security.auth.login.config=/data/jaas.conf \
                     -Dzookeeper.authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider";
        let cluster = servers.file("jaas.conf", USERS).env("JVMFLAGS", flags).start().await.unwrap();
        let (plain, namespace) = (cluster.url().unwrap(), namespace());
        let url = |user: &str, password: &str| {
            let base = plain.replace("zk://", &format!("zk://{user}:{password}@"));
            with(&base, "zookeeper-client", &namespace, "auth=sasl&connect_timeout=5s")
        };
        let ann = connect(&url("ann", PASSWORD)).await.unwrap();
        ann.put("a/b", "hers").await.unwrap();
        ann.lock("l").await.unwrap().unlock().await.unwrap();
        let bob = connect(&url("bob", "bobs")).await.unwrap();
        let nobody = connect(&with(&plain, "zookeeper-client", &namespace, "")).await.unwrap();
        for other in [bob, nobody] {
            for refused in [other.get("a/b").await.map(drop), other.put("a/b", "x").await.map(drop)] {
                assert_eq!(refused.unwrap_err().kind(), &ErrorKind::PermissionDenied);
            }
        }
        let error = connect(&url("ann", "wrong")).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unauthenticated, "{error}");
        let again = connect(&url("ann", PASSWORD)).await.unwrap();
        assert_eq!(again.get("a/b").await.unwrap().unwrap().value, "hers");
        LOG.is_silent_about(PASSWORD);
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::path::PathBuf;

    use kv_testkit::Cluster;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    struct Files(PathBuf);

    impl Files {
        fn write(&self, name: &str, text: &str) -> String {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate and its key.
    fn certificate(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        // By which the server tells one client from another.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, authority);
        (certificate.unwrap().pem(), key.serialize_pem())
    }

    async fn server(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Option<Cluster> {
        let (certificate, key) = certificate(authority, name);
        let config = "
secureClientPort=2281
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
ssl.keyStore.type=PEM
ssl.keyStore.location=/data/server.pem
ssl.trustStore.type=PEM
ssl.trustStore.location=/data/ca.pem
ssl.clientAuth=need
ssl.hostnameVerification=false
";
        let servers = require_or_skip(env!("CARGO_MANIFEST_DIR"))?
            .port(2281)
            .file("server.pem", format!("{key}{certificate}"))
            .file("ca.pem", authority.pem())
            .append("zoo.cfg", config);
        Some(servers.start().await.unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tls_is_verified_on_both_sides() {
        if !common::is_tested("zookeeper-client") {
            return;
        }
        let files = Files(std::env::temp_dir().join(namespace()));
        std::fs::create_dir_all(&files.0).unwrap();
        let (ours, others) = (authority(), authority());
        let Some(cluster) = server(&ours, "127.0.0.1").await else { return };
        let (certificate, key) = certificate(&ours, "client");
        let (ca, other) = (files.write("ca", &ours.pem()), files.write("other", &others.pem()));
        let (cert, key) = (files.write("cert", &certificate), files.write("key", &key));
        let url = cluster.url().unwrap().replace("zk://", "zk+tls://");
        let identity = format!("cert={cert}&key={key}&connect_timeout=3s");
        let namespace = namespace();
        let tls =
            |ca: &str, more: &str| with(&url, "zookeeper-client", &namespace, &format!("ca={ca}&{more}"));

        let store = connect(&tls(&ca, &identity)).await.unwrap();
        store.put("a", "safe").await.unwrap();
        assert_eq!(store.get("a").await.unwrap().unwrap().value, "safe");
        assert_eq!(store.server().await.unwrap().product, "ZooKeeper");
        // What a certificate creates is its own.
        let (certificate, key) = self::certificate(&ours, "another client");
        let (cert, key) = (files.write("cert2", &certificate), files.write("key2", &key));
        let another = connect(&tls(&ca, &format!("cert={cert}&key={key}&connect_timeout=3s"))).await.unwrap();
        for refused in [another.get("a").await.map(drop), another.put("a", "x").await.map(drop)] {
            assert_eq!(refused.unwrap_err().kind(), &ErrorKind::PermissionDenied);
        }
        // Another authority; no certificate of ours.
        for (refused, words) in [
            (tls(&other, &identity), "the server's certificate was not issued by a certificate authority"),
            (tls(&ca, "connect_timeout=3s"), "the server asks for a client certificate"),
        ] {
            let error = connect(&refused).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Unavailable, "{refused}: {error}");
            assert!(error.to_string().contains(words), "{refused}: {error}");
        }
        // No TLS at all.
        let plain = with(&cluster.url().unwrap(), "zookeeper-client", &namespace, "connect_timeout=3s");
        let error = connect(&plain).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unavailable, "{error}");
        drop(cluster);
        // A certificate of somebody else.
        let Some(cluster) = server(&ours, "elsewhere.example").await else { return };
        let url = cluster.url().unwrap().replace("zk://", "zk+tls://");
        let error =
            connect(&with(&url, "zookeeper-client", &namespace, &format!("ca={ca}&{identity}"))).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unavailable);
        assert!(error.to_string().contains("the server's certificate is not for this host"), "{error}");
    }

    /// A server that speaks TLS with this certificate, and nothing else.
    async fn speaks(params: CertificateParams, issuer: Option<&CertifiedIssuer<'static, KeyPair>>) -> String {
        use tokio_rustls::TlsAcceptor;
        use tokio_rustls::rustls::ServerConfig;
        use tokio_rustls::rustls::pki_types::PrivateKeyDer;

        let key = KeyPair::generate().unwrap();
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        address
    }

    /// A server with TLS before 1.2: it answers with the alert of its time.
    async fn speaks_of_old() -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                // TLS 1.0: fatal, protocol version.
                let _ = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70]).await;
            }
        });
        address
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_wrong_with_a_certificate_is_named() {
        let files = Files(std::env::temp_dir().join(namespace()));
        std::fs::create_dir_all(&files.0).unwrap();
        let ours = authority();
        let ca = files.write("ca", &ours.pem());
        let local = || CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let elsewhere = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap();
        let (mut expired, mut early) = (local(), local());
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        early.not_before = rcgen::date_time_ymd(4000, 1, 1);
        for (address, words) in [
            (speaks(elsewhere, Some(&ours)).await, "is not for this host"),
            (speaks(expired, Some(&ours)).await, "has expired"),
            (speaks(early, Some(&ours)).await, "is not valid yet"),
            (speaks(local(), None).await, "was not issued by a certificate authority of ca="),
            (speaks_of_old().await, "no TLS version or cipher in common"),
        ] {
            let begin = std::time::Instant::now();
            let error = connect(&format!("zk+tls://{address}/t?ca={ca}")).await.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), &ErrorKind::Unavailable, "{text}");
            assert!(text.contains(words) && text.contains(&address), "{words}: {text}");
            assert!(begin.elapsed() < std::time::Duration::from_secs(4), "{words}: {:?}", begin.elapsed());
        }
    }
}
