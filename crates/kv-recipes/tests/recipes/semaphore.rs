//! Semaphores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use kv_recipes::kv_core::{ErrorKind, Operation, Power, Store, StoreExt};
use kv_recipes::{EntryLoss, Lifetime, Permit, Semaphore};

use crate::common::{Cut, faulty, handles, soon, until, without};

const KEY: &str = "dir/limit";

async fn open(store: &Arc<dyn Store>, limit: u32) -> Semaphore {
    Semaphore::open(Arc::clone(store), KEY, limit).await.unwrap()
}

async fn acquire(semaphore: &Semaphore) -> Permit {
    soon("a permit", semaphore.acquire()).await.unwrap()
}

#[tokio::test]
async fn there_are_as_many_permits_as_the_limit_says() {
    let [store, other] = handles::<2>();
    let (semaphore, theirs) = (open(&store, 3).await, open(&other, 3).await);
    let mut permits = vec![acquire(&semaphore).await, acquire(&theirs).await, acquire(&semaphore).await];
    assert!(permits.iter().all(Permit::is_held));
    assert!(theirs.try_acquire().await.unwrap().is_none());
    assert_eq!(semaphore.taken().await.unwrap(), 3);
    permits.remove(0).release().await.unwrap();
    permits.push(theirs.try_acquire().await.unwrap().expect("one was given back"));
    // All that a process has end with it.
    store.close().await.unwrap();
    until("the permit of the closed handle", || async { theirs.taken().await.unwrap() == 2 }).await;
    let loss = soon("the loss", permits[1].lost()).await;
    assert!(matches!(loss, EntryLoss::Closed), "{loss}");
    drop(permits);
    until("the dropped permits", || async { theirs.taken().await.unwrap() == 0 }).await;
}

#[tokio::test]
async fn another_limit_is_refused() {
    let [store] = handles::<1>();
    assert_eq!(open(&store, 3).await.limit(), 3);
    for limit in [0, 2, 4, u32::MAX] {
        let refused = Semaphore::open(Arc::clone(&store), KEY, limit).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::InvalidArgument { .. }), "{refused}");
        assert_eq!(refused.key(), Some(KEY));
    }
    store.put("other", "mine").await.unwrap();
    let refused = Semaphore::open(Arc::clone(&store), "other", 3).await.unwrap_err();
    assert!(refused.to_string().contains("mine"), "{refused}");
    let without = without(store, Power::SessionKeys);
    let refused = Semaphore::open(without, KEY, 3).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
}

#[tokio::test]
async fn waiters_are_woken_in_turn() {
    let [store, other] = handles::<2>();
    let (semaphore, theirs) = (open(&store, 1).await, open(&other, 1).await);
    let permit = acquire(&semaphore).await;
    let (woken, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for n in 0..5 {
        let (semaphore, woken) = (if n % 2 == 0 { &semaphore } else { &theirs }.clone(), woken.clone());
        tasks.push(tokio::spawn(async move {
            let permit = semaphore.acquire().await.unwrap();
            woken.send(n).unwrap();
            permit.release().await.unwrap();
        }));
        // In this order they ask: each is in the queue before the next asks.
        until("its turn or place", || async {
            let locks = store.locks("dir/limit").await.unwrap();
            let queued: usize = futures_util::StreamExt::fold(locks, 0, |count, lock| async move {
                let lock = lock.unwrap();
                count + usize::from(lock.holder.is_some()) + lock.waiters.unwrap().len()
            })
            .await;
            queued == n + 1
        })
        .await;
    }
    permit.release().await.unwrap();
    for n in 0..5 {
        assert_eq!(soon("the next waiter", order.recv()).await, Some(n));
    }
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_nothing() {
    let [store] = handles::<1>();
    let semaphore = open(&store, 1).await;
    // At each step of acquiring one that is free, and of waiting for one that is taken.
    for is_taken in [false, true] {
        let permit = if is_taken { Some(acquire(&semaphore).await) } else { None };
        for steps in 0..8 {
            let mut acquiring = Box::pin(semaphore.acquire());
            for _ in 0..steps {
                if acquiring.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        drop(permit);
        until("all permits are back", || async { semaphore.taken().await.unwrap() == 0 }).await;
        assert_eq!(store.lock_holder("dir/limit/turn").await.unwrap(), None);
    }
}

/// Counts those who hold a permit at one time.
#[derive(Default)]
struct Room {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Room {
    async fn stay(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..3))).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_and_lost_answers_no_permit_is_lost_or_doubled() {
    const LIMIT: u32 = 3;
    let stores = handles::<4>();
    let room = Arc::new(Room::default());
    open(&stores[0], LIMIT).await;
    let mut tasks = Vec::new();
    for store in &stores {
        let store = faulty(Arc::clone(store), |faults| {
            let faults = faults.lose_answer(Operation::Put, 0.2).refuse(Operation::Put, 0.1);
            faults.lose_answer(Operation::Delete, 0.2).refuse(Operation::Get, 0.1)
        });
        for _ in 0..4 {
            let (store, room) = (Arc::clone(&store), Arc::clone(&room));
            tasks.push(tokio::spawn(async move {
                let semaphore = loop {
                    match Semaphore::open(Arc::clone(&store), KEY, LIMIT).await {
                        Ok(semaphore) => break semaphore,
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                };
                let mut done = 0;
                while done < 10 {
                    match semaphore.acquire().await {
                        Ok(permit) => {
                            room.stay().await;
                            assert!(permit.is_held());
                            done += 1;
                            match permit.release().await {
                                Ok(()) => {}
                                Err(error) => assert!(error.is_transient(), "{error}"),
                            }
                        }
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
            }));
        }
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("no permit is lost").unwrap();
    }
    let most = room.most.load(Ordering::SeqCst);
    assert!(most <= LIMIT as usize, "{most} at one time");
    assert!(most > 1, "permits are shared");
    let semaphore = open(&stores[0], LIMIT).await;
    until("all permits are back", || async { semaphore.taken().await.unwrap() == 0 }).await;
}

#[tokio::test]
async fn a_permit_by_time_to_live_is_renewed_and_its_loss_told_before_another_has_it() {
    const TTL: Duration = Duration::from_millis(900);
    let [store, other] = handles::<2>();
    let (cut, behind) = Cut::layer(store);
    let lifetime = Lifetime::Ttl(TTL);
    let semaphore = Semaphore::open_with(behind, KEY, 1, lifetime).await.unwrap();
    let theirs = Semaphore::open_with(other, KEY, 1, lifetime).await.unwrap();
    let permit = acquire(&semaphore).await;
    let waiting = tokio::spawn(async move { theirs.acquire().await.map(|permit| (permit, theirs)) });
    tokio::time::sleep(2 * TTL).await;
    assert!(permit.is_held() && !waiting.is_finished());
    cut.cut(ErrorKind::Unavailable);
    let loss = soon("the loss", permit.lost()).await;
    assert!(matches!(loss, EntryLoss::Expired), "{loss}");
    assert!(!permit.is_held() && !waiting.is_finished());
    let (_permit, theirs) = soon("their permit", waiting).await.unwrap().unwrap();
    cut.mend();
    let refused = permit.release().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotHeld { .. }));
    assert_eq!(theirs.taken().await.unwrap(), 1, "the slot of the other is not touched");
}

#[tokio::test]
async fn a_permit_that_is_taken_away_is_lost() {
    let [store, other] = handles::<2>();
    let permit = acquire(&open(&store, 1).await).await;
    other.delete(permit.slot()).await.unwrap();
    let loss = soon("the loss", permit.lost()).await;
    assert!(matches!(loss, EntryLoss::Removed), "{loss}");
    let theirs = acquire(&open(&other, 1).await).await;
    drop(permit);
    assert!(theirs.is_held());
}
