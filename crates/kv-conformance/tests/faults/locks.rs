//! Locks that do not exclude, lie, leave things behind or are not released.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    DeleteOptions, Error, ErrorKind, Key, LockGuard, LockHolder, LockLoss, LockTtl, Store, StoreExt,
};

use super::Fault;
use super::tools::{BTreeSet, Shared, Twist, id, shared, twisted, with};

/// A lock whose guard lies.
fn lying(
    name: &'static str,
    caught_by: &'static [&'static str],
    twist: fn(&Arc<dyn Store>, &Key) -> Twist,
) -> Fault {
    Fault::new(name, caught_by).lock(move |store, key, options| async move {
        let guard = store.lock_with(&key, options).await?;
        Ok(twisted(guard, twist(&store, &key)))
    })
}

/// A lock that goes by another name.
fn named(
    name: &'static str,
    caught_by: &'static [&'static str],
    other: impl Fn(&Arc<dyn Store>, &Key) -> String + Copy + Send + Sync + 'static,
) -> Fault {
    Fault::new(name, caught_by).lock(move |store, key, options| async move {
        let other = Key::new(&other(&store, &key))?;
        let guard = store.lock_with(&other, options).await?;
        Ok(twisted(guard, Twist::Key(key)))
    })
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        named(
            "locks_are_of_one_handle",
            &["lock_excludes_other_handles", "lock_excludes_under_contention"],
            |store, key| format!("{key}/{}", id(store)),
        ),
        named(
            "all_locks_are_one",
            &["locks_of_other_names_are_free", "locks_of_nested_names_are_free"],
            |_, _| "the/one".to_owned(),
        ),
        lying("tokens_are_all_one", &["lock_tokens_grow"], |_, _| Twist::Token(1)),
        lying("guard_tells_another_key", &["guard_tells_what_it_holds", "odd_keys_work_as_locks"], |_, _| {
            Twist::Key(Key::new("other").unwrap())
        }),
        lying(
            "loss_is_never_told",
            &[
                "loss_is_told_on_release",
                "removed_lock_is_told_lost",
                "delete_tree_above_takes_locks",
                "loss_outlives_its_guard",
                "max_hold_ends_the_hold",
                "closing_releases_locks",
            ],
            |_, _| Twist::NeverLost,
        ),
        lying("the_grace_is_no_shorter_than_the_ttl", &["lock_grace_is_within_its_ttl"], |store, _| {
            Twist::Grace(store.capabilities().limits.lock_ttl.min * 3)
        }),
        lying("unlock_answers_before_it_has_unlocked", &["unlock_frees_at_once"], |_, _| Twist::LazyUnlock),
        lying(
            "a_dropped_guard_keeps_its_lock",
            &["dropped_guard_releases", "loss_outlives_its_guard"],
            |_, _| Twist::KeptWhenDropped,
        ),
        lying(
            "unlock_removes_whoever_holds_it",
            &[
                "unlock_after_loss_is_not_held",
                "dropping_a_lost_guard_spares_the_next",
                "max_hold_spares_the_next",
            ],
            |store, _| Twist::Meddling(Arc::clone(store)),
        ),
    ];
    faults.extend(reentrant());
    faults.extend(traces());
    faults.extend(holders());
    faults.extend(times());
    faults.extend(removals());
    faults
}

fn reentrant() -> [Fault; 2] {
    let held: Shared<BTreeSet<(usize, Key)>> = shared();
    let nested: Shared<BTreeSet<Key>> = shared();
    [
        Fault::new(
            "locks_are_reentrant",
            &["lock_excludes_tasks_of_one_handle", "lock_excludes_under_contention"],
        )
        .lock(move |store, key, options| {
            let held = Arc::clone(&held);
            async move {
                let own = (id(&store), key.clone());
                if with(&held, |held| held.contains(&own)) {
                    let again = key.join("again")?;
                    return Ok(twisted(store.lock(&again).await?, Twist::Key(key)));
                }
                let guard = store.lock_with(&key, options).await?;
                with(&held, |held| held.insert(own.clone()));
                let lost = guard.lost();
                tokio::spawn(async move {
                    lost.await;
                    with(&held, |held| held.remove(&own));
                });
                Ok(guard)
            }
        }),
        Fault::new("a_lock_covers_what_lies_below", &["locks_of_nested_names_are_free"]).lock(
            move |store, key, options| {
                let nested = Arc::clone(&nested);
                async move {
                    let rival = with(&nested, |held| held.iter().any(|held| key.is_below(&held.as_prefix())));
                    if rival {
                        return Err(ErrorKind::Locked.into());
                    }
                    let guard = store.lock_with(&key, options).await?;
                    with(&nested, |held| held.insert(key.clone()));
                    let lost = guard.lost();
                    tokio::spawn(async move {
                        lost.await;
                        with(&nested, |held| held.remove(&key));
                    });
                    Ok(guard)
                }
            },
        ),
    ]
}

fn traces() -> [Fault; 3] {
    [
        Fault::new(
            "the_lock_is_the_key_s_entry",
            &["lock_spares_its_entry", "lock_makes_no_entry", "txn_sees_implicit_parents_as_absent"],
        )
        .lock(|store, key, options| async move {
            let guard = store.lock_with(&key, options).await?;
            store.put(&key, "locked").await?;
            let lost = guard.lost();
            tokio::spawn(async move {
                lost.await;
                let _ = store.delete_with(&key, DeleteOptions::default()).await;
            });
            Ok(guard)
        }),
        Fault::new("lock_records_are_entries", &["lock_records_are_invisible", "lock_records_do_not_count"])
            .lock(|store, key, options| async move {
                let guard = store.lock_with(&key, options).await?;
                store.put(key.join("___lock")?, "").await?;
                Ok(guard)
            }),
        records_can_be_written(),
    ]
}

/// The memory store has no records of locks: this one only says that it has.
fn records_can_be_written() -> Fault {
    let namespace: Shared<String> = shared();
    let opened = Arc::clone(&namespace);
    Fault::new("lock_records_can_be_written", &["lock_records_refuse_writes"])
        .namespace(move |namespace| {
            with(&opened, |opened| *opened = namespace.to_string());
            namespace
        })
        .lock(move |store, key, options| {
            let record = with(&namespace, |namespace| format!("/{namespace}/{key}/1"));
            async move {
                let guard = store.lock_with(&key, options).await?;
                Ok(twisted(guard, Twist::Record(record)))
            }
        })
}

fn holders() -> [Fault; 3] {
    [
        Fault::new("nobody_is_told_as_holder", &["lock_holder_is_told", "lock_owner_is_any_bytes"])
            .lock_holder(|_, _| async { Ok(None) }),
        Fault::new("owners_become_text", &["lock_owner_is_any_bytes"]).lock_holder(|store, key| async move {
            let holder = store.lock_holder(&key).await?;
            Ok(holder.map(|holder| {
                let owner = String::from_utf8_lossy(&holder.owner).into_owned();
                LockHolder::new(owner.into(), holder.token)
            }))
        }),
        Fault::new(
            "the_last_holder_is_told_for_ever",
            &["lock_holder_is_told", "cancelled_wait_leaves_no_trace"],
        )
        .lock_holder({
            let last: Shared<Option<LockHolder>> = shared();
            move |store, key| {
                let last = Arc::clone(&last);
                async move {
                    let now = store.lock_holder(&key).await?;
                    Ok(with(&last, |last| {
                        *last = now
                            .or(last.clone())
                            .or(Some(LockHolder::new("ghost".into(), kv_core::FencingToken::new(0))));
                        last.clone()
                    }))
                }
            }
        }),
    ]
}

fn times() -> [Fault; 4] {
    [
        Fault::new("lock_ttls_are_clamped", &["lock_ttl_outside_the_range_is_refused"]).lock(
            |store, key, mut options| async move {
                let range = store.capabilities().limits.lock_ttl;
                options.ttl = options.ttl.map(|ttl| ttl.clamp(range.min, range.max));
                store.lock_with(&key, options).await
            },
        ),
        Fault::new("the_session_s_ttl_is_not_kept", &["lock_ttl_of_the_session_is_fixed"])
            .capabilities(|capabilities| {
                let mut limits = capabilities.limits.clone();
                let session = Duration::from_secs(10);
                limits.lock_ttl = kv_core::TtlRange::new(session, session, session);
                capabilities.with_limits(limits).with_lock_ttl(LockTtl::PerSession)
            })
            .lock(|store, key, mut options| async move {
                options.ttl = None;
                store.lock_with(&key, options).await
            }),
        Fault::new("locks_are_not_renewed", &["lock_is_renewed"]).lock(
            |store, key, mut options| async move {
                options.max_hold = options.max_hold.or(options.ttl);
                store.lock_with(&key, options).await
            },
        ),
        Fault::new("max_hold_is_ignored", &["max_hold_ends_the_hold"]).lock(
            |store, key, mut options| async move {
                options.max_hold = None;
                store.lock_with(&key, options).await
            },
        ),
    ]
}

fn removals() -> [Fault; 3] {
    let locked: Shared<Vec<Key>> = shared();
    let lost = Arc::clone(&locked);
    [
        Fault::new("delete_tree_takes_every_lock", &["delete_tree_beside_spares_locks"])
            .lock(move |store, key, options| {
                let locked = Arc::clone(&locked);
                async move {
                    let guard = store.lock_with(&key, options).await?;
                    with(&locked, |locked| locked.push(key.clone()));
                    Ok(guard)
                }
            })
            .delete_tree(move |store, prefix, options| {
                let lost = Arc::clone(&lost);
                async move {
                    for key in with(&lost, std::mem::take) {
                        // The record below the key goes; an entry below it would too, and none is.
                        if store.keys(&key).await?.is_empty() {
                            store.delete_tree(&key).await?;
                        }
                    }
                    store.delete_tree_with(&prefix, options).await
                }
            }),
        Fault::new(
            "close_takes_the_locks_of_others",
            &["closing_spares_other_locks", "close_leaves_other_handles"],
        )
        .close(|store| async move {
            for name in ["own", "lock"] {
                store.delete_tree(name).await?;
            }
            store.close().await
        }),
        Fault::new("a_closed_handle_s_locks_are_told_released", &["closing_releases_locks"]).lock(
            |store, key, options| async move {
                let guard = store.lock_with(&key, options).await?;
                Ok(LockGuard::new(Renamed(guard)))
            },
        ),
    ]
}

/// A hold whose end by the close of its handle is told as something else.
struct Renamed(LockGuard);

#[async_trait::async_trait]
impl kv_core::implement::Hold for Renamed {
    fn fence(&self) -> kv_core::Fence {
        self.0.fence()
    }

    fn loss(&self) -> Option<LockLoss> {
        self.0.loss()
    }

    async fn lost(&self) -> LockLoss {
        match self.0.lost().await {
            LockLoss::Closed => LockLoss::Expired,
            other => other,
        }
    }

    fn grace(&self) -> Duration {
        self.0.grace()
    }

    async fn unlock(&self) -> kv_core::Result<()> {
        Err(Error::not_held(None))
    }

    fn release(&self) {}
}
