//! The variables of the native tools, for a URL that leaves out the hosts: `etcd://` and `consul://`.

use kv_core::StoreUrl;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::exit::Failure;

/// What stands for itself in every part of a URL.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/');

/// A URL, completed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) url: String,
    /// The variables it was completed from.
    pub(crate) from: Vec<&'static str>,
    /// Variables that are set, would matter to the native tool, and have no meaning here.
    pub(crate) unused: Vec<&'static str>,
}

/// What a tool calls things.
struct Tool {
    scheme: &'static str,
    addresses: &'static str,
    /// Variables that become a parameter as they are; none is a secret.
    plain: &'static [(&'static str, &'static str)],
    /// A variable with a secret, which the URL only names.
    secrets: &'static [(&'static str, &'static str)],
    /// `NAME` or `NAME:PASSWORD`.
    user: Option<&'static str>,
    /// Says `true` or `1` for TLS.
    tls: Option<&'static str>,
    unused: &'static [&'static str],
}

const TOOLS: [Tool; 2] = [
    Tool {
        scheme: "etcd",
        addresses: "ETCDCTL_ENDPOINTS",
        plain: &[("ETCDCTL_CACERT", "ca"), ("ETCDCTL_CERT", "cert"), ("ETCDCTL_KEY", "key")],
        secrets: &[("ETCDCTL_PASSWORD", "password_env")],
        user: Some("ETCDCTL_USER"),
        tls: None,
        unused: &["ETCDCTL_DISCOVERY_SRV", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "ETCDCTL_INSECURE_TRANSPORT"],
    },
    Tool {
        scheme: "consul",
        addresses: "CONSUL_HTTP_ADDR",
        plain: &[
            ("CONSUL_CACERT", "ca"),
            ("CONSUL_CLIENT_CERT", "cert"),
            ("CONSUL_CLIENT_KEY", "key"),
            ("CONSUL_TLS_SERVER_NAME", "server_name"),
            ("CONSUL_HTTP_TOKEN_FILE", "token_file"),
        ],
        secrets: &[("CONSUL_HTTP_TOKEN", "token_env")],
        user: None,
        tls: Some("CONSUL_HTTP_SSL"),
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
    if !(rest.is_empty() || rest.starts_with(['/', '?'])) {
        return Ok(None);
    }
    let (name, mut tls) = match scheme.split_once('+') {
        Some((name, "tls")) => (name, true),
        Some(_) => return Ok(None),
        None => (scheme, false),
    };
    let set = |name: &'static str| var(name).filter(|value| !value.is_empty());
    let Some(tool) = TOOLS.iter().find(|tool| tool.scheme == name) else { return Ok(None) };
    let Some(addresses) = set(tool.addresses) else { return Ok(None) };
    let mut from = vec![tool.addresses];

    let mut hosts = Vec::new();
    for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
        let (secure, host) = match address.split_once("://") {
            Some(("http", host)) => (false, host),
            Some(("https", host)) => (true, host),
            Some(_) => return Err(unusable(tool.addresses, "has an address that is neither http nor https")),
            None => (false, address),
        };
        let host = host.trim_end_matches('/');
        if host.contains(['/', '?', '@']) {
            return Err(unusable(tool.addresses, "has an address that is more than HOST:PORT"));
        }
        tls |= secure;
        hosts.push(host);
    }
    if let Some((variable, value)) = tool.tls.and_then(|variable| Some((variable, set(variable)?))) {
        tls |= matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True");
        from.push(variable);
    }

    // What the URL says counts more.
    let given = StoreUrl::parse(url)?;
    let has = |parameter: &str| given.params().text(parameter).map(|value| value.is_some());
    let mut parameters = Vec::new();
    for (variable, parameter) in tool.plain {
        if let (false, Some(value)) = (has(parameter)?, set(variable)) {
            parameters.push(format!("{parameter}={}", encoded(&value)));
            tls |= *parameter == "ca" || *parameter == "cert";
            from.push(variable);
        }
    }
    let mut user = String::new();
    let mut password_given = false;
    if let Some((variable, value)) = tool.user.and_then(|variable| Some((variable, set(variable)?))) {
        let (name, password) =
            value.split_once(':').map_or((value.as_str(), None), |(name, password)| (name, Some(password)));
        user = match password {
            Some(password) => format!("{}:{}@", encoded(name), encoded(password)),
            None => format!("{}@", encoded(name)),
        };
        password_given = password.is_some();
        from.push(variable);
    }
    for (variable, parameter) in tool.secrets {
        let base = parameter.trim_end_matches("_env");
        let mut taken = password_given;
        for form in [base.to_owned(), format!("{base}_file"), format!("{base}_env")] {
            taken |= has(&form)? || parameters.iter().any(|set| set.starts_with(&format!("{form}=")));
        }
        if !taken && set(variable).is_some() {
            parameters.push(format!("{parameter}={variable}"));
            from.push(variable);
        }
    }

    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    parameters.extend(query.split('&').filter(|pair| !pair.is_empty()).map(str::to_owned));
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
    let tls = if tls { "+tls" } else { "" };
    Ok(Some(Completed {
        url: format!("{name}{tls}://{user}{}{path}{query}", hosts.join(",")),
        from,
        unused: tool.unused.iter().copied().filter(|variable| set(variable).is_some()).collect(),
    }))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
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

        let both =
            [("ETCDCTL_ENDPOINTS", "h"), ("ETCDCTL_USER", "root:hu:sh"), ("ETCDCTL_PASSWORD", "other")];
        assert_eq!(url("etcd://", &both), "etcd://root:hu%3Ash@h");
        let shown = StoreUrl::parse(&url("etcd://", &both)).unwrap().to_string();
        assert_eq!(shown, "etcd://root:***@h");
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
        assert_eq!(url("consul:///ns", &file), "consul://h/ns?token_file=f");
    }

    #[test]
    fn the_url_counts_more() {
        let variables = [("CONSUL_HTTP_ADDR", "h"), ("CONSUL_CACERT", "theirs"), ("CONSUL_HTTP_TOKEN", "t")];
        assert_eq!(url("consul://?ca=mine&token_file=f", &variables), "consul://h?ca=mine&token_file=f");
    }

    #[test]
    fn addresses_kv_cannot_use() {
        for address in ["unix:///run/consul.sock", "http://h:8500/prefix", "user@h"] {
            let failed =
                complete("consul://", |name| (name == "CONSUL_HTTP_ADDR").then(|| address.to_owned()));
            assert_eq!(failed.unwrap_err().code(), crate::exit::USAGE, "{address}");
        }
    }
}
