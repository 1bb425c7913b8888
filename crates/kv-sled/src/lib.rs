#![doc = include_str!("../README.md")]

mod ancestry;
mod cache;
mod client;
mod commit;
mod config;
mod counter;
mod database;
mod dirlock;
mod error;
mod group;
mod history;
mod list;
mod lock;
mod lock_view;
mod name;
mod open;
mod pages;
mod private;
mod record;
mod space;
mod stage;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod txn;
mod view;
mod watch;

pub use config::{DRIVER, Durability, SledConfig, Verify};
pub use kv_core;
pub use store::{SledStore, Stats};

/// The backend's name, as in errors and capabilities.
const BACKEND: &str = "sled";
