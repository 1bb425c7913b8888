//! Store URLs: `scheme://[user[:password]@]host[:port][,host…]/namespace?option=value`, or `scheme:path`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Operation, Result};
use crate::key::Prefix;
use crate::params::{Params, namespace};
use crate::secret::Secret;
use crate::text::escape;

/// One host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Host {
    /// Name or address; an IPv6 address without its brackets.
    pub name: String,
    /// The port, if one was given.
    pub port: Option<u16>,
}

impl Host {
    /// A host; an IPv6 address without its brackets.
    #[must_use]
    pub fn new(name: impl Into<String>, port: Option<u16>) -> Self {
        Self { name: name.into(), port }
    }

    /// `host:port`, with brackets where the host is an IPv6 address.
    #[must_use]
    pub fn authority(&self, default_port: u16) -> String {
        let port = self.port.unwrap_or(default_port);
        if self.name.contains(':') {
            format!("[{}]:{port}", self.name)
        } else {
            format!("{}:{port}", self.name)
        }
    }
}

/// Where a store is and how to open it. Neither `Debug` nor `Display` shows what can be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    scheme: String,
    user: Option<String>,
    password: Option<Secret>,
    hosts: Vec<Host>,
    /// `None` where there were no `//`: the rest is one opaque path.
    authority: bool,
    path: String,
    params: Vec<(String, String)>,
}

impl StoreUrl {
    /// Takes a URL apart. Percent-escapes are decoded everywhere but in hosts.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`, without repeating what could be a secret. An unescaped `@` behind the hosts is
    /// refused: before it there may be a password whose `/` or `?` was not escaped, which would be taken
    /// for a host, a namespace or an option.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason: &str| Error::invalid_config(reason).with_operation(Operation::Open);
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            invalid("a store URL begins with a scheme, such as sled:PATH or etcd://HOST:2379/NAMESPACE")
        })?;
        let well_formed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        if !well_formed {
            return Err(invalid("a URL scheme is letters, digits, + - and ."));
        }
        let slashes = rest.strip_prefix("//");
        if slashes.is_some_and(|rest| rest.find(['/', '?']).is_some_and(|end| rest[end..].contains('@'))) {
            return Err(invalid(
                "an @ stands behind the hosts of the URL: in a user name or password write / as %2F, ? as %3F \
                 and @ as %40, and in a namespace or an option write @ as %40",
            ));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            user: None,
            password: None,
            hosts: Vec::new(),
            authority: false,
            path: String::new(),
            params: Vec::new(),
        };
        if let Some(rest) = rest.strip_prefix("//") {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            url.authority = true;
            url.path = decode(path)?;
            url.parse_authority(authority)?;
        } else {
            url.path = decode(rest)?;
        }
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            url.params.push((decode(name)?, decode(value)?));
        }
        Ok(url)
    }

    fn parse_authority(&mut self, authority: &str) -> Result<()> {
        let hosts = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => {
                let (user, password) = user_info
                    .split_once(':')
                    .map_or((user_info, None), |(user, password)| (user, Some(password)));
                self.user = Some(decode(user)?);
                self.password = password.map(decode).transpose()?.map(Secret::new);
                hosts
            }
            None => authority,
        };
        if !hosts.is_empty() {
            self.hosts = hosts.split(',').map(parse_host).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// The scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user named before the hosts.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The hosts, in the order given; empty for `scheme:path` and `scheme:///path`.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Whether the URL has the form `scheme://…`.
    #[must_use]
    pub fn has_authority(&self) -> bool {
        self.authority
    }

    /// The path, decoded: of `scheme:path` all of it, of `scheme://host/path` with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path as the namespace every key of the store lies below.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if it breaks the rules for keys or is too long.
    pub fn namespace(&self) -> Result<Prefix> {
        namespace(&self.path)
    }

    /// The parameters, to be taken one by one.
    #[must_use]
    pub fn params(&self) -> Params {
        Params::new(&self.scheme, &self.params, self.password.clone())
    }
}

impl FromStr for StoreUrl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Shows where the store is. What can be a secret is `***`: passwords, a user without one (it can be a
/// token), and what stands before an `@` in a URL without `//`. Options are shown as `?…`, because in a
/// mistyped URL the rest of a password looks like one.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if self.authority {
            f.write_str("//")?;
            let elsewhere = self.params.iter().any(|(name, _)| name.starts_with("password"));
            match (&self.user, &self.password) {
                (Some(user), Some(_)) => write!(f, "{}:***@", escape(user))?,
                (Some(user), None) if elsewhere => write!(f, "{}@", escape(user))?,
                (Some(_), None) => f.write_str("***@")?,
                (None, _) => {}
            }
            for (at, host) in self.hosts.iter().enumerate() {
                if at > 0 {
                    f.write_str(",")?;
                }
                match (host.port, host.name.contains(':')) {
                    (Some(port), _) => f.write_str(&escape(&host.authority(port)))?,
                    (None, true) => write!(f, "[{}]", host.name)?,
                    (None, false) => f.write_str(&escape(&host.name))?,
                }
            }
        }
        match self.path.rsplit_once('@') {
            _ if self.authority => f.write_str(&escape(&self.path))?,
            // All of the path stands before it.
            _ if self.params.iter().any(|(name, value)| name.contains('@') || value.contains('@')) => {
                f.write_str("***")?;
            }
            Some((_, behind)) => write!(f, "***@{}", escape(behind))?,
            None => f.write_str(&escape(&self.path))?,
        }
        if !self.params.is_empty() {
            f.write_str("?…")?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

fn decode(text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::invalid_config("the URL's percent-escapes do not decode to UTF-8")
            .with_operation(Operation::Open)),
    }
}

fn parse_host(text: &str) -> Result<Host> {
    // The text is not repeated: with a misplaced `@` or `,` it can be half a password.
    let bad_host = |reason: &str| Error::invalid_config(reason.to_owned()).with_operation(Operation::Open);
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (name, after) =
            rest.split_once(']').ok_or_else(|| bad_host("an IPv6 host lacks its closing bracket"))?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err(bad_host("only :PORT may follow an IPv6 host")),
        };
        if name.parse::<Ipv6Addr>().is_err() {
            return Err(bad_host(
                "brackets are for IPv6 addresses, as in [::1]:2379: write other hosts without",
            ));
        }
        (name, port)
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(bad_host("an IPv6 host stands in brackets: [::1]:2379"));
            }
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '%' || c == '@') {
        return Err(bad_host("a host name is empty or has characters a host name cannot have"));
    }
    let port = port
        .map(|port| port.parse::<u16>().ok().filter(|port| *port > 0))
        .map(|port| port.ok_or_else(|| bad_host("a port is a number from 1 to 65535")))
        .transpose()?;
    Ok(Host { name: name.to_owned(), port })
}
