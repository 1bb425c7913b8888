//! What the store does beyond what every store does: on real servers, on ones that are scripted, and over
//! links that fail. Each test starts the servers it needs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // They are tests.

mod admin;
mod cluster;
mod common;
mod connecting;
mod faults;
mod hostile;
mod keep;
mod leases;
mod links;
mod list_expiry;
mod lock_view;
mod locks;
mod native;
mod server;
