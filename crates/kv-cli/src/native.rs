//! The variables of the native tools, for a URL that leaves out the hosts: `etcd://` and `consul://`.

use kv_core::StoreUrl;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::exit::Failure;

/// What stands for itself in every part of a URL; in a user or a password, a slash would end the hosts.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// What stands for itself in a parameter, such as a path.
const PLAIN_PATH: &AsciiSet = &PLAIN.remove(b'/');

/// The parameter that allows a secret without encryption.
const PLAINTEXT: &str = "plaintext_credentials";

/// A URL, completed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) url: String,
    /// The variables it was completed from.
    pub(crate) from: Vec<&'static str>,
    /// Variables that are set, would matter to the native tool, and have no meaning here.
    pub(crate) unused: Vec<&'static str>,
    /// What is sent without encryption, as the native tool would send it.
    pub(crate) in_the_clear: Option<&'static str>,
}

/// What a tool calls things.
struct Tool {
    scheme: &'static str,
    addresses: &'static str,
    /// What only TLS needs, and the parameter it becomes.
    tls: &'static [(&'static str, &'static str)],
    /// Says that TLS is wanted; where there is no such variable, those above say it.
    tls_wanted: Option<&'static str>,
    /// `NAME` or `NAME:PASSWORD`.
    user: Option<&'static str>,
    /// The variable with the secret, and the parameter it becomes.
    secret: (&'static str, &'static str),
    /// The variable that names a file with the secret.
    secret_file: Option<&'static str>,
    /// The variable that names a place to look up the addresses.
    discovery: Option<&'static str>,
    unused: &'static [&'static str],
}

const TOOLS: [Tool; 2] = [
    Tool {
        scheme: "etcd",
        addresses: "ETCDCTL_ENDPOINTS",
        tls: &[("ETCDCTL_CACERT", "ca"), ("ETCDCTL_CERT", "cert"), ("ETCDCTL_KEY", "key")],
        tls_wanted: None,
        user: Some("ETCDCTL_USER"),
        secret: ("ETCDCTL_PASSWORD", "password"),
        secret_file: None,
        discovery: Some("ETCDCTL_DISCOVERY_SRV"),
        unused: &["ETCDCTL_DISCOVERY_SRV", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "ETCDCTL_INSECURE_TRANSPORT"],
    },
    Tool {
        scheme: "consul",
        addresses: "CONSUL_HTTP_ADDR",
        tls: &[
            ("CONSUL_CACERT", "ca"),
            ("CONSUL_CLIENT_CERT", "cert"),
            ("CONSUL_CLIENT_KEY", "key"),
            ("CONSUL_TLS_SERVER_NAME", "server_name"),
        ],
        tls_wanted: Some("CONSUL_HTTP_SSL"),
        user: None,
        secret: ("CONSUL_HTTP_TOKEN", "token"),
        secret_file: Some("CONSUL_HTTP_TOKEN_FILE"),
        discovery: None,
        unused: &["CONSUL_CAPATH", "CONSUL_HTTP_AUTH", "CONSUL_HTTP_SSL_VERIFY", "CONSUL_NAMESPACE"],
    },
];

/// Completes a URL without hosts from the variables `var` looks up; `None` if it names hosts, is of
/// another scheme, or there is nothing to complete it from.
pub(crate) fn complete(
    url: &str,
    var: impl Fn(&str) -> Option<String>,
) -> Result<Option<Completed>, Failure> {
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
    let names_hosts = !(rest.is_empty() || rest.starts_with(['/', '?']));
    let (name, tls) = match scheme.strip_suffix("+tls") {
        Some(name) => (name, true),
        None => (scheme, false),
    };
    let Some(tool) = TOOLS.iter().find(|tool| tool.scheme == name && !names_hosts) else { return Ok(None) };
    let var = |name: &str| var(name).filter(|value| !value.is_empty());
    let Some(addresses) = var(tool.addresses) else {
        return match tool.discovery.filter(|variable| var(variable).is_some()) {
            Some(variable) => Err(unusable(variable, "is set, and kv does not look up servers in DNS")),
            None => Ok(None),
        };
    };

    let (user, parameters, from) = (String::new(), Vec::new(), Vec::new());
    let mut parts = Parts { tool, var, tls, plain: false, secret: false, user, parameters, from };
    let hosts = parts.hosts(&addresses)?;
    // What the URL says counts more.
    let given = StoreUrl::parse(url)?;
    let has = |name: &str| Ok::<_, Failure>(given.params().text(name)?.is_some());
    parts.tls(has)?;
    parts.credentials(has)?;
    let in_the_clear = if parts.secret && !parts.tls { parts.plaintext(&hosts, has)? } else { None };

    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let Parts { tls, user, mut parameters, from, var, .. } = parts;
    parameters.extend(query.split('&').filter(|pair| !pair.is_empty()).map(str::to_owned));
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
    let tls = if tls { "+tls" } else { "" };
    Ok(Some(Completed {
        url: format!("{name}{tls}://{user}{hosts}{path}{query}"),
        from,
        in_the_clear,
        unused: tool.unused.iter().copied().filter(|variable| var(variable).is_some()).collect(),
    }))
}

/// The parts of a URL, as they come together.
struct Parts<V> {
    tool: &'static Tool,
    var: V,
    tls: bool,
    /// The addresses are those of servers without TLS.
    plain: bool,
    /// A password or token goes along.
    secret: bool,
    /// With its `@`.
    user: String,
    parameters: Vec<String>,
    from: Vec<&'static str>,
}

impl<V: Fn(&str) -> Option<String>> Parts<V> {
    /// The value of a variable, which is then one of those the URL is from.
    fn take(&mut self, variable: &'static str) -> Option<String> {
        let value = (self.var)(variable)?;
        self.from.push(variable);
        Some(value)
    }

    fn hosts(&mut self, addresses: &str) -> Result<String, Failure> {
        let variable = self.tool.addresses;
        self.from.push(variable);
        let (mut hosts, mut secure) = (Vec::new(), Vec::new());
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let host = match address.split_once("://") {
                Some(("http", host)) => {
                    secure.push(false);
                    host
                }
                Some(("https", host)) => {
                    secure.push(true);
                    host
                }
                Some(_) => return Err(unusable(variable, "has an address that is neither http nor https")),
                None => address,
            };
            let host = host.trim_end_matches('/');
            if host.contains(['/', '?', '@']) {
                return Err(unusable(variable, "has an address that is more than HOST:PORT"));
            }
            hosts.push(host);
        }
        match (secure.contains(&true), secure.contains(&false)) {
            (true, true) => return Err(unusable(variable, "has addresses with http and with https")),
            (true, false) => self.tls = true,
            // As etcdctl sees it, whatever certificates there are for other servers. A tool that has a
            // variable which asks for TLS goes by that.
            (false, true) => self.plain = !self.tls && self.tool.tls_wanted.is_none(),
            (false, false) => {}
        }
        Ok(hosts.join(","))
    }

    fn tls(&mut self, has: impl Fn(&str) -> Result<bool, Failure>) -> Result<(), Failure> {
        if let Some(wanted) = self.tool.tls_wanted.and_then(|variable| self.take(variable)) {
            self.tls |= matches!(wanted.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True");
        }
        if self.plain || self.tool.tls_wanted.is_some() && !self.tls {
            return Ok(());
        }
        for (variable, parameter) in self.tool.tls {
            if has(parameter)? {
                continue;
            }
            if let Some(value) = self.take(variable) {
                self.parameters.push(format!("{parameter}={}", encoded_path(&value)));
                self.tls = true;
            }
        }
        Ok(())
    }

    /// What goes to these hosts without encryption. Address and secret are the native tool's, which would
    /// send it: so does `kv`, unless the URL has a say in it.
    fn plaintext(
        &mut self,
        hosts: &str,
        has: impl Fn(&str) -> Result<bool, Failure>,
    ) -> Result<Option<&'static str>, Failure> {
        if has(PLAINTEXT)? || hosts.split(',').all(is_loopback) {
            return Ok(None);
        }
        self.parameters.push(format!("{PLAINTEXT}=true"));
        Ok(Some(self.tool.secret.1))
    }

    fn credentials(&mut self, has: impl Fn(&str) -> Result<bool, Failure>) -> Result<(), Failure> {
        let (variable, parameter) = self.tool.secret;
        let mut given =
            has(parameter)? || has(&format!("{parameter}_file"))? || has(&format!("{parameter}_env"))?;
        if let Some(user) = self.tool.user.and_then(|variable| self.take(variable)) {
            self.user = match user.split_once(':') {
                Some((name, password)) if !given => {
                    given = true;
                    format!("{}:{}@", encoded(name), encoded(password))
                }
                Some((name, _)) => format!("{}@", encoded(name)),
                None => format!("{}@", encoded(&user)),
            };
        }
        self.secret = given;
        if given {
            return Ok(());
        }
        if let Some(file) = self.tool.secret_file.and_then(|variable| self.take(variable)) {
            self.parameters.push(format!("{parameter}_file={}", encoded_path(&file)));
            self.secret = true;
        } else if self.take(variable).is_some() {
            self.secret = true;
            // Named and not copied: a URL is shown more easily than a variable.
            self.parameters.push(format!("{parameter}_env={variable}"));
        }
        Ok(())
    }
}

/// Whether an address is one of this machine.
fn is_loopback(host: &str) -> bool {
    let name = host
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map_or_else(|| host.split(':').next().unwrap_or_default(), |(name, _)| name);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

fn encoded_path(text: &str) -> String {
    utf8_percent_encode(text, PLAIN_PATH).to_string()
}

fn unusable(variable: &str, why: &str) -> Failure {
    Failure::Usage(format!("{variable} {why}; name the store with --store"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(url: &str, variables: &[(&str, &str)]) -> Option<Completed> {
        let var = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        complete(url, var).unwrap()
    }

    fn url(url: &str, variables: &[(&str, &str)]) -> String {
        completed(url, variables).unwrap().url
    }

    #[test]
    fn a_url_with_hosts_takes_nothing_from_the_environment() {
        let variables = [("ETCDCTL_ENDPOINTS", "h:1"), ("CONSUL_HTTP_ADDR", "h:1")];
        for given in
            ["etcd://other:1/ns", "consul://other", "zk://", "sled:path", "mem:", "etcd:", "etcd+x://"]
        {
            assert_eq!(completed(given, &variables), None, "{given}");
        }
        assert_eq!(completed("etcd://", &[]), None);
        assert_eq!(completed("etcd://", &[("ETCDCTL_ENDPOINTS", "")]), None);
    }

    #[test]
    fn etcdctl_variables() {
        let variables = [
            ("ETCDCTL_ENDPOINTS", "https://h1:2379, https://h2:2379/"),
            ("ETCDCTL_CACERT", "/etc/my ca.pem"),
            ("ETCDCTL_USER", "ro@ot"),
            ("ETCDCTL_PASSWORD", "hush"),
            ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true"),
        ];
        let done = completed("etcd:///ns?timeout=3s", &variables).unwrap();
        assert_eq!(
            done.url,
            "etcd+tls://ro%40ot@h1:2379,h2:2379/ns?ca=/etc/my%20ca.pem&password_env=ETCDCTL_PASSWORD&timeout=3s"
        );
        assert_eq!(done.from, ["ETCDCTL_ENDPOINTS", "ETCDCTL_CACERT", "ETCDCTL_USER", "ETCDCTL_PASSWORD"]);
        assert_eq!(done.unused, ["ETCDCTL_INSECURE_SKIP_TLS_VERIFY"]);
        StoreUrl::parse(&done.url).unwrap();

        let both = [
            ("ETCDCTL_ENDPOINTS", "localhost"),
            ("ETCDCTL_USER", "root:hu:sh"),
            ("ETCDCTL_PASSWORD", "other"),
        ];
        assert_eq!(url("etcd://", &both), "etcd://root:hu%3Ash@localhost");
        let shown = StoreUrl::parse(&url("etcd://", &both)).unwrap().to_string();
        assert_eq!(shown, "etcd://root:***@localhost");
    }

    #[test]
    fn consul_variables() {
        let variables = [
            ("CONSUL_HTTP_ADDR", "127.0.0.1:8501"),
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_HTTP_TOKEN", "hush"),
            ("CONSUL_CLIENT_CERT", "c.pem"),
            ("CONSUL_CLIENT_KEY", "k.pem"),
        ];
        assert_eq!(
            url("consul://", &variables),
            "consul+tls://127.0.0.1:8501?cert=c.pem&key=k.pem&token_env=CONSUL_HTTP_TOKEN"
        );
        let file = [("CONSUL_HTTP_ADDR", "h"), ("CONSUL_HTTP_TOKEN_FILE", "f"), ("CONSUL_HTTP_TOKEN", "t")];
        assert_eq!(url("consul:///ns", &file), "consul://h/ns?token_file=f&plaintext_credentials=true");
        // As with consul itself, certificates alone do not ask for TLS.
        let plain = [("CONSUL_HTTP_ADDR", "h"), ("CONSUL_CACERT", "ca.pem")];
        assert_eq!(url("consul://", &plain), "consul://h");
        assert_eq!(url("consul+tls://", &plain), "consul+tls://h?ca=ca.pem");
    }

    #[test]
    fn the_url_counts_more() {
        let variables =
            [("CONSUL_HTTP_ADDR", "https://h"), ("CONSUL_CACERT", "theirs"), ("CONSUL_HTTP_TOKEN", "t")];
        assert_eq!(url("consul://?ca=mine&token_file=f", &variables), "consul+tls://h?ca=mine&token_file=f");
        let variables = [("ETCDCTL_ENDPOINTS", "[::1]:2"), ("ETCDCTL_USER", "root:theirs")];
        assert_eq!(url("etcd://?password_env=MINE", &variables), "etcd://root@[::1]:2?password_env=MINE");
    }

    #[test]
    fn what_means_something_in_a_url_is_encoded() {
        for secret in ["22/hunter2", "a?b", "a&b=c", "a@b", "a#b", "a%20b", "a:b", "ü"] {
            let user = format!("u/2?:{secret}");
            let given = [("ETCDCTL_ENDPOINTS", "127.0.0.1:1"), ("ETCDCTL_USER", user.as_str())];
            let url = StoreUrl::parse(&url("etcd:///ns", &given)).unwrap();
            assert_eq!(url.user(), Some("u/2?"), "{secret}");
            assert_eq!(
                (url.hosts().len(), url.hosts()[0].name.as_str(), url.path()),
                (1, "127.0.0.1", "/ns")
            );
            let password = url.params().secret("password").unwrap().unwrap();
            assert_eq!(password.expose(), secret);
            assert_eq!(url.to_string(), "etcd://u/2?:***@127.0.0.1:1/ns");
        }
    }

    #[test]
    fn an_address_without_tls_stays_without() {
        let plain = [("ETCDCTL_ENDPOINTS", "http://h:1"), ("ETCDCTL_CACERT", "ca.pem")];
        let done = completed("etcd://", &plain).unwrap();
        assert_eq!((done.url.as_str(), &done.from[..]), ("etcd://h:1", &["ETCDCTL_ENDPOINTS"][..]));
        let bare = [("ETCDCTL_ENDPOINTS", "h:1"), ("ETCDCTL_CACERT", "ca.pem")];
        assert_eq!(url("etcd://", &bare), "etcd+tls://h:1?ca=ca.pem");
        // A URL that asks for TLS gets it.
        assert_eq!(url("etcd+tls://", &plain), "etcd+tls://h:1?ca=ca.pem");
        let consul = [("CONSUL_HTTP_ADDR", "http://h"), ("CONSUL_HTTP_SSL", "true")];
        assert_eq!(url("consul://", &consul), "consul+tls://h");
    }

    #[test]
    fn a_secret_without_encryption_is_told_and_sent_as_the_native_tool_would() {
        let told = |given: &str, address: &str| {
            let variables = [("ETCDCTL_ENDPOINTS", address), ("ETCDCTL_USER", "root:hush")];
            let done = completed(given, &variables).unwrap();
            (done.url, done.in_the_clear)
        };
        let (sent, word) = told("etcd://", "127.0.0.1:1,h:1");
        assert_eq!(sent, "etcd://root:hush@127.0.0.1:1,h:1?plaintext_credentials=true");
        assert_eq!(word, Some("password"));
        // What stays on this machine, is encrypted, or is decided by the URL, is nothing to talk about.
        assert_eq!(told("etcd://", "127.0.0.1:1,localhost,[::1]:7").1, None);
        assert_eq!(told("etcd://", "https://h:1").1, None);
        let (decided, word) = told("etcd://?plaintext_credentials=false", "h:1");
        assert_eq!((decided.as_str(), word), ("etcd://root:hush@h:1?plaintext_credentials=false", None));
        let bare = completed("etcd://", &[("ETCDCTL_ENDPOINTS", "h:1")]).unwrap();
        assert_eq!((bare.url.as_str(), bare.in_the_clear), ("etcd://h:1", None));
        let token = [("CONSUL_HTTP_ADDR", "h"), ("CONSUL_HTTP_TOKEN", "hush")];
        assert_eq!(completed("consul://", &token).unwrap().in_the_clear, Some("token"));
    }

    #[test]
    fn servers_that_would_have_to_be_looked_up() {
        let failed =
            complete("etcd://", |name| (name == "ETCDCTL_DISCOVERY_SRV").then(|| "example.org".into()));
        let failed = failed.unwrap_err();
        assert_eq!(failed.code(), crate::exit::USAGE);
        assert!(failed.to_string().contains("ETCDCTL_DISCOVERY_SRV"), "{failed}");
        let both = [("ETCDCTL_ENDPOINTS", "h"), ("ETCDCTL_DISCOVERY_SRV", "example.org")];
        assert_eq!(completed("etcd://", &both).unwrap().unused, ["ETCDCTL_DISCOVERY_SRV"]);
    }

    #[test]
    fn addresses_kv_cannot_use() {
        for address in ["unix:///run/consul.sock", "http://h:8500/prefix", "user@h", "http://a,https://b"] {
            let failed =
                complete("consul://", |name| (name == "CONSUL_HTTP_ADDR").then(|| address.to_owned()));
            assert_eq!(failed.unwrap_err().code(), crate::exit::USAGE, "{address}");
        }
    }
}
