//! The contract, run on this store.
#![allow(clippy::expect_used, reason = "without a directory there is nothing to test")]

use std::process::ExitCode;

use kv_conformance::UrlFactory;

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("a directory for the store");
    kv_conformance::main(UrlFactory::new(kv_sled::DRIVER, format!("sled:{}", dir.path().display())))
}
