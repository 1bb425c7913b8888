//! The cases: one file for each part of the contract, each with its table of promises on top.

use crate::case::Case;

mod admin;
mod delete;
mod delete_tree;
mod errors;
mod expiry;
mod expiry_change;
mod history;
mod hot_keys;
mod keys;
mod lifecycle;
mod list;
mod list_order;
mod lock;
mod lock_expiry;
mod lock_fence;
mod lock_loss;
mod lock_record;
mod lock_view;
mod lock_wait;
mod outage;
mod put;
mod recipes;
mod session;
mod txn;
mod txn_limits;
mod values;
mod versions;
mod watch_events;
mod watch_flow;
mod watch_start;
mod watch_tree;

/// All cases, in the order of the contract.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        keys::CASES,
        values::CASES,
        versions::CASES,
        put::CASES,
        delete::CASES,
        hot_keys::CASES,
        list::CASES,
        list_order::CASES,
        delete_tree::CASES,
        expiry::CASES,
        expiry_change::CASES,
        session::CASES,
        watch_start::CASES,
        watch_tree::CASES,
        watch_events::CASES,
        watch_flow::CASES,
        lock::CASES,
        lock_record::CASES,
        lock_wait::CASES,
        outage::CASES,
        lock_loss::CASES,
        lock_expiry::CASES,
        lock_fence::CASES,
        lock_view::CASES,
        history::CASES,
        admin::CASES,
        txn::CASES,
        txn_limits::CASES,
        lifecycle::CASES,
        errors::CASES,
        &recipes::cases(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_promises_are_sentences() {
        let cases = super::all();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len(), "a name is used twice");
        for case in &cases {
            assert!(case.promise.ends_with('.'), "{}: {}", case.name, case.promise);
            assert!(case.name.len() <= 60, "{} does not fit the longest namespace", case.name);
        }
    }
}
