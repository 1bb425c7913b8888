//! Whom the store talks to, and what it tells whom: certificates, tokens without TLS, machines without
//! certificate authorities.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use kv_consul::kv_core::{Applied, Error, ErrorKind, Secret, StoreExt, StoreUrl};
use kv_consul::{ConsulConfig, ConsulStore};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::common::log::Log;
use crate::common::script::{Scripted, applied};
use crate::common::{self, SECOND};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server with a certificate for this name that this authority issued, changed in this way.
    async fn server(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        serve(certificate.der().to_vec(), key).await
    }

    fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join("ca.pem");
        // As an editor on Windows saves it.
        std::fs::write(&path, format!("\u{feff}{}", self.0.pem())).unwrap();
        path
    }
}

/// Serves HTTPS with this certificate: every answer is the one to the question for the leader.
async fn serve(certificate: Vec<u8>, key: KeyPair) -> String {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            drop(stream.read(&mut [0; 4096]).await);
            let answer =
                b"HTTP/1.1 200 X\r\nContent-Length: 16\r\nConnection: close\r\n\r\n\"127.0.0.1:8300\"";
            drop(stream.write_all(answer).await);
            drop(stream.shutdown().await);
        }
    });
    address
}

/// A server that knows no TLS as new as ours: to whatever is said it answers with this alert.
async fn alerting(alert: u8) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(&[21, 3, 1, 0, 2, 2, alert]).await);
        }
    });
    address
}

/// A server that hangs up on whatever is said, as one does that knows no TLS.
async fn hanging_up() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.read(&mut [0; 4096]).await);
        }
    });
    address
}

async fn connect(url: &str) -> Result<ConsulStore, Error> {
    ConsulStore::connect(ConsulConfig::from_url(&StoreUrl::parse(url)?)?).await
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_named_first() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let ca = authority.file(folder.path());
    let good = authority.server("127.0.0.1", |_| ()).await;
    let url = |hosts: &str| format!("consul+tls://{hosts}/app?timeout=4s&ca={}", ca.display());
    connect(&url(&good)).await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let old = rcgen::date_time_ymd(2001, 1, 1);
    let self_signed = async {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        serve(params.self_signed(&key).unwrap().der().to_vec(), key).await
    };
    for (host, words) in [
        (authority.server("elsewhere", |_| ()).await, "not for this host"),
        (authority.server("127.0.0.1", |params| params.not_after = old).await, "not valid now"),
        (stranger.server("127.0.0.1", |_| ()).await, "not issued by a CA that is trusted"),
        (self_signed.await, "not issued by a CA that is trusted"),
        (alerting(70).await, "no version or cipher"),
        (alerting(40).await, "no version or cipher"),
    ] {
        // Also beside a host that is down, whichever comes first.
        for hosts in [host.clone(), format!("{host},{dead}"), format!("{dead},{host}")] {
            let begin = Instant::now();
            let error = connect(&url(&hosts)).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{hosts}: {error}");
            assert!(error.to_string().contains(words), "{words}: {error}");
            assert!(begin.elapsed() < SECOND * 4);
        }
        // A host that is well is used all the same.
        for hosts in [format!("{host},{good}"), format!("{good},{host}")] {
            connect(&url(&hosts)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_on_tls_may_not_speak_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new().file(folder.path());
    let host = hanging_up().await;
    let error = connect(&format!("consul+tls://{host}/app?ca={}", ca.display())).await.unwrap_err();
    // It may as well be one that is being restarted.
    assert!(error.is_transient(), "{error}");
    assert_eq!(error.applied(), Applied::No);
    let text = error.to_string();
    assert!(text.contains("hung up on TLS") && text.contains("use consul://"), "{text}");
    assert!(text.contains(&host), "{text}");
    // Without TLS it is just a host that hangs up.
    let error = connect(&format!("consul://{host}/app")).await.unwrap_err();
    assert!(!error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_token_goes_without_tls_to_this_machine_only() {
    let config = |host: &str| ConsulConfig::new([host]).with_timeout(SECOND).with_connect_timeout(SECOND / 2);
    let token = || Secret::new("canary");
    // Nobody is asked, so nobody is sent anything.
    let begin = Instant::now();
    let error = ConsulStore::connect(config("192.0.2.1:8500").with_token(token())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert_eq!(error.applied(), Applied::No);
    assert!(error.to_string().contains("plaintext_credentials=true"), "{error}");
    assert!(error.to_string().contains("192.0.2.1") && !error.to_string().contains("canary"), "{error}");
    assert!(begin.elapsed() < SECOND / 2, "{:?}", begin.elapsed());
    // Who says so, or has no token, is let.
    for config in
        [config("192.0.2.1:8500").with_token(token()).with_plaintext_credentials(), config("192.0.2.1:8500")]
    {
        let error = ConsulStore::connect(config).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    let server = Scripted::start(|request| applied(request, 7, "")).await;
    let port = server.address.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "127.9.9.9"] {
        if host == "127.9.9.9" && cfg!(not(target_os = "linux")) {
            continue;
        }
        let host = format!("{host}:{port}");
        match ConsulStore::connect(config(&host).with_token(token())).await {
            Ok(store) => drop(store.put("k", "v").await.unwrap()),
            // Nobody listens there.
            Err(error) => assert!(error.is_transient() && host.starts_with("127.9"), "{error}"),
        }
    }
    assert!(server.requests().iter().all(|request| request.contains("x-consul-token: canary")));
}

#[tokio::test]
async fn unverified_certificates_are_warned_of_once() {
    let stranger = Authority::new();
    let host = stranger.server("elsewhere", |_| ()).await;
    let log = Log::default();
    let listening = log.listen(tracing::Level::WARN);
    let store = connect(&format!("consul+tls://{host}/app?danger_accept_invalid_certs")).await.unwrap();
    drop(store.get("k").await);
    drop(store.get("k").await);
    drop(listening);
    assert_eq!(log.lines("danger_accept_invalid_certs").len(), 1);
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.file(folder.path());
    let encrypted = folder.path().join("encrypted.key");
    std::fs::write(&encrypted, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n").unwrap();
    let (ca, encrypted) = (ca.display(), encrypted.display());
    for (query, words) in [
        (format!("cert={ca}&key={encrypted}"), "encrypted with a passphrase"),
        (format!("ca={encrypted}"), "is not a certificate in PEM form"),
        (format!("cert={ca}&key={ca}"), "is not a private key"),
        (format!("cert={ca}"), "together"),
        ("ca=/no/such/file".to_owned(), "cannot be read"),
    ] {
        let error = connect(&format!("consul+tls://127.0.0.1:1/app?{query}")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

const URL: &str = "KV_TEST_BARE_URL";

/// No test by itself: what a process on a machine without certificate authorities runs.
#[tokio::test]
async fn the_process_without_authorities() {
    let Ok(url) = std::env::var(URL) else { return };
    connect(&url).await.unwrap().put("k", "v").await.unwrap();
    let error = connect("consul+tls://127.0.0.1:1/app").await.unwrap_err();
    assert!(error.to_string().contains("ca="), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_no_certificate_authority_is_needed() {
    let server = Scripted::start(|request| applied(request, 7, "")).await;
    let url = common::url(&server.address, "app", "", common::variant());
    let other = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "trust::the_process_without_authorities", "--nocapture"])
            .env(URL, url)
            .env("SSL_CERT_FILE", "/dev/null")
            .env("SSL_CERT_DIR", "/nonexistent")
            .output()
            .unwrap()
    });
    let output = other.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(server.count("PUT /v1/txn") > 0);
}
