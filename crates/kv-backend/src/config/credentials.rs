//! Who a handle is to the servers, and over which connections it may say so.

use std::net::IpAddr;

use kv_core::implement::Params;
use kv_core::{Error, Operation, Result, Secret, StoreUrl};

use super::refused;

/// The user a URL names, with the password that belongs to it.
///
/// # Errors
///
/// `InvalidConfig` if one is given without the other, or the password cannot be read.
pub fn user_and_password(url: &StoreUrl, params: &mut Params) -> Result<Option<(String, Secret)>> {
    match (url.user(), params.secret("password")?) {
        (Some(user), Some(password)) => Ok(Some((user.to_owned(), password))),
        (Some(_), None) => {
            Err(refused("the URL names a user and no password: add password_file= or password_env="))
        }
        (None, Some(_)) => {
            let scheme = url.scheme();
            Err(refused(format!("the URL has a password and no user: write {scheme}://USER@HOST")))
        }
        (None, None) => Ok(None),
    }
}

/// Whether credentials may travel over a connection without TLS, where anybody on the way reads them.
///
/// The default refuses that for every address but loopback ones. Ask at each dial, with the addresses
/// the name stands for at that moment, and connect to these addresses and no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plaintext {
    allowed: bool,
}

impl Plaintext {
    /// The URL parameter that allows it.
    pub const PARAM: &'static str = "plaintext_credentials";

    /// The rule as the configuration has it: `true` allows every address.
    #[must_use]
    pub const fn new(allowed: bool) -> Self {
        Self { allowed }
    }

    /// Takes the rule from the URL parameter `plaintext_credentials`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a value that is neither `true` nor `false`.
    pub fn take(params: &mut Params) -> Result<Self> {
        Ok(Self::new(params.flag(Self::PARAM)?.unwrap_or_default()))
    }

    /// Refuses to send credentials in the clear to `endpoint`, which was resolved to `addresses`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`, naming the endpoint and the option; nothing was sent.
    pub fn check(self, endpoint: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        let mut addresses = addresses.into_iter().peekable();
        // A name that stands for nothing is not known to be this machine.
        let local =
            addresses.peek().is_some() && addresses.all(|address| address.to_canonical().is_loopback());
        if self.allowed || local {
            return Ok(());
        }
        Err(Error::invalid_config(format!(
            "without TLS the credentials would travel in the clear: use TLS, or say {}=true if everybody \
             on the way may read them",
            Self::PARAM
        ))
        .with_operation(Operation::Open)
        .with_endpoint(endpoint)
        .not_applied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: Plaintext, addresses: &[&str]) -> Result<()> {
        rule.check("h:2379", addresses.iter().map(|address| address.parse().unwrap()))
    }

    #[test]
    fn only_loopback_addresses_get_credentials_in_the_clear() {
        let rule = Plaintext::default();
        for local in [&["127.0.0.1"][..], &["127.8.8.8", "::1"], &["::ffff:127.0.0.1"]] {
            check(rule, local).unwrap();
        }
        // One address that is not local is enough: the next dial may take it.
        for foreign in [&["10.0.0.1"][..], &["127.0.0.1", "192.168.0.1"], &["::ffff:10.0.0.1"], &["::"], &[]]
        {
            let text = check(rule, foreign).unwrap_err().to_string();
            assert!(text.contains("h:2379") && text.contains("plaintext_credentials=true"), "{text}");
            check(Plaintext::new(true), foreign).unwrap();
        }
    }

    #[test]
    fn a_user_and_a_password_go_together() {
        let taken = |url: &str| {
            let url = StoreUrl::parse(url).unwrap();
            user_and_password(&url, &mut url.params())
        };
        assert_eq!(taken("etcd://u:p@h").unwrap(), Some(("u".to_owned(), Secret::new("p"))));
        assert_eq!(taken("etcd://h").unwrap(), None);
        assert!(taken("etcd://u@h").unwrap_err().to_string().contains("password_file="));
        assert!(taken("zk://h?password=x").unwrap_err().to_string().contains("zk://USER@HOST"));
    }
}
