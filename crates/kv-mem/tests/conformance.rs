//! The contract, run on this store.

use std::process::ExitCode;

use kv_conformance::UrlFactory;

fn main() -> ExitCode {
    kv_conformance::main(UrlFactory::new(kv_mem::DRIVER, "mem:conformance"))
}
