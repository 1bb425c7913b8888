//! What the suite reports about one run, and the report of all runs together.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// What the suite's program writes with `--report`.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    pub(crate) suite: String,
    pub(crate) server: String,
    pub(crate) declared: Declared,
    pub(crate) seed: u64,
    pub(crate) cases: Vec<Case>,
}

/// Powers and guarantees by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Declared {
    pub(crate) powers: BTreeMap<String, bool>,
    pub(crate) guarantees: BTreeMap<String, bool>,
}

impl Declared {
    /// Powers, then guarantees.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, bool)> {
        self.powers.iter().chain(&self.guarantees).map(|(name, given)| (name.as_str(), *given))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) ms: u64,
    pub(crate) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Declared absent: neither counted as passed nor as skipped.
    NotApplicable,
    /// Declaration and behaviour differ: counted as failed.
    Dishonest,
    Skipped,
}

impl Part {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).context("the suite wrote no report")?;
        serde_json::from_str(&text).context("the suite's report is not as agreed")
    }

    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.cases.iter().filter(|case| case.outcome == outcome).count() as u64
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            passed: self.count(Outcome::Passed),
            failed: self.count(Outcome::Failed) + self.count(Outcome::Dishonest),
            skipped: self.count(Outcome::Skipped),
        }
    }
}

/// The report of all runs, as `--report` writes it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The suite's version.
    pub(crate) suite: String,
    pub(crate) tier: String,
    pub(crate) seconds: u64,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) backends: Vec<Tested>,
    pub(crate) faults: Vec<Faults>,
    pub(crate) not_run: Vec<NotRun>,
}

/// One run of the suite.
#[derive(Debug, Serialize)]
pub(crate) struct Tested {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
    /// Product and version, as the server told them.
    pub(crate) server: String,
    pub(crate) declared: Declared,
    pub(crate) nodes: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) image: String,
    pub(crate) seed: u64,
    pub(crate) ms: u64,
    pub(crate) cases: Vec<Case>,
}

/// One run of a backend's fault tests.
#[derive(Debug, Serialize)]
pub(crate) struct Faults {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) target: String,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// What could not be run, and why.
#[derive(Debug, Serialize)]
pub(crate) struct NotRun {
    pub(crate) what: String,
    pub(crate) why: String,
}
