//! Firings of a schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use kv_recipes::RunOnce;
use kv_recipes::kv_core::{ErrorKind, Operation, Power, Store, StoreExt};

use crate::common::{Cut, faulty, handles, soon, until, without};

const HOLD: Duration = Duration::from_millis(900);

fn schedule(store: &Arc<dyn Store>) -> RunOnce {
    RunOnce::new(Arc::clone(store), "jobs/nightly", HOLD).unwrap()
}

#[tokio::test]
async fn one_instance_runs_each_firing() {
    let stores = handles::<8>();
    let runs = AtomicUsize::new(0);
    for firing in ["1", "2", "a/b"] {
        runs.store(0, Ordering::SeqCst);
        let instances = stores.iter().map(|store| {
            let (schedule, runs) = (schedule(store), &runs);
            async move {
                let work = async { runs.fetch_add(1, Ordering::SeqCst) };
                schedule.run(firing, work).await.unwrap().is_some()
            }
        });
        let ran = join_all(instances).await;
        assert_eq!(ran.iter().filter(|ran| **ran).count(), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_late_instance_does_not_run_it_again() {
    let [store, late] = handles::<2>();
    // The work takes longer than the minimum hold: the claim is renewed meanwhile.
    let work = tokio::time::sleep(2 * HOLD);
    let running = schedule(&store);
    let running = tokio::spawn(async move { running.run("1", work).await });
    until("the claim", || async { late.exists("jobs/nightly/1").await.unwrap() }).await;
    let late = schedule(&late);
    while !running.is_finished() {
        assert!(late.claim("1").await.unwrap().is_none());
        tokio::time::sleep(HOLD / 20).await;
    }
    assert_eq!(running.await.unwrap().unwrap(), Some(()));
    // And after its end for the minimum hold, counted from no later than here.
    let end = Instant::now();
    let again = loop {
        if let Some(firing) = late.claim("1").await.unwrap() {
            break firing;
        }
        tokio::time::sleep(HOLD / 50).await;
    };
    let kept = end.elapsed();
    assert!(kept > HOLD / 2, "only {kept:?}");
    again.release().await.unwrap();
}

#[tokio::test]
async fn a_firing_that_is_given_up_can_be_run_by_another() {
    let [store, other] = handles::<2>();
    let firing = schedule(&store).claim("1").await.unwrap().unwrap();
    assert!(firing.is_held());
    assert_eq!(firing.key().as_str(), "jobs/nightly/1");
    firing.release().await.unwrap();
    // One that is dropped can not.
    drop(schedule(&other).claim("1").await.unwrap().unwrap());
    assert!(schedule(&store).claim("1").await.unwrap().is_none());
}

#[tokio::test]
async fn a_claim_that_is_given_up_before_it_is_told_claims_nothing() {
    let [store] = handles::<1>();
    let schedule = schedule(&store);
    for steps in 1..5 {
        let mut claiming = Box::pin(schedule.claim("1"));
        assert!(claiming.as_mut().now_or_never().is_none());
        for _ in 1..steps {
            // Its task goes on, and the answer is not looked at.
            tokio::task::yield_now().await;
        }
        drop(claiming);
        until("the claim is gone", || async { !store.exists("jobs/nightly/1").await.unwrap() }).await;
        // The task may put it only now.
        until("the end of its task", || async { Arc::strong_count(&store) == 2 }).await;
        assert!(!store.exists("jobs/nightly/1").await.unwrap());
    }
}

#[tokio::test]
async fn work_whose_claim_is_lost_is_dropped() {
    let [store, other] = handles::<2>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    for is_outage in [true, false] {
        let running = schedule(&behind);
        let running = tokio::spawn(async move { running.run("1", std::future::pending::<()>()).await });
        until("the claim", || async { other.exists("jobs/nightly/1").await.unwrap() }).await;
        if is_outage {
            cut.cut(ErrorKind::Unavailable);
        } else {
            other.delete("jobs/nightly/1").await.unwrap();
        }
        let lost = soon("the loss", running).await.unwrap().unwrap_err();
        assert!(matches!(lost.kind(), ErrorKind::NotHeld { .. }));
        cut.mend();
        until("the claim is gone", || async { !other.exists("jobs/nightly/1").await.unwrap() }).await;
    }
}

#[tokio::test]
async fn lost_answers_neither_double_nor_lose_a_firing() {
    let [first, second] = handles::<2>();
    let instances = [&first, &second].map(|store| {
        faulty(Arc::clone(store), |faults| {
            faults.lose_answer(Operation::Put, 0.4).refuse(Operation::Get, 0.1)
        })
    });
    for firing in 0..30 {
        let firing = firing.to_string();
        let runs = AtomicUsize::new(0);
        let all = instances.iter().map(|store| {
            let (schedule, firing, runs) = (schedule(store), &firing, &runs);
            async move {
                // An instance that could not claim it tries again: it was not run by it.
                while let Err(error) =
                    schedule.run(firing, async { runs.fetch_add(1, Ordering::SeqCst) }).await
                {
                    assert!(error.is_transient(), "{error}");
                }
            }
        });
        soon("all instances", join_all(all)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 1, "firing {firing}");
    }
}

#[tokio::test]
async fn a_store_without_times_to_live_is_refused() {
    let [store] = handles::<1>();
    let refused = RunOnce::new(without(Arc::clone(&store), Power::Ttl), "jobs", HOLD).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
    let refused = RunOnce::new(store, "jobs", Duration::ZERO).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::TtlOutOfRange { .. }), "{refused}");
}
