//! What is at an address that takes connections and gives no session. Asked only then, for the words of
//! the error.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(1);

/// A server that was asked.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// As the configuration names it.
    pub(super) name: &'a str,
    pub(super) address: SocketAddr,
}

/// What answers there instead of a ZooKeeper, if something does.
pub(super) async fn stranger(asked: Asked<'_>) -> Option<String> {
    let answer = tokio::time::timeout(ANSWER, answer(asked.address)).await.ok()?.ok()?;
    let what = match answer.as_slice() {
        // A ZooKeeper takes the question for the length of a request, and hangs up.
        [] => return None,
        [b'H', b'T', b'T', b'P', ..] => "it answers as an HTTP server does, such as etcd or Consul",
        // An alert.
        [0x15, 3, ..] => "it speaks TLS: write zk+tls:// for the secure port of a ZooKeeper",
        _ => "its answer is none of a ZooKeeper's",
    };
    Some(format!("{}: is this a ZooKeeper? {what}", asked.name))
}

/// The first bytes of what a server says to an HTTP request.
async fn answer(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = vec![0; 16];
    let mut length = 0;
    while length < 4 {
        match stream.read(&mut answer[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    answer.truncate(length);
    Ok(answer)
}

#[cfg(feature = "tls")]
pub(super) use self::tls::handshake;

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use kv_backend::TlsOptions;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

    use super::{ANSWER, Asked, AsyncReadExt, TcpStream};

    /// Why TLS does not come about there, if that is so.
    pub(in crate::client) async fn handshake(asked: Asked<'_>, tls: &TlsOptions) -> Option<String> {
        let error = tokio::time::timeout(ANSWER, attempt(asked, tls)).await.ok()?.err()?;
        let fault = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        let what = fault.map(words)?;
        Some(format!("{}: {what}", asked.name))
    }

    async fn attempt(asked: Asked<'_>, tls: &TlsOptions) -> std::io::Result<()> {
        let host = asked.name.rsplit_once(':').map_or(asked.name, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
        let config = config(tls).map_err(std::io::Error::other)?;
        let stream = TcpStream::connect(asked.address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        // A refusal of the client's certificate comes after the handshake.
        match stream.read(&mut [0; 1]).await {
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// As the client crate has it.
    fn config(tls: &TlsOptions) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(tls.ca.as_deref().unwrap_or_default().as_bytes()) {
            roots.add(certificate?)?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let Some((certificate, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())?;
        Ok(builder.with_client_auth_cert(chain, key)?)
    }

    fn words(error: &Error) -> String {
        use CertificateError as Bad;
        let what = match error {
            Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
                "the server's certificate is not for this host"
            }
            Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
                "the server's certificate has expired"
            }
            Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
                "the server's certificate is not valid yet"
            }
            Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
                "the server's certificate was not issued by a certificate authority of ca="
            }
            Error::InvalidCertificate(_) => "the server's certificate is not good",
            Error::PeerIncompatible(_)
            | Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
                "the server has no TLS version or cipher in common with this client, which takes TLS 1.2 and 1.3"
            }
            Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::AccessDenied,
            ) => "the server asks for a client certificate (cert= and key=) that it trusts",
            Error::InvalidMessage(_) => "the server does not speak TLS at this port: write zk:// without TLS",
            _ => "TLS does not come about",
        };
        format!("{what} ({error})")
    }
}
