//! Live configuration values.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use kv_recipes::Live;
use kv_recipes::kv_core::{ErrorKind, Json, Store, StoreExt};
use tokio::time::Instant;

use crate::common::{Cut, handles, soon, until};

const KEY: &str = "config/limit";

async fn started(store: &Arc<dyn Store>) -> Live<u32> {
    store.put(KEY, "1").await.unwrap();
    Live::start(Arc::clone(store), KEY, Json).await.unwrap()
}

async fn changed(live: &mut Live<u32>) {
    soon("a change", live.changed()).await.unwrap();
}

#[tokio::test]
async fn the_last_good_value_stays() {
    let [store] = handles::<1>();
    let mut live = started(&store).await;
    assert_eq!((*live.get(), live.problem().is_none()), (1, true));
    store.put(KEY, "a secret").await.unwrap();
    changed(&mut live).await;
    let problem = live.problem().unwrap();
    assert!(matches!(problem.kind(), ErrorKind::InvalidValue { .. }), "{problem}");
    assert_eq!(problem.key(), Some(KEY));
    assert!(!format!("{problem:?}").contains("secret"), "{problem:?}");
    store.delete(KEY).await.unwrap();
    changed(&mut live).await;
    assert_eq!(*live.problem().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(*live.get(), 1);
    let version = store.put(KEY, "2").await.unwrap();
    changed(&mut live).await;
    assert_eq!((*live.get(), live.version(), live.problem().is_none()), (2, version, true));
    let mut other = live.clone();
    assert!(other.changed().now_or_never().is_none());
}

#[tokio::test]
async fn without_a_good_first_value_it_does_not_start() {
    let [store] = handles::<1>();
    let start = || Live::<u32>::start(Arc::clone(&store), KEY, Json);
    assert_eq!(*start().await.unwrap_err().kind(), ErrorKind::NotFound);
    store.put(KEY, "x").await.unwrap();
    let refused = start().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::InvalidValue { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn updates_in_a_row_are_one() {
    const DEBOUNCE: Duration = Duration::from_secs(1);
    let [store] = handles::<1>();
    store.put(KEY, "0").await.unwrap();
    let mut live: Live<u32> =
        Live::start_with_debounce(Arc::clone(&store), KEY, Json, DEBOUNCE).await.unwrap();
    let begin = Instant::now();
    for n in 1..=5 {
        store.put(KEY, n.to_string()).await.unwrap();
        tokio::time::sleep(DEBOUNCE / 2).await;
    }
    assert_eq!(*live.get(), 0);
    live.changed().await.unwrap();
    assert_eq!(*live.get(), 5);
    assert!(begin.elapsed() >= DEBOUNCE * 3 && begin.elapsed() < DEBOUNCE * 4, "{:?}", begin.elapsed());
    // One that never rests is taken all the same.
    let begin = Instant::now();
    let (putting, mut watching) = (Arc::clone(&store), live.clone());
    tokio::select! {
        () = async {
            for n in 6..100 {
                putting.put(KEY, n.to_string()).await.unwrap();
                tokio::time::sleep(DEBOUNCE / 2).await;
            }
        } => {}
        changed = watching.changed() => changed.unwrap(),
    }
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn an_outage_is_waited_out_and_what_does_not_pass_ends_it() {
    let [store] = handles::<1>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    let mut live = started(&behind).await;
    for value in [2, 2] {
        cut.cut(ErrorKind::Unavailable);
        until("the problem", || async { live.problem().is_some() }).await;
        store.put(KEY, value.to_string()).await.unwrap();
        cut.mend();
        until("the value", || async { live.problem().is_none() && *live.get() == value }).await;
    }
    cut.cut(ErrorKind::PermissionDenied);
    let ended = soon("the end", async {
        loop {
            if let Err(error) = live.changed().await {
                return error;
            }
        }
    });
    assert_eq!(*ended.await.kind(), ErrorKind::PermissionDenied);
    assert_eq!(*live.problem().unwrap().kind(), ErrorKind::PermissionDenied);
    assert_eq!(*live.get(), 2);
}
