//! What the checker found.

use std::fmt;

/// A promise that a history breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, by the name that docs/reliability.md gives it.
    pub rule: &'static str,
    /// When it shows, in nanoseconds of the machine's clock.
    pub at: u64,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (at {})", self.rule, self.text, self.at)
    }
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What is broken, in the order of time.
    pub violations: Vec<Violation>,
    /// Keys whose history has too many outcomes that nobody knows for the checker to decide.
    pub undecided: Vec<String>,
}

impl Findings {
    pub(super) fn add(&mut self, rule: &'static str, at: u64, text: String) {
        self.violations.push(Violation { rule, at, text });
    }
}
