//! How a Consul store is opened.

use std::time::Duration;

use kv_backend::{Plaintext, TlsOptions, TlsParam, check_times, parse_endpoint, take_times};
use kv_core::{Host, Operation, Prefix, Result, Secret, StoreUrl};

use crate::client::error::invalid;
use crate::client::options::ConnectOptions;
use crate::env::Times;
use crate::env::names::{LockLayout, Names};

const DEFAULT_PORT: u16 = 8500;
const DEFAULT_TLS_PORT: u16 = 8501;

/// How a Consul store is opened: where, as whom, with which times.
///
/// ```no_run
/// # async fn demo() -> kv_consul::kv_core::Result<()> {
/// use kv_consul::{ConsulConfig, ConsulStore};
/// use kv_consul::kv_core::{Prefix, StoreExt};
///
/// let config = ConsulConfig::new(["127.0.0.1:8500"]).with_namespace(Prefix::new("app")?);
/// let store = ConsulStore::connect(config).await?;
/// store.put("greeting", "hello").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConsulConfig {
    pub(crate) hosts: Vec<String>,
    /// `None`: without TLS.
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) namespace: Prefix,
    pub(crate) token: Option<Secret>,
    /// Whether the token may travel without TLS.
    pub(crate) plaintext: Plaintext,
    pub(crate) datacenter: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) session_ttl: Duration,
    pub(crate) lock_ttl: Duration,
    pub(crate) lock_delay: Duration,
    pub(crate) lock_layout: LockLayout,
    pub(crate) max_calls: usize,
    pub(crate) client: Client,
}

/// What [`ConsulConfig::with_max_calls`] is without being told, and at most.
const MAX_CALLS: usize = 16;
const MOST_CALLS: usize = 10_000;

/// The HTTP client below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Client {
    #[default]
    Reqwest,
    #[cfg(feature = "consulrs")]
    Consulrs,
}

impl Client {
    fn named(name: &str) -> Result<Self> {
        match name {
            "reqwest" => Ok(Self::Reqwest),
            #[cfg(feature = "consulrs")]
            "consulrs" => Ok(Self::Consulrs),
            #[cfg(not(feature = "consulrs"))]
            "consulrs" => Err(invalid("client=consulrs needs the feature \"consulrs\" of kv-consul")),
            _ => Err(invalid("the URL parameter \"client\" is reqwest or consulrs")),
        }
    }
}

impl Default for ConsulConfig {
    /// A configuration that names no host yet.
    fn default() -> Self {
        Self::new([""; 0])
    }
}

impl ConsulConfig {
    /// A store on these agents or servers of one datacenter, each as `host:port`; the port may be left
    /// out. The first is used until it cannot be reached, then the next.
    pub fn new<H: Into<String>>(hosts: impl IntoIterator<Item = H>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            tls: None,
            namespace: Prefix::root(),
            token: None,
            plaintext: Plaintext::default(),
            datacenter: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            session_ttl: Duration::from_secs(15),
            lock_ttl: Duration::from_secs(15),
            lock_delay: Duration::from_secs(15),
            lock_layout: LockLayout::default(),
            max_calls: MAX_CALLS,
            client: Client::default(),
        }
    }

    /// The configuration of a URL `consul://host:8500[,host…]/NAMESPACE?option=value`, or `consul+tls://`
    /// with port 8501 where none is given.
    ///
    /// Options: `token`, `token_file`, `token_env` (the ACL token, the file or the environment variable
    /// that has it), `plaintext_credentials` (`true` sends the token without TLS also to other machines),
    /// `datacenter`, `timeout`, `connect_timeout`, `session_ttl`, `lock_ttl`, `lock_delay`
    /// (times such as `5s`), `lock_layout` (`record` or `key`), `max_calls` (a number), `client` (`reqwest`,
    /// or with the feature of that name `consulrs`); for TLS `ca`, `cert`, `key` (PEM files),
    /// `server_name`, `danger_accept_invalid_certs`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for unknown or half-given options, `InvalidKey` for a bad namespace.
    pub fn from_url(url: &StoreUrl) -> Result<Self> {
        let tls = match url.scheme() {
            "consul" => false,
            "consul+tls" => true,
            other => return Err(invalid(format!("{other:?} is no scheme of Consul"))),
        };
        if url.hosts().is_empty() {
            return Err(invalid("a Consul URL names a host: consul://HOST:8500/NAMESPACE"));
        }
        if url.user().is_some() {
            return Err(invalid("Consul knows no users: give an ACL token with ?token_file= or ?token_env="));
        }
        let mut config = Self::new(url.hosts().iter().map(|host| match host.port {
            Some(port) => host.authority(port),
            None if host.name.contains(':') => format!("[{}]", host.name),
            None => host.name.clone(),
        }));
        config.namespace = url.namespace()?;

        let mut params = url.params();
        config.token = params.secret("token")?;
        config.datacenter = params.text("datacenter")?;
        config.plaintext = Plaintext::take(&mut params)?;
        let more = [TlsParam::ServerName, TlsParam::DangerAcceptInvalidCerts];
        config.tls = TlsOptions::take(&mut params, tls, "consul+tls", &more)?;
        let times = [
            ("timeout", &mut config.timeout),
            ("connect_timeout", &mut config.connect_timeout),
            ("session_ttl", &mut config.session_ttl),
            ("lock_ttl", &mut config.lock_ttl),
        ];
        take_times(&mut params, times)?;
        // Zero means something here, which a time of a URL cannot be.
        match params.text("lock_delay")?.as_deref() {
            None => {}
            Some("0" | "0s") => config.lock_delay = Duration::ZERO,
            Some(text) => {
                let wrong = || invalid("the URL parameter \"lock_delay\" is not a time such as 0s or 15s");
                config.lock_delay = whole_time(text).ok_or_else(wrong)?;
            }
        }
        match params.text("lock_layout")?.as_deref() {
            None => {}
            Some("record") => config.lock_layout = LockLayout::Record,
            Some("key") => config.lock_layout = LockLayout::Key,
            Some(_) => return Err(invalid("the URL parameter \"lock_layout\" is record or key")),
        }
        if let Some(number) = params.text("max_calls")? {
            let wrong = || invalid("the URL parameter \"max_calls\" is a number from 1");
            config.max_calls = number.parse().map_err(|_| wrong())?;
        }
        if let Some(name) = params.text("client")? {
            config.client = Client::named(&name)?;
        }
        params.finish()?;
        config.check()?;
        Ok(config)
    }

    /// The same with every key below this path.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Prefix) -> Self {
        self.namespace = namespace;
        self
    }

    /// The same with this ACL token. It is sent in a header, to the configured hosts only, and without TLS
    /// only to loopback addresses unless
    /// [`with_plaintext_credentials`](Self::with_plaintext_credentials) says otherwise.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// The same, sending the token without TLS also to other machines: anybody on the way can read it.
    #[must_use]
    pub fn with_plaintext_credentials(mut self) -> Self {
        self.plaintext = Plaintext::new(true);
        self
    }

    /// The same on this datacenter; the default is the agent's.
    #[must_use]
    pub fn with_datacenter(mut self, datacenter: impl Into<String>) -> Self {
        self.datacenter = Some(datacenter.into());
        self
    }

    fn tls(&mut self) -> &mut TlsOptions {
        self.tls.get_or_insert_default()
    }

    /// The same over TLS, trusting what the system trusts.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls();
        self
    }

    /// The same over TLS, trusting only these certificates, in PEM.
    #[must_use]
    pub fn with_ca(mut self, pem: impl Into<String>) -> Self {
        self.tls().ca = Some(pem.into());
        self
    }

    /// The same over TLS, showing this certificate and its key, in PEM.
    #[must_use]
    pub fn with_identity(mut self, cert: impl Into<String>, key: Secret) -> Self {
        self.tls().identity = Some((cert.into(), key));
        self
    }

    /// The same over TLS, expecting this name in the server's certificate.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls().server_name = Some(name.into());
        self
    }

    /// The same over TLS without checking whom one talks to: anybody on the way can read and change
    /// everything, the token included. Each store that is opened so logs a warning.
    #[must_use]
    pub fn with_danger_accept_invalid_certs(mut self) -> Self {
        self.tls().danger_accept_invalid_certs = true;
        self
    }

    /// The same with this deadline for calls that name none. The default is 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with this limit for making a connection. The default is 5 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same with this time to live of the handle's session: 10 s to 24 h. The default is 15 s.
    /// Session keys of a process that died go after at most twice as long.
    #[must_use]
    pub fn with_session_ttl(mut self, ttl: Duration) -> Self {
        self.session_ttl = ttl;
        self
    }

    /// The same with this time to live of locks that name none: 10 s to 24 h. The default is 15 s, as in
    /// `consul lock`.
    #[must_use]
    pub fn with_lock_ttl(mut self, ttl: Duration) -> Self {
        self.lock_ttl = ttl;
        self
    }

    /// The same with this time during which nobody gets a lock whose holder was lost (not: released it).
    /// The default is Consul's own, 15 s; it caps it at 60 s.
    #[must_use]
    pub fn with_lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    /// The same with lock records laid out so.
    #[must_use]
    pub fn with_lock_layout(mut self, layout: LockLayout) -> Self {
        self.lock_layout = layout;
        self
    }

    /// The same with at most this many calls under way at once; the default is 16, further ones queue.
    ///
    /// Each takes a connection. Consul cuts an address off at 200 (`http_max_conns_per_client`), and beside
    /// its calls a handle may have 48 for watches, locks and lists.
    #[must_use]
    pub fn with_max_calls(mut self, max_calls: usize) -> Self {
        self.max_calls = max_calls;
        self
    }

    /// How many connections wait for the next call, until they have been idle for a while: fewer than
    /// there are calls at a time would be closed and opened again under load. Of the 200 that one address may
    /// have this takes none: one is opened only where a call finds none that waits.
    fn max_idle(&self) -> usize {
        self.max_calls
    }

    /// Checks what can be checked without I/O.
    pub(crate) fn check(&self) -> Result<()> {
        for host in &self.hosts {
            parse_endpoint(host)?;
        }
        if !(1..=MOST_CALLS).contains(&self.max_calls) {
            return Err(invalid(format!("max_calls is a number from 1 to {MOST_CALLS}")));
        }
        Names::new(&self.namespace, self.lock_layout)
            .map_err(|error| error.with_operation(Operation::Open))?;
        if let Some(tls) = &self.tls {
            tls.check()?;
        }
        for (name, ttl) in [("session_ttl", self.session_ttl), ("lock_ttl", self.lock_ttl)] {
            crate::session::create::TTL
                .check(ttl)
                .map_err(|error| error.with_operation(Operation::Open).with_key(name.to_owned()))?;
        }
        if self.lock_delay > Duration::from_secs(60) {
            return Err(invalid("\"lock_delay\" is at most 60s: Consul cuts it off there"));
        }
        check_times([("timeout", self.timeout), ("connect_timeout", self.connect_timeout)])
    }

    /// How long one host may take to be connected to: a call must be able to try them all.
    fn connect_limit(&self) -> Duration {
        let hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX).max(1);
        self.connect_timeout.min(self.timeout * 9 / 10 / hosts)
    }

    /// What the transports need to know.
    pub(crate) fn connect_options(&self) -> Result<ConnectOptions> {
        Ok(ConnectOptions {
            endpoints: self.endpoints()?,
            tls: self.tls.clone(),
            token: self.token.clone(),
            plaintext: self.plaintext,
            connect_limit: self.connect_limit(),
            max_idle: self.max_idle(),
        })
    }

    /// The times that all parts of a handle go by.
    pub(crate) fn times(&self) -> Times {
        Times {
            timeout: self.timeout,
            session_ttl: self.session_ttl,
            lock_ttl: self.lock_ttl,
            lock_delay: self.lock_delay,
        }
    }

    /// The endpoints: base URL and host.
    fn endpoints(&self) -> Result<Vec<(String, Host)>> {
        let (scheme, port) =
            if self.tls.is_some() { ("https", DEFAULT_TLS_PORT) } else { ("http", DEFAULT_PORT) };
        let endpoint = |host: &String| {
            let host = parse_endpoint(host)?;
            Ok((format!("{scheme}://{}", host.authority(port)), host))
        };
        self.hosts.iter().map(endpoint).collect()
    }
}

/// A time with one unit, zero included: `500ms`, `15s`, `1m`.
fn whole_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<ConsulConfig> {
        ConsulConfig::from_url(&StoreUrl::parse(url)?)
    }

    #[test]
    fn a_url_says_everything() {
        let file = std::env::temp_dir().join(format!("kv-consul-config-{}.pem", std::process::id()));
        let pem = "-----BEGIN CERTIFICATE-----\nx\n-----BEGIN PRIVATE KEY-----\nx";
        std::fs::write(&file, format!("\u{feff}{pem}")).unwrap();
        let shown = file.display();
        let config = config(&format!(
            "consul+tls://a:1,b/app/x?token=canary&datacenter=dc2&timeout=2s&connect_timeout=1s&ca={shown}&cert={shown}\
             &key={shown}&server_name=n&lock_ttl=20s&lock_delay=0s&session_ttl=10s&lock_layout=key&max_calls=7",
        ))
        .unwrap();
        let urls: Vec<_> = config.endpoints().unwrap().into_iter().map(|(url, _)| url).collect();
        assert_eq!(urls, ["https://a:1", "https://b:8501"]);
        assert_eq!(config.namespace.as_str(), "app/x");
        assert_eq!(config.lock_delay, Duration::ZERO);
        assert_eq!(config.lock_layout, LockLayout::Key);
        assert_eq!(config.max_calls, 7);
        assert_eq!((config.session_ttl, config.lock_ttl), (Duration::from_secs(10), Duration::from_secs(20)));
        std::fs::remove_file(&file).unwrap();
        let tls = config.tls.unwrap();
        assert_eq!((tls.ca.as_deref(), tls.server_name.as_deref()), (Some(pem), Some("n")));
        assert!(!format!("{:?}", config.token).contains("canary"));
    }

    #[test]
    fn unknown_and_half_given_options_are_errors() {
        for url in [
            "consul:///app",
            "consul://user@h/app",
            "consul://h/app?nonsense=1",
            "consul://h/app?ca=x",
            "consul://h/app?danger_accept_invalid_certs",
            "consul+tls://h/app?ca=/no/such/file",
            "consul://h/app?lock_layout=other",
            "consul://h/app?max_calls=0",
            "consul://h/app?max_calls=many",
            "consul://h/app?client=other",
            "consul://h/app?lock_delay=soon",
            "consul://h/app?lock_delay=61s",
            "consul://h/app?session_ttl=9s",
            "consul://h/app?lock_ttl=25h",
            "consul://h/app?token=a&token_env=B",
            "consul://h/a/../b",
            "consul://h/app?plaintext_credentials=perhaps",
            "consul://[127.0.0.1:8500]/app",
            "consul+tls://h/app?ca=/dev/null",
            "consul+tls://h/app?cert=/dev/null",
            "etcd://h/app",
        ] {
            assert!(config(url).is_err(), "{url}");
        }
        for host in ["", "h:0", "http://h", "h/path", "a,b", "user@h", "[127.0.0.1:8500]"] {
            assert!(ConsulConfig::new([host]).check().is_err(), "{host}");
        }
    }
}
