//! Consul's HTTP API as typed calls. The only room that names an HTTP client.

mod acl;
pub(crate) mod api;
#[cfg(feature = "consulrs")]
pub(crate) mod consulrs;
mod encode;
pub(crate) mod error;
mod hosts;
pub(crate) mod http;
mod json_stream;
pub(crate) mod key_read;
pub(crate) mod options;
pub(crate) mod refusal;
pub(crate) mod rights;
pub(crate) mod scope;
pub(crate) mod transport;
pub(crate) mod wire;
