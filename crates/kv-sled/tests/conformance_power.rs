//! The contract, run on this store in the mode that survives the loss of power, verifying as it reads.
#![allow(clippy::expect_used, reason = "without a directory there is nothing to test")]

use std::process::ExitCode;

use kv_conformance::UrlFactory;

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("a directory for the store");
    let url = format!("sled:{}?durability=power&verify=read", dir.path().display());
    kv_conformance::main(UrlFactory::new(kv_sled::DRIVER, url))
}
