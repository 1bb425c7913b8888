//! What shows each sentence of docs/semantics.md about administration.

use crate::Shown;

/// History.
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
];
