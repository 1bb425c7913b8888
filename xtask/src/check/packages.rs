//! The packages of the workspace, as cargo tells them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::job;

#[derive(Debug, Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) features: BTreeMap<String, Vec<String>>,
    manifest_path: PathBuf,
    publish: Option<Vec<String>>,
}

impl Package {
    pub(super) fn is_published(&self) -> bool {
        self.publish.as_deref() != Some(&[])
    }

    pub(super) fn dir(&self) -> Result<&Path> {
        self.manifest_path.parent().context("a manifest has a folder")
    }
}

/// Every package, in cargo's order.
pub(super) async fn all() -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let mut cargo = job::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let (_, lines) = job::lines(cargo).await?;
    let metadata: Metadata = serde_json::from_str(&lines.join("\n"))?;
    Ok(metadata.packages)
}
