//! What shows each sentence of docs/semantics.md about recipes.

use crate::Shown;

/// Recipes.
pub(crate) const RECIPES: &[Shown] = &[
    ("A recipe ([recipes.md]", &["kv-recipes::what_a_store_cannot_keep_is_refused_before_anything"]),
    (
        "At most one candidate leads",
        &["terms_rise_and_vacancies_are_seen", "a_candidate_leads_after_the_leader"],
    ),
    (
        "What a leader proclaims",
        &[
            "a_proclamation_is_of_its_term",
            "kv-recipes::an_older_term_never_replaces_what_a_newer_one_proclaimed",
        ],
    ),
    (
        "Work that a leader runs",
        &["a_lost_term_ends_its_work", "kv-recipes::the_office_is_given_up_after_the_work_and_not_before"],
    ),
    ("A write under the fence of an old term", &["an_old_leader_writes_nothing"]),
    (
        "A registration is there",
        &[
            "a_registration_goes_with_its_handle",
            "a_registration_by_ttl_is_renewed",
            "a_deleted_registration_is_made_again",
            "a_registration_is_made_again_under_a_new_session",
        ],
    ),
    (
        "Another value in its place",
        &[
            "a_registration_ends_when_it_is_replaced",
            "kv-recipes::a_replacement_while_it_is_lost_is_respected",
        ],
    ),
    ("Members tell who", &["members_follow_registrations"]),
    (
        "An informer comes",
        &["an_informer_equals_the_store", "kv-recipes::what_changed_in_a_gap_is_found_and_marked"],
    ),
    ("A live value", &["a_live_value_keeps_the_last_good_one"]),
    (
        "A semaphore never has",
        &[
            "a_semaphore_never_exceeds_its_limit",
            "another_limit_is_refused",
            "permits_end_with_their_handle",
            "a_permit_taken_away_is_lost",
            "kv-recipes::under_load_and_lost_answers_no_permit_is_lost_or_doubled",
        ],
    ),
    (
        "Of many instances",
        &["a_firing_is_run_once", "a_late_instance_does_not_run_it", "work_without_its_claim_is_dropped"],
    ),
    (
        "A buffered transaction is committed",
        &["recipe_tx_loses_no_increment", "recipe_tx_notices_what_it_found_absent"],
    ),
    ("Keys that it reads together", &["recipe_tx_reads_many_keys_at_one_moment"]),
    ("A snapshot that does not call itself", &["recipe_snapshot_holds_a_moving_token_once"]),
    (
        "With what a collector recorded",
        &["recipe_snapshot_and_replay_are_a_later_list", "recipe_collector_outlives_an_outage"],
    ),
    (
        "A job of a queue",
        &["recipe_queue_loses_no_job_of_dead_workers", "recipe_queue_takes_the_last_claim_only"],
    ),
    ("A job without attempts left", &["recipe_queue_buries_what_nobody_finishes"]),
    ("A counter counts", &["recipe_counter_counts_each_addition"]),
    ("No id is handed out", &["recipe_ids_are_never_handed_out_twice"]),
];
