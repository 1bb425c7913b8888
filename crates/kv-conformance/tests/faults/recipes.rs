//! Faults of a store that break the recipes built on it.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use kv_core::{Expiry, Listing, LockChanges, Precondition, PutOptions, StoreExt, Watch, WatchEvent};

use super::Fault;
use super::tools::{Twist, rewatch, twisted};

/// A store whose puts are made with other options.
fn puts_with(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(PutOptions) -> PutOptions,
) -> Fault {
    Fault::new(name, caught_by).put(move |store, key, value, options| async move {
        store.put_with(&key, value, change(options)).await
    })
}

/// A store whose watches leave events out.
fn watches_without(
    name: &'static str,
    caught_by: &'static [&'static str],
    is_told: fn(&WatchEvent) -> bool,
) -> Fault {
    Fault::new(name, caught_by).watch(move |store, target, options| async move {
        rewatch(&store, target, options, move |event| Some(event).filter(is_told)).await
    })
}

fn creates_anyhow(options: PutOptions) -> PutOptions {
    match options.precondition {
        Precondition::Absent => options.with_precondition(Precondition::Any),
        _ => options,
    }
}

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("observers_see_no_vacancy", &["terms_rise_and_vacancies_are_seen"]).watch_lock(
            |store, key| async move {
                let changes = store.watch_lock(&key).await?;
                Ok(LockChanges::new(changes.filter(|change| std::future::ready(!matches!(change, Ok(None))))))
            },
        ),
        Fault::new("a_closed_leader_stays", &["a_candidate_leads_after_the_leader"])
            .close(|_| async { Ok(()) }),
        Fault::new(
            "a_watch_of_a_key_tells_its_first_state_only",
            &[
                "a_proclamation_is_of_its_term",
                "a_registration_ends_when_it_is_replaced",
                "a_live_value_keeps_the_last_good_one",
            ],
        )
        .watch(|store, target, options| async move {
            let watch = store.watch_with(target, options).await?;
            let mut is_synced = false;
            Ok(Watch::new(watch.filter(move |event| {
                let is_told = !is_synced;
                is_synced |= matches!(event, Ok(WatchEvent::Synced));
                std::future::ready(is_told)
            })))
        }),
        Fault::new("a_leader_is_never_told_its_loss", &["a_lost_term_ends_its_work"]).lock(
            |store, key, options| async move {
                Ok(twisted(store.lock_with(&key, options).await?, Twist::NeverLost))
            },
        ),
        puts_with("old_leaders_may_write", &["an_old_leader_writes_nothing"], |mut options| {
            options.fence = None;
            options
        }),
        puts_with(
            "session_entries_stay",
            &["a_registration_goes_with_its_handle", "permits_end_with_their_handle"],
            |options| match options.expiry {
                Expiry::Session => options.with_expiry(Expiry::Never),
                _ => options,
            },
        ),
        // The memory store's sessions end with their handles and not in outages.
        Fault::new("a_session_outlives_an_outage", &["a_registration_is_made_again_under_a_new_session"])
            .capabilities(|declared| {
                let mut limits = declared.limits.clone();
                limits.session_bound = Duration::from_secs(1);
                declared.with_limits(limits)
            }),
        watches_without(
            "watches_hide_deletes",
            &[
                "a_deleted_registration_is_made_again",
                "members_follow_registrations",
                "an_informer_equals_the_store",
                "a_permit_taken_away_is_lost",
                "work_without_its_claim_is_dropped",
            ],
            |event| !matches!(event, WatchEvent::Delete(_)),
        ),
        puts_with("a_renewal_renews_nothing", &["a_registration_by_ttl_is_renewed"], |options| {
            match (&options.precondition, options.expiry) {
                (Precondition::At(_), Expiry::Ttl(_)) => options.with_expiry(Expiry::Keep),
                _ => options,
            }
        }),
        puts_with("anybody_creates_what_exists", &["a_firing_is_run_once"], creates_anyhow),
        // A list alone keeps those apart who do not come at one moment.
        puts_with("what_exists_is_not_seen", &["a_semaphore_never_exceeds_its_limit"], creates_anyhow)
            .list(|_, _, _| async { Ok(Listing::new(None, stream::empty())) }),
        Fault::new("what_was_stored_is_not_found", &["another_limit_is_refused"]).get(
            |store, key, options| async move {
                let entry = store.get_with(&key, options).await?;
                Ok(entry.filter(|entry| entry.key.as_str() != "limit"))
            },
        ),
        puts_with("times_to_live_are_halved", &["a_late_instance_does_not_run_it"], |options| match options
            .expiry
        {
            Expiry::Ttl(ttl) => options.with_expiry(Expiry::Ttl(ttl / 2)),
            _ => options,
        }),
    ]
}
