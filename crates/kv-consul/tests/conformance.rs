//! The contract, against the Consul that `KV_CONSUL_URL` names; `cargo xtask conformance` starts one.

use std::process::ExitCode;

use kv_conformance::UrlFactory;

fn main() -> ExitCode {
    kv_conformance::main(UrlFactory::from_env(kv_consul::DRIVER, "KV_CONSUL_URL"))
}
