//! The contract, on the etcd that `KV_ETCD_URL` names; `cargo xtask conformance` starts one.

use std::process::ExitCode;

use kv_conformance::UrlFactory;

fn main() -> ExitCode {
    kv_conformance::main(UrlFactory::from_env(kv_etcd::DRIVER, "KV_ETCD_URL"))
}
