//! Store URLs: `scheme://[user[:password]@]host[:port][,host…]/namespace?option=value`, or `scheme:path`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Operation, Result};
use crate::key::Prefix;
use crate::secret::Secret;

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

/// Where a store is and how to open it. Neither `Debug` nor `Display` shows a secret.
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
    /// `InvalidConfig`, without repeating what could be a secret.
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
        Params { params: self.params.clone(), password: self.password.clone() }
    }
}

/// Text as the namespace of a store.
fn namespace(text: &str) -> Result<Prefix> {
    let prefix = Prefix::new(text).map_err(|error| error.with_operation(Operation::Open))?;
    prefix.check_namespace().map_err(|error| error.with_operation(Operation::Open))?;
    Ok(prefix)
}

impl FromStr for StoreUrl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if self.authority {
            f.write_str("//")?;
            if let Some(user) = &self.user {
                f.write_str(user)?;
                if self.password.is_some() {
                    f.write_str(":***")?;
                }
                f.write_str("@")?;
            }
            for (at, host) in self.hosts.iter().enumerate() {
                if at > 0 {
                    f.write_str(",")?;
                }
                match (host.port, host.name.contains(':')) {
                    (Some(port), _) => f.write_str(&host.authority(port))?,
                    (None, true) => write!(f, "[{}]", host.name)?,
                    (None, false) => f.write_str(&host.name)?,
                }
            }
        }
        f.write_str(&self.path)?;
        for (at, (name, value)) in self.params.iter().enumerate() {
            let value = if is_secret(name) { "***" } else { value };
            write!(f, "{}{name}={value}", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// Whether a parameter of this name holds a secret itself, not where to find one.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let about_one = ["password", "passwd", "token", "secret"].iter().any(|word| name.contains(word));
    about_one && !name.ends_with("_file") && !name.ends_with("_env")
}

/// The parameters of a URL. A driver takes the ones it knows and then calls [`finish`](Self::finish),
/// so that nothing is ignored.
#[derive(Clone)]
pub struct Params {
    params: Vec<(String, String)>,
    password: Option<Secret>,
}

impl Params {
    /// Takes the parameter `name`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if it was given twice.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        let mut found = None;
        while let Some(at) = self.params.iter().position(|(given, _)| given == name) {
            if found.replace(self.params.remove(at).1).is_some() {
                return Err(bad(name, "is given twice"));
            }
        }
        Ok(found)
    }

    /// Takes the parameter `name` as whatever can be parsed from text.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if it cannot be parsed, or was given twice.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Result<Option<T>> {
        self.text(name)?
            .map(|text| text.parse().map_err(|error| bad(name, &format!("is wrong: {error}"))))
            .transpose()
    }

    /// Takes the parameter `name` as `true` or `false`; a bare name is `true`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for anything else.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.text(name)?
            .map(|text| match text.as_str() {
                "" | "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(bad(name, "must be true or false")),
            })
            .transpose()
    }

    /// Takes the parameter `name` as a time above zero, such as `5s` or `1m30s`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for anything else.
    pub fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        self.text(name)?
            .map(|text| match humantime::parse_duration(&text) {
                Ok(duration) if !duration.is_zero() => Ok(duration),
                Ok(_) => Err(bad(name, "must be more than zero")),
                Err(error) => Err(bad(name, &format!("is not a time such as 5s or 1m30s: {error}"))),
            })
            .transpose()
    }

    /// Takes the parameter `name` as a namespace, for URLs whose path is something else.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if it breaks the rules for keys or is too long.
    pub fn namespace(&mut self, name: &str) -> Result<Prefix> {
        namespace(&self.text(name)?.unwrap_or_default())
    }

    /// Takes a secret: the parameter `name` itself, the file `name_file` names (a line end is cut
    /// off), or the environment variable `name_env` names. `password` may also stand before the
    /// hosts.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if it is given in more than one way, or the file or variable cannot be read.
    pub fn secret(&mut self, name: &str) -> Result<Option<Secret>> {
        let in_authority = if name == "password" { self.password.take() } else { None };
        let direct = self.text(name)?.map(Secret::new);
        let from_file = self.text(&format!("{name}_file"))?;
        let from_env = self.text(&format!("{name}_env"))?;
        let given = usize::from(in_authority.is_some())
            + usize::from(direct.is_some())
            + usize::from(from_file.is_some())
            + usize::from(from_env.is_some());
        if given > 1 {
            return Err(bad(name, "is given in more than one way"));
        }
        if let Some(path) = from_file {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                bad(&format!("{name}_file"), &format!("cannot be read: {path}")).with_source(error)
            })?;
            let text = text.strip_suffix('\n').unwrap_or(&text);
            return Ok(Some(Secret::new(text.strip_suffix('\r').unwrap_or(text))));
        }
        if let Some(variable) = from_env {
            let text = std::env::var(&variable).map_err(|_| {
                bad(
                    &format!("{name}_env"),
                    &format!("names the variable {variable}, which is not set to text"),
                )
            })?;
            return Ok(Some(Secret::new(text)));
        }
        Ok(in_authority.or(direct))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`, naming a parameter nobody took, or a password nobody asked for.
    pub fn finish(self) -> Result<()> {
        if let Some((name, _)) = self.params.first() {
            return Err(bad(name, "is not known to this store"));
        }
        if self.password.is_some() {
            return Err(bad("password", "is not known to this store"));
        }
        Ok(())
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.params.iter().map(|(name, _)| name)).finish()
    }
}

fn bad(name: &str, what: &str) -> Error {
    Error::invalid_config(format!("the URL parameter {name:?} {what}")).with_operation(Operation::Open)
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
