//! The examples do what they say.
#![cfg(feature = "mem")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../examples/config_reload.rs"]
mod config_reload;
#[path = "../examples/discovery.rs"]
mod discovery;
#[path = "../examples/fenced_lock.rs"]
mod fenced_lock;
#[path = "../examples/queue.rs"]
mod queue;
#[path = "../examples/select.rs"]
mod select;
#[path = "../examples/shared.rs"]
mod shared;
#[path = "../examples/snapshot.rs"]
mod snapshot;
#[path = "../examples/transaction.rs"]
mod transaction;
#[cfg(feature = "serde")]
#[path = "../examples/typed.rs"]
mod typed;
#[path = "../examples/unknown_outcome.rs"]
mod unknown_outcome;

#[tokio::test]
async fn running_jobs_are_selected() {
    assert_eq!(select::run("mem:").await.unwrap(), ["select/jobs/b", "select/jobs/c"]);
}

#[tokio::test]
async fn a_selection_ends_where_it_is_told_to() {
    use kv_any::kv_core::StoreExt;

    let store = kv_any::open("mem:").await.unwrap();
    for job in 0..100 {
        store.put(format!("select/jobs/{job:02}"), "running").await.unwrap();
    }
    assert_eq!(select::running(&*store, 2).await.unwrap(), ["select/jobs/00", "select/jobs/01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_share_a_store_lose_no_count() {
    assert_eq!(shared::run("mem:").await.unwrap(), "20");
}

#[tokio::test]
async fn a_bad_value_leaves_the_last_good_one() {
    assert_eq!(config_reload::run("mem:").await.unwrap(), [10, 20, 30]);
}

#[tokio::test]
async fn services_are_seen_while_they_live() {
    let seen = discovery::run("mem:example-discovery").await.unwrap();
    assert_eq!(seen, [vec!["10.0.0.1:80", "10.0.0.2:80"], vec!["10.0.0.1:80"]]);
}

#[tokio::test]
async fn a_late_write_of_an_old_holder_is_refused() {
    assert_eq!(fenced_lock::run("mem:").await.unwrap(), "done by the second");
}

#[tokio::test]
async fn money_is_moved_whole_or_not_at_all() {
    assert_eq!(transaction::run("mem:").await.unwrap(), (10, 32));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_is_done_once() {
    let mut done = queue::run("mem:").await.unwrap();
    done.sort();
    done.dedup();
    assert_eq!(done.len(), 20);
}

#[tokio::test]
async fn a_list_and_a_watch_from_it_are_the_state() {
    let state = snapshot::run("mem:").await.unwrap();
    let state: Vec<_> = state.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(state, [("snapshot/b", "after"), ("snapshot/z", "last")]);
}

#[tokio::test]
async fn a_write_that_came_too_late_is_told() {
    assert_eq!(unknown_outcome::run("mem:").await.unwrap(), (true, false));
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn a_typed_value_is_changed() {
    assert_eq!(typed::run("mem:").await.unwrap(), typed::Limits { requests: 100, burst: 20 });
}
