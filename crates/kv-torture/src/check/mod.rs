//! The checker: reads a whole history and names every promise that it breaks. Each rule is sound: what
//! it reports cannot come from a store that keeps the contract. `tests/checker.rs` puts each kind of
//! fault into a clean history and asks for its rule by name.

mod calls;
mod findings;
mod lives;
mod locks;
mod register;
mod units;
mod values;
mod watches;

pub use findings::{Findings, Violation};

use crate::history::History;

/// Checks a history against every rule.
#[must_use]
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    values::check(history, &mut findings);
    register::check(history, &mut findings);
    units::check(history, &mut findings);
    locks::check(history, &mut findings);
    watches::check(history, &mut findings);
    lives::check(history, &mut findings);
    calls::check(history, &mut findings);
    findings.violations.sort_by_key(|violation| violation.at);
    findings
}
