//! Times to live that are halved, kept, forgotten or told wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_core::{
    Bytes, DeleteCause, DeleteOptions, EntryExpiry, Error, Expiry, GetOptions, Key, Precondition, PutOptions,
    PutResult, Store, StoreExt, WatchEvent,
};

use super::Fault;
use super::tools::{BTreeMap, Shared, has_children, id, rewatch, shared, with};

/// A put with another expiry, which tells what was asked for.
fn expires(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(&PutOptions) -> Expiry,
) -> Fault {
    Fault::new(name, caught_by).put(move |store, key, value, mut options| async move {
        let asked = options.expiry;
        options.expiry = change(&options);
        let put = store.put_with(&key, value, options).await?;
        Ok(told(put, asked))
    })
}

fn told(put: PutResult, asked: Expiry) -> PutResult {
    let put = PutResult::new(put.version);
    match asked {
        Expiry::Ttl(ttl) => put.with_granted_ttl(ttl),
        _ => put,
    }
}

/// How the entry under `key` expires now.
async fn expiry(store: &Arc<dyn Store>, key: &Key) -> kv_core::Result<Option<EntryExpiry>> {
    let found = store.get_with(key, GetOptions::default().with_expiry()).await?;
    Ok(found.and_then(|entry| entry.expiry))
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        expires(
            "ttl_is_halved",
            &["ttl_is_not_early", "many_ttls_end", "ttl_outlives_its_handle"],
            |options| match options.expiry {
                Expiry::Ttl(ttl) => Expiry::Ttl(ttl / 2),
                other => other,
            },
        ),
        expires(
            "ttl_is_ignored",
            &["ttl_is_not_late", "many_ttls_end", "expiry_reaches_watchers"],
            |options| match options.expiry {
                Expiry::Ttl(_) => Expiry::Never,
                other => other,
            },
        ),
        expires(
            "keeping_makes_permanent",
            &["kept_ttl_is_not_early", "kept_ttl_ends", "kept_session_goes"],
            |options| match options.expiry {
                Expiry::Keep => Expiry::Never,
                other => other,
            },
        ),
        expires(
            "keeping_means_the_session",
            &["kept_ttl_is_not_early", "keeping_none_makes_permanent"],
            |options| match options.expiry {
                Expiry::Keep => Expiry::Session,
                other => other,
            },
        ),
        expires("ttl_is_ignored_with_a_precondition", &["ttl_with_precondition"], |options| {
            match options.precondition {
                Precondition::Any => options.expiry,
                _ => Expiry::Never,
            }
        }),
        expires("ttl_outside_the_range_is_clamped", &["ttl_outside_the_range_is_refused"], |options| {
            match options.expiry {
                Expiry::Ttl(ttl) => Expiry::Ttl(ttl.clamp(Duration::from_secs(1), Duration::from_secs(1000))),
                other => other,
            }
        }),
    ];
    faults.extend(kept_and_forgotten());
    faults.extend(timers());
    faults.extend(told_wrong());
    faults
}

fn kept_and_forgotten() -> Vec<Fault> {
    let owned: Shared<BTreeMap<usize, Vec<Key>>> = shared();
    let owners = Arc::clone(&owned);
    vec![
        Fault::new("ttl_ends_with_its_handle", &["ttl_outlives_its_handle"])
            .put(move |store, key, value, options| {
                let owned = Arc::clone(&owned);
                async move {
                    if matches!(options.expiry, Expiry::Ttl(_)) {
                        with(&owned, |owned| owned.entry(id(&store)).or_default().push(key.clone()));
                    }
                    store.put_with(&key, value, options).await
                }
            })
            .close(move |store| {
                let owners = Arc::clone(&owners);
                async move {
                    let keys = with(&owners, |owned| owned.remove(&id(&store))).unwrap_or_default();
                    for key in keys {
                        let _ = store.delete_with(&key, DeleteOptions::default()).await;
                    }
                    store.close().await
                }
            }),
        Fault::new(
            "a_permanent_put_keeps_the_ttl",
            &["put_makes_permanent", "session_key_made_permanent_stays"],
        )
        .put(|store, key, value, mut options| async move {
            if options.expiry == Expiry::Never {
                options.expiry = match expiry(&store, &key).await? {
                    Some(EntryExpiry::Ttl { remaining: Some(remaining), .. }) => Expiry::Ttl(remaining),
                    Some(EntryExpiry::Session) => Expiry::Session,
                    _ => Expiry::Never,
                };
            }
            let put = store.put_with(&key, value, options).await?;
            Ok(PutResult::new(put.version))
        }),
        Fault::new(
            "expiry_of_an_existing_key_is_kept",
            &[
                "put_makes_expiring",
                "shorter_ttl_replaces",
                "permanent_key_made_session_goes",
                "session_key_goes_with_its_last_writer",
            ],
        )
        .put(|store, key, value, mut options| async move {
            let asked = options.expiry;
            if asked != Expiry::Never {
                options.expiry = match expiry(&store, &key).await? {
                    Some(EntryExpiry::Ttl { granted, .. }) => Expiry::Ttl(granted),
                    Some(EntryExpiry::Never) => Expiry::Never,
                    _ => asked,
                };
                // A session key stays the first writer's: nothing is written but the value it had.
                if let Some(EntryExpiry::Session) = expiry(&store, &key).await? {
                    let version = store.get(&key).await?.map(|entry| entry.version).unwrap_or_default();
                    return Ok(PutResult::new(version));
                }
            }
            Ok(told(store.put_with(&key, value, options).await?, asked))
        }),
        Fault::new("a_change_of_expiry_deletes_first", &["change_of_expiry_leaves_no_gap"]).put(
            |store, key, value, options| async move {
                let never = matches!(expiry(&store, &key).await?, None | Some(EntryExpiry::Never));
                if never != (options.expiry == Expiry::Never) {
                    store.delete(&key).await?;
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("children_go_with_an_expiring_key", &["expiring_key_can_have_children"]).put(
            |store, key, value, options| async move {
                if let Some(parent) = key.parent().to_key()
                    && let Some(EntryExpiry::Ttl { granted, .. }) = expiry(&store, &parent).await?
                {
                    return store.put_with(&key, value, options.with_expiry(Expiry::Ttl(granted))).await;
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("expiring_keys_take_no_children", &["expiring_key_can_have_children"]).dishonest().put(
            |store, key, value, options| async move {
                if options.expiry != Expiry::Never && has_children(&store, &key).await? {
                    return Err(Error::lacks(kv_core::Power::ExpiryWithChildren));
                }
                store.put_with(&key, value, options).await
            },
        ),
    ]
}

/// Puts a permanent value and deletes it by a timer of its own that nobody stops.
async fn put_with_timer(
    store: Arc<dyn Store>,
    key: Key,
    value: Bytes,
    mut options: PutOptions,
) -> kv_core::Result<PutResult> {
    let asked = options.expiry;
    options.expiry = Expiry::Never;
    let put = store.put_with(&key, value, options).await?;
    if let Expiry::Ttl(ttl) = asked {
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            let _ = store.delete_with(&key, DeleteOptions::default()).await;
        });
    }
    Ok(told(put, asked))
}

fn timers() -> Vec<Fault> {
    let deadlines: Shared<BTreeMap<Key, Instant>> = shared();
    let ends = Arc::clone(&deadlines);
    vec![
        Fault::new(
            "old_timers_are_not_stopped",
            &[
                "deleted_ttl_spares_the_next_value",
                "put_makes_permanent",
                "longer_ttl_replaces",
                "same_ttl_again_renews",
            ],
        )
        .put(put_with_timer),
        Fault::new(
            "get_alone_hides_what_expired",
            &["expired_key_is_absent_everywhere", "expired_key_can_be_created"],
        )
        .put(move |store, key, value, mut options| {
            let deadlines = Arc::clone(&deadlines);
            async move {
                let asked = options.expiry;
                options.expiry = Expiry::Never;
                let put = store.put_with(&key, value, options).await?;
                if let Expiry::Ttl(ttl) = asked {
                    with(&deadlines, |deadlines| deadlines.insert(key, Instant::now() + ttl));
                }
                Ok(told(put, asked))
            }
        })
        .get(move |store, key, options| {
            let ends = Arc::clone(&ends);
            async move {
                let end = with(&ends, |ends| ends.get(&key).copied());
                if end.is_some_and(|end| Instant::now() >= end) {
                    return Ok(None);
                }
                store.get_with(&key, options).await
            }
        }),
    ]
}

fn told_wrong() -> Vec<Fault> {
    vec![
        Fault::new("granted_ttl_is_not_told", &["granted_ttl_is_rounded_up"]).put(
            |store, key, value, options| async move {
                Ok(PutResult::new(store.put_with(&key, value, options).await?.version))
            },
        ),
        Fault::new("expiry_is_always_told", &["ttl_is_told_when_asked", "session_key_is_told_when_asked"])
            .get(|store, key, options| async move { store.get_with(&key, options.with_expiry()).await }),
        Fault::new(
            "expiries_do_not_reach_watchers",
            &["expiry_reaches_watchers", "session_end_reaches_watchers"],
        )
        .watch(|store, target, options| async move {
            rewatch(&store, target, options, |event| match event {
                WatchEvent::Delete(deletion) if deletion.cause == DeleteCause::Expired => None,
                other => Some(other),
            })
            .await
        }),
        Fault::new("expiries_are_told_as_deletes", &["expiry_is_marked", "session_end_is_marked"]).watch(
            |store, target, options| async move {
                rewatch(&store, target, options, |event| {
                    [match event {
                        WatchEvent::Delete(deletion) => {
                            WatchEvent::Delete(deletion.with_cause(DeleteCause::Deleted))
                        }
                        other => other,
                    }]
                })
                .await
            },
        ),
    ]
}
