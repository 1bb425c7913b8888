//! What becomes of a conditional write whose answer, or whose request, was lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use kv_core::{Applied, Entry, ErrorKind, Operation, Result, Settled, Store, StoreExt};
use kv_layers::{Call, Faults, LayerExt, Next, Policy};
use kv_mem::{MemConfig, MemStore};

/// Loses each put on its way to the store. Its caller cannot know.
#[derive(Debug)]
struct LosesRequests;

impl Policy for LosesRequests {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        match call.operation {
            Operation::Put => Err(call.error(ErrorKind::Unavailable)),
            _ => next().await,
        }
    }
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemStore::open(MemConfig::new()).unwrap())
}

async fn entry(store: &dyn Store) -> Entry {
    store.get("a").await.unwrap().unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn a_write_whose_answer_was_lost_is_not_made_twice() {
    let below = store();
    let lossy = Arc::clone(&below).layered(Faults::seeded(1).lose_answer(Operation::Put, 1.0));
    let version = below.put("a", "old").await.unwrap();
    let lost = lossy.put_if_unchanged("a", Some(version), "new").await.unwrap_err();
    assert_eq!(lost.applied(), Applied::Unknown, "{lost}");
    let written = entry(&*below).await;
    assert!(written.value == "new" && written.version > version, "it was applied all the same");
    // Also through answers that are still lost: the second write is refused, and a refusal is an answer.
    for store in [&lossy as &dyn Store, &*below] {
        let Settled::Undecided { current } = store.settle("a", Some(version), "new").await.unwrap() else {
            panic!("it was applied a second time");
        };
        assert_eq!(current.as_ref(), Some(&written));
    }
    assert_eq!(entry(&*below).await, written);
}

#[tokio::test(flavor = "current_thread")]
async fn a_write_whose_request_was_lost_is_made_when_it_is_settled() {
    let below = store();
    let lossy = Arc::clone(&below).layered(LosesRequests);
    let version = below.put("a", "old").await.unwrap();
    let lost = lossy.put_if_unchanged("a", Some(version), "new").await.unwrap_err();
    assert_eq!(lost.applied(), Applied::Unknown, "{lost}");
    assert_eq!(entry(&*below).await.version, version);
    assert_eq!(lossy.settle("a", Some(version), "new").await.unwrap_err().applied(), Applied::Unknown);
    let Settled::Applied(applied) = below.settle("a", Some(version), "new").await.unwrap() else {
        panic!("nobody else wrote");
    };
    assert_eq!((entry(&*below).await.version, entry(&*below).await.value), (applied, "new".into()));
    assert_eq!(
        below.settle("b", None, "x").await.unwrap(),
        Settled::Applied(below.get("b").await.unwrap().unwrap().version)
    );
}

#[tokio::test(flavor = "current_thread")]
async fn an_update_whose_answer_was_lost_is_not_sent_again() {
    let below = store();
    let lossy = Arc::clone(&below).layered(Faults::seeded(1).lose_answer(Operation::Put, 1.0));
    below.put("a", "0").await.unwrap();
    let mut asked = 0;
    let updated = lossy.update("a", |_| {
        asked += 1;
        Some("1".into())
    });
    assert_eq!(updated.await.unwrap_err().applied(), Applied::Unknown);
    assert_eq!((asked, entry(&*below).await.value), (1, "1".into()));
}
