//! The contract, run on this store: on the ensemble that `KV_ZK_URL` names.

use std::process::ExitCode;

use kv_conformance::UrlFactory;

fn main() -> ExitCode {
    kv_conformance::main(UrlFactory::from_env(kv_zk::DRIVER, "KV_ZK_URL"))
}
