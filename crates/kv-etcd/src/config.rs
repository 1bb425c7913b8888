//! How an etcd store is opened: in code, or by URL.

use std::fmt;
use std::time::Duration;

use kv_backend::{Plaintext, TlsOptions, TlsParam, check_times, take_times, user_and_password};
use kv_core::{Error, Operation, Prefix, Result, Secret, StoreUrl};

use crate::client::error::{BACKEND, TTL};
use crate::client::{DEFAULT_PORT, Settings};

pub(crate) const TLS_SCHEME: &str = "etcd+tls";

/// How an etcd store is opened. `Debug` shows no secret.
///
/// ```
/// use std::time::Duration;
/// use kv_etcd::EtcdConfig;
/// use kv_etcd::kv_core::{Prefix, Secret};
///
/// let config = EtcdConfig::new(["h1:2379", "h2:2379"])
///     .with_namespace(Prefix::new("app")?)
///     .with_user("app", Secret::new("..."))
///     .with_timeout(Duration::from_secs(2));
/// # Ok::<(), kv_etcd::kv_core::Error>(())
/// ```
#[derive(Clone)]
pub struct EtcdConfig {
    hosts: Vec<String>,
    pub(crate) namespace: Prefix,
    user: Option<(String, Secret)>,
    plaintext: Plaintext,
    tls: Option<TlsOptions>,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    keep_alive: Duration,
    pub(crate) lock_ttl: Duration,
    pub(crate) session_ttl: Duration,
}

impl EtcdConfig {
    /// A store on these members, each as `host:port`; the port 2379 may be left out.
    ///
    /// One member is used at a time, the first one chosen at random; when it fails, the next.
    pub fn new<H: Into<String>>(hosts: impl IntoIterator<Item = H>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            namespace: Prefix::root(),
            user: None,
            plaintext: Plaintext::default(),
            tls: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(10),
            lock_ttl: Duration::from_secs(15),
            session_ttl: Duration::from_secs(15),
        }
    }

    /// The same, every key below this namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Prefix) -> Self {
        self.namespace = namespace;
        self
    }

    /// The same with a user of etcd's own authentication.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: Secret) -> Self {
        self.user = Some((user.into(), password));
        self
    }

    /// The same, sending the password without TLS to any address. The default is to refuse that for all
    /// but loopback addresses, because anybody on the way can read it.
    #[must_use]
    pub fn with_plaintext_credentials(mut self) -> Self {
        self.plaintext = Plaintext::new(true);
        self
    }

    fn tls(&mut self) -> &mut TlsOptions {
        self.tls.get_or_insert_default()
    }

    /// The same over TLS, trusting the system's certificate authorities unless
    /// [`with_ca`](Self::with_ca) names another. The server's certificate is always verified.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls();
        self
    }

    /// The same over TLS, trusting only these certificate authorities: the text of a PEM file.
    #[must_use]
    pub fn with_ca(mut self, pem: impl Into<String>) -> Self {
        self.tls().ca = Some(pem.into());
        self
    }

    /// The same over TLS, with a certificate of the client's own: the texts of two PEM files.
    #[must_use]
    pub fn with_identity(mut self, certificate_pem: impl Into<String>, key_pem: Secret) -> Self {
        self.tls().identity = Some((certificate_pem.into(), key_pem));
        self
    }

    /// The same over TLS, where the server's certificate is for this name and not for the host's.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls().server_name = Some(name.into());
        self
    }

    /// The same with this deadline for each request. The default is 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with this deadline for opening the store, over all members. The default is 5 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same, asking a silent connection for a sign of life this often and giving it half of that
    /// to answer. The default is 10 s. etcd hangs up on a client that asks more often than every 5 s,
    /// unless it was started with another `--grpc-keepalive-min-time`.
    #[must_use]
    pub fn with_keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// The same with this default time to live of locks, in whole seconds from 2 s. The default is
    /// 15 s.
    #[must_use]
    pub fn with_lock_ttl(mut self, ttl: Duration) -> Self {
        self.lock_ttl = ttl;
        self
    }

    /// The same with this time to live of the session, in whole seconds from 2 s: how long session
    /// keys outlive a process that died. The default is 15 s.
    #[must_use]
    pub fn with_session_ttl(mut self, ttl: Duration) -> Self {
        self.session_ttl = ttl;
        self
    }

    /// What a URL asks for: `etcd://[user[:password]@]host[:port][,host…]/namespace?option=value`,
    /// `etcd+tls://…` for TLS.
    ///
    /// Options: `timeout`, `connect_timeout`, `keep_alive`, `lock_ttl`, `session_ttl` (times such as
    /// `5s`), `password`, `password_file`, `password_env`, `plaintext_credentials`; with TLS also `ca`,
    /// `cert`, `key` (files), `server_name`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for unknown or half-given options and unreadable files; `InvalidKey` for a
    /// namespace that breaks the rules.
    pub fn from_url(url: &StoreUrl) -> Result<Self> {
        if url.hosts().is_empty() {
            return Err(refused("the URL names no host: etcd://HOST:2379/NAMESPACE"));
        }
        let mut params = url.params();
        let hosts = url.hosts().iter().map(|host| host.authority(DEFAULT_PORT));
        let mut config = Self::new(hosts).with_namespace(url.namespace()?);
        config.user = user_and_password(url, &mut params)?;
        config.plaintext = Plaintext::take(&mut params)?;
        let times = [
            ("timeout", &mut config.timeout),
            ("connect_timeout", &mut config.connect_timeout),
            ("keep_alive", &mut config.keep_alive),
            ("lock_ttl", &mut config.lock_ttl),
            ("session_ttl", &mut config.session_ttl),
        ];
        take_times(&mut params, times)?;
        let is_tls = url.scheme() == TLS_SCHEME;
        config.tls = TlsOptions::take(&mut params, is_tls, TLS_SCHEME, &[TlsParam::ServerName])?;
        params.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot work, before anything is connected.
    pub(crate) fn check(&self) -> Result<()> {
        self.settings().check()?;
        self.namespace.check_namespace().map_err(|error| error.with_operation(Operation::Open))?;
        check_times([
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
            ("keep_alive", self.keep_alive),
        ])?;
        for (name, ttl) in [("lock_ttl", self.lock_ttl), ("session_ttl", self.session_ttl)] {
            TTL.check(ttl).map_err(|error| error.with_operation(Operation::Open).with_detail(name))?;
        }
        self.tls.as_ref().map_or(Ok(()), TlsOptions::check)
    }

    /// What the client needs to know.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            hosts: self.hosts.clone(),
            user: self.user.clone(),
            plaintext: self.plaintext,
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            keep_alive: self.keep_alive,
        }
    }
}

fn refused(reason: impl Into<String>) -> Error {
    Error::invalid_config(reason).with_operation(Operation::Open).with_backend(BACKEND)
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("hosts", &self.hosts)
            .field("namespace", &self.namespace)
            .field("user", &self.user)
            .field("plaintext", &self.plaintext)
            .field("tls", &self.tls.is_some())
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("lock_ttl", &self.lock_ttl)
            .field("session_ttl", &self.session_ttl)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<EtcdConfig> {
        EtcdConfig::from_url(&StoreUrl::parse(url).unwrap())
    }

    #[test]
    fn a_url_says_everything() {
        let config = config("etcd://u:pw@h1,[::1]:9/app/x?timeout=2s&session_ttl=30s").unwrap();
        assert!(config.settings().sends_in_clear());
        assert_eq!(config.settings().endpoints(), ["http://h1:2379", "http://[::1]:9"]);
        assert_eq!(config.namespace, Prefix::new("app/x").unwrap());
        assert_eq!(config.timeout, Duration::from_secs(2));
        assert_eq!(config.session_ttl, Duration::from_secs(30));
        assert!(!format!("{config:?}").contains("pw"));
    }

    #[test]
    fn half_given_and_unknown_options_are_errors() {
        for url in [
            "etcd:",
            "etcd:///app",
            "etcd://u@h/",
            "etcd://h/?password=x",
            "etcd://h/?timeot=5s",
            "etcd://h/?timeout=0s",
            "etcd://h/?keep_alive=1000years",
            "etcd://h/?ca=/dev/null",
            "etcd+tls://h/?cert=/dev/null",
            "etcd+tls://h/?ca=/dev/null",
            "etcd+tls://h/?ca=/no/such/file",
            "etcd://h/?lock_ttl=1s",
            "etcd://h/?danger_accept_invalid_certs=true",
            "etcd://h/?plaintext_credentials=perhaps",
        ] {
            config(url).unwrap_err();
        }
        for host in ["[127.0.0.1:2379]", "h:0", "h:1/x", "a,b"] {
            let kind = EtcdConfig::new([host]).check().unwrap_err().kind().clone();
            assert!(matches!(kind, kv_core::ErrorKind::InvalidConfig { .. }), "{host}");
        }
        assert!(EtcdConfig::new(["h:0"]).check().is_err());
        assert!(EtcdConfig::new(["u@h"]).check().is_err());
        assert!(EtcdConfig::new(Vec::<String>::new()).check().is_err());
    }

    #[test]
    fn a_password_goes_in_clear_to_loopback_addresses_only() {
        for url in ["etcd://u:pw@127.0.0.1", "etcd://u:pw@[::1]", "etcd://u:pw@name", "etcd://10.0.0.1"] {
            config(url).unwrap();
        }
        for url in ["etcd://u:pw@10.0.0.1", "etcd://u:pw@127.0.0.1,[2001:db8::1]:5"] {
            let text = config(url).unwrap_err().to_string();
            assert!(text.contains("plaintext_credentials=true") && !text.contains("pw"), "{text}");
            config(&format!("{url}?plaintext_credentials=true")).unwrap();
            config(&url.replace("etcd:", "etcd+tls:")).unwrap();
        }
    }

    #[test]
    fn the_scheme_chooses_tls() {
        assert_eq!(config("etcd+tls://h/").unwrap().settings().endpoints(), ["https://h:2379"]);
    }
}
