//! The built `kv` command, as a user meets it.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests say what they mean with unwrap, and print their seed and what they skip"
)]

mod about;
mod common;
mod contexts;
mod edit;
mod find;
mod locks;
mod moves;
mod refusals;
mod stores;
mod sync;
mod transfer;
mod trees;
mod txn;
mod values;
mod watches;
