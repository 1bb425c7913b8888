//! Versions that repeat, restart or belong to something else.

use std::sync::Arc;

use kv_core::{Entry, Key, Precondition, PutResult, StoreExt, Version};

use super::Fault;
use super::tools::{BTreeMap, Shared, id, pause, relist, shared, with, with_entry};

/// A put that numbers its writes itself.
fn numbered(
    fault: Fault,
    number: impl Fn(&Arc<dyn kv_core::Store>, &Key) -> String + Copy + Send + Sync + 'static,
) -> Fault {
    let counts: Shared<BTreeMap<String, u64>> = shared();
    fault.put(move |store, key, value, options| {
        let counts = Arc::clone(&counts);
        async move {
            store.put_with(&key, value, options).await?;
            let number = with(&counts, |counts| {
                let count = counts.entry(number(&store, &key)).or_default();
                *count += 1;
                *count
            });
            Ok(PutResult::new(Version::new(number)))
        }
    })
}

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("every_version_is_one", &["every_write_gets_a_greater_version"]).put(
            |store, key, value, options| async move {
                store.put_with(&key, value, options).await?;
                Ok(PutResult::new(Version::new(1)))
            },
        ),
        Fault::new(
            "an_identical_value_is_not_written",
            &["identical_value_gets_a_greater_version", "watch_tells_identical_puts"],
        )
        .put(|store, key, value, options| async move {
            match store.get(&key).await? {
                Some(entry) if entry.value == value && options.precondition == Precondition::Any => {
                    Ok(PutResult::new(entry.version))
                }
                _ => store.put_with(&key, value, options).await,
            }
        }),
        Fault::new(
            "versions_restart_at_re_creation",
            &["versions_grow_across_recreation", "deleted_tree_can_be_written_again"],
        )
        .put(|store, key, value, options| async move {
            let put = store.put_with(&key, value, options).await?;
            let created = store.get(&key).await?.map_or(Version::ZERO, |entry| entry.created);
            Ok(PutResult::new(Version::new(put.version.get() - created.get() + 1)))
        }),
        numbered(Fault::new("each_handle_has_a_counter", &["versions_grow_across_handles"]), |store, _| {
            id(store).to_string()
        }),
        numbered(Fault::new("each_key_has_a_counter", &["versions_come_from_one_counter"]), |_, key| {
            key.to_string()
        }),
        Fault::new(
            "list_tells_the_created_version",
            &["everything_agrees_on_a_version", "listed_version_can_be_compared"],
        )
        .list(|store, prefix, options| async move {
            let older = |entry: &mut Entry| entry.version = Version::new(entry.version.get() - 1);
            relist(&store, &prefix, options, |items| {
                items.into_iter().map(|item| with_entry(item, older)).collect()
            })
            .await
        }),
        Fault::new(
            "created_is_the_last_change",
            &["created_is_the_version_of_the_first_write", "delete_returns_the_previous_entry"],
        )
        .get(|store, key, options| async move {
            let mut found = store.get_with(&key, options).await?;
            if let Some(entry) = &mut found {
                entry.created = entry.version;
            }
            Ok(found)
        })
        .delete(|store, key, options| async move {
            let mut deleted = store.delete_with(&key, options).await?;
            if let Some(entry) = &mut deleted.previous {
                entry.created = entry.version;
            }
            Ok(deleted)
        }),
        Fault::new("at_takes_a_re_created_key", &["recreated_key_is_noticed"]).put(
            |store, key, value, mut options| async move {
                if let Precondition::At(version) = options.precondition
                    && let Some(entry) = store.get(&key).await?
                    && entry.created > version
                {
                    options.precondition = Precondition::At(entry.version);
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new(
            "at_is_read_and_then_written",
            &[
                "recreation_is_noticed_at_any_moment",
                "version_counter_loses_no_increment",
                "one_of_two_conditional_writes_wins",
            ],
        )
        .put(|store, key, value, mut options| async move {
            if let Precondition::At(version) = options.precondition
                && store.get(&key).await?.is_some_and(|entry| entry.version == version)
            {
                // Long enough that on a busy machine another write comes in between.
                pause(25).await;
                options.precondition = Precondition::Any;
            }
            store.put_with(&key, value, options).await
        }),
        Fault::new("put_reads_its_version_back", &["put_returns_its_own_version"]).put(
            |store, key, value, options| async move {
                let put = store.put_with(&key, value, options).await?;
                pause(1).await;
                Ok(store.get(&key).await?.map_or(put, |entry| PutResult::new(entry.version)))
            },
        ),
    ]
}
