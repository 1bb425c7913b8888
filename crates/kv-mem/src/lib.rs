#![doc = include_str!("../README.md")]

mod config;
mod history;
mod list;
mod lock;
mod lock_view;
mod name;
mod names;
mod past;
mod record;
mod state;
mod store;
mod txn;
mod watch;

pub use config::MemConfig;
pub use kv_backend::{Clock, ManualClock, Sleep, Timestamp, TokioClock};
pub use kv_core;
pub use store::{DRIVER, MemStore};
