#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! `client` and `error` contain the native client; nothing else names it. `store` turns operations
//! into requests, with `write`, `expiry`, `txn`, `condition`, `list` and
//! `ttl`. `hub` is the one stream behind all
//! watches, `past` says where they can be taken up, `watch` is what a reader of one sees. `lease`, `session`, `lock` and
//! `hold` keep things alive, `fate` is what becomes of a lock's record; `handle` ends them.

mod admin;
mod client;
mod condition;
mod config;
mod driver;
mod error;
mod expiry;
mod fate;
mod handle;
mod hold;
mod hub;
mod lease;
mod list;
mod lock;
mod lock_view;
mod pager;
mod past;
mod record;
mod session;
mod store;
mod ttl;
mod txn;
mod watch;
mod write;

pub use config::EtcdConfig;
pub use driver::DRIVER;
pub use kv_core;
pub use store::EtcdStore;
