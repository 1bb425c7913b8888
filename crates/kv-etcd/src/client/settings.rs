//! How a client reaches its cluster.

use std::net::IpAddr;
use std::time::Duration;

use kv_backend::{Plaintext, TlsOptions, parse_endpoint};
use kv_core::{Error, Operation, Result, Secret};

use super::error::BACKEND;

pub(crate) const DEFAULT_PORT: u16 = 2379;

/// See the module.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Each as `host:port`; the port may be left out.
    pub(crate) hosts: Vec<String>,
    pub(crate) user: Option<(String, Secret)>,
    /// Where the password may go where there is no TLS.
    pub(crate) plaintext: Plaintext,
    pub(crate) tls: Option<TlsOptions>,
    /// For all hosts together.
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive: Duration,
}

impl Settings {
    /// The same on other members.
    pub(crate) fn with_hosts(mut self, hosts: &[String]) -> Self {
        self.hosts = hosts.to_vec();
        self
    }

    /// Refuses hosts that cannot work or may not be sent the password, as far as that is known without
    /// asking anybody.
    pub(crate) fn check(&self) -> Result<()> {
        if self.hosts.is_empty() {
            return Err(Error::invalid_config("etcd needs at least one endpoint")
                .with_operation(Operation::Open)
                .with_backend(BACKEND));
        }
        for host in &self.hosts {
            let host = parse_endpoint(host)?;
            // A name is looked up and judged whenever it is connected to.
            if self.sends_in_clear()
                && let Ok(address) = host.name.parse::<IpAddr>()
            {
                self.plaintext.check(&host.authority(DEFAULT_PORT), [address])?;
            }
        }
        Ok(())
    }

    /// Whether a password goes over connections without TLS.
    pub(crate) fn sends_in_clear(&self) -> bool {
        self.user.is_some() && self.tls.is_none()
    }

    /// The members as the native client wants them.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.hosts
            .iter()
            .filter_map(|host| parse_endpoint(host).ok())
            .map(|host| format!("{scheme}://{}", host.authority(DEFAULT_PORT)))
            .collect()
    }
}
