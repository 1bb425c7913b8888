//! The recipes of kv-recipes on this store: they are written over the contract alone, so a store that keeps
//! it carries them.

use crate::case::Case;

mod counter;
mod election;
mod informer;
mod queue;
mod registration;
mod run_once;
mod semaphore;
mod snapshot;
mod tx;

/// The cases of all recipes.
pub(super) fn cases() -> Vec<Case> {
    [
        election::CASES,
        registration::CASES,
        informer::CASES,
        semaphore::CASES,
        run_once::CASES,
        tx::CASES,
        snapshot::CASES,
        queue::CASES,
        counter::CASES,
    ]
    .concat()
}
