//! Waits for a lock that end wrong, starve, or leave something behind.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Error, ErrorKind, Key, LockGuard, LockOptions, LockWait, Store, StoreExt};

use super::Fault;
use super::tools::{Shared, pause, shared, with};

/// A lock that waits otherwise.
fn waits(name: &'static str, caught_by: &'static [&'static str], change: fn(LockWait) -> LockWait) -> Fault {
    Fault::new(name, caught_by).lock(move |store, key, mut options| async move {
        options.wait = change(options.wait);
        store.lock_with(&key, options).await
    })
}

/// A lock that is tried again and again, with a pause that is asked for.
async fn polled(
    store: &Arc<dyn Store>,
    key: &Key,
    mut options: LockOptions,
    mut again: impl FnMut(&Error) -> Option<u64>,
) -> kv_core::Result<LockGuard> {
    let end = match options.wait {
        LockWait::Try => return store.lock_with(key, options).await,
        LockWait::UpTo(wait) => Some(tokio::time::Instant::now() + wait),
        _ => None,
    };
    options.wait = LockWait::Try;
    loop {
        match store.lock_with(key, options.clone()).await {
            Err(error) => match again(&error) {
                Some(_) if end.is_some_and(|end| tokio::time::Instant::now() >= end) => return Err(error),
                Some(millis) => pause(millis).await,
                None => return Err(error),
            },
            had => return had,
        }
    }
}

fn is_locked(error: &Error) -> bool {
    *error.kind() == ErrorKind::Locked
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        waits("a_try_waits", &["try_lock_answers_at_once"], |wait| match wait {
            LockWait::Try => LockWait::UpTo(Duration::from_secs(3)),
            other => other,
        }),
        waits("a_wait_without_end_does_not_wait", &["lock_waits_for_the_release"], |wait| match wait {
            LockWait::Forever => LockWait::Try,
            other => other,
        }),
        waits("a_bounded_wait_does_not_end", &["wait_up_to_ends_in_time"], |wait| match wait {
            LockWait::UpTo(_) => LockWait::Forever,
            other => other,
        }),
        waits(
            "a_bounded_wait_does_not_wait",
            &["wait_up_to_gets_a_released_lock", "wait_up_to_ends_in_time"],
            |wait| match wait {
                LockWait::UpTo(_) => LockWait::Try,
                other => other,
            },
        ),
        Fault::new("a_wait_ends_with_a_request_s_deadline", &["wait_outlives_a_request_deadline"]).lock(
            |store, key, options| async move {
                let limit = options.timeout.unwrap_or(Duration::from_secs(30));
                match tokio::time::timeout(limit, store.lock_with(&key, options)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(ErrorKind::Timeout.into()),
                }
            },
        ),
        Fault::new("waiters_poll_each_second", &["waiters_are_woken_by_the_release"]).lock(
            |store, key, options| async move {
                polled(&store, &key, options, |error| is_locked(error).then_some(1000)).await
            },
        ),
        Fault::new("waiters_get_it_by_chance", &["waiters_get_it_in_order"]).lock(
            |store, key, options| async move {
                polled(&store, &key, options, |error| is_locked(error).then(|| fastrand::u64(20..400))).await
            },
        ),
        Fault::new("waiters_do_not_notice_a_close", &["wait_ends_when_the_handle_closes"])
            .lock(|store, key, options| async move { polled(&store, &key, options, |_| Some(20)).await }),
    ];
    faults.extend(left_behind());
    faults.extend(ended());
    faults
}

fn left_behind() -> [Fault; 2] {
    [
        Fault::new(
            "a_cancelled_wait_goes_on",
            &[
                "cancelled_wait_leaves_no_trace",
                "cancelled_among_many_leave_no_trace",
                "dropped_lock_is_released",
            ],
        )
        .lock(in_background),
        Fault::new("an_ended_wait_goes_on", &["ended_wait_leaves_no_trace"]).lock(
            |store, key, mut options| async move {
                let LockWait::UpTo(wait) = options.wait else { return store.lock_with(&key, options).await };
                options.wait = LockWait::Forever;
                match tokio::time::timeout(wait, in_background(store, key, options)).await {
                    Ok(had) => had,
                    Err(_) => Err(ErrorKind::Locked.into()),
                }
            },
        ),
    ]
}

/// Waits on a task of its own, which keeps the lock when nobody is there to take it.
async fn in_background(store: Arc<dyn Store>, key: Key, options: LockOptions) -> kv_core::Result<LockGuard> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        if let Err(Ok(guard)) = sender.send(store.lock_with(&key, options).await) {
            std::mem::forget::<LockGuard>(guard);
        }
    });
    receiver.await.expect("the task answers")
}

fn ended() -> [Fault; 2] {
    let removals: Shared<u32> = shared();
    let removed = Arc::clone(&removals);
    let waiting: Shared<u32> = shared();
    [
        Fault::new("a_removed_waiter_fails", &["waiter_survives_removed_records"])
            .delete_tree(move |store, prefix, options| {
                let removed = Arc::clone(&removed);
                async move {
                    with(&removed, |removals| *removals += 1);
                    store.delete_tree_with(&prefix, options).await
                }
            })
            .lock(move |store, key, options| {
                let removals = Arc::clone(&removals);
                async move {
                    let before = with(&removals, |removals| *removals);
                    let guard = polled(&store, &key, options, |error| is_locked(error).then_some(20)).await?;
                    if with(&removals, |removals| *removals) != before {
                        return Err(Error::not_held(None));
                    }
                    Ok(guard)
                }
            }),
        Fault::new("few_locks_can_be_waited_for", &["locked_waits_on_many_names"]).lock(
            move |store, key, options| {
                let waiting = Arc::clone(&waiting);
                async move {
                    if let Some(guard) = store.try_lock(&key).await? {
                        return Ok(guard);
                    }
                    if with(&waiting, |waiting| std::mem::replace(waiting, *waiting + 1)) > 50 {
                        return Err(ErrorKind::Overloaded.into());
                    }
                    store.lock_with(&key, options).await
                }
            },
        ),
    ]
}
