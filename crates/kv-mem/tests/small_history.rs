//! The suite's cases about watches, on a store that keeps hardly any history: what a consumer that is
//! too slow gets is then always the state, which 10,000 changes of history would never show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

use std::sync::Arc;

use kv_conformance::{Outcome, RunOptions, UrlFactory, run};

/// Begin at an older version, which such a history has only for moments.
const NEED_HISTORY: &[&str] = &[
    "watch_from_a_version",
    "watch_from_a_version_replays_deletes",
    "watch_from_the_newest_version",
    "watch_from_any_version_ends_right",
    "list_then_watch_loses_nothing",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_about_watches_pass_with_a_hundred_changes_of_history() {
    let cases = kv_conformance::cases()
        .into_iter()
        .filter(|case| case.name.contains("watch") || SLOW.contains(&case.name))
        .filter(|case| !NEED_HISTORY.contains(&case.name));
    // One at a time: the history is shared by all that write.
    let options = RunOptions::default().with_cases(cases).with_concurrency(1);
    let factory = UrlFactory::new(kv_mem::DRIVER, "mem:small-history?history=100");
    let report = run(Arc::new(factory), &options, |_, _| {}).await;
    let ended = |name: &str| report.cases.iter().find(|case| case.name == name).map(|case| case.outcome);
    for name in SLOW {
        assert_eq!(ended(name), Some(Outcome::Passed), "{name}");
    }
    let failed = report.cases.iter().filter(|case| case.outcome != Outcome::Passed);
    let failed: Vec<_> = failed.map(|case| format!("{}: {}", case.name, case.detail)).collect();
    assert_eq!(failed, [""; 0]);
}

/// Leave thousands of changes unread.
const SLOW: &[&str] =
    &["slow_consumer_blocks_no_writer", "slow_consumer_ends_on_the_state", "resync_brings_the_whole_state"];
