//! The recipes over the memory store, plain and with faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

mod collector;
mod common;
mod counter;
mod election;
mod informer;
mod live;
mod members;
mod queue;
mod registration;
mod run_once;
mod semaphore;
mod snapshot;
mod tx;
