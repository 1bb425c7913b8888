//! What shows each sentence of docs/semantics.md about lifecycle and errors.

use crate::Shown;

/// Lifecycle and errors.
pub(crate) const LIFECYCLE: &[Shown] = &[
    (
        "Every request has a deadline",
        &[
            "calls_end_by_their_deadline",
            "kv-zk::calls_to_a_silent_server_end_by_their_deadline",
            "kv-consul::a_silent_server_costs_the_deadline_and_no_more",
        ],
    ),
    (
        "Lock waits and streams",
        &[
            "wait_outlives_a_request_deadline",
            "idle_watch_lives_on",
            "kv-etcd::an_idle_watch_notices_that_its_connection_fell_silent",
        ],
    ),
    ("A time too long to count", &["times_without_end_are_taken"]),
    (
        "Connecting to an endpoint",
        &[
            "kv-etcd::a_dead_or_silent_endpoint_is_named_in_time",
            "kv-consul::a_dead_or_silent_endpoint_is_named_in_time",
            "kv-zk::no_server_is_an_error_in_time_and_costs_no_cpu",
        ],
    ),
    ("Clones are one handle", &["closed_handle_answers_closed", "calls_at_once_get_their_own_answers"]),
    (
        "`close` is idempotent",
        &["close_is_idempotent", "closed_handle_answers_closed", "close_leaves_other_handles"],
    ),
    ("Dropping the last clone", &["dropped_last_clone_ends_watches", "dropping_outside_a_runtime"]),
    ("Dropping any future", &["dropped_futures_harm_nothing"]),
    (
        "When a server returns",
        &[
            "kv-etcd::a_killed_server_keeps_what_it_acknowledged",
            "kv-consul::watches_locks_and_calls_survive_a_killed_agent",
            "kv-zk::watches_survive_a_restart_of_the_server",
        ],
    ),
    ("`server()` tells", &["server_tells_product_and_version"]),
    (
        "Bad credentials",
        &[
            "kv-etcd::users_have_the_rights_they_were_given",
            "kv-consul::tokens_have_the_rights_they_were_given",
            "kv-zk::what_credentials_create_is_theirs",
        ],
    ),
    (
        "A server that hides",
        &[
            "kv-consul::what_a_token_may_not_read_is_denied_and_not_absent",
            "kv-consul::where_nobody_tells_rights_the_answer_is_kept_and_one_warning_given",
        ],
    ),
    ("A right that is taken away", &["kv-consul::a_right_taken_away_ends_watches_and_tells_no_deletes"]),
    (
        "TLS verifies",
        &[
            "kv-etcd::what_is_wrong_with_a_certificate_is_named_first",
            "kv-etcd::tls_is_verified_both_ways",
            "kv-consul::tls_is_verified_both_ways",
            "kv-zk::tls_is_verified_on_both_sides",
        ],
    ),
    (
        "Credentials without TLS",
        &[
            "kv-backend::only_loopback_addresses_get_credentials_in_the_clear",
            "kv-etcd::a_password_goes_in_clear_to_this_machine_only",
            "kv-zk::credentials_go_to_no_other_machine_in_the_clear",
            "kv-cli::a_secret_without_encryption_is_told_and_sent_as_the_native_tool_would",
        ],
    ),
    (
        "A server that answers nonsense",
        &[
            "kv-etcd::a_get_takes_no_other_key_and_no_impossible_revision",
            "kv-etcd::a_list_takes_nothing_outside_disordered_or_doubled",
            "kv-etcd::a_write_takes_no_impossible_answer",
            "kv-etcd::a_lock_takes_no_impossible_answer",
            "kv-etcd::a_watch_takes_no_impossible_event",
            "kv-consul::nonsense_is_a_protocol_error",
            "kv-consul::an_endless_answer_is_cut_off_in_bounded_memory",
            "kv-zk::counts_below_zero_are_errors_and_harm_no_other_call",
            "kv-zk::data_that_is_cut_short_is_an_error",
            "kv-zk::answers_that_do_not_fit_end_the_session",
            "kv-zk::events_without_end_hold_up_no_call_and_take_no_memory",
        ],
    ),
    (
        "Every error tells",
        &[
            "errors_name_what_failed",
            "transaction_errors_name_what_failed",
            "errors_do_not_repeat_values",
            "refusals_are_definite",
            "kv-core::only_failures_that_can_hide_a_write_are_unknown",
        ],
    ),
    (
        "Text that came from a server",
        &["kv-core::text_from_outside_cannot_act_on_a_terminal", "kv-core::escaping_twice_is_escaping_once"],
    ),
    ("An error never repeats", &["kv-core::no_mistyping_shows_a_secret"]),
];
