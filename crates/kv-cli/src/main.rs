//! The `kv` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    kv_cli::run(kv_any::registry())
}
