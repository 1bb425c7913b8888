//! The recipes of kv-recipes on this store: they are written over the contract alone, so a store that keeps
//! it carries them.

use crate::case::Case;

mod election;
mod informer;
mod registration;
mod run_once;
mod semaphore;

/// The cases of all recipes.
pub(super) fn cases() -> Vec<Case> {
    [election::CASES, registration::CASES, informer::CASES, semaphore::CASES, run_once::CASES].concat()
}
