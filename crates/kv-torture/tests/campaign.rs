//! A minute of torture on etcd and on sled in every run, five on every backend in the nightly tier.
//! The seeds are fixed; `cargo xtask torture --seed` repeats their choices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test says what it did")]

use std::path::Path;
use std::time::Duration;

use kv_testkit::{is_nightly, require_or_skip, workspace};
use kv_torture::campaign::{self, Plan};
use kv_torture::nemesis::Fault;
use kv_torture::target::Backend;

async fn torture(backend: Backend, minutes: u64, seed: u64) {
    let root = workspace::output_dir("torture").unwrap();
    let plan = Plan {
        backend,
        faults_for: Duration::from_secs(60 * minutes),
        seed,
        faults: Fault::ALL.to_vec(),
        folder: campaign::folder(&root, backend, seed).unwrap(),
        program: env!("CARGO_BIN_EXE_kv-torture").into(),
    };
    eprintln!("{}: seed {seed}, {}", backend.name(), plan.folder.display());
    let outcome = campaign::run(&plan).await.unwrap();
    let (calls, unknown, faults) = (outcome.calls, outcome.unknown, outcome.faults);
    eprintln!("{calls} calls, {unknown} of unknown outcome, {faults} faults");
    let violations: Vec<_> = outcome.findings.violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert!(calls > 100 && faults > 0, "{calls} calls and {faults} faults are no torture");
}

fn has_servers(name: &str) -> bool {
    require_or_skip(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name).to_str().unwrap()).is_some()
}

#[tokio::test]
async fn a_minute_on_sled() {
    torture(Backend::Sled, 1, 1).await;
}

#[tokio::test]
async fn a_minute_on_etcd() {
    if has_servers("kv-etcd") {
        torture(Backend::Etcd, 1, 1).await;
    }
}

#[tokio::test]
async fn five_minutes_on_each_backend() {
    if !is_nightly() {
        return;
    }
    for backend in Backend::ALL {
        torture(*backend, 5, 2).await;
    }
}
