//! The recipes over the memory store, plain and with faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

mod collector;
mod common;
mod counter;
mod election;
mod queue;
mod snapshot;
mod tx;
