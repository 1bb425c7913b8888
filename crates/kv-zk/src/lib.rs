#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(any(feature = "zookeeper-async", feature = "zookeeper-client")),
    allow(dead_code, unused_imports, unused_variables, reason = "no store can be opened without a client")
)]
//!
//! # Where things are
//!
//! Imports go down only, from floor to floor:
//!
//! | floor | holds |
//! |---|---|
//! | `driver` | opening a store by URL |
//! | `store` | the methods, each of which admits, calls and reports |
//! | `ops` | reads, writes, lists and transactions |
//! | `watch` | the stream a consumer reads, what waits for it, and the hub that watches nodes |
//! | `lock` | locks: acquiring, holding and seeing them |
//! | `env` | what all parts of a handle share |
//! | `session` | the session of a handle, kept alive |
//! | `client`, `config`, `names` | a session by one of two client crates, the typed configuration, keys as nodes |

mod client;
mod config;
mod driver;
mod env;
mod lock;
mod names;
mod ops;
mod session;
mod store;
mod watch;

pub use kv_core;

pub use crate::config::{LockLayout, ZkClient, ZkConfig};
pub use crate::driver::DRIVER;
pub use crate::store::ZkStore;
