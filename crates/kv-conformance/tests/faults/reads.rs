//! Values that come back changed, and answers from the past.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_core::{Bytes, Consistency, Entry, Error, ErrorKind, Key, Measured, Precondition, StoreExt};

use super::Fault;
use super::tools::{BTreeMap, Shared, id, pause, relist, shared, with, with_entry};

type Cache = Shared<BTreeMap<(usize, Key), (Instant, Option<Entry>)>>;

pub(super) fn faults() -> Vec<Fault> {
    let cache: Cache = shared();
    vec![
        Fault::new("values_become_text", &["values_round_trip_byte_for_byte"]).get(
            |store, key, options| async move {
                let mut found = store.get_with(&key, options).await?;
                if let Some(entry) = &mut found {
                    entry.value = String::from_utf8_lossy(&entry.value).into_owned().into();
                }
                Ok(found)
            },
        ),
        Fault::new("an_empty_value_is_absent", &["empty_value_is_not_absent"]).get(
            |store, key, options| async move {
                Ok(store.get_with(&key, options).await?.filter(|entry| !entry.value.is_empty()))
            },
        ),
        Fault::new("the_limit_is_lower_than_declared", &["largest_value_round_trips"]).put(
            |store, key, value, options| async move {
                let max = store.capabilities().limits.max_value / 2;
                if value.len() > max {
                    return Err(Error::too_large(Measured::Value, value.len(), max));
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new(
            "values_are_cut_to_the_limit",
            &["larger_value_is_refused", "connection_survives_a_larger_value"],
        )
        .put(|store, key, mut value, options| async move {
            value.truncate(store.capabilities().limits.max_value);
            store.put_with(&key, value, options).await
        }),
        Fault::new("an_owner_is_cut_to_the_limit", &["larger_owner_or_compared_value_is_refused"]).lock(
            |store, key, mut options| async move {
                options.owner.truncate(store.capabilities().limits.max_value);
                store.lock_with(&key, options).await
            },
        ),
        Fault::new("what_is_compared_has_no_limit", &["larger_owner_or_compared_value_is_refused"]).put(
            |store, key, value, mut options| async move {
                if let Precondition::Value(compared) = &mut options.precondition {
                    compared.truncate(store.capabilities().limits.max_value);
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("a_large_put_ends_the_session", &["connection_survives_a_larger_value"]).put(
            |store, key, value, options| async move {
                let put = store.put_with(&key, value, options).await;
                if put.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::TooLarge { .. })) {
                    store.close().await?;
                }
                put
            },
        ),
        Fault::new("list_cuts_values", &["large_values_are_listed"]).list(
            |store, prefix, options| async move {
                let cut = |entry: &mut Entry| entry.value.truncate(100_000);
                relist(&store, &prefix, options, |items| {
                    items.into_iter().map(|item| with_entry(item, cut)).collect()
                })
                .await
            },
        ),
        Fault::new("reads_come_from_a_cache", &["reads_see_acknowledged_writes", "reads_never_go_back"]).get(
            move |store, key, options| {
                let cache = Arc::clone(&cache);
                async move {
                    let slot = (id(&store), key.clone());
                    if let Some((at, entry)) = with(&cache, |cache| cache.get(&slot).cloned())
                        && at.elapsed() < Duration::from_millis(30)
                    {
                        return Ok(entry);
                    }
                    let found = store.get_with(&key, options).await?;
                    with(&cache, |cache| cache.insert(slot, (Instant::now(), found.clone())));
                    Ok(found)
                }
            },
        ),
        Fault::new("lists_come_late", &["reads_see_acknowledged_writes", "list_follows_every_write"]).list({
            let last: Shared<BTreeMap<String, Vec<kv_core::ListItem>>> = shared();
            move |store, prefix, options| {
                let last = Arc::clone(&last);
                async move {
                    relist(&store, &prefix, options, |items| {
                        let before = with(&last, |last| last.insert(prefix.to_string(), items.clone()));
                        before.unwrap_or(items)
                    })
                    .await
                }
            }
        }),
        Fault::new("stale_reads_are_declared_and_missing", &["stale_reads_answer"]).dishonest().get(
            |store, key, options| async move {
                if options.consistency == Consistency::Stale {
                    return Err(Error::lacks(kv_core::Power::StaleReads));
                }
                store.get_with(&key, options).await
            },
        ),
        Fault::new("answers_are_mixed_up", &["calls_at_once_get_their_own_answers"]).get({
            let asked: Shared<Option<Key>> = shared();
            move |store, key, options| {
                let asked = Arc::clone(&asked);
                async move {
                    with(&asked, |asked| *asked = Some(key));
                    pause(1).await;
                    let key = with(&asked, |asked| asked.clone()).expect("it was set");
                    store.get_with(&key, options).await
                }
            }
        }),
        Fault::new("put_writes_in_two_steps", &["dropped_write_is_whole_or_nothing"]).put(
            |store, key, value, options| async move {
                let half: Bytes = value.slice(..value.len() / 2);
                if value.len() > 1 && options.precondition == Precondition::Any {
                    store.put(&key, half).await?;
                    pause(1).await;
                }
                store.put_with(&key, value, options).await
            },
        ),
    ]
}
