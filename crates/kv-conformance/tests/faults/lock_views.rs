//! Locks seen wrongly from outside.

use futures_util::{StreamExt, stream};
use kv_core::{FencingToken, LockChanges, LockListing, LockState, Prefix, StoreExt};

use super::Fault;

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("a_lock_watch_begins_with_the_next_change", &["lock_watch_begins_with_the_holder"])
            .watch_lock(
                |store, key| async move { Ok(LockChanges::new(store.watch_lock(&key).await?.skip(1))) },
            ),
        Fault::new("a_lock_watch_tells_no_vacancy", &["lock_watch_tells_holders_and_vacancies"]).watch_lock(
            |store, key| async move {
                let changes = store.watch_lock(&key).await?;
                let told = changes.enumerate().filter_map(|(at, change)| async move {
                    (at == 0 || !matches!(change, Ok(None))).then_some(change)
                });
                Ok(LockChanges::new(Box::pin(told)))
            },
        ),
        Fault::new("a_lock_watch_tells_falling_tokens", &["lock_watch_tells_holders_and_vacancies"])
            .watch_lock(|store, key| async move {
                let changes = store.watch_lock(&key).await?;
                let told = changes.flat_map(|change| {
                    let older = change.as_ref().ok().and_then(|holder| holder.clone()).map(|mut holder| {
                        holder.token = FencingToken::new(holder.token.get() - 1);
                        Ok(Some(holder))
                    });
                    stream::iter([Some(change), older].into_iter().flatten())
                });
                Ok(LockChanges::new(told))
            }),
        Fault::new("a_lock_watch_outlives_its_handle", &["lock_watch_ends_with_close"]).watch_lock(
            |store, key| async move {
                let changes = store.watch_lock(&key).await?;
                let told = changes.take_while(|change| std::future::ready(change.is_ok()));
                Ok(LockChanges::new(told.chain(stream::pending())))
            },
        ),
        Fault::new("locks_are_listed_below_no_path_boundary", &["held_locks_are_listed"]).locks(
            |store, prefix| async move {
                let wanted = prefix.to_string();
                let all = store.locks(&Prefix::root()).await?;
                let below = all.filter(move |lock| {
                    let found = lock.as_ref().is_ok_and(|lock| lock.key.as_str().starts_with(&wanted));
                    std::future::ready(found)
                });
                Ok(LockListing::new(below))
            },
        ),
        Fault::new("waiters_are_listed_in_reverse", &["waiters_are_listed_in_turn"]).locks(
            |store, prefix| async move {
                let reversed = store.locks(&prefix).await?.map(|lock| {
                    lock.map(|lock: LockState| {
                        let waiters = lock.waiters.iter().flatten().rev().cloned().collect();
                        LockState::new(lock.key, lock.holder).with_waiters(waiters)
                    })
                });
                Ok(LockListing::new(reversed))
            },
        ),
        Fault::new("break_lock_takes_all_that_is_below", &["break_lock_ends_one_hold"]).break_lock(
            |store, key, token| async move {
                let held = store.lock_holder(&key).await?.is_some_and(|holder| holder.token == token);
                store.delete_tree(Prefix::from(key)).await?;
                Ok(held)
            },
        ),
        Fault::new("break_lock_breaks_whatever_is_held", &["break_lock_of_an_old_token_changes_nothing"])
            .break_lock(|store, key, _| async move {
                match store.lock_holder(&key).await? {
                    Some(holder) => store.break_lock(&key, holder.token).await,
                    None => Ok(false),
                }
            }),
    ]
}
