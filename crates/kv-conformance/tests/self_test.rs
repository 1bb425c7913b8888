//! The suite's own test: the memory store passes every case, each faulty store is caught by name, and
//! each case catches one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.
#![allow(clippy::print_stdout)] // With KV_SHOW_CAUGHT=1, by what each fault was noticed.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use kv_conformance::{Case, Factory, Need, Outcome, Report, RunOptions, UrlFactory, run};
use kv_core::{Power, Prefix, Result, Store};

mod faults;

use faults::{Fault, FaultyFactory};

/// Cases that no store can break, because the answer is not the store's.
const UNBREAKABLE: &[(&str, &str)] =
    &[("invalid_keys_are_refused", "a key is checked by kv-core, before any store is asked")];

fn cases(names: &[&str]) -> Vec<Case> {
    let cases: Vec<Case> =
        kv_conformance::cases().into_iter().filter(|case| names.contains(&case.name)).collect();
    assert_eq!(cases.len(), names.len(), "no such cases: {names:?}");
    cases
}

async fn run_on(factory: impl Factory, cases: Vec<Case>) -> Report {
    let options = RunOptions::default().with_cases(cases);
    run(Arc::new(factory), &options, |_, _| {}).await
}

fn describe(report: &Report) -> String {
    let lines = report.cases.iter().filter(|case| case.outcome != Outcome::Passed);
    lines.map(|case| format!("\n  {} {}: {}", case.outcome, case.name, case.detail)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_caught_by_name() {
    let mut runs = stream::iter(faults::all())
        .map(|fault: Fault| async {
            let factory = FaultyFactory::new(fault);
            let fault = Arc::clone(&factory.fault);
            let cases = cases(fault.caught_by);
            // Each in a task of its own, so that a fault that blocks holds up no other.
            let report = tokio::spawn(run_on(factory, cases)).await.unwrap();
            (fault, report)
        })
        .buffer_unordered(64);
    let mut missed = String::new();
    while let Some((fault, report)) = runs.next().await {
        for case in &report.cases {
            let caught = match fault.dishonest {
                true => case.outcome == Outcome::Dishonest,
                false => case.outcome.is_failure(),
            };
            if std::env::var_os("KV_SHOW_CAUGHT").is_some() {
                println!(
                    "{} | {} | {} ms | {} {}",
                    fault.name, case.name, case.ms, case.outcome, case.detail
                );
            }
            if !caught {
                let (fault, name, outcome) = (fault.name, &case.name, case.outcome);
                missed += &format!("\n  {fault} was not caught by {name}: {outcome} {}", case.detail);
            }
        }
    }
    assert!(missed.is_empty(), "{missed}");
}

#[test]
fn each_case_catches_a_fault() {
    let faults = faults::all();
    let names: BTreeSet<&str> = faults.iter().map(|fault| fault.name).collect();
    assert_eq!(names.len(), faults.len(), "two faults have one name");
    let caught: BTreeSet<&str> = faults.iter().flat_map(|fault| fault.caught_by).copied().collect();
    let unbreakable: BTreeSet<&str> = UNBREAKABLE.iter().map(|(name, _)| *name).collect();
    let all: BTreeSet<&str> = kv_conformance::cases().iter().map(|case| case.name).collect();
    let without: Vec<&&str> = all.iter().filter(|name| !caught.contains(**name)).collect();
    assert_eq!(without, unbreakable.iter().collect::<Vec<_>>(), "cases that no fault shows to work");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_on_the_memory_store() {
    let report = run_on(UrlFactory::new(kv_mem::DRIVER, "mem:self-test"), kv_conformance::cases()).await;
    assert!(!report.is_failure(), "{}", describe(&report));
    assert!(report.cases.len() >= 100 && report.count(Outcome::Skipped) == 0);
}

/// What the memory store has nothing to try on: locks that must be renewed, and a way that can be cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_locks_that_expire_behind_a_line_passes() {
    let names = [
        "expired_lock_is_kept_through_its_grace",
        "letting_go_of_an_expired_lock_ends_its_grace",
        "lock_without_a_server_fails_like_a_request",
        "queued_wait_outlives_an_outage",
        "wait_up_to_ends_in_an_outage",
    ];
    let report = run_on(FaultyFactory::new(faults::honest_expiry()), cases(&names)).await;
    assert_eq!(report.count(Outcome::Passed), names.len(), "{}", describe(&report));
}

/// And servers with members, disks and users.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_servers_passes() {
    let names = [
        "members_are_listed",
        "endpoints_are_changed_or_kept",
        "sizes_are_told",
        "users_come_and_go",
        "grants_add_and_revocations_subtract",
    ];
    let report = run_on(FaultyFactory::new(faults::sound_servers()), cases(&names)).await;
    assert_eq!(report.count(Outcome::Passed), names.len(), "{}", describe(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_honestly_absent_is_not_applicable() {
    let lacking: [&'static [Power]; 3] = [
        Power::ALL,
        &[Power::ExpiryChange, Power::ExpiryWithChildren],
        &[Power::Transactions, Power::WatchHistory],
    ];
    for (powers, name) in lacking.into_iter().zip(["none", "fixed_expiry", "no_txn_no_history"]) {
        let report =
            run_on(FaultyFactory::new(faults::honest_refusals(name, powers)), kv_conformance::cases()).await;
        assert!(!report.is_failure(), "{name}: {}", describe(&report));
        for (case, ended) in kv_conformance::cases().iter().zip(&report.cases) {
            let lacks =
                case.needs.iter().any(|need| matches!(need, Need::Power(power) if powers.contains(power)));
            assert!(!lacks || ended.outcome == Outcome::NotApplicable, "{} {}", ended.name, ended.outcome);
        }
    }
}

/// Cannot be reached, or says that it is not there.
struct Unreachable {
    why: Option<&'static str>,
}

#[async_trait]
impl Factory for Unreachable {
    fn label(&self) -> String {
        "unreachable".to_owned()
    }

    fn unavailable(&self) -> Option<String> {
        self.why.map(str::to_owned)
    }

    async fn open(&self, _: &Prefix) -> Result<Arc<dyn Store>> {
        Err(kv_core::ErrorKind::Unavailable.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_store_is_skipped_and_an_unreachable_one_fails() {
    // KV_REQUIRE turns the first into a failure, and may be set where this runs.
    let expected = match std::env::var_os("KV_REQUIRE").is_some_and(|value| value == "1") {
        true => Outcome::Failed,
        false => Outcome::Skipped,
    };
    let all = kv_conformance::cases();
    let skipped = run_on(Unreachable { why: Some("KV_X_URL is not set") }, all.clone()).await;
    assert_eq!(skipped.count(expected), all.len());
    let failed = run_on(Unreachable { why: None }, all.clone()).await;
    assert_eq!(failed.count(Outcome::Failed), all.len());
}

#[test]
fn a_report_is_the_json_that_was_promised() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mem = UrlFactory::new(kv_mem::DRIVER, "mem:report").with_label("memory");
    let options = RunOptions::default().with_seed(7).with_cases(cases(&["put_creates_and_replaces"]));
    let report = runtime.block_on(run(Arc::new(mem), &options, |_, _| {}));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["suite"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&json["backend"], &json["seed"]), (&"memory".into(), &7.into()));
    assert!(json["server"].as_str().unwrap().contains("mem"));
    assert_eq!(json["cases"][0]["name"], "put_creates_and_replaces");
    assert_eq!(json["cases"][0]["outcome"], "passed");
    assert_eq!(json["cases"][0]["detail"], "");
    assert!(json["cases"][0]["ms"].is_u64());
}
