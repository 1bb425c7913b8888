//! Locks under waits that are given up at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{Wakes, fresh, key, open, seeded};
use kv_mem::kv_core::{
    ErrorKind, FencingToken, LockGuard, LockLoss, LockOptions, LockWait, Prefix, PutOptions, Result, StoreExt,
};
use kv_mem::{MemConfig, MemStore};

type Waiting = Pin<Box<dyn Future<Output = Result<LockGuard>> + Send>>;

fn wait(store: &Arc<MemStore>) -> Waiting {
    let store = Arc::clone(store);
    Box::pin(async move { store.lock("l").await })
}

/// Holders, waiters and cancelled waits in random order, against a queue as the model.
#[test]
fn waits_given_up_at_random_leave_no_trace() {
    let mut random = seeded();
    let store = fresh();
    let mut held: Option<LockGuard> = None;
    let mut queue: VecDeque<(Waiting, Arc<Wakes>, Waker, bool)> = VecDeque::new();
    let mut last = FencingToken::new(0);
    for _ in 0..20_000 {
        match random.u8(..10) {
            0..4 => {
                let (wakes, waker) = Wakes::new();
                let mut waiting = wait(&store);
                // Some ask and are given up before they are polled.
                let polled = random.u8(..8) > 0;
                if polled {
                    let Poll::Ready(guard) = waiting.as_mut().poll(&mut Context::from_waker(&waker)) else {
                        assert!(held.is_some() || !queue.is_empty());
                        queue.push_back((waiting, wakes, waker, true));
                        continue;
                    };
                    assert!(held.is_none() && queue.is_empty(), "somebody was overtaken");
                    held = Some(guard.unwrap());
                }
            }
            4..7 if !queue.is_empty() => {
                // Given up, perhaps just when its turn has come.
                let at = random.usize(..queue.len());
                drop(queue.remove(at));
            }
            _ => {
                drop(held.take());
                let Some((waiting, wakes, waker, _)) = queue.front_mut() else { continue };
                assert!(wakes.count() > 0, "the next in turn was not woken");
                if random.bool() {
                    continue;
                }
                let Poll::Ready(guard) = waiting.as_mut().poll(&mut Context::from_waker(waker)) else {
                    panic!("it was woken and not given the lock");
                };
                held = Some(guard.unwrap());
                queue.pop_front();
            }
        }
        if let Some(guard) = &held {
            assert!(guard.is_held());
            assert!(guard.token() >= last);
            last = guard.token();
        }
    }
    drop((held, queue));
    let free = futures_executor::block_on(store.try_lock("l")).unwrap();
    assert!(free.unwrap().token() > last);
}

/// Tasks on many threads that mostly give up: never two inside, and in the end nobody left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_never_hold_it_while_waits_time_out() {
    let mut random = seeded();
    let store = fresh();
    let inside = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let (store, inside, mut random) = (Arc::clone(&store), Arc::clone(&inside), random.fork());
        tasks.push(tokio::spawn(async move {
            for _ in 0..200 {
                let time = Duration::from_micros(random.u64(0..300));
                let wait = match random.u8(..3) {
                    0 => LockWait::Try,
                    1 => LockWait::UpTo(time),
                    _ => LockWait::Forever,
                };
                let options = LockOptions::default().with_wait(wait);
                let name = key("l");
                let locking = tokio::time::timeout(time, store.lock_with(&name, options));
                let guard = match locking.await {
                    Ok(Ok(guard)) => guard,
                    Ok(Err(error)) => {
                        assert_eq!(*error.kind(), ErrorKind::Locked);
                        continue;
                    }
                    Err(_) => continue,
                };
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                if random.bool() {
                    guard.unlock().await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(store.try_lock("l").await.unwrap().is_some());
}

#[tokio::test]
async fn a_fence_of_another_store_is_refused() {
    let (store, other) = (fresh(), fresh());
    let (guard, twin) = (store.lock("l").await.unwrap(), other.lock("l").await.unwrap());
    assert_eq!(guard.token(), twin.token());
    let fenced = |guard: &LockGuard| PutOptions::default().with_fence(guard.fence());
    store.put_with(&key("a"), "x", fenced(&guard)).await.unwrap();
    let error = store.put_with(&key("a"), "y", fenced(&twin)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "x");
}

#[tokio::test]
async fn deleting_the_tree_takes_the_locks_and_the_next_in_turn_gets_them() {
    let store = fresh();
    store.put("a", "stays").await.unwrap();
    let guards = [store.lock("a").await.unwrap(), store.lock("a/b").await.unwrap()];
    let beside = store.lock("ab").await.unwrap();
    let mut next = Box::pin(store.lock("a"));
    assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(store.delete_tree("a").await.unwrap(), 0);
    for guard in guards {
        assert_eq!(guard.loss(), Some(LockLoss::Removed));
        assert!(matches!(guard.unlock().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    }
    assert!(next.await.unwrap().is_held());
    assert!(beside.is_held());
    assert!(store.exists("a").await.unwrap());
}

#[test]
fn a_wait_with_an_end_needs_no_runtime() {
    let store = fresh();
    futures_executor::block_on(async {
        let _held = store.lock("l").await.unwrap();
        let options = LockOptions::default().with_wait(LockWait::UpTo(Duration::from_millis(20)));
        let error = store.lock_with(&key("l"), options).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Locked);
    });
}

/// A lock of the same name in another namespace is another lock.
#[tokio::test]
async fn a_fence_is_of_its_own_namespace_s_lock() {
    let named = |namespace: &str| {
        open(MemConfig::new().with_name("fences").with_namespace(Prefix::new(namespace).unwrap()))
    };
    let (one, other) = (named("one"), named("other"));
    let (of_one, of_other) = (one.lock("l").await.unwrap(), other.lock("l").await.unwrap());
    for (fence, writer) in [(of_one.fence(), &other), (of_other.fence(), &one)] {
        let options = || PutOptions::default().with_fence(fence.clone());
        writer.put_with(&key("k"), "x", options()).await.unwrap();
    }
    let fence = of_one.fence();
    of_one.unlock().await.unwrap();
    let late = other.put_with(&key("k"), "x", PutOptions::default().with_fence(fence)).await;
    assert!(matches!(late.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
}
