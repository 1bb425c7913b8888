//! Skipping, said aloud: a test that cannot run here tells why, and fails where it must run.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::servers::Servers;
use crate::spec::Tier;

/// The servers a crate's tests run on, or `None` after saying why there are none on this machine.
///
/// Called as `require_or_skip(env!("CARGO_MANIFEST_DIR"))` at the start of a test, which returns
/// on `None`. The version is the one every run tests, or `KV_SERVER_VERSION`.
///
/// # Panics
/// If there are none and `KV_REQUIRE=1` is set: then a skip is a failure.
#[must_use]
pub fn require_or_skip(crate_dir: &str) -> Option<Servers> {
    match Servers::available(Path::new(crate_dir)) {
        Ok(servers) => Some(servers),
        Err(error) => {
            skip(&format!("{error:#}"));
            None
        }
    }
}

/// Whether this run is of the nightly tier or one above; says that the test is left out if it is not.
///
/// # Panics
/// If `KV_TIER` holds an unknown word.
#[must_use]
#[allow(clippy::print_stderr, clippy::panic)] // For the person who runs the tests.
pub fn is_nightly() -> bool {
    match Tier::current() {
        Ok(Tier::Nightly | Tier::Upstream) => true,
        Ok(Tier::Commit) => {
            eprintln!("not in the commit tier: {}", test_name());
            false
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// Reports that the running test is skipped: on its error output, and in the file that
/// `KV_SKIPS` names, by which `cargo xtask` counts skips.
///
/// # Panics
/// If `KV_REQUIRE=1` is set.
#[allow(clippy::print_stderr, clippy::panic)] // For the person who runs the tests.
pub fn skip(why: &str) {
    let line = format!("{}: {why}", test_name());
    assert!(!is_required(), "KV_REQUIRE=1 forbids to skip {line}");
    eprintln!("skipped {line}");
    let Some(file) = std::env::var_os("KV_SKIPS") else { return };
    let opened = OpenOptions::new().append(true).create(true).open(&file);
    let one_line = line.replace('\n', " ");
    if let Err(error) = opened.and_then(|mut file| writeln!(file, "{one_line}")) {
        panic!("cannot write to KV_SKIPS={}: {error}", file.display());
    }
}

fn is_required() -> bool {
    std::env::var_os("KV_REQUIRE").is_some_and(|value| value == "1")
}

/// The test harness names a test's thread after it.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}
