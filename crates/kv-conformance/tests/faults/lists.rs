//! Lists that miss, repeat, reorder or mix up.

use std::ops::Bound;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use kv_core::{ErrorKind, Key, ListItem, ListOptions, Listing, Prefix, Store, StoreExt, Version};

use super::Fault;
use super::tools::{Shared, pause, relist, shared, with};

type Change = fn(Vec<ListItem>) -> Vec<ListItem>;

/// A list whose items are changed.
fn changed(name: &'static str, caught_by: &'static [&'static str], change: Change) -> Fault {
    Fault::new(name, caught_by)
        .list(move |store, prefix, options| async move { relist(&store, &prefix, options, change).await })
}

/// A list that is asked for something else.
fn asked(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(ListOptions) -> ListOptions,
) -> Fault {
    Fault::new(name, caught_by)
        .list(move |store, prefix, options| async move { store.list_with(&prefix, change(options)).await })
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        asked("list_is_one_level", &["list_is_recursive"], |options| options.with_one_level()),
        changed(
            "list_stops_at_a_page",
            &["large_list_is_whole", "list_while_writing_keeps_the_rest"],
            |mut items| {
                items.truncate(1000);
                items
            },
        ),
        changed("list_is_in_tree_order", &["list_is_in_byte_order"], |mut items| {
            items.sort_by_key(|item| item.path().split('/').map(str::to_owned).collect::<Vec<_>>());
            items
        }),
        asked("list_ignores_the_limit", &["list_limit_ends_it"], |mut options| {
            options.limit = None;
            options
        }),
        asked(
            "list_includes_its_end",
            &["list_range_bounds_it", "empty_range_lists_nothing"],
            |mut options| {
                if let Bound::Excluded(end) = options.end {
                    options.end = Bound::Included(end);
                }
                options
            },
        ),
        asked("list_repeats_its_start", &["list_start_after_resumes"], |mut options| {
            if let Bound::Excluded(start) = options.start {
                options.start = Bound::Included(start);
            }
            // A page of one would go on for ever.
            options.limit = options.limit.map(|limit| limit.max(2));
            options
        }),
        asked("list_forgets_the_expiry", &["list_tells_expiries"], |mut options| {
            options.expiry &= options.keys_only;
            options
        }),
        changed("list_tells_the_first_expiry_of_all", &["list_tells_expiries"], |mut items| {
            let first = items.iter().find_map(|item| item.clone().into_entry()?.expiry);
            for item in &mut items {
                if let ListItem::Entry(entry) = item {
                    entry.expiry = first;
                }
            }
            items
        }),
        asked("list_ignores_keys_only", &["list_keys_only"], |mut options| {
            options.keys_only = false;
            options
        }),
        asked("one_level_resumes_at_the_prefix_it_left", &["list_resumes_behind_any_item"], |mut options| {
            if let (true, Bound::Included(start)) = (options.one_level, &options.start)
                && let Some(prefix) = start.as_str().strip_suffix('0')
            {
                options.start = Bound::Excluded(Key::new(prefix).unwrap());
            }
            options
        }),
        changed("one_level_names_no_prefixes", &["list_one_level"], |items| {
            items.into_iter().filter(|item| !matches!(item, ListItem::Prefix(_))).collect()
        }),
    ];
    faults.extend(wrong_prefixes());
    faults.extend(wrong_times());
    faults.extend(wrong_options());
    faults
}

fn wrong_prefixes() -> Vec<Fault> {
    vec![
        Fault::new("list_takes_a_string_prefix", &["list_keeps_to_the_path_boundary"]).list(
            |store, prefix, options| async move {
                relist(&store, &Prefix::root(), options, |items| {
                    items.into_iter().filter(|item| item.path().starts_with(prefix.as_str())).collect()
                })
                .await
            },
        ),
        Fault::new("list_of_the_namespace_panics", &["empty_prefix_is_the_whole_namespace"]).list(
            |store, prefix, options| async move {
                assert!(!prefix.is_root(), "no first character in an empty prefix");
                store.list_with(&prefix, options).await
            },
        ),
        Fault::new("list_of_nothing_is_an_error", &["absent_prefix_lists_nothing"]).list(
            |store, prefix, options| async move {
                let items: Vec<ListItem> =
                    store.list_with(&prefix, options.clone()).await?.try_collect().await?;
                if items.is_empty() {
                    return Err(ErrorKind::NotFound.into());
                }
                store.list_with(&prefix, options).await
            },
        ),
    ]
}

/// A list that fetches its entries one by one as it is read.
async fn one_by_one(store: Arc<dyn Store>, prefix: Prefix) -> kv_core::Result<Listing> {
    let as_of = store.list(&prefix).await?.as_of();
    let keys: Vec<Key> = store.keys(&prefix).await?;
    let entries = stream::iter(keys).then(move |key| {
        let store = Arc::clone(&store);
        async move {
            tokio::task::yield_now().await;
            store.get(&key).await
        }
    });
    Ok(Listing::new(as_of, entries.try_filter_map(|found| async { Ok(found.map(ListItem::Entry)) })))
}

/// A list in pages that are counted from the beginning each time.
fn by_offset(store: Arc<dyn Store>, prefix: Prefix) -> Listing {
    const PAGE: usize = 50;
    let pages = stream::try_unfold(0, move |offset| {
        let (store, prefix) = (Arc::clone(&store), prefix.clone());
        async move {
            tokio::task::yield_now().await;
            let page: Vec<_> = store.entries(&prefix).await?.into_iter().skip(offset).take(PAGE).collect();
            Ok::<_, kv_core::Error>((!page.is_empty()).then(|| (page, offset + PAGE)))
        }
    });
    let items = pages.map_ok(|page| stream::iter(page.into_iter().map(|entry| Ok(ListItem::Entry(entry)))));
    Listing::new(None, items.try_flatten())
}

/// Counts a listing that is dropped before its end.
struct Unread(Shared<u32>);

impl Drop for Unread {
    fn drop(&mut self) {
        with(&self.0, |count| *count += 1);
    }
}

fn wrong_times() -> Vec<Fault> {
    let unread: Shared<u32> = shared();
    vec![
        Fault::new(
            "list_reads_entry_by_entry",
            &["list_is_one_version", "snapshot_lists_see_no_half_rounds"],
        )
        .list(|store, prefix, options| async move {
            if options.keys_only {
                store.list_with(&prefix, options).await
            } else {
                one_by_one(store, prefix).await
            }
        }),
        Fault::new("list_counts_its_pages", &["list_while_writing_keeps_the_rest"]).list(
            |store, prefix, options| async move {
                if options.keys_only {
                    store.list_with(&prefix, options).await
                } else {
                    Ok(by_offset(store, prefix))
                }
            },
        ),
        Fault::new("list_tells_a_later_version", &["list_then_watch_loses_nothing"]).list(
            |store, prefix, options| async move {
                let listing = store.list_with(&prefix, options).await?;
                let later = listing.as_of().map(|version| Version::new(version.get() + 40));
                Ok(Listing::new(later, listing))
            },
        ),
        Fault::new("dropped_lists_pile_up", &["dropped_list_is_harmless"]).list(
            move |store, prefix, options| {
                let unread = Arc::clone(&unread);
                async move {
                    if with(&unread, |count| *count) > 10 {
                        return Err(ErrorKind::Overloaded.into());
                    }
                    let listing = store.list_with(&prefix, options).await?;
                    let open = Unread(unread);
                    let end = stream::once(async move {
                        std::mem::forget(open);
                        None
                    });
                    let items = listing.map(Some).chain(end).filter_map(|item| async { item });
                    Ok(Listing::new(None, items))
                }
            },
        ),
        Fault::new(
            "list_shows_what_was_deleted",
            &["list_follows_every_write", "deleting_a_key_leaves_its_children"],
        )
        .delete(|store, key, options| async move {
            tokio::spawn({
                let (store, key) = (Arc::clone(&store), key.clone());
                async move {
                    pause(20).await;
                    let _ = store.delete_with(&key, kv_core::DeleteOptions::default()).await;
                }
            });
            let found = store.get(&key).await?;
            let mut deleted = kv_core::DeleteResult::deleted(found.clone().filter(|_| options.previous));
            deleted.existed = found.is_some();
            Ok(deleted)
        }),
    ]
}

fn wrong_options() -> Vec<Fault> {
    vec![
        Fault::new("an_empty_range_panics", &["empty_range_lists_nothing", "list_options_combine"]).list(
            |store, prefix, options| async move {
                if let (
                    Bound::Included(start) | Bound::Excluded(start),
                    Bound::Included(end) | Bound::Excluded(end),
                ) = (&options.start, &options.end)
                {
                    assert!(start <= end, "range start is greater than range end");
                }
                store.list_with(&prefix, options).await
            },
        ),
        Fault::new("the_limit_counts_keys_and_not_items", &["list_options_combine"]).list(
            |store, prefix, options| async move {
                let (Some(limit), true) = (options.limit, options.one_level) else {
                    return store.list_with(&prefix, options).await;
                };
                let mut flat = options.clone().with_keys_only();
                flat.one_level = false;
                let keys: Vec<ListItem> = store.list_with(&prefix, flat).await?.try_collect().await?;
                let Some(last) = keys.get(..limit).and_then(<[_]>::last) else {
                    return store.list_with(&prefix, options).await;
                };
                let mut cut = options;
                cut.end = Bound::Included(Key::new(last.path())?);
                store.list_with(&prefix, cut).await
            },
        ),
    ]
}
