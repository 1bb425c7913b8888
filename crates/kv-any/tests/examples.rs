//! The examples do what they say.
#![cfg(feature = "mem")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../examples/select.rs"]
mod select;
#[path = "../examples/shared.rs"]
mod shared;

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
