//! `servers.toml`: what a backend crate says about the servers it is tested on.
//!
//! The file stands in the backend's own folder, so a new backend brings its servers along and
//! nothing here changes. The README describes every field; an unknown one is an error, so that a
//! misspelt setting cannot be ignored in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The file every backend with servers has in its folder.
pub const FILE: &str = "servers.toml";

/// One backend's servers, as `servers.toml` tells them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Name of the server software, used in container, image and log names.
    pub product: String,
    /// The store URL of a running server; `{endpoints}` and `{scheme}` are filled in.
    pub url: String,
    /// The environment variable in which the backend's suite finds that URL.
    pub url_env: String,
    /// Shell commands run in every image built from Debian packages, after these are installed;
    /// the first that fails ends the build.
    #[serde(default)]
    pub debian_setup: String,
    /// How one node is run.
    pub node: NodeSpec,
    /// The versions tested, at least one of them in the commit tier.
    #[serde(rename = "version")]
    pub versions: Vec<Version>,
    /// Ways to build and configure the backend, each tested on its own. None means one plain way.
    #[serde(default, rename = "variant")]
    pub variants: Vec<Variant>,
    /// Test targets of the crate that start servers of their own, run after the suite.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// How one node of a server is run, alone or as a member of a cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// The container's port that clients speak to.
    pub port: u16,
    /// The container's command line, with placeholders.
    pub command: Vec<String>,
    /// The container's environment, with placeholders.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files laid into the container before its first start, by path, with placeholders.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// The data folder; it gets a volume of its own, so it outlives a kill but not a wipe.
    pub data: String,
    /// What `{peers}` says of each node.
    pub peer: String,
    /// What stands between two nodes in `{peers}`.
    #[serde(default = "comma")]
    pub peer_separator: String,
    /// What `{scheme}` says unless a test asks for another.
    #[serde(default = "http")]
    pub scheme: String,
    /// Answered as expected once the node serves clients.
    pub ready: Probe,
    /// Answered as expected by a cluster's leader only.
    pub leader: Option<Probe>,
    /// How long a node may take until it is ready, in seconds.
    #[serde(default = "a_minute")]
    pub ready_within_s: u64,
}

/// A question asked of a node over its published port.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The container's port that is asked; the client port if not given.
    pub port: Option<u16>,
    /// Ask by HTTP: the path to get, with placeholders. The answer counts only with status 200.
    pub http: Option<String>,
    /// Ask over bare TCP: the bytes to send.
    pub tcp: Option<String>,
    /// The answer has this in it.
    pub expect: String,
}

/// One version of the server and where its images come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The version as people call it, e.g. `3.5`.
    pub name: String,
    /// The tier from which on one node of this version is tested.
    pub tier: Tier,
    /// The tier from which on three nodes of this version are tested; never if not given.
    pub cluster_tier: Option<Tier>,
    /// The public image, pinned by tag.
    pub upstream: String,
    /// How to build an image from Debian packages; left out for a version of the tier `upstream`.
    pub debian: Option<Recipe>,
}

/// An image made of Debian packages.
#[derive(Debug, Clone, Deserialize, Hash)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The Debian release, e.g. `bookworm`.
    pub suite: String,
    /// Packages to install, without those they recommend.
    pub packages: Vec<String>,
}

/// One way to build and configure a backend.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Name in reports; empty for a backend without variants.
    pub name: String,
    /// Cargo features the test is built with, in addition to the default ones.
    #[serde(default)]
    pub features: Vec<String>,
    /// Query parameters added to the URL, e.g. `client=x`.
    #[serde(default)]
    pub query: String,
    /// Environment of the test run.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The tier from which on it is tested.
    #[serde(default)]
    pub tier: Tier,
}

/// How much is tested.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq, PartialOrd, Ord, Default)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Every run: one version of each server, one node, the fast faults.
    #[default]
    Commit,
    /// Every version that Debian packages, three nodes, all faults.
    Nightly,
    /// The versions too that only public images bring: needs an image registry.
    Upstream,
}

impl Variant {
    /// The URL with this variant's query parameters added.
    #[must_use]
    pub fn add_to(&self, url: &str) -> String {
        match (self.query.as_str(), url.contains('?')) {
            ("", _) => url.to_owned(),
            (query, true) => format!("{url}&{query}"),
            (query, false) => format!("{url}?{query}"),
        }
    }
}

impl Tier {
    /// The tier of this run, from `KV_TIER`.
    ///
    /// # Errors
    /// If the variable holds another word than `commit`, `nightly` or `upstream`.
    pub fn current() -> Result<Self> {
        match std::env::var("KV_TIER") {
            Ok(word) => word.parse().context("in the environment variable KV_TIER"),
            Err(_) => Ok(Self::Commit),
        }
    }
}

impl FromStr for Tier {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "commit" => Ok(Self::Commit),
            "nightly" => Ok(Self::Nightly),
            "upstream" => Ok(Self::Upstream),
            other => bail!("no tier is called `{other}`: there are commit, nightly and upstream"),
        }
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Commit => "commit",
            Self::Nightly => "nightly",
            Self::Upstream => "upstream",
        })
    }
}

fn comma() -> String {
    ",".into()
}

fn http() -> String {
    "http".into()
}

fn a_minute() -> u64 {
    60
}

impl Spec {
    /// Reads `servers.toml` of a crate's folder.
    ///
    /// # Errors
    /// If it is missing, is not TOML, or says something that makes no sense.
    pub fn load(crate_dir: &Path) -> Result<Self> {
        let path = crate_dir.join(FILE);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads the text of a `servers.toml`.
    ///
    /// # Errors
    /// If it is not TOML, has unknown or missing fields, or says something that makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let spec: Self = toml::from_str(text)?;
        ensure!(spec.versions.iter().any(|v| v.tier == Tier::Commit), "no version is in the commit tier");
        for version in &spec.versions {
            ensure!(
                version.upstream.contains(':'),
                "version {}: `upstream` names no tag: pin one",
                version.name
            );
            ensure!(
                version.debian.is_some() || version.tier == Tier::Upstream,
                "version {}: without `debian` no image can be built: put it into the tier upstream",
                version.name
            );
        }
        for probe in [Some(&spec.node.ready), spec.node.leader.as_ref()].into_iter().flatten() {
            ensure!(probe.http.is_some() != probe.tcp.is_some(), "a probe needs either `http` or `tcp`");
        }
        Ok(spec)
    }

    /// The crates of a workspace that have servers, with their folders, in order of their names.
    ///
    /// # Errors
    /// If a folder cannot be read or one of the files is wrong.
    pub fn discover(workspace: &Path) -> Result<Vec<(PathBuf, Self)>> {
        let crates = workspace.join("crates");
        let mut dirs = Vec::new();
        for entry in
            std::fs::read_dir(&crates).with_context(|| format!("cannot read {}", crates.display()))?
        {
            let dir = entry?.path();
            if dir.join(FILE).is_file() {
                dirs.push(dir);
            }
        }
        dirs.sort();
        dirs.into_iter().map(|dir| Ok((dir.clone(), Self::load(&dir)?))).collect()
    }

    /// The version with this name.
    ///
    /// # Errors
    /// If there is none; the message lists those there are.
    pub fn version(&self, name: &str) -> Result<&Version> {
        self.versions.iter().find(|v| v.name == name).with_context(|| {
            let known: Vec<_> = self.versions.iter().map(|v| v.name.as_str()).collect();
            format!("{} has no version `{name}`; there are {}", self.product, known.join(", "))
        })
    }

    /// The variant this run tests, from `KV_VARIANT`; without it the backend as it comes.
    ///
    /// # Errors
    /// If there is no variant of that name.
    pub fn current_variant(&self) -> Result<Variant> {
        match std::env::var("KV_VARIANT") {
            Ok(name) if !name.is_empty() => self
                .variants
                .iter()
                .find(|variant| variant.name == name)
                .cloned()
                .with_context(|| format!("{} has no variant `{name}`", self.product)),
            _ => Ok(Variant::default()),
        }
    }

    /// The version every run tests: the first in the commit tier.
    #[must_use]
    pub fn default_version(&self) -> &Version {
        let first = self.versions.iter().find(|v| v.tier == Tier::Commit);
        first.unwrap_or(&self.versions[0])
    }
}

impl NodeSpec {
    /// Every port of a node that the host must reach: the client port first, then probes' own.
    pub(crate) fn ports(&self, client_port: u16, ready: Option<&Probe>) -> Vec<u16> {
        let mut ports = vec![client_port];
        for probe in [Some(&self.ready), self.leader.as_ref(), ready].into_iter().flatten() {
            let port = probe.port.unwrap_or(client_port);
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }
}
