//! Fences that let everybody in, or nobody.

use std::sync::Arc;

use kv_core::{Error, Precondition, StoreExt};

use super::Fault;
use super::tools::{BTreeMap, Shared, id, shared, with};

pub(super) fn faults() -> Vec<Fault> {
    let owners: Shared<BTreeMap<u64, usize>> = shared();
    let known = Arc::clone(&owners);
    vec![
        Fault::new(
            "every_fence_is_refused",
            &["fenced_writes_apply_while_held", "fence_works_on_any_handle"],
        )
        .put(|store, key, value, options| async move {
            if options.fence.is_some() {
                return Err(Error::not_held(None));
            }
            store.put_with(&key, value, options).await
        }),
        Fault::new(
            "fences_are_ignored",
            &[
                "fenced_writes_are_refused_after_release",
                "fenced_writes_are_refused_after_removal",
                "fence_of_the_old_holder_is_refused",
                "fence_works_on_any_handle",
                "fence_works_in_any_namespace",
                "fence_and_precondition_both_count",
                "fence_refuses_with_close",
                "fenced_transaction_applies_while_held",
            ],
        )
        .put(|store, key, value, mut options| async move {
            options.fence = None;
            store.put_with(&key, value, options).await
        })
        .delete(|store, key, mut options| async move {
            options.fence = None;
            store.delete_with(&key, options).await
        })
        .transact(|store, mut txn| async move {
            txn.fence = None;
            store.transact(txn).await
        }),
        Fault::new("any_holder_s_fence_will_do", &["fence_of_the_old_holder_is_refused"]).put(
            |store, key, value, mut options| async move {
                if let Some(fence) = &options.fence
                    && store.lock_holder(fence.key()).await?.is_some()
                {
                    options.fence = None;
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("a_fence_is_looked_up_in_the_writer_s_namespace", &["fence_works_in_any_namespace"]).put(
            |store, key, value, options| async move {
                if let Some(fence) = &options.fence {
                    let holder = store.lock_holder(fence.key()).await?;
                    if holder.is_none_or(|holder| holder.token != fence.token()) {
                        return Err(Error::not_held(None));
                    }
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("a_fence_is_checked_by_its_own_handle", &["fence_works_on_any_handle"])
            .lock(move |store, key, options| {
                let owners = Arc::clone(&owners);
                async move {
                    let guard = store.lock_with(&key, options).await?;
                    with(&owners, |owners| owners.insert(guard.token().get(), id(&store)));
                    Ok(guard)
                }
            })
            .put(move |store, key, value, options| {
                let known = Arc::clone(&known);
                async move {
                    if let Some(fence) = &options.fence
                        && with(&known, |known| known.get(&fence.token().get()) != Some(&id(&store)))
                    {
                        return Err(Error::not_held(None));
                    }
                    store.put_with(&key, value, options).await
                }
            }),
        Fault::new("a_fence_replaces_the_precondition", &["fence_and_precondition_both_count"]).put(
            |store, key, value, mut options| async move {
                if options.fence.is_some() {
                    options.precondition = Precondition::Any;
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("a_closed_handle_s_fence_lives_on", &["fence_refuses_with_close"]).close(
            |store| async move {
                // The handle is gone for its user, and its locks are kept by nobody.
                drop(store.keys("").await?);
                Ok(())
            },
        ),
    ]
}
