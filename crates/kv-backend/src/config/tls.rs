//! TLS as a configuration describes it.

use std::fmt;

use kv_core::implement::Params;
use kv_core::{Result, Secret};

use super::{read_text, refused};

/// What TLS needs to know: the text of PEM files, and whom to expect.
///
/// `Debug` shows no key.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// The certificate authorities to trust; those of the system where there are none.
    pub ca: Option<String>,
    /// The client's certificate and its key.
    pub identity: Option<(String, Secret)>,
    /// The name the server's certificate must be for, in place of the host's.
    pub server_name: Option<String>,
    /// Whether the server's certificate is not verified at all.
    pub danger_accept_invalid_certs: bool,
}

/// A URL parameter about TLS that not every backend has; all have `ca`, `cert` and `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsParam {
    /// `server_name`.
    ServerName,
    /// `danger_accept_invalid_certs`.
    DangerAcceptInvalidCerts,
}

impl TlsOptions {
    /// Takes the parameters about TLS and reads the files they name. `tls` says whether the URL's
    /// scheme is the one for TLS, which is called `scheme`; without TLS the answer is `None`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if one is given without TLS, if `cert` and `key` are not given together, and for
    /// files that cannot be read or are not what they should be.
    pub fn take(params: &mut Params, tls: bool, scheme: &str, more: &[TlsParam]) -> Result<Option<Self>> {
        let (ca, cert, key) = (params.text("ca")?, params.text("cert")?, params.text("key")?);
        let server_name =
            if more.contains(&TlsParam::ServerName) { params.text("server_name")? } else { None };
        let danger = if more.contains(&TlsParam::DangerAcceptInvalidCerts) {
            params.flag("danger_accept_invalid_certs")?
        } else {
            None
        };
        let given = [
            ("ca", ca.is_some()),
            ("cert", cert.is_some()),
            ("key", key.is_some()),
            ("server_name", server_name.is_some()),
            ("danger_accept_invalid_certs", danger.is_some()),
        ];
        if !tls {
            return match given.into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(refused(format!("{name}= is about TLS and needs {scheme}://"))),
                None => Ok(None),
            };
        }
        let file = |name: &str, path: Option<String>| path.map(|path| read_text(name, &path)).transpose();
        let identity = match (file("cert", cert)?, file("key", key)?) {
            (Some(cert), Some(key)) => Some((cert, Secret::new(key))),
            (None, None) => None,
            _ => return Err(refused("cert= and key= are given together or not at all")),
        };
        let options = Self {
            ca: file("ca", ca)?,
            identity,
            server_name,
            danger_accept_invalid_certs: danger.unwrap_or_default(),
        };
        options.check()?;
        Ok(Some(options))
    }

    /// Refuses what cannot work, before anything is connected.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`, saying in plain words what each text is instead.
    pub fn check(&self) -> Result<()> {
        const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
        let is_certificate =
            |pem: &str| pem.contains(CERTIFICATE) || pem.contains("BEGIN TRUSTED CERTIFICATE");
        if self.ca.as_ref().is_some_and(|pem| !is_certificate(pem)) {
            return Err(refused(format!(
                "the certificate authority (ca=) is not a certificate in PEM form: it has no line {CERTIFICATE}"
            )));
        }
        let Some((certificate, key)) = &self.identity else { return Ok(()) };
        if !is_certificate(certificate) {
            return Err(refused(format!(
                "the client's certificate (cert=) is not in PEM form: it has no line {CERTIFICATE}"
            )));
        }
        let key = key.expose();
        if key.contains("ENCRYPTED PRIVATE KEY") || key.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(refused(
                "the client's key (key=) is encrypted with a passphrase, which is not supported: decrypt it \
                 with `openssl pkey -in KEY -out PLAIN`",
            ));
        }
        if !key.contains("PRIVATE KEY-----") {
            return Err(refused(
                "the client's key (key=) is not a private key in PEM form: it has no line \
                 -----BEGIN PRIVATE KEY-----",
            ));
        }
        Ok(())
    }

    /// Warns, once for each opened handle, that the server's certificate is not verified.
    pub fn warn_if_unverified(&self, backend: &str, endpoints: &str) {
        if self.danger_accept_invalid_certs {
            tracing::warn!(
                backend,
                endpoints,
                "danger_accept_invalid_certs is on: the server's certificate is not verified, and anybody on \
                 the way can read and change everything, credentials included"
            );
        }
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .field("danger_accept_invalid_certs", &self.danger_accept_invalid_certs)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use kv_core::StoreUrl;

    use super::*;

    const CERT: &str = "-----BEGIN CERTIFICATE-----\nx";
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nx";

    fn refusal(options: &TlsOptions) -> String {
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_pem_is_told_in_plain_words() {
        let identity = |cert: &str, key: &str| TlsOptions {
            identity: Some((cert.to_owned(), Secret::new(key))),
            ..TlsOptions::default()
        };
        identity(CERT, KEY).check().unwrap();
        TlsOptions { ca: Some(CERT.to_owned()), ..TlsOptions::default() }.check().unwrap();
        let ca = TlsOptions { ca: Some(KEY.to_owned()), ..TlsOptions::default() };
        assert!(refusal(&ca).contains("(ca=) is not a certificate"));
        assert!(refusal(&identity(KEY, KEY)).contains("(cert=) is not in PEM form"));
        assert!(refusal(&identity(CERT, CERT)).contains("(key=) is not a private key"));
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x",
        ] {
            let text = refusal(&identity(CERT, encrypted));
            assert!(text.contains("encrypted with a passphrase") && text.contains("openssl pkey"), "{text}");
        }
    }

    #[test]
    fn parameters_about_tls_need_tls() {
        let take = |url: &str, tls| {
            let more = [TlsParam::ServerName, TlsParam::DangerAcceptInvalidCerts];
            TlsOptions::take(&mut StoreUrl::parse(url).unwrap().params(), tls, "x+tls", &more)
        };
        for name in ["ca", "cert", "key", "server_name", "danger_accept_invalid_certs"] {
            let url = format!("x://h?{name}=true");
            let text = take(&url, false).unwrap_err().to_string();
            assert!(text.contains(&format!("{name}= is about TLS and needs x+tls://")), "{text}");
        }
        assert!(take("x://h", false).unwrap().is_none());
        let options = take("x://h?server_name=n&danger_accept_invalid_certs=true", true).unwrap().unwrap();
        assert_eq!(options.server_name.as_deref(), Some("n"));
        assert!(options.danger_accept_invalid_certs);
        assert!(take("x://h?cert=/dev/null", true).unwrap_err().to_string().contains("together"));
    }
}
