//! What a conformance run consists of: backends times variants, versions and cluster sizes.

use anyhow::Result;
use kv_testkit::Tier;
use kv_testkit::spec::Variant;

use crate::backend::{Backend, SUITE};
use crate::executables::{Executable, build};

/// A backend built one way, and what it is to be tested on.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) backend: Backend,
    pub(crate) variant: Variant,
    pub(crate) executables: Vec<Executable>,
}

/// Servers to test on: version and number of nodes.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) version: String,
    pub(crate) nodes: usize,
}

impl Item {
    /// Builds the suite and the fault tests of every backend in each of its variants.
    pub(crate) async fn build_all(backends: Vec<Backend>, tier: Tier) -> Result<Vec<Self>> {
        let mut items = Vec::new();
        for backend in backends {
            for variant in variants(&backend, tier) {
                let features = variant.features.join(",");
                let mut args = vec!["--package", &backend.package, "--features", &features];
                for target in backend.targets() {
                    args.extend(["--test", target]);
                }
                let executables = build(&args).await?;
                items.push(Self { backend: backend.clone(), variant, executables });
            }
        }
        Ok(items)
    }

    /// The suite's program and the fault tests' programs.
    pub(crate) fn programs(&self) -> (Option<&Executable>, Vec<&Executable>) {
        let (suite, faults): (Vec<_>, Vec<_>) =
            self.executables.iter().partition(|executable| executable.target == SUITE);
        (suite.first().copied(), faults)
    }

    /// The name people see: backend and variant.
    pub(crate) fn label(&self) -> String {
        match self.variant.name.as_str() {
            "" => self.backend.name.clone(),
            variant => format!("{} ({variant})", self.backend.name),
        }
    }

    /// What this tier tests on in containers; or one node of each of `versions`, where any are named.
    pub(crate) fn setups(&self, tier: Tier, versions: &[String]) -> Result<Vec<Setup>> {
        let Some(spec) = &self.backend.spec else { return Ok(Vec::new()) };
        if !versions.is_empty() {
            let one = |name: &String| Ok(Setup { version: spec.version(name)?.name.clone(), nodes: 1 });
            return versions.iter().map(one).collect();
        }
        let mut setups = Vec::new();
        for version in &spec.versions {
            let sizes = [(1, Some(version.tier)), (3, version.cluster_tier)];
            for (nodes, _) in sizes.iter().filter(|(_, from)| from.is_some_and(|t| t <= tier)) {
                setups.push(Setup { version: version.name.clone(), nodes: *nodes });
            }
        }
        Ok(setups)
    }
}

impl Backend {
    /// The test targets that `cargo xtask conformance` runs: the suite, then the fault tests.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &str> {
        let faults = self.spec.iter().flat_map(|spec| &spec.faults);
        std::iter::once(SUITE).chain(faults.map(String::as_str))
    }
}

/// The ways a backend is built and configured in a tier; one plain way if it says nothing of it.
pub(crate) fn variants(backend: &Backend, tier: Tier) -> Vec<Variant> {
    let declared = backend.spec.as_ref().map_or(&[][..], |spec| &spec.variants);
    if declared.is_empty() {
        return vec![Variant::default()];
    }
    declared.iter().filter(|variant| variant.tier <= tier).cloned().collect()
}
