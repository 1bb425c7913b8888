//! What a run found, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use kv_core::{Capabilities, Guarantee, Power};
use serde::{Deserialize, Serialize};

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The promise was kept.
    Passed,
    /// The promise was broken.
    Failed,
    /// The store declares that it does not have what the case needs, and, for a power, refuses it; or it
    /// has nothing to try the case on.
    NotApplicable,
    /// What the store declares is not what it does: a failure.
    Dishonest,
    /// The case did not run.
    Skipped,
}

impl Outcome {
    /// The word used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotApplicable => "not-applicable",
            Self::Dishonest => "dishonest",
            Self::Skipped => "skipped",
        }
    }

    /// Whether it makes the run a failure.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Dishonest)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How one case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaseReport {
    /// The case's name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What was seen, for every outcome but a plain pass.
    pub detail: String,
}

/// The powers and guarantees a store declares, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Declared {
    /// Every power there is, and whether the store has it.
    pub powers: BTreeMap<String, bool>,
    /// Every guarantee there is, and whether the store gives it.
    pub guarantees: BTreeMap<String, bool>,
}

impl Declared {
    /// What these capabilities declare.
    #[must_use]
    pub fn new(capabilities: &Capabilities) -> Self {
        let power = |power: &Power| (power.name().to_owned(), capabilities.has(*power));
        let guarantee = |given: &Guarantee| (given.name().to_owned(), capabilities.guarantees(*given));
        Self {
            powers: Power::ALL.iter().map(power).collect(),
            guarantees: Guarantee::ALL.iter().map(guarantee).collect(),
        }
    }
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The version of this suite. A newer one can have more cases.
    pub suite: String,
    /// What was tested, as its factory labels it.
    pub backend: String,
    /// The product and version behind it; empty if it was not reached.
    pub server: String,
    /// What the store declared; empty if it was not reached.
    #[serde(default)]
    pub declared: Declared,
    /// What every random choice was derived from.
    pub seed: u64,
    /// The cases, in the suite's order.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// How many cases ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.cases.iter().filter(|case| case.outcome == outcome).count()
    }

    /// Whether a case failed or was dishonest.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.cases.iter().any(|case| case.outcome.is_failure())
    }
}
