//! Watches that begin too early, too late, or with the wrong state.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use kv_core::{
    Deletion, ErrorKind, Store, StoreExt, Version, Watch, WatchEvent, WatchOptions, WatchStart, WatchTarget,
};

use super::Fault;
use super::tools::{pause, rewatch};

/// A watch that is begun otherwise.
fn begins(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(WatchStart) -> WatchStart,
) -> Fault {
    Fault::new(name, caught_by).watch(move |store, target, mut options| async move {
        options.start = change(options.start);
        store.watch_with(target, options).await
    })
}

/// Whether there is anything a watch would tell at first.
async fn exists(store: &Arc<dyn Store>, target: &WatchTarget) -> kv_core::Result<bool> {
    match target {
        WatchTarget::Key(key) => store.exists(key).await,
        other => Ok(!store.keys(other.path()).await?.is_empty()),
    }
}

/// The state as events, then `Synced`.
async fn state(store: &Arc<dyn Store>, target: &WatchTarget) -> kv_core::Result<Vec<WatchEvent>> {
    let entries = match target {
        WatchTarget::Key(key) => store.get(key).await?.into_iter().collect(),
        other => store.entries(other.path()).await?,
    };
    Ok(entries.into_iter().map(WatchEvent::Put).chain([WatchEvent::Synced]).collect())
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        begins("watch_from_now_tells_the_past", &["watch_now_tells_nothing_older"], |start| match start {
            WatchStart::Now => WatchStart::After(Version::ZERO),
            other => other,
        }),
        begins(
            "watch_from_a_version_repeats_it",
            &["watch_from_a_version", "watch_from_the_newest_version"],
            |start| match start {
                WatchStart::After(version) => {
                    WatchStart::After(Version::new(version.get().saturating_sub(1)))
                }
                other => other,
            },
        ),
        begins(
            "watch_from_a_version_begins_now",
            &["watch_from_a_version", "watch_from_any_version_ends_right", "list_then_watch_loses_nothing"],
            |start| match start {
                WatchStart::After(_) => WatchStart::Now,
                other => other,
            },
        ),
        begins(
            "watch_from_long_ago_skips_what_is_gone",
            &["watch_from_long_ago_is_whole_or_compacted"],
            |start| match start {
                WatchStart::After(version) => WatchStart::After(Version::new(version.get() + 5)),
                other => other,
            },
        ),
    ];
    faults.extend(gaps());
    faults.extend(absent_targets());
    faults.extend(wrong_states());
    faults
}

fn gaps() -> [Fault; 3] {
    [
        Fault::new("watch_begins_when_it_is_read", &["watch_sees_what_follows_it"]).watch(
            |store, target, options| async move {
                if options.start != WatchStart::Now {
                    return store.watch_with(target, options).await;
                }
                let begun = stream::once(async move { store.watch_with(target, options).await });
                Ok(Watch::new(begun.filter_map(|watch| async { watch.ok() }).flatten().boxed()))
            },
        ),
        Fault::new(
            "watch_lists_and_then_watches",
            &["watch_initial_loses_nothing", "watch_initial_misses_no_version"],
        )
        .watch(|store, target, options| async move {
            if options.start != WatchStart::Initial {
                return store.watch_with(target, options).await;
            }
            let state = state(&store, &target).await?;
            pause(5).await;
            let watch = store.watch_with(target, WatchOptions::default().with_filter(options.filter)).await?;
            Ok(Watch::new(stream::iter(state.into_iter().map(Ok)).chain(watch)))
        }),
        Fault::new("history_has_no_deletes", &["watch_from_a_version_replays_deletes"]).watch(
            |store, target, options| async move {
                let history = matches!(options.start, WatchStart::After(_));
                rewatch(&store, target, options, move |event| match event {
                    WatchEvent::Delete(_) if history => None,
                    other => Some(other),
                })
                .await
            },
        ),
    ]
}

fn absent_targets() -> [Fault; 2] {
    [
        Fault::new(
            "an_absent_target_cannot_be_watched",
            &["watch_of_an_absent_key", "watch_initial_of_nothing", "watch_of_an_absent_prefix"],
        )
        .watch(|store, target, options| async move {
            if !exists(&store, &target).await? {
                return Err(ErrorKind::NotFound.into());
            }
            store.watch_with(target, options).await
        }),
        Fault::new("an_absent_prefix_is_told_deleted", &["watch_of_an_absent_prefix"]).watch(
            |store, target, options| async move {
                let deleted = match &target {
                    WatchTarget::Prefix(prefix) if !exists(&store, &target).await? => {
                        Some(Deletion::new(prefix.join("never")?))
                    }
                    _ => None,
                };
                let watch = store.watch_with(target, options).await?;
                Ok(Watch::new(
                    stream::iter(deleted.map(|deletion| Ok(WatchEvent::Delete(deletion)))).chain(watch),
                ))
            },
        ),
    ]
}

/// A watch that leaves out some of the entries it begins with.
fn state_without(
    name: &'static str,
    caught_by: &'static [&'static str],
    kept: fn(&WatchTarget, usize) -> bool,
) -> Fault {
    Fault::new(name, caught_by).watch(move |store, target, options| async move {
        let (mut syncing, mut at) = (options.start == WatchStart::Initial, 0);
        let of = target.clone();
        rewatch(&store, target, options, move |event| {
            at += 1;
            syncing &= event != WatchEvent::Synced;
            (!syncing || kept(&of, at)).then_some(event)
        })
        .await
    })
}

fn wrong_states() -> [Fault; 4] {
    [
        state_without("watch_leaves_out_the_first_entry", &["watch_initial_tells_the_state"], |_, at| {
            at != 1
        }),
        state_without("watch_of_a_key_leaves_out_its_entry", &["watch_initial_of_a_key"], |target, _| {
            matches!(target, WatchTarget::Prefix(_))
        }),
        state_without("watch_tells_a_page_of_the_state", &["watch_initial_of_a_large_tree"], |_, at| {
            at <= 1000
        }),
        Fault::new("watch_tells_no_synced", &["watch_initial_tells_the_state", "watch_initial_of_nothing"])
            .watch(|store, target, options| async move {
                rewatch(&store, target, options, |event| (event != WatchEvent::Synced).then_some(event)).await
            }),
    ]
}
