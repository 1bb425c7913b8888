//! A session with an ensemble, by one of two client crates made safe: the only room that names them.

pub(crate) mod error;
pub(crate) mod wire;

pub(crate) mod connect;
mod diagnosis;
#[cfg(feature = "zookeeper-client")]
mod flood;
#[cfg(feature = "zookeeper-client")]
mod held;
#[cfg(feature = "zookeeper-client")]
mod native;
#[cfg(any(feature = "zookeeper-async", feature = "zookeeper-client"))]
mod runtime;
#[cfg(any(feature = "zookeeper-async", feature = "zookeeper-client"))]
mod sockets;
#[cfg(feature = "zookeeper-async")]
mod zookeeper_async;
#[cfg(feature = "zookeeper-client")]
mod zookeeper_client;
