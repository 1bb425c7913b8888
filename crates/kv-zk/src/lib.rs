#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(any(feature = "zookeeper-async", feature = "zookeeper-client")),
    allow(dead_code, unused_imports, unused_variables, reason = "no store can be opened without a client")
)]
//!
//! # Where things are
//!
//! `driver`, `config`: opening. `client`: the session, kept alive, and below it one file per client crate.
//! `mapping`, `parents`, `pin`: keys as nodes. `write`, `delete` (with `write_queue`), `list`, `tree`,
//! `watch` (with `hub`), `lock`, `lock_view` (with `hold`, `grace`, `record`), `txn`: the
//! operations. `store` ties them together.

mod client;
mod config;
mod core;
mod delete;
mod driver;
mod error;
mod grace;
mod hold;
mod hub;
mod list;
mod lock;
mod lock_view;
mod mapping;
mod marks;
mod parents;
mod pin;
mod record;
mod session;
mod store;
mod tree;
mod txn;
mod watch;
mod write;
mod write_queue;

pub use kv_core;

pub use crate::config::{LockLayout, ZkClient, ZkConfig};
pub use crate::driver::DRIVER;
pub use crate::store::ZkStore;
