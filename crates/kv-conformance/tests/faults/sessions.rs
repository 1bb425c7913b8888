//! Sessions that end too early, too late, or take others' keys with them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kv_core::{DeleteOptions, EntryExpiry, Expiry, Key, SessionState, SessionStates, Store, StoreExt, Watch};

use super::Fault;
use super::tools::{BTreeMap, Shared, Twist, id, shared, silence, twisted, with};

type Owned = Shared<BTreeMap<usize, Vec<Key>>>;

/// A close that deletes keys which were put before, on this handle or on any.
fn close_deletes(
    name: &'static str,
    caught_by: &'static [&'static str],
    counted: fn(Expiry) -> bool,
    of_all_handles: bool,
) -> Fault {
    let owned: Owned = shared();
    let owners = Arc::clone(&owned);
    Fault::new(name, caught_by)
        .put(move |store, key, value, options| {
            let owned = Arc::clone(&owned);
            async move {
                if counted(options.expiry) {
                    with(&owned, |owned| owned.entry(id(&store)).or_default().push(key.clone()));
                }
                store.put_with(&key, value, options).await
            }
        })
        .close(move |store| {
            let owners = Arc::clone(&owners);
            async move {
                let keys: Vec<Key> = with(&owners, |owned| match of_all_handles {
                    true => std::mem::take(owned).into_values().flatten().collect(),
                    false => owned.remove(&id(&store)).unwrap_or_default(),
                });
                for key in keys {
                    let _ = store.delete_with(&key, DeleteOptions::default()).await;
                }
                store.close().await
            }
        })
}

fn session_becomes(name: &'static str, caught_by: &'static [&'static str], expiry: Expiry) -> Fault {
    Fault::new(name, caught_by).put(move |store, key, value, mut options| async move {
        if options.expiry == Expiry::Session {
            options.expiry = expiry;
        }
        store.put_with(&key, value, options).await
    })
}

pub(super) fn faults() -> Vec<Fault> {
    let session = |expiry| expiry == Expiry::Session;
    let kept: Shared<Vec<Arc<dyn Store>>> = shared();
    let also_kept = Arc::clone(&kept);
    vec![
        session_becomes(
            "session_keys_stay",
            &["session_key_goes_at_close", "session_is_held_once_used", "txn_puts_live_by_the_session"],
            Expiry::Never,
        )
        .transact(|store, mut txn| async move {
            for op in &mut txn.then {
                if let kv_core::TxnOp::Put { expiry, .. } = op {
                    *expiry = Expiry::Never;
                }
            }
            store.transact(txn).await
        }),
        session_becomes(
            "session_keys_go_late",
            &["session_key_goes_at_close", "session_key_is_told_when_asked"],
            Expiry::Ttl(Duration::from_secs(10)),
        ),
        session_becomes(
            "session_keys_are_not_renewed",
            &["session_key_lives_with_its_handle"],
            Expiry::Ttl(Duration::from_millis(1500)),
        ),
        close_deletes("close_ends_all_sessions", &["closing_spares_other_sessions"], session, true),
        close_deletes("close_deletes_all_it_put", &["closing_spares_permanent_keys"], |_| true, false),
        close_deletes(
            "close_deletes_what_was_a_session_key",
            &[
                "closing_spares_a_recreated_key",
                "session_key_made_permanent_stays",
                "session_key_goes_with_its_last_writer",
            ],
            session,
            false,
        ),
        Fault::new(
            "dropped_handles_live_on",
            &["dropped_handle_ends_its_session", "dropped_last_clone_ends_watches"],
        )
        .on_drop(move |store| with(&kept, |kept| kept.push(store))),
        a_live_watch_keeps_the_session(),
        sessions_of_others_are_told_as_ttls(),
        Fault::new("what_is_dropped_lives_on", &["dropped_handle_releases_locks"])
            .lock(|store, key, options| async move {
                let guard = store.lock_with(&key, options).await?;
                Ok(twisted(guard, Twist::KeptWhenDropped))
            })
            .on_drop(move |store| with(&also_kept, |kept| kept.push(store))),
        Fault::new("session_is_always_idle", &["session_is_held_once_used"]).session(SessionState::Idle),
        Fault::new("session_states_begin_with_lost", &["session_states_begin_with_the_present"])
            .session_states(|states| SessionStates::new(stream::iter([SessionState::Lost]).chain(states))),
        Fault::new("session_states_never_end", &["session_states_end_with_the_handle"])
            .session_states(|states| SessionStates::new(states.chain(silence()))),
    ]
}

fn a_live_watch_keeps_the_session() -> Fault {
    let live: Shared<BTreeMap<usize, Arc<()>>> = shared();
    let watched = Arc::clone(&live);
    Fault::new("a_live_watch_keeps_the_session", &["session_key_goes_at_close_with_live_watches"])
        .watch(move |store, target, options| {
            let alive = with(&watched, |live| Arc::clone(live.entry(id(&store)).or_default()));
            async move {
                let watch = store.watch_with(target, options).await?;
                Ok(Watch::new(watch.inspect(move |_| drop(Arc::clone(&alive)))))
            }
        })
        .close(move |store| {
            let watches =
                with(&live, |live| live.get(&id(&store)).map_or(0, |alive| Arc::strong_count(alive) - 1));
            async move {
                match watches {
                    0 => store.close().await,
                    _ => Ok(()),
                }
            }
        })
}

fn sessions_of_others_are_told_as_ttls() -> Fault {
    let owners: Shared<BTreeMap<Key, usize>> = shared();
    let owned = Arc::clone(&owners);
    Fault::new("sessions_of_others_are_told_as_ttls", &["session_key_is_told_to_every_handle"])
        .put(move |store, key, value, options| {
            with(&owned, |owned| owned.insert(key.clone(), id(&store)));
            async move { store.put_with(&key, value, options).await }
        })
        .get(move |store, key, options| {
            let own = with(&owners, |owners| owners.get(&key) == Some(&id(&store)));
            async move {
                let mut found = store.get_with(&key, options).await?;
                if let Some(entry) = &mut found
                    && entry.expiry == Some(EntryExpiry::Session)
                    && !own
                {
                    entry.expiry = Some(EntryExpiry::ttl(Duration::from_secs(15), None));
                }
                Ok(found)
            }
        })
}
