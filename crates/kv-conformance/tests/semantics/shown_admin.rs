//! What shows each sentence of docs/semantics.md about administration.

use crate::Shown;

/// History, servers and users.
pub(crate) const ADMIN: &[Shown] = &[
    ("Where `history` is declared", &["history_reads_a_key_as_it_was", "history_lists_one_version"]),
    ("A deleted subtree is read", &["history_lists_a_deleted_subtree"]),
    ("`key_versions(key)` tells", &["history_tells_the_versions_of_a_key"]),
    (
        "A version older than the oldest one",
        &["compaction_forgets_what_was_before", "history_ends_at_the_newest_version"],
    ),
    (
        "`compact(version)` forgets",
        &["compaction_forgets_what_was_before", "kv-sled::the_past_and_its_compaction_are_still_there"],
    ),
    ("A version that is no newer", &["compaction_forgets_what_was_before"]),
    ("No administrative call", &["kv-layers::administrative_calls_are_not_repeated"]),
    (
        "Where `cluster` is declared",
        &["members_are_listed", "kv-etcd::a_change_that_would_lose_the_quorum_is_refused"],
    ),
    (
        "`set_endpoints` changes",
        &["endpoints_are_changed_or_kept", "kv-etcd::endpoints_are_changed_together_or_not_at_all"],
    ),
    ("A change of the members", &["kv-etcd::a_change_that_would_lose_the_quorum_is_refused"]),
    ("Removing a member", &["kv-etcd::members_come_and_go"]),
    ("On etcd members are added", &["kv-etcd::members_come_and_go"]),
    ("Where `storage` is declared", &["sizes_are_told", "kv-etcd::what_is_not_in_use_is_given_back"]),
    ("Where `access` is declared", &["users_come_and_go"]),
    ("`grant` adds", &["grants_add_and_revocations_subtract"]),
    ("A right is on what lies", &["kv-etcd::rights_are_strictly_below_a_prefix_and_add_up"]),
];
