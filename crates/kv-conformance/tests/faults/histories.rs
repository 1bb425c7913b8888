//! The past told wrongly.

use std::sync::Arc;

use kv_core::{
    AdminExt, Error, ErrorKind, Key, KeyVersion, ListOptions, Listing, Prefix, Result, Store, StoreExt,
    Version, VersionsOptions,
};

use super::Fault;

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("a_key_is_read_as_it_is_now", &["history_reads_a_key_as_it_was"])
            .get_at(|store, key, _| async move { store.get(&key).await }),
        Fault::new("the_past_is_off_by_one", &["history_lists_a_deleted_subtree"]).list_at(
            |store, prefix, at, options| async move {
                list_at(&store, &prefix, Version::new(at.get().saturating_sub(2)), options).await
            },
        ),
        Fault::new("a_list_of_the_past_ignores_its_options", &["history_lists_one_version"]).list_at(
            |store, prefix, at, _| async move { list_at(&store, &prefix, at, ListOptions::default()).await },
        ),
        Fault::new("deletions_are_left_out_of_the_versions", &["history_tells_the_versions_of_a_key"])
            .versions(|store, key, options| async move {
                let mut told = versions(&store, &key, options).await?;
                told.retain(|one| one.entry.is_some());
                Ok(told)
            }),
        Fault::new("the_limit_keeps_the_oldest_versions", &["history_tells_the_versions_of_a_key"]).versions(
            |store, key, options| async move {
                let mut told = versions(&store, &key, VersionsOptions::default()).await?;
                told.truncate(options.limit.unwrap_or(usize::MAX));
                Ok(told)
            },
        ),
        Fault::new("the_future_is_compacted_to_now", &["history_ends_at_the_newest_version"]).compact(
            |store, up_to| async move {
                let now = store.put("mark", "x").await?;
                store.compact(up_to.min(now)).await
            },
        ),
        Fault::new("compaction_does_nothing", &["compaction_forgets_what_was_before"])
            .compact(|_, up_to| async move { Ok(up_to) }),
        Fault::new("compaction_forgets_too_much", &["compaction_forgets_what_was_before"])
            .compact(|store, up_to| async move { store.compact(Version::new(up_to.get() + 1)).await }),
        Fault::new("a_compacted_state_is_just_absent", &["compaction_forgets_what_was_before"]).get_at(
            |store, key, at| async move {
                match store.get_at(&key, at).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => Ok(None),
                    found => found,
                }
            },
        ),
    ]
}

fn absent() -> Error {
    Error::unsupported("history")
}

pub(super) async fn list_at(
    store: &Arc<dyn Store>,
    prefix: &Prefix,
    at: Version,
    options: ListOptions,
) -> Result<Listing> {
    store.as_history().ok_or_else(absent)?.list_at_with(prefix, at, options).await
}

pub(super) async fn versions(
    store: &Arc<dyn Store>,
    key: &Key,
    options: VersionsOptions,
) -> Result<Vec<KeyVersion>> {
    store.as_history().ok_or_else(absent)?.versions_with(key, options).await
}
