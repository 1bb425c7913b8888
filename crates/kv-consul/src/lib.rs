#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where things are
//!
//! Imports go down only, from floor to floor:
//!
//! | floor | holds |
//! |---|---|
//! | `driver` | opening a store |
//! | `config`, `store` | the typed configuration; the methods, each of which admits, calls and reports |
//! | `ops` | reads, writes, lists and transactions |
//! | `lock` | locks, which wait on the hub of the watches |
//! | `watch` | the stream a consumer reads, and the hub of blocking queries |
//! | `session` | sessions, which expiring keys and locks live by |
//! | `env` | what all parts of a handle share |
//! | `client` | Consul's HTTP API as typed calls; the only room that names an HTTP client |

mod client;
mod config;
mod driver;
mod env;
mod lock;
mod ops;
mod session;
mod store;
mod watch;

pub use config::ConsulConfig;
pub use driver::DRIVER;
pub use env::names::LockLayout;
pub use kv_core;
pub use store::ConsulStore;
