//! What a transport needs to know to reach Consul.

use std::time::Duration;

use kv_backend::{Plaintext, TlsOptions};
use kv_core::{Host, Secret};

/// Where and as whom to connect.
#[derive(Debug)]
pub(crate) struct ConnectOptions {
    /// Base URL and host of each endpoint.
    pub(crate) endpoints: Vec<(String, Host)>,
    /// `None`: without TLS.
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) token: Option<Secret>,
    /// Whether the token may travel without TLS.
    pub(crate) plaintext: Plaintext,
    /// How long one host may take to be connected to.
    pub(crate) connect_limit: Duration,
    /// How many connections wait for the next call.
    pub(crate) max_idle: usize,
}
