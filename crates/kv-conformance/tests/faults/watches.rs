//! Watches that tell the wrong keys, kinds, order or contents.

use std::sync::Arc;

use kv_core::{
    Bytes, DeleteCause, Deletion, Key, Prefix, Store, StoreExt, Version, Watch, WatchEvent, WatchFilter,
    WatchOptions, WatchStart, WatchTarget,
};

use super::Fault;
use super::tools::{BTreeMap, Shared, rewatch, shared, with};

/// A watch whose events are changed one by one, with a count.
fn told(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(usize, WatchEvent) -> Vec<WatchEvent>,
) -> Fault {
    Fault::new(name, caught_by).watch(move |store, target, options| async move {
        let mut at = 0;
        rewatch(&store, target, options, move |event| {
            at += 1;
            change(at, event)
        })
        .await
    })
}

/// Everything in the namespace whose key passes.
async fn wider(
    store: Arc<dyn Store>,
    options: WatchOptions,
    passes: impl Fn(&Key) -> bool + Send + 'static,
) -> kv_core::Result<Watch> {
    rewatch(&store, Prefix::root().into(), options, move |event| match &event {
        WatchEvent::Put(entry) if !passes(&entry.key) => None,
        WatchEvent::Delete(deletion) if !passes(&deletion.key) => None,
        _ => Some(event),
    })
    .await
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        told("watch_tells_everything_twice", &["watch_tells_in_version_order"], |_, event| match event {
            WatchEvent::Put(_) => vec![event.clone(), event],
            other => vec![other],
        }),
        told(
            "watch_loses_some_events",
            &["watch_ends_on_the_final_state", "next_is_cancel_safe", "txn_reaches_watchers"],
            |at, event| if at % 3 == 0 && event != WatchEvent::Synced { vec![] } else { vec![event] },
        ),
        told(
            "watch_merges_puts",
            &[
                "watch_is_complete",
                "watch_tells_a_short_life",
                "txn_changes_all_reach_watchers",
                "watch_initial_misses_no_version",
            ],
            |at, event| match &event {
                // The last of each case is told, so that it ends on the final state.
                WatchEvent::Put(entry) if at % 3 == 0 && entry.key.name() != "last" => vec![],
                _ => vec![event],
            },
        ),
        told(
            "watch_empties_values",
            &["watch_carries_the_entry", "everything_agrees_on_a_version"],
            |_, event| {
                vec![match event {
                    WatchEvent::Put(mut entry) => {
                        entry.value = Bytes::new();
                        WatchEvent::Put(entry)
                    }
                    other => other,
                }]
            },
        ),
        told("watch_takes_an_old_reading_for_a_change", &["watch_tells_what_comes_and_goes"], |at, event| {
            match event {
                WatchEvent::Put(entry) if at % 50 == 0 => {
                    let deletion = WatchEvent::Delete(Deletion::new(entry.key.clone()));
                    vec![WatchEvent::Put(entry.clone()), deletion, WatchEvent::Put(entry)]
                }
                other => vec![other],
            }
        }),
        told("watch_tells_no_deletes", &["watch_tells_deletes", "watch_tells_a_short_life"], |_, event| {
            match event {
                WatchEvent::Delete(_) => vec![],
                other => vec![other],
            }
        }),
        told("watch_tells_no_previous", &["watch_tells_what_was_deleted"], |_, event| {
            vec![match event {
                WatchEvent::Delete(mut deletion) => {
                    deletion.previous = None;
                    WatchEvent::Delete(deletion)
                }
                other => other,
            }]
        }),
        told("watch_knows_no_causes", &["watch_tells_deletes_from_expiries"], |_, event| {
            vec![with_cause(event, DeleteCause::Unknown)]
        }),
        told(
            "every_delete_is_an_expiry",
            &["watch_tells_deletes_from_expiries", "unmarked_delete_has_no_wrong_cause"],
            |_, event| vec![with_cause(event, DeleteCause::Expired)],
        ),
    ];
    faults.extend(wrong_targets());
    faults.extend(wrong_filters());
    faults.push(created_with_what_lies_below());
    faults
}

/// As where a node that has children was there before its value.
fn created_with_what_lies_below() -> Fault {
    let versions: Shared<BTreeMap<Key, Version>> = shared();
    let put = Arc::clone(&versions);
    Fault::new("an_entry_is_created_with_what_lies_below", &["watch_tells_when_a_parent_was_created"])
        .put(move |store, key, value, options| {
            let put = Arc::clone(&put);
            async move {
                let answer = store.put_with(&key, value, options).await?;
                with(&put, |put| put.insert(key, answer.version));
                Ok(answer)
            }
        })
        .watch(move |store, target, options| {
            let versions = Arc::clone(&versions);
            async move {
                rewatch(&store, target, options, move |event| {
                    [match event {
                        WatchEvent::Put(mut entry) => {
                            let below = entry.key.as_prefix();
                            let first = with(&versions, |versions| {
                                let below = versions.iter().filter(|(key, _)| below.covers(key));
                                below.map(|(_, version)| *version).min()
                            });
                            entry.created = first.map_or(entry.created, |first| first.min(entry.created));
                            WatchEvent::Put(entry)
                        }
                        other => other,
                    }]
                })
                .await
            }
        })
}

fn with_cause(event: WatchEvent, cause: DeleteCause) -> WatchEvent {
    match event {
        WatchEvent::Delete(deletion) => WatchEvent::Delete(deletion.with_cause(cause)),
        other => other,
    }
}

fn wrong_targets() -> Vec<Fault> {
    vec![
        Fault::new("watch_of_a_key_takes_a_string_prefix", &["watch_of_a_key_is_of_that_key"]).watch(
            |store, target, options| async move {
                let WatchTarget::Key(key) = target else { return store.watch_with(target, options).await };
                wider(store, options, move |other| other.as_str().starts_with(key.as_str())).await
            },
        ),
        Fault::new("watch_takes_a_string_prefix", &["watch_of_a_prefix_keeps_to_the_boundary"]).watch(
            |store, target, options| async move {
                let WatchTarget::Prefix(prefix) = target else {
                    return store.watch_with(target, options).await;
                };
                wider(store, options, move |other| other.as_str().starts_with(prefix.as_str())).await
            },
        ),
        Fault::new(
            "watch_tells_everything",
            &["watch_wakes_for_its_own_only", "many_watches_live_together", "watch_initial_of_a_key"],
        )
        .watch(|store, _, options| async move { store.watch_with(Prefix::root(), options).await }),
        Fault::new(
            "tree_watch_forgets_the_key",
            &["watch_tree_tells_the_key_and_what_is_below", "watch_tree_initial_tells_both"],
        )
        .watch(|store, target, options| async move {
            let WatchTarget::Tree(key) = target else { return store.watch_with(target, options).await };
            store.watch_with(WatchTarget::below(key), options).await
        }),
        Fault::new(
            "tree_watch_forgets_what_is_below",
            &["watch_tree_of_nothing", "watch_tree_from_a_version"],
        )
        .watch(|store, target, options| async move {
            let WatchTarget::Tree(key) = target else { return store.watch_with(target, options).await };
            store.watch_with(WatchTarget::key(key), options).await
        }),
        Fault::new(
            "tree_watch_takes_a_string_prefix",
            &["watch_tree_tells_the_key_and_what_is_below", "watch_tree_initial_tells_both"],
        )
        .watch(|store, target, options| async move {
            let WatchTarget::Tree(key) = target else { return store.watch_with(target, options).await };
            wider(store, options, move |other| other.as_str().starts_with(key.as_str())).await
        }),
        Fault::new("watch_sees_one_level", &["watch_of_a_prefix_sees_every_level"]).watch(
            |store, target, options| async move {
                let WatchTarget::Prefix(prefix) = target else {
                    return store.watch_with(target, options).await;
                };
                wider(store, options, move |key| key.parent() == prefix).await
            },
        ),
        Fault::new(
            "watch_is_blind_to_values",
            &["watch_of_a_prefix_sees_every_level", "watch_ends_on_the_final_state"],
        )
        .watch(|store, target, options| async move {
            if matches!(target, WatchTarget::Key(_)) {
                return store.watch_with(target, options).await;
            }
            let mut known: BTreeMap<Key, ()> = BTreeMap::new();
            rewatch(&store, target, options, move |event| match &event {
                WatchEvent::Put(entry) if known.insert(entry.key.clone(), ()).is_some() => None,
                WatchEvent::Delete(deletion) => {
                    known.remove(&deletion.key);
                    Some(event)
                }
                _ => Some(event),
            })
            .await
        }),
    ]
}

fn wrong_filters() -> Vec<Fault> {
    vec![
        Fault::new("watch_filters_nothing", &["watch_of_puts_only", "watch_of_deletes_only"]).watch(
            |store, target, mut options| async move {
                options.filter = WatchFilter::All;
                store.watch_with(target, options).await
            },
        ),
        Fault::new("identical_puts_are_no_events", &["watch_tells_identical_puts"]).watch(
            |store, target, options| async move {
                // It knows the values from before it began.
                let mut begun = options.clone();
                begun.start = WatchStart::Initial;
                let (mut values, mut syncing) =
                    (BTreeMap::<Key, Bytes>::new(), options.start == WatchStart::Now);
                rewatch(&store, target, begun, move |event| {
                    let told = match &event {
                        WatchEvent::Put(entry) => {
                            values.insert(entry.key.clone(), entry.value.clone()).as_ref()
                                != Some(&entry.value)
                        }
                        _ => true,
                    };
                    let before = syncing;
                    syncing &= event != WatchEvent::Synced;
                    (told && !before).then_some(event)
                })
                .await
            },
        ),
    ]
}
