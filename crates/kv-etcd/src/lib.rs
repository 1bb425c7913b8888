#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! From top to bottom, and each room imports only what lies lower: `driver` and `config` open a store;
//! `store` is what applications call, `admin` what operators ask for; `ops` makes requests of operations on entries; `handle` has the
//! parts of one handle; `watch` is what a reader of a watch sees; `lock` acquires, holds and shows locks;
//! `session` has the leases that keys and locks live by; `feed` is the one stream behind all watches;
//! `env` is what all of them share, `record` what a record is to us, `pager` reads ranges in pages; `client`
//! contains the native client, and nothing else names it.

mod admin;
mod client;
mod config;
mod driver;
mod env;
mod feed;
mod handle;
mod lock;
mod ops;
mod pager;
mod record;
mod session;
mod store;
mod watch;

pub use config::EtcdConfig;
pub use driver::DRIVER;
pub use kv_core;
pub use store::EtcdStore;
