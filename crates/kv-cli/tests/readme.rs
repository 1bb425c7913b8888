//! The commands of the README and what it says they print, one after the other on a store of their own.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests say what they mean with unwrap")]

#[test]
fn what_the_readme_says_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sled:{}", dir.path().join("store").display());
    let contexts = dir.path().join("contexts.toml").display().to_string();
    let cases = trycmd::TestCases::new();
    cases.env("KV_STORE", store).env("KV_CONTEXTS", contexts);
    cases.register_bin("kv", std::path::Path::new(env!("CARGO_BIN_EXE_kv")));
    cases.case("README.md").run();
}
