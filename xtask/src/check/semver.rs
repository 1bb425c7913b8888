//! Public items did not change in a way that the next version number would not tell.
//!
//! Each crate is compared with the tag of its own last release, `CRATE-vVERSION`. A crate without one has
//! no users to break.

use anyhow::{Result, ensure};
use kv_testkit::workspace;
use tokio::process::Command;

use super::packages;
use super::{Ended, cargo, missing};
use crate::job;

pub(super) async fn check(require: bool) -> Result<Ended> {
    let mut released = Vec::new();
    for package in packages::all().await?.into_iter().filter(|package| package.is_published()) {
        if let Some(tag) = last_tag(&package.name).await? {
            released.push((package.name, tag));
        }
    }
    if released.is_empty() {
        return Ok(Ended::Skipped("no crate was released yet".to_owned()));
    }
    if let Some(missing) = missing("semver-checks", require).await? {
        return Ok(missing);
    }
    for (name, tag) in released {
        let ended = cargo(&["semver-checks", "--package", &name, "--baseline-rev", &tag], &[]).await?;
        if matches!(ended, Ended::Failed(_)) {
            return Ok(ended);
        }
    }
    Ok(Ended::Ok)
}

/// The newest tag of a crate's releases.
async fn last_tag(name: &str) -> Result<Option<String>> {
    let mut git = Command::new("git");
    git.args(["tag", "--list", "--sort=-version:refname", &format!("{name}-v*")]);
    git.current_dir(workspace::root());
    let (status, tags) = job::lines(git).await?;
    ensure!(status.success(), "git tag failed");
    Ok(tags.into_iter().next())
}
