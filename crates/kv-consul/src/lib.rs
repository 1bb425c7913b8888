#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where things are
//!
//! `store` is the way in. Below it lie `write`, `list`, `txn`, `watch`, `lock` and `session`, below those
//! `api`, Consul's HTTP API as typed calls over a `transport`. Only `client` names an HTTP client.

mod acl;
mod api;
mod client;
mod config;
#[cfg(feature = "consulrs")]
mod consulrs;
mod encode;
mod ephemeral;
mod error;
mod exchange;
mod fence;
mod first_tokens;
mod hold;
mod holder;
mod hub;
mod items;
mod known;
mod list;
mod lock;
mod lock_view;
mod names;
mod query;
mod refusal;
mod release;
mod rights;
mod session;
mod shared;
mod sink;
mod slots;
mod split;
mod store;
mod transport;
mod turns;
mod txn;
mod watch;
mod wire;
mod write;

pub use config::{ConsulConfig, DRIVER, LockLayout};
pub use kv_core;
pub use store::ConsulStore;
