//! kv-consul on real servers, on servers that die, lag and lie, and beside other programs.
//!
//! What needs a process of its own is elsewhere: `security` reads everything that any thread logs, and `memory`
//! measures the memory of its process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // Integration tests.

mod common;
#[cfg(feature = "consulrs")]
mod consulrs;
mod faults;
mod foreign;
mod hostile;
mod hosts;
mod keep;
mod leaks;
mod lock_view;
mod locks;
mod processes;
mod rights;
mod server;
mod trust;
mod watches;
