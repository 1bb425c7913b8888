//! delete_tree that takes too much, too little, or too long.

use std::sync::Arc;

use kv_core::{DeleteOptions, ErrorKind, Key, Prefix, Store, StoreExt, WatchEvent};

use super::Fault;
use super::tools::{BTreeSet, Shared, rewatch, shared, with};

/// Deletes these keys, one after the other.
async fn delete_each(store: &Arc<dyn Store>, keys: impl IntoIterator<Item = Key>) -> kv_core::Result<u64> {
    let mut count = 0;
    for key in keys {
        count += u64::from(store.delete_with(&key, DeleteOptions::default()).await?.existed);
        tokio::task::yield_now().await;
    }
    Ok(count)
}

pub(super) fn faults() -> Vec<Fault> {
    let gone: Shared<BTreeSet<Key>> = shared();
    let buried = Arc::clone(&gone);
    vec![
        Fault::new("delete_tree_takes_a_string_prefix", &["delete_tree_keeps_to_the_path_boundary"])
            .delete_tree(|store, prefix, _| async move {
                let keys = store.keys("").await?;
                delete_each(&store, keys.into_iter().filter(|key| key.as_str().starts_with(prefix.as_str())))
                    .await
            }),
        Fault::new("delete_tree_takes_one_level", &["delete_tree_takes_every_level"]).delete_tree(
            |store, prefix, _| async move {
                let keys = store.keys(&prefix).await?;
                delete_each(&store, keys.into_iter().filter(|key| key.parent() == prefix)).await
            },
        ),
        Fault::new("delete_tree_counts_parents", &["delete_tree_counts_entries"]).delete_tree(
            |store, prefix, options| async move {
                let keys = store.keys(&prefix).await?;
                store.delete_tree_with(&prefix, options).await?;
                let mut records: BTreeSet<Prefix> = BTreeSet::new();
                for key in keys {
                    records.insert(key.as_prefix());
                    let mut parent = key.parent();
                    while parent != prefix && !parent.is_root() {
                        records.insert(parent.clone());
                        parent = parent.to_key().unwrap().parent();
                    }
                }
                Ok(records.len() as u64)
            },
        ),
        Fault::new("delete_tree_of_nothing_is_an_error", &["delete_tree_of_nothing_is_zero"]).delete_tree(
            |store, prefix, options| async move {
                match store.delete_tree_with(&prefix, options).await? {
                    0 => Err(ErrorKind::NotFound.into()),
                    count => Ok(count),
                }
            },
        ),
        Fault::new("delete_tree_of_the_namespace_does_nothing", &["delete_tree_of_the_namespace"])
            .delete_tree(|store, prefix, options| async move {
                if prefix.is_root() { Ok(0) } else { store.delete_tree_with(&prefix, options).await }
            }),
        Fault::new("delete_tree_stops_at_a_page", &["delete_tree_of_a_large_tree"]).delete_tree(
            |store, prefix, _| async move {
                let keys = store.keys(&prefix).await?;
                delete_each(&store, keys.into_iter().take(1000)).await
            },
        ),
        Fault::new(
            "delete_tree_deletes_one_by_one",
            &[
                "delete_tree_is_all_or_nothing",
                "removed_lock_is_told_lost",
                "delete_tree_above_takes_locks",
                "waiter_survives_removed_records",
                "fenced_writes_are_refused_after_removal",
            ],
        )
        .delete_tree(|store, prefix, _| async move {
            let keys = store.keys(&prefix).await?;
            delete_each(&store, keys).await
        }),
        Fault::new("delete_tree_leaves_tombstones", &["deleted_tree_can_be_written_again"])
            .delete_tree(move |store, prefix, options| {
                let buried = Arc::clone(&buried);
                async move {
                    let keys = store.keys(&prefix).await?;
                    with(&buried, |gone| gone.extend(keys));
                    store.delete_tree_with(&prefix, options).await
                }
            })
            .put(move |store, key, value, options| {
                let gone = Arc::clone(&gone);
                async move {
                    if with(&gone, |gone| gone.contains(&key)) {
                        return Err(ErrorKind::AlreadyExists { current: None }.into());
                    }
                    store.put_with(&key, value, options).await
                }
            }),
        Fault::new("deletes_are_told_under_the_prefix", &["delete_tree_reaches_watchers"]).watch(
            |store, target, options| async move {
                let path = target.path().to_owned();
                rewatch(&store, target, options, move |event| match event {
                    WatchEvent::Delete(mut deletion) if deletion.key.as_str() != path => {
                        deletion.key = deletion.key.parent().to_key().unwrap_or(deletion.key);
                        [WatchEvent::Delete(deletion)]
                    }
                    other => [other],
                })
                .await
            },
        ),
        Fault::new("delete_tree_gives_up_when_others_write", &["delete_tree_ends_while_others_write"])
            .delete_tree(|store, prefix, _| async move {
                let keys = store.keys(&prefix).await?;
                let count = delete_each(&store, keys).await?;
                match store.keys(&prefix).await?.len() {
                    0 => Ok(count),
                    _ => Err(ErrorKind::Overloaded.into()),
                }
            }),
    ]
}
