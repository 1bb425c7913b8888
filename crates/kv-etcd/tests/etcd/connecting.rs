//! Opening a store: which host is taken, which certificate, and where a password may go.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::common::scripted::{Reply, Scripted, StatusAnswer, header, one};
use kv_etcd::kv_core::{Error, ErrorKind, StoreExt, StoreUrl};
use kv_etcd::{EtcdConfig, EtcdStore};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const SECOND: Duration = Duration::from_secs(1);
const PASSWORD: &str = "canary-password-55d1";

async fn connect(url: &str) -> Result<EtcdStore, Error> {
    EtcdStore::connect(EtcdConfig::from_url(&StoreUrl::parse(url).unwrap())?).await
}

static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
});

/// A certificate and its key, and what is to be trusted.
struct Certificate {
    pem: String,
    key: String,
    ca: String,
}

fn issued(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    let pem = params.signed_by(&key, &*AUTHORITY).unwrap().pem();
    Certificate { pem, key: key.serialize_pem(), ca: AUTHORITY.pem() }
}

impl Certificate {
    fn acceptor(&self) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn ca_file(&self, folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, &self.ca).unwrap();
        path
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_named_first() {
    let folder = tempfile::tempdir().unwrap();
    let self_signed = |is_ca: bool| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let pem = params.self_signed(&key).unwrap().pem();
        let ca = if is_ca { pem.clone() } else { AUTHORITY.pem() };
        Certificate { ca, pem, key: key.serialize_pem() }
    };
    for (certificate, words) in [
        (issued("elsewhere", |_| {}), "the server's certificate is not for this host"),
        (
            issued("127.0.0.1", |params| params.not_after = date_time_ymd(2020, 1, 1)),
            "the server's certificate has expired",
        ),
        (
            issued("127.0.0.1", |params| params.not_before = date_time_ymd(3000, 1, 1)),
            "the server's certificate is not valid yet",
        ),
        (self_signed(false), "the server's certificate was not issued by a CA that is trusted here"),
        (self_signed(true), "the server's certificate is one that issues others"),
    ] {
        let server = Scripted::start_on("127.0.0.1:0", Some(certificate.acceptor()), |_, _| None).await;
        let ca = certificate.ca_file(&folder);
        let url = format!("etcd+tls://{}/ns?ca={}&connect_timeout=4s", server.address, ca.display());
        let error = connect(&url).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{words}: {error}");
        let text = error.to_string();
        assert!(text.contains(&server.address.to_string()), "{text}");
        let told = text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
        assert!(!text[..told].contains("connect"), "it is not the first thing that is told: {text}");
    }
    // A server that knows TLS 1.1 at most answers so.
    let old = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = old.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = old.accept().await.unwrap();
            let _ = client.read(&mut [0; 4096]).await;
            let _ = client.write_all(&[21, 3, 1, 0, 2, 2, 70]).await;
        }
    });
    let error = connect(&format!("etcd+tls://{address}/ns?connect_timeout=4s")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().contains("needs TLS 1.2 or 1.3"), "{error}");
}

#[tokio::test]
async fn a_host_whose_certificate_fits_is_always_found() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let certificate = issued(name, |_| {});
        let server = Scripted::start_on("127.0.0.1:0", Some(certificate.acceptor()), |_, _| None).await;
        let (ca, port) = (certificate.ca_file(&folder), server.address.port());
        let url = |hosts: &str| format!("etcd+tls://{hosts}/ns?ca={}&connect_timeout=4s", ca.display());
        // The first host is chosen at random.
        for _ in 0..12 {
            let store = connect(&url(&format!("127.0.0.1:{port},localhost:{port}"))).await.unwrap();
            assert!(store.get("k").await.unwrap().is_none());
            store.close().await.unwrap();
        }
        let other = if name == "localhost" { "127.0.0.1" } else { "localhost" };
        let error = connect(&url(&format!("{other}:{port},{other}:{port}"))).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
        assert!(error.to_string().contains("not for this host"), "{error}");
    }
}

#[tokio::test]
async fn a_password_goes_in_clear_to_this_machine_only() {
    let signed_in = Arc::<AtomicU64>::default();
    let count = Arc::clone(&signed_in);
    let server = Scripted::start_on("0.0.0.0:0", None, move |method, _| {
        (method == "Authenticate").then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            // The token has the number that the version has in the other answer.
            one(&StatusAnswer { header: header(), version: "token".to_owned() })
        })
    })
    .await;
    let port = server.address.port();
    let open = |host: &str, query: &str| {
        let url = format!("etcd://app:{PASSWORD}@{host}:{port}/ns?connect_timeout=2s{query}");
        async move { connect(&url).await }
    };
    // "0" is a name that stands for 0.0.0.0, which reaches this machine and is no loopback address.
    for host in ["0.0.0.0", "0"] {
        let error = open(host, "").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{host}: {error}");
        let text = format!("{error} {error:?} {error:#?}");
        assert!(text.contains("plaintext_credentials=true") && text.contains(host), "{text}");
        assert!(!text.contains(PASSWORD));
    }
    assert_eq!(signed_in.load(Ordering::Relaxed), 0, "nothing was sent");
    for (signs_in, (host, query)) in
        (1..).zip([("127.0.0.1", ""), ("localhost", ""), ("0", "&plaintext_credentials=true")])
    {
        open(host, query).await.unwrap().close().await.unwrap();
        assert_eq!(signed_in.load(Ordering::Relaxed), signs_in, "{host}");
    }
    // Without a password there is nothing to protect.
    connect(&format!("etcd://0.0.0.0:{port}/ns")).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_kind_is_doubted() {
    let other = Scripted::start(|_, _| Some(Reply::Fail(12, "unknown service".to_owned()))).await;
    let error = connect(&format!("etcd://{}/ns?connect_timeout=2s", other.address)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("is it an etcd server"), "{error}");
    assert!(error.to_string().contains(&other.address.to_string()), "{error}");

    // As ZooKeeper does to what it does not know.
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closing.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            drop(closing.accept().await.unwrap());
        }
    });
    let begin = std::time::Instant::now();
    let error = connect(&format!("etcd://{address}/ns?connect_timeout=5s")).await.unwrap_err();
    assert!(begin.elapsed() < 4 * SECOND, "{:?}", begin.elapsed());
    assert!(error.to_string().contains("is it an etcd server"), "{error}");
}
