//! What shows each sentence of docs/semantics.md.

/// How each sentence begins, in the page's order, and what shows that it is true: a case by its name, or
/// another test as `CRATE::NAME`.
pub(crate) const SHOWN: &[(&str, &[&str])] = &[
    (
        "Two kinds of things differ",
        &["powers_make_sense", "limits_make_sense", "capabilities_are_constant", "backend_name_is_told"],
    ),
    ("- **Powers**", &["powers_make_sense"]),
    (
        "A power declared absent",
        &["transact_power_is_declared", "kv-conformance::what_is_honestly_absent_is_not_applicable"],
    ),
    ("Declared and not working", &["kv-conformance::each_fault_is_caught_by_name"]),
    ("- **Guarantees**", &["kv-conformance::each_case_catches_a_fault"]),
    ("A store may be better", &["kv-conformance::what_is_honestly_absent_is_not_applicable"]),
    (
        "| `transactions`",
        &[
            "txn_runs_then",
            "txn_runs_or_else",
            "txn_needs_every_condition",
            "txn_without_conditions",
            "transact_power_is_declared",
        ],
    ),
    ("| `ttl`", &["ttl_is_not_early", "ttl_is_not_late", "many_ttls_end"]),
    ("| `session_keys`", &["session_key_goes_at_close"]),
    ("| `expiry_change`", &["put_makes_permanent", "put_makes_expiring", "change_of_expiry_leaves_no_gap"]),
    ("| `keep_expiry`", &["kept_ttl_is_not_early", "kept_ttl_ends", "kept_session_goes"]),
    ("| `expiry_with_children`", &["expiring_key_can_have_children"]),
    ("| `fenced_writes`", &["fenced_writes_apply_while_held", "fenced_writes_are_refused_after_release"]),
    ("| `watch_history`", &["watch_from_a_version"]),
    ("| `stale_reads`", &["stale_reads_answer"]),
    ("| `list_expiry`", &["list_tells_expiries"]),
    (
        "| `lock_view`",
        &["held_locks_are_listed", "lock_watch_begins_with_the_holder", "break_lock_ends_one_hold"],
    ),
    ("| `linearizable_reads`", &["reads_see_acknowledged_writes", "reads_never_go_back"]),
    ("| `list_snapshot`", &["list_is_one_version", "snapshot_lists_see_no_half_rounds"]),
    (
        "| `list_paged`",
        &[
            "kv-mem::a_list_takes_no_memory_for_what_it_has_not_reached",
            "kv-sled::a_list_takes_memory_for_a_page_however_large_the_tree",
            "kv-etcd::pages_adapt_to_large_values",
        ],
    ),
    (
        "| `delete_tree_atomic`",
        &["delete_tree_is_all_or_nothing", "kv-sled::a_large_subtree_is_gone_or_there_after_a_kill"],
    ),
    (
        "| `watch_complete`",
        &[
            "watch_is_complete",
            "watch_tells_a_short_life",
            "watch_tells_identical_puts",
            "watch_initial_misses_no_version",
            "txn_changes_all_reach_watchers",
        ],
    ),
    (
        "| `watch_expiry`",
        &[
            "expiry_is_marked",
            "session_end_is_marked",
            "watch_tells_deletes_from_expiries",
            "unmarked_delete_has_no_wrong_cause",
        ],
    ),
    ("| `watch_previous`", &["watch_tells_what_was_deleted"]),
    ("| `cas_detects_recreate`", &["recreation_is_noticed_at_any_moment", "recreated_key_is_noticed"]),
    ("| `lock_fifo`", &["waiters_get_it_in_order"]),
    (
        "A key is one or more",
        &[
            "odd_keys_round_trip",
            "deep_key_round_trips",
            "implicit_parents_do_not_exist",
            "concurrent_creates_below_a_new_parent",
        ],
    ),
    ("A leading, trailing", &["slashes_are_normalised"]),
    (
        "Refused with `InvalidKey`",
        &[
            "invalid_keys_are_refused",
            "longest_key_round_trips",
            "kv-core::what_some_backend_cannot_store_is_refused_with_the_rule",
        ],
    ),
    ("The namespace a store", &["long_namespace_is_refused", "namespaces_are_separate"]),
    (
        "Every accepted key comes back",
        &[
            "odd_keys_round_trip",
            "odd_keys_work_in_watches",
            "odd_keys_work_as_locks",
            "similar_keys_are_different",
        ],
    ),
    (
        "It is stored under its natural name",
        &[
            "keys_lie_under_their_natural_names",
            "kv-consul::a_native_tool_sees_the_same_keys",
            "kv-zk::other_tools_see_the_same",
        ],
    ),
    (
        "Names of other programs",
        &["names_that_are_no_keys_are_left_alone", "kv-consul::foreign_names_are_left_alone"],
    ),
    ("`a` and `a/b` can both", &["key_then_child_both_hold_values", "child_then_key_both_hold_values"]),
    ("Deleting one leaves", &["deleting_a_key_leaves_its_children", "deleting_a_child_leaves_its_parent"]),
    (
        "A prefix is a path boundary",
        &[
            "list_keeps_to_the_path_boundary",
            "delete_tree_keeps_to_the_path_boundary",
            "watch_of_a_prefix_keeps_to_the_boundary",
        ],
    ),
    ("The empty prefix", &["empty_prefix_is_the_whole_namespace", "delete_tree_of_the_namespace"]),
    ("Values are bytes", &["values_round_trip_byte_for_byte", "large_values_are_listed"]),
    ("Empty is a value", &["empty_value_is_not_absent"]),
    (
        "A value above `max_value`",
        &["larger_value_is_refused", "largest_value_round_trips", "connection_survives_a_larger_value"],
    ),
    ("The same limit holds", &["larger_owner_or_compared_value_is_refused"]),
    (
        "Every successful write of a key",
        &[
            "every_write_gets_a_greater_version",
            "identical_value_gets_a_greater_version",
            "versions_grow_across_recreation",
            "versions_grow_across_handles",
            "kv-sled::versions_and_tokens_grow_across_restarts",
        ],
    ),
    ("All versions of a store", &["versions_come_from_one_counter", "txn_versions_grow"]),
    (
        "An `Entry` carries",
        &[
            "created_is_the_version_of_the_first_write",
            "everything_agrees_on_a_version",
            "watch_carries_the_entry",
        ],
    ),
    (
        "Writes are linearizable",
        &[
            "version_counter_loses_no_increment",
            "one_of_two_conditional_writes_wins",
            "one_deleter_wins",
            "one_delete_finds_the_key",
            "kv-sled::concurrent_histories_on_the_model_are_linearizable",
        ],
    ),
    ("Reads are where", &["reads_see_acknowledged_writes", "reads_never_go_back", "stale_reads_answer"]),
    (
        "`put` returns",
        &["put_returns_its_own_version", "put_creates_and_replaces", "everything_agrees_on_a_version"],
    ),
    (
        "Its precondition, the write",
        &["ttl_with_precondition", "refused_put_keeps_the_ttl", "one_of_two_conditional_writes_wins"],
    ),
    ("| `Any`", &["put_creates_and_replaces"]),
    ("| `Absent`", &["absent_creates", "absent_refuses_an_existing_key"]),
    ("| `Present`", &["present_replaces", "present_refuses_an_absent_key"]),
    (
        "| `At(version)`",
        &[
            "at_replaces_that_version",
            "at_refuses_another_version",
            "at_refuses_an_absent_key",
            "listed_version_can_be_compared",
        ],
    ),
    (
        "| `Value(bytes)`",
        &["value_replaces_that_value", "value_refuses_another_value", "value_refuses_an_absent_key"],
    ),
    (
        "`current` is a state",
        &["at_refuses_another_version", "value_refuses_another_value", "absent_refuses_an_existing_key"],
    ),
    (
        "Of any number of concurrent",
        &["one_creator_wins", "version_counter_loses_no_increment", "value_counter_loses_no_increment"],
    ),
    (
        "A put without a precondition",
        &["puts_of_one_key_at_once_all_succeed", "a_busy_handle_starves_no_other"],
    ),
    (
        "`delete` takes the same",
        &[
            "delete_at_a_version",
            "delete_of_a_value",
            "delete_present_needs_the_key",
            "delete_absent_needs_no_key",
        ],
    ),
    (
        "Deleting an absent key",
        &[
            "delete_of_an_absent_key_is_no_error",
            "delete_removes_the_entry",
            "delete_returns_the_previous_entry",
        ],
    ),
    ("No two deletes", &["each_delete_tells_what_it_deleted", "one_delete_finds_the_key"]),
    (
        "A refused write changes nothing",
        &[
            "refused_put_changes_nothing",
            "refused_delete_changes_nothing",
            "refused_put_keeps_the_ttl",
            "refusals_are_definite",
        ],
    ),
    (
        "A write that failed with",
        &[
            "kv-etcd::a_write_whose_answer_is_lost_is_not_sent_again",
            "kv-consul::a_lost_reply_is_unknown_and_the_write_is_not_repeated",
            "kv-zk::a_write_whose_answer_is_lost_is_never_made_twice",
        ],
    ),
    ("A write whose future", &["dropped_write_is_whole_or_nothing"]),
    (
        "`list` streams the entries",
        &[
            "list_is_recursive",
            "list_is_in_byte_order",
            "list_follows_every_write",
            "large_list_is_whole",
            "list_while_writing_keeps_the_rest",
            "dropped_list_is_harmless",
        ],
    ),
    (
        "It takes a limit",
        &[
            "list_limit_ends_it",
            "list_range_bounds_it",
            "empty_range_lists_nothing",
            "list_keys_only",
            "list_one_level",
            "list_start_after_resumes",
            "list_options_combine",
        ],
    ),
    ("An absent prefix", &["absent_prefix_lists_nothing"]),
    (
        "What a backend needs in between",
        &["implicit_parents_do_not_exist", "kv-zk::parents_are_no_entries_until_they_are_put"],
    ),
    ("Where `list_expiry` is declared", &["list_tells_expiries"]),
    ("In a list of one level", &["list_one_level"]),
    ("Another list goes on", &["list_resumes_behind_any_item", "list_start_after_resumes"]),
    ("`Listing::as_of`", &["list_then_watch_loses_nothing"]),
    (
        "A list of which",
        &[
            "kv-etcd::users_have_the_rights_they_were_given",
            "kv-zk::a_delete_tree_that_was_begun_says_so",
            "kv-consul::tokens_have_the_rights_they_were_given",
        ],
    ),
    (
        "`delete_tree` removes",
        &[
            "delete_tree_takes_every_level",
            "delete_tree_counts_entries",
            "delete_tree_of_nothing_is_zero",
            "delete_tree_of_a_large_tree",
            "deleted_tree_can_be_written_again",
            "delete_tree_reaches_watchers",
            "delete_tree_ends_while_others_write",
            "delete_tree_above_takes_locks",
            "delete_tree_beside_spares_locks",
            "lock_records_do_not_count",
            "names_that_are_no_keys_are_left_alone",
        ],
    ),
    (
        "`Expiry::Ttl(d)`",
        &[
            "ttl_is_not_early",
            "ttl_is_not_late",
            "ttl_outlives_its_handle",
            "expired_key_is_absent_everywhere",
            "expired_key_can_be_created",
            "deleted_ttl_spares_the_next_value",
            "same_ttl_again_renews",
            "txn_puts_expire",
        ],
    ),
    (
        "A later put without expiry",
        &[
            "put_makes_permanent",
            "put_makes_expiring",
            "longer_ttl_replaces",
            "shorter_ttl_replaces",
            "change_of_expiry_leaves_no_gap",
            "session_key_made_permanent_stays",
            "permanent_key_made_session_goes",
        ],
    ),
    (
        "A TTL outside the range",
        &[
            "ttl_outside_the_range_is_refused",
            "txn_ttl_outside_the_range_is_refused",
            "granted_ttl_is_rounded_up",
        ],
    ),
    ("A get tells how", &["ttl_is_told_when_asked", "session_key_is_told_when_asked"]),
    ("`Expiry::Keep`", &["kept_ttl_is_not_early", "kept_ttl_ends", "kept_session_goes"]),
    ("On a key that is absent", &["keeping_none_makes_permanent"]),
    (
        "`Expiry::Session`",
        &[
            "session_key_lives_with_its_handle",
            "session_key_goes_with_its_last_writer",
            "closing_spares_other_sessions",
            "closing_spares_permanent_keys",
            "closing_spares_a_recreated_key",
            "txn_puts_live_by_the_session",
        ],
    ),
    (
        "It goes at once on `close`",
        &[
            "session_key_goes_at_close",
            "session_key_goes_at_close_with_live_watches",
            "dropped_handle_ends_its_session",
            "kv-sled::the_session_keys_of_a_killed_process_are_gone_at_open",
            "kv-consul::a_holder_that_is_killed_or_stopped_loses_within_the_bound",
        ],
    ),
    (
        "While the process lives and is connected",
        &[
            "session_key_lives_with_its_handle",
            "kv-backend::it_turns_suspect_and_lost_by_the_clock",
            "kv-etcd::what_a_frozen_leader_revokes_when_it_goes_on_is_told_as_lost",
            "kv-consul::a_handle_whose_session_is_destroyed_says_so",
            "kv-consul::sessions_of_a_removed_server_are_told_as_lost",
        ],
    ),
    ("Every handle is told", &["session_key_is_told_to_every_handle"]),
    (
        "`session()` says",
        &[
            "session_is_held_once_used",
            "session_states_begin_with_the_present",
            "session_states_end_with_the_handle",
            "kv-backend::it_turns_suspect_and_lost_by_the_clock",
            "kv-zk::a_cut_connection_costs_nothing_while_the_session_survives",
        ],
    ),
    (
        "Lost session keys",
        &[
            "kv-consul::a_handle_whose_session_is_destroyed_says_so",
            "kv-etcd::a_holder_that_is_cut_off_knows_before_its_rival_acquires",
            "kv-zk::a_holder_that_is_cut_off_knows_before_the_next_one_holds",
        ],
    ),
    (
        "Expiry reaches watchers",
        &[
            "expiry_reaches_watchers",
            "session_end_reaches_watchers",
            "expiry_is_marked",
            "session_end_is_marked",
        ],
    ),
    (
        "On a key or a prefix",
        &[
            "watch_of_an_absent_key",
            "watch_of_an_absent_prefix",
            "watch_of_a_key_is_of_that_key",
            "watch_of_a_prefix_sees_every_level",
        ],
    ),
    (
        "Events: `Put`",
        &["watch_carries_the_entry", "watch_tells_deletes", "watch_of_puts_only", "watch_of_deletes_only"],
    ),
    ("| `Now`", &["watch_sees_what_follows_it", "watch_now_tells_nothing_older"]),
    (
        "| `Initial`",
        &[
            "watch_initial_tells_the_state",
            "watch_initial_of_a_key",
            "watch_initial_of_nothing",
            "watch_initial_of_a_large_tree",
            "watch_initial_loses_nothing",
        ],
    ),
    (
        "| `After(version)`",
        &[
            "watch_from_a_version",
            "watch_from_a_version_replays_deletes",
            "watch_from_the_newest_version",
            "watch_from_long_ago_is_whole_or_compacted",
            "watch_from_any_version_ends_right",
        ],
    ),
    (
        "Events of one key",
        &[
            "watch_tells_in_version_order",
            "watch_tells_what_comes_and_goes",
            "watch_ends_on_the_final_state",
            "txn_reaches_watchers",
        ],
    ),
    (
        "An event tells an entry",
        &[
            "watch_carries_the_entry",
            "everything_agrees_on_a_version",
            "watch_tells_when_a_parent_was_created",
        ],
    ),
    (
        "After any gap",
        &[
            "resync_brings_the_whole_state",
            "slow_consumer_ends_on_the_state",
            "kv-mem::the_cases_about_watches_pass_with_a_hundred_changes_of_history",
            "kv-etcd::a_compaction_that_overtakes_a_watch_is_a_resync",
            "kv-consul::an_agent_that_lost_its_data_is_a_resync",
            "kv-zk::watches_survive_a_restart_of_the_server",
        ],
    ),
    (
        "A watch is never silently",
        &[
            "close_ends_watches",
            "idle_watch_lives_on",
            "next_is_cancel_safe",
            "watches_of_two_handles_tell",
            "two_watches_both_tell",
            "overlapping_watches_all_tell",
        ],
    ),
    (
        "A slow consumer never",
        &[
            "slow_consumer_blocks_no_writer",
            "slow_consumer_ends_on_the_state",
            "kv-backend::what_is_kept_for_watches_is_bounded_and_goes_when_it_is_read",
            "kv-consul::first_states_nobody_reads_are_in_nobodys_way",
        ],
    ),
    (
        "A write wakes only",
        &[
            "watch_wakes_for_its_own_only",
            "kv-mem::each_of_ten_thousand_watches_gets_its_own_events_and_only_they_wake_it",
        ],
    ),
    (
        "Thousands of watches",
        &[
            "many_watches_live_together",
            "kv-etcd::a_thousand_watches_share_one_connection",
            "kv-consul::a_thousand_watches_share_few_queries",
            "kv-zk::thousands_of_watches_live_on_one_connection",
        ],
    ),
    ("Dropping the stream", &["dropping_a_watch_leaves_others", "dropped_watches_release_everything"]),
    (
        "`lock(key)` waits",
        &[
            "try_lock_answers_at_once",
            "lock_waits_for_the_release",
            "wait_up_to_ends_in_time",
            "wait_up_to_gets_a_released_lock",
            "wait_outlives_a_request_deadline",
            "wait_ends_when_the_handle_closes",
            "waiter_survives_removed_records",
            "locked_waits_on_many_names",
        ],
    ),
    (
        "The guard tells",
        &[
            "guard_tells_what_it_holds",
            "lock_tokens_grow",
            "loss_is_told_on_release",
            "loss_outlives_its_guard",
        ],
    ),
    (
        "Dropping it releases",
        &[
            "dropped_guard_releases",
            "unlock_frees_at_once",
            "closing_releases_locks",
            "closing_spares_other_locks",
            "dropped_handle_releases_locks",
            "dropped_lock_is_released",
        ],
    ),
    ("`lock_holder(key)`", &["lock_holder_is_told", "lock_owner_is_any_bytes"]),
    ("Waiters are woken", &["waiters_are_woken_by_the_release"]),
    (
        "A wait that was dropped",
        &[
            "cancelled_wait_leaves_no_trace",
            "cancelled_among_many_leave_no_trace",
            "ended_wait_leaves_no_trace",
        ],
    ),
    ("A wait that is not queued", &["lock_without_a_server_fails_like_a_request"]),
    ("One that was queued once", &["queued_wait_outlives_an_outage", "waiter_survives_removed_records"]),
    ("It is queued on", &["queued_wait_outlives_an_outage", "waiters_get_it_in_order"]),
    ("A wait up to `d`", &["wait_up_to_ends_in_time", "wait_up_to_ends_in_an_outage"]),
    ("A lock is renewed", &["lock_is_renewed"]),
    ("It lives as long", &["lock_ttl_outside_the_range_is_refused", "lock_ttl_of_the_session_is_fixed"]),
    ("Holding it longer", &["max_hold_ends_the_hold", "max_hold_spares_the_next"]),
    (
        "By the server's account",
        &[
            "lock_excludes_other_handles",
            "lock_excludes_tasks_of_one_handle",
            "lock_excludes_under_contention",
            "locks_of_other_names_are_free",
            "locks_of_nested_names_are_free",
        ],
    ),
    (
        "The guard reports loss",
        &[
            "removed_lock_is_told_lost",
            "kv-etcd::a_lease_revoked_from_outside_is_noticed_at_once",
            "kv-consul::a_lock_whose_session_is_destroyed_is_lost_at_once",
            "kv-backend::it_is_lost_when_renewals_stop",
            "kv-etcd::a_holder_that_is_cut_off_knows_before_its_rival_acquires",
            "kv-consul::a_holder_that_is_cut_off_knows_before_its_rival",
            "kv-zk::a_holder_that_is_cut_off_knows_before_the_next_one_holds",
            "kv-consul::a_holder_that_is_killed_or_stopped_loses_within_the_bound",
        ],
    ),
    ("`grace()` is how long", &["lock_grace_is_within_its_ttl"]),
    (
        "After a loss by expiry",
        &[
            "expired_lock_is_kept_through_its_grace",
            "kv-etcd::an_expired_lock_is_given_away_only_after_its_grace",
            "kv-etcd::a_holder_that_stood_still_gives_nothing_away_at_once",
        ],
    ),
    ("Dropping the guard, `unlock`", &["letting_go_of_an_expired_lock_ends_its_grace"]),
    (
        "A lock that was let go",
        &[
            "kv-etcd::what_is_let_go_during_an_outage_is_free_after_it",
            "kv-etcd::what_is_let_go_without_a_quorum_is_free_as_soon_as_there_is_one",
        ],
    ),
    (
        "A lock's record that another",
        &[
            "kv-etcd::a_record_that_is_written_over_is_a_loss_and_leaves_nothing",
            "kv-etcd::who_waits_behind_a_record_that_is_written_over_goes_on",
            "kv-etcd::a_place_in_the_queue_that_is_written_over_is_taken_anew",
        ],
    ),
    ("**Two processes may still", &["fence_of_the_old_holder_is_refused"]),
    ("Only the resource", &["fence_of_the_old_holder_is_refused"]),
    (
        "Give it the fencing token",
        &[
            "lock_tokens_grow",
            "fenced_writes_apply_while_held",
            "fenced_writes_are_refused_after_release",
            "fenced_writes_are_refused_after_removal",
            "fence_of_the_old_holder_is_refused",
            "fence_and_precondition_both_count",
            "fence_refuses_with_close",
            "fenced_transaction_applies_while_held",
        ],
    ),
    ("A fence is worth", &["fence_works_on_any_handle", "fence_works_in_any_namespace"]),
    (
        "Lock records lie below",
        &[
            "lock_spares_its_entry",
            "kv-etcd::etcdctl_and_we_exclude_each_other",
            "kv-consul::consul_lock_and_we_exclude_each_other",
            "kv-zk::kazoo_and_we_exclude_each_other",
        ],
    ),
    (
        "Records are no entries",
        &["lock_records_are_invisible", "lock_makes_no_entry", "lock_records_refuse_writes"],
    ),
    ("Unlocking after a loss", &["unlock_after_loss_is_not_held", "dropping_a_lost_guard_spares_the_next"]),
    (
        "Where `lock_view` is declared",
        &[
            "lock_watch_begins_with_the_holder",
            "lock_watch_tells_holders_and_vacancies",
            "lock_watch_ends_with_close",
        ],
    ),
    ("`locks(prefix)` lists", &["held_locks_are_listed", "waiters_are_listed_in_turn"]),
    (
        "`break_lock(key, token)` ends",
        &["break_lock_ends_one_hold", "break_lock_of_an_old_token_changes_nothing"],
    ),
    (
        "`Txn::when(conditions)",
        &[
            "txn_runs_then",
            "txn_runs_or_else",
            "txn_tells_each_outcome",
            "txn_is_isolated",
            "one_of_many_txns_wins",
            "txn_compares_presence",
            "txn_compares_versions",
            "txn_compares_created_versions",
            "txn_compares_values",
        ],
    ),
    ("Operations run in order", &["txn_reads_its_own_writes", "txn_tells_each_outcome"]),
    ("An absent key compares", &["txn_absent_compares_as_absent", "txn_sees_implicit_parents_as_absent"]),
    ("A key written twice", &["txn_writes_no_key_twice", "txn_may_write_a_key_in_each_branch"]),
    (
        "`max_txn_ops`",
        &[
            "txn_of_too_many_ops_is_refused",
            "txn_of_the_most_ops_works",
            "txn_of_too_many_bytes_is_refused",
            "txn_of_the_most_bytes_works",
            "txn_value_too_large_is_refused",
        ],
    ),
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
