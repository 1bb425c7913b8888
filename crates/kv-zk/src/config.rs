//! How a ZooKeeper store is configured: in code, or by URL.

use std::fmt;
use std::time::Duration;

use kv_backend::{Plaintext, TlsOptions, check_times, parse_endpoint, take_times, user_and_password};
use kv_core::{Error, Operation, Prefix, Result, Secret, StoreUrl};

use crate::client::error::BACKEND;

const DEFAULT_PORT: u16 = 2181;
pub(crate) const TLS_SCHEME: &str = "zk+tls";

/// Shorter session timeouts make zookeeper-async look for servers without a pause.
const MIN_SESSION_TIMEOUT: Duration = Duration::from_secs(4);

/// Which client crate holds the session. What a store can do depends on it: see the README.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZkClient {
    /// The crate zookeeper-client, with everything that ZooKeeper can do for a store. Needs the cargo
    /// feature `zookeeper-client`, which is on by default.
    #[default]
    ZookeeperClient,
    /// The crate zookeeper-async: no transactions, fenced writes, linearizable reads or TLS. Needs the
    /// cargo feature `zookeeper-async`.
    ZookeeperAsync,
}

impl ZkClient {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ZookeeperAsync => "zookeeper-async",
            Self::ZookeeperClient => "zookeeper-client",
        }
    }
}

/// Whose locks ours exclude and are excluded by. Records of both layouts always count as rivals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockLayout {
    /// Apache Curator's `InterProcessMutex`.
    #[default]
    Curator,
    /// kazoo's `Lock`.
    Kazoo,
}

/// Who this handle is to the servers.
#[derive(Clone)]
#[cfg_attr(not(feature = "sasl"), allow(dead_code, reason = "nobody uses a part of it"))]
pub(crate) enum Credentials {
    /// ZooKeeper's digest scheme: `user:password`.
    Digest(Secret),
    /// SASL DIGEST-MD5.
    Sasl { user: String, password: Secret },
}

/// How a ZooKeeper store is opened. `Debug` shows no secret.
///
/// ```
/// use std::time::Duration;
/// use kv_zk::ZkConfig;
/// use kv_zk::kv_core::Prefix;
///
/// let config = ZkConfig::new(["h1:2181", "h2:2181", "h3:2181"])
///     .with_namespace(Prefix::new("app")?)
///     .with_session_timeout(Duration::from_secs(15));
/// # Ok::<(), kv_zk::kv_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ZkConfig {
    hosts: Vec<String>,
    pub(crate) namespace: Prefix,
    pub(crate) client: ZkClient,
    user: Option<(String, Secret)>,
    sasl: bool,
    pub(crate) plaintext: Plaintext,
    tls: Option<TlsOptions>,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) session_timeout: Duration,
    max_session_timeout: Duration,
    pub(crate) ttl_sweep: Duration,
    pub(crate) barrier_reads: bool,
    pub(crate) lock_layout: LockLayout,
}

impl ZkConfig {
    /// A store on this ensemble: its servers, each as `host:port`; the port 2181 may be left out.
    ///
    /// One server is used at a time, the first one chosen at random; when it fails, the next.
    pub fn new<H: Into<String>>(hosts: impl IntoIterator<Item = H>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            namespace: Prefix::root(),
            client: ZkClient::default(),
            user: None,
            sasl: false,
            plaintext: Plaintext::default(),
            tls: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            session_timeout: Duration::from_secs(10),
            max_session_timeout: Duration::from_secs(40),
            ttl_sweep: Duration::from_secs(60),
            barrier_reads: false,
            lock_layout: LockLayout::default(),
        }
    }

    /// The same, every key below this namespace: a node, made when it is first needed.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Prefix) -> Self {
        self.namespace = namespace;
        self
    }

    /// The same on this client crate.
    #[must_use]
    pub fn with_client(mut self, client: ZkClient) -> Self {
        self.client = client;
        self
    }

    /// The same with credentials of ZooKeeper's digest scheme. What the store creates is then open to
    /// these credentials only.
    ///
    /// The scheme knows no wrong password: it shows as `PermissionDenied` where an access control
    /// list asks for another.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: Secret) -> Self {
        self.user = Some((user.into(), password));
        self
    }

    /// The same, the credentials being of SASL DIGEST-MD5. Needs zookeeper-client and the cargo feature
    /// `sasl`.
    #[must_use]
    pub fn with_sasl(mut self) -> Self {
        self.sasl = true;
        self
    }

    /// The same, sending credentials over a connection that anybody on the way can read. Without it,
    /// credentials without TLS are refused for all addresses but loopback ones.
    #[must_use]
    pub fn with_plaintext_credentials(mut self) -> Self {
        self.plaintext = Plaintext::new(true);
        self
    }

    /// The same over TLS, trusting only these certificate authorities: the text of a PEM file. Chooses
    /// zookeeper-client and needs the cargo feature `tls`. Certificate and host name are always verified.
    #[must_use]
    pub fn with_ca(mut self, pem: impl Into<String>) -> Self {
        self.tls.get_or_insert_default().ca = Some(pem.into());
        self.client = ZkClient::ZookeeperClient;
        self
    }

    /// The same over TLS, with a certificate of the client's own: the texts of two PEM files.
    #[must_use]
    pub fn with_identity(mut self, certificate_pem: impl Into<String>, key_pem: Secret) -> Self {
        self.tls.get_or_insert_default().identity = Some((certificate_pem.into(), key_pem));
        self.client = ZkClient::ZookeeperClient;
        self
    }

    /// The same with this deadline for each call. The default is 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with this deadline for opening the store, over all servers. The default is 5 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same with this session timeout, from 4 s: how long session keys and locks outlive a
    /// process that died. The default is 10 s.
    ///
    /// The server may grant another one, within 2 to 20 of its ticks (4 to 40 s as shipped). Only
    /// zookeeper-client tells which; with zookeeper-async it must be one the server grants: see
    /// [`with_max_session_timeout`](Self::with_max_session_timeout).
    #[must_use]
    pub fn with_session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// The same, knowing the servers' `maxSessionTimeout`. The default is 40 s, which is ZooKeeper's.
    ///
    /// A server that grants less than was asked for drops a session before zookeeper-async can know:
    /// two could then hold one lock. Set this to what the servers are configured with.
    #[must_use]
    pub fn with_max_session_timeout(mut self, timeout: Duration) -> Self {
        self.max_session_timeout = timeout;
        self
    }

    /// The same, knowing how often the servers look for expired keys:
    /// `znode.container.checkIntervalMs`. The default is 60 s, which is ZooKeeper's. It is only
    /// declared, in [`Limits::ttl_bound`](kv_core::Limits::ttl_bound).
    #[must_use]
    pub fn with_ttl_sweep(mut self, interval: Duration) -> Self {
        self.ttl_sweep = interval;
        self
    }

    /// The same with linearizable reads also on zookeeper-async, which has no sync: with each read a
    /// write is sent that is refused. It costs the time of a write and an entry in the servers' log. On
    /// zookeeper-client it takes the place of the sync, which may miss what others were told a moment
    /// ago.
    #[must_use]
    pub fn with_barrier_reads(mut self) -> Self {
        self.barrier_reads = true;
        self
    }

    /// The same with locks of this layout.
    #[must_use]
    pub fn with_lock_layout(mut self, layout: LockLayout) -> Self {
        self.lock_layout = layout;
        self
    }

    /// What a URL asks for: `zk://[user[:password]@]host[:port][,host…]/namespace?option=value`,
    /// `zk+tls://…` for TLS.
    ///
    /// Options: `client` (`zookeeper-client`, the default, or `zookeeper-async`); `timeout`, `connect_timeout`,
    /// `session_timeout`, `max_session_timeout`, `ttl_sweep` (times such as `5s`); `lock_layout`
    /// (`curator` or `kazoo`); `barrier_reads`; `password`, `password_file`, `password_env`, `auth`
    /// (`digest` or `sasl`), `plaintext_credentials`; with TLS also `ca`, `cert`, `key` (files).
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for unknown or half-given options, unreadable files and a client that is not
    /// compiled in; `InvalidKey` for a namespace that breaks the rules.
    pub fn from_url(url: &StoreUrl) -> Result<Self> {
        if url.hosts().is_empty() {
            return Err(refused("the URL names no host: zk://HOST:2181/NAMESPACE"));
        }
        let mut params = url.params();
        let hosts = url.hosts().iter().map(|host| host.authority(DEFAULT_PORT));
        let mut config = Self::new(hosts).with_namespace(url.namespace()?);
        config.user = user_and_password(url, &mut params)?;
        take_times(
            &mut params,
            [
                ("timeout", &mut config.timeout),
                ("connect_timeout", &mut config.connect_timeout),
                ("session_timeout", &mut config.session_timeout),
                ("max_session_timeout", &mut config.max_session_timeout),
                ("ttl_sweep", &mut config.ttl_sweep),
            ],
        )?;
        config.plaintext = Plaintext::take(&mut params)?;
        if let Some(flag) = params.flag("barrier_reads")? {
            config.barrier_reads = flag;
        }
        config.sasl = match params.text("auth")?.as_deref() {
            None | Some("digest") => false,
            Some("sasl") => true,
            Some(_) => return Err(refused("auth is digest or sasl")),
        };
        config.lock_layout = match params.text("lock_layout")?.as_deref() {
            None | Some("curator") => LockLayout::Curator,
            Some("kazoo") => LockLayout::Kazoo,
            Some(_) => return Err(refused("lock_layout is curator or kazoo")),
        };
        let client = params.text("client")?;
        config.tls = TlsOptions::take(&mut params, url.scheme() == TLS_SCHEME, TLS_SCHEME, &[])?;
        params.finish()?;
        if config.tls.is_some() {
            config.client = ZkClient::ZookeeperClient;
        }
        match client.as_deref() {
            None => {}
            Some("zookeeper-client") => config.client = ZkClient::ZookeeperClient,
            Some("zookeeper-async") => config.client = ZkClient::ZookeeperAsync,
            Some(_) => return Err(refused("client is zookeeper-client or zookeeper-async")),
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot work, before anything is connected.
    pub(crate) fn check(&self) -> Result<()> {
        if self.hosts.is_empty() {
            return Err(refused("ZooKeeper needs at least one server"));
        }
        for host in &self.hosts {
            parse_endpoint(host)?;
        }
        self.namespace.check_namespace().map_err(|error| error.with_operation(Operation::Open))?;
        check_times([
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
            ("session_timeout", self.session_timeout),
            ("max_session_timeout", self.max_session_timeout),
            ("ttl_sweep", self.ttl_sweep),
        ])?;
        if self.session_timeout < MIN_SESSION_TIMEOUT {
            return Err(refused(format!("session_timeout must be at least {MIN_SESSION_TIMEOUT:?}")));
        }
        let full = self.client == ZkClient::ZookeeperClient;
        if !full && self.session_timeout > self.max_session_timeout {
            return Err(refused(format!(
                "session_timeout {:?} is above the servers' maximum {:?}: raise maxSessionTimeout there \
                 and max_session_timeout here, or use client=zookeeper-client, which is told what the \
                 server grants",
                self.session_timeout, self.max_session_timeout
            )));
        }
        if !full && self.tls.is_some() {
            return Err(refused("zookeeper-async has no TLS: use client=zookeeper-client"));
        }
        if self.sasl && !full {
            return Err(refused("zookeeper-async has no SASL: use client=zookeeper-client"));
        }
        let needed = [
            (full, cfg!(feature = "zookeeper-client"), "client=zookeeper-client", "zookeeper-client"),
            (!full, cfg!(feature = "zookeeper-async"), "client=zookeeper-async", "zookeeper-async"),
            (self.tls.is_some(), cfg!(feature = "tls"), "TLS", "tls"),
            (self.sasl, cfg!(feature = "sasl"), "auth=sasl", "sasl"),
        ];
        for (asked, there, what, feature) in needed {
            if asked && !there {
                return Err(refused(format!("{what} needs the cargo feature `{feature}` of kv-zk")));
            }
        }
        if self.sasl && self.user.is_none() {
            return Err(refused("auth=sasl needs a user and a password"));
        }
        if self.user.as_ref().is_some_and(|(user, _)| user.is_empty() || user.contains(':')) {
            return Err(refused("the user's name is empty or has a colon"));
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        if tls.ca.is_none() {
            return Err(refused("TLS needs ca=FILE: the certificate authorities to trust, in PEM form"));
        }
        tls.check()
    }

    /// The servers, each as `host:port`.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.hosts
            .iter()
            .filter_map(|host| parse_endpoint(host).ok())
            .map(|host| host.authority(DEFAULT_PORT))
            .collect()
    }

    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let (user, password) = self.user.clone()?;
        Some(if self.sasl {
            Credentials::Sasl { user, password }
        } else {
            Credentials::Digest(Secret::new(format!("{user}:{}", password.expose())))
        })
    }

    pub(crate) fn tls(&self) -> Option<&TlsOptions> {
        self.tls.as_ref()
    }
}

fn refused(reason: impl Into<String>) -> Error {
    Error::invalid_config(reason).with_operation(Operation::Open).with_backend(BACKEND)
}

impl fmt::Debug for ZkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkConfig")
            .field("hosts", &self.hosts)
            .field("namespace", &self.namespace)
            .field("client", &self.client.name())
            .field("user", &self.user)
            .field("sasl", &self.sasl)
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("session_timeout", &self.session_timeout)
            .field("max_session_timeout", &self.max_session_timeout)
            .field("ttl_sweep", &self.ttl_sweep)
            .field("barrier_reads", &self.barrier_reads)
            .field("lock_layout", &self.lock_layout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<ZkConfig> {
        ZkConfig::from_url(&StoreUrl::parse(url).unwrap())
    }

    #[test]
    fn a_url_says_everything() {
        let config = config(
            "zk://u:pw@h1,[::1]:9/app/x?timeout=2s&session_timeout=30s&plaintext_credentials=true&lock_layout=kazoo",
        )
        .unwrap();
        assert_eq!(config.servers(), ["h1:2181", "[::1]:9"]);
        assert_eq!(config.namespace, Prefix::new("app/x").unwrap());
        assert_eq!(config.timeout, Duration::from_secs(2));
        assert_eq!(config.session_timeout, Duration::from_secs(30));
        assert_eq!(config.lock_layout, LockLayout::Kazoo);
        assert_eq!(config.client, ZkClient::ZookeeperClient);
        assert!(
            matches!(config.credentials(), Some(Credentials::Digest(secret)) if secret.expose() == "u:pw")
        );
        assert!(!format!("{config:?}").contains("pw"));
    }

    #[test]
    fn half_given_and_unknown_options_are_errors() {
        for url in [
            "zk:",
            "zk:///app",
            "zk://u@h/",
            "zk://h/?password=x",
            "zk://h/?timeot=5s",
            "zk://h/?timeout=0s",
            "zk://h/?session_timeout=3s",
            "zk://h/?client=zookeeper-async&session_timeout=41s",
            "zk://h/?ca=/dev/null",
            "zk://h/?client=other",
            "zk://h/?auth=sasl",
            "zk://h/?auth=x",
            "zk://h/?lock_layout=x",
            "zk+tls://h/",
            "zk+tls://h/?ca=/dev/null",
            "zk+tls://h/?ca=/no/such/file",
        ] {
            let error = config(url).unwrap_err();
            assert!(error.to_string().contains("invalid"), "{url}: {error}");
        }
        assert!(ZkConfig::new(["h:0"]).check().is_err());
        assert!(ZkConfig::new(Vec::<String>::new()).check().is_err());
    }

    #[test]
    fn what_is_not_compiled_in_is_named() {
        for (url, there, feature) in [
            ("zk://h/", cfg!(feature = "zookeeper-client"), "zookeeper-client"),
            ("zk://h/?client=zookeeper-async", cfg!(feature = "zookeeper-async"), "zookeeper-async"),
            ("zk+tls://h/?ca=Cargo.toml", cfg!(feature = "tls"), "tls"),
            ("zk://u:p@localhost/?auth=sasl", cfg!(feature = "sasl"), "sasl"),
        ] {
            if !there {
                let error = config(url).unwrap_err().to_string();
                assert!(error.contains(&format!("cargo feature `{feature}`")), "{url}: {error}");
            }
        }
    }
}
