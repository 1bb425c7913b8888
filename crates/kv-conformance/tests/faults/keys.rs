//! Keys that are changed, joined, refused or lost, and namespaces that leak.

use std::sync::Arc;

use kv_core::{
    DeleteOptions, Error, ErrorKind, Key, MAX_KEY_BYTES, Prefix, PutResult, Store, StoreExt, Version,
};

use super::Fault;
use super::tools::{Shared, has_children, rewatch, shared, with};

/// What was put last under a key of the greatest length, and through which handle.
type TooLong = Option<(Arc<dyn Store>, Key)>;

/// Stores that trip over a name that is too long for a key from further up.
fn too_long_names() -> [Fault; 2] {
    let fault = |name| {
        let seen: Shared<TooLong> = shared();
        let put = Arc::clone(&seen);
        let fault = Fault::new(name, &["names_that_are_no_keys_are_left_alone"]).put(
            move |store, key, value, options| {
                if key.as_str().len() == MAX_KEY_BYTES {
                    with(&put, |put| *put = Some((Arc::clone(&store), key.clone())));
                }
                async move { store.put_with(&key, value, options).await }
            },
        );
        (fault, seen)
    };
    let (breaks_lists, seen) = fault("a_name_that_is_no_key_breaks_lists");
    let (stays, kept) = fault("delete_tree_leaves_names_that_are_no_keys");
    [
        breaks_lists.list(move |store, prefix, options| {
            let breaks = with(&seen, |seen| seen.is_some());
            async move {
                if breaks {
                    return Err(ErrorKind::InvalidKey { reason: "too long".to_owned() }.into());
                }
                store.list_with(&prefix, options).await
            }
        }),
        stays.delete_tree(move |store, prefix, options| {
            let kept = with(&kept, Option::take);
            async move {
                let deleted = store.delete_tree_with(&prefix, options).await?;
                if let Some((below, key)) = kept {
                    below.put(&key, "2").await?;
                }
                Ok(deleted)
            }
        }),
    ]
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = wrong_keys();
    faults.extend(too_long_names());
    faults
}

fn wrong_keys() -> Vec<Fault> {
    let lower = |key: Key| Key::new(&key.as_str().to_lowercase()).unwrap();
    let invalid = || Error::new(ErrorKind::InvalidKey { reason: "not here".to_owned() });
    vec![
        Fault::new("keys_lose_their_case", &["odd_keys_round_trip", "similar_keys_are_different"])
            .put(move |store, key, value, options| async move {
                store.put_with(&lower(key), value, options).await
            })
            .get(move |store, key, options| async move { store.get_with(&lower(key), options).await })
            .delete(move |store, key, options| async move { store.delete_with(&lower(key), options).await }),
        Fault::new("watch_misses_keys_with_odd_characters", &["odd_keys_work_in_watches"]).watch(
            |store, target, options| async move {
                if target.path().chars().all(|c| c.is_ascii_alphanumeric() || c == '/') {
                    return store.watch_with(target, options).await;
                }
                rewatch(&store, target, options, |_| None).await
            },
        ),
        Fault::new("lock_refuses_odd_characters", &["odd_keys_work_as_locks"]).lock(
            move |store, key, options| async move {
                if key.as_str().contains(|c: char| !c.is_ascii_alphanumeric()) {
                    return Err(invalid());
                }
                store.lock_with(&key, options).await
            },
        ),
        Fault::new("long_keys_are_refused", &["longest_key_round_trips"]).put(
            move |store, key, value, options| async move {
                if key.as_str().len() > 255 {
                    return Err(invalid());
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new(
            "put_below_absent_parents_writes_nothing",
            &["deep_key_round_trips", "put_creates_and_replaces"],
        )
        .put(|store, key, value, options| async move {
            if key.segments().count() > 2 && !store.exists(key.parent().to_key().unwrap()).await? {
                return Ok(PutResult::new(Version::new(1)));
            }
            store.put_with(&key, value, options).await
        }),
        Fault::new("get_tells_another_key", &["slashes_are_normalised", "odd_keys_round_trip"]).get(
            |store, key, options| async move {
                let mut found = store.get_with(&key, options).await?;
                if let Some(entry) = &mut found {
                    entry.key = Key::new(&format!("{}_", entry.key))?;
                }
                Ok(found)
            },
        ),
        Fault::new("long_namespaces_are_cut", &["long_namespace_is_refused"]).namespace(|namespace| {
            let text: String = namespace.as_str().chars().take(200).collect();
            Prefix::new(&text).unwrap()
        }),
        Fault::new("short_namespaces_are_joined", &["namespaces_are_separate"]).namespace(|namespace| {
            let path = namespace.as_str();
            match path.rsplit_once('/') {
                Some((above, name)) if name.len() < 4 => {
                    Prefix::new(&format!("{above}/{}", &name[..1])).unwrap()
                }
                _ => namespace,
            }
        }),
        Fault::new("namespaces_are_escaped", &["keys_lie_under_their_natural_names"])
            .namespace(|namespace| Prefix::new(&namespace.as_str().replace(' ', "_")).unwrap()),
        Fault::new("no_key_below_a_value", &["key_then_child_both_hold_values"]).put(
            |store, key, value, options| async move {
                if let Some(parent) = key.parent().to_key()
                    && store.exists(parent).await?
                {
                    return Err(Error::invalid_argument("not a directory"));
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("no_value_above_a_key", &["child_then_key_both_hold_values"]).put(
            |store, key, value, options| async move {
                if has_children(&store, &key).await? {
                    return Err(Error::invalid_argument("a directory"));
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("delete_takes_the_children", &["deleting_a_key_leaves_its_children"]).delete(
            |store, key, options| async move {
                let deleted = store.delete_with(&key, options).await?;
                store.delete_tree(&key).await?;
                Ok(deleted)
            },
        ),
        Fault::new("delete_takes_the_parent", &["deleting_a_child_leaves_its_parent"]).delete(
            |store, key, options| async move {
                let deleted = store.delete_with(&key, options).await?;
                if let Some(parent) = key.parent().to_key() {
                    store.delete_with(&parent, DeleteOptions::default()).await?;
                }
                Ok(deleted)
            },
        ),
        Fault::new("put_makes_the_parents", &["implicit_parents_do_not_exist", "delete_tree_counts_entries"])
            .put(|store, key, value, options| async move {
                let put = store.put_with(&key, value, options).await?;
                let mut parent = key.parent().to_key();
                while let Some(key) = parent {
                    let _ = store.create(&key, "").await;
                    parent = key.parent().to_key();
                }
                Ok(put)
            }),
    ]
}
