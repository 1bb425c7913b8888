//! `cargo xtask images`: builds the servers' images from Debian packages.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use kv_testkit::{Engine, Spec, Tier, image, workspace};

/// Build the servers' images from Debian packages, for machines that reach no image registry.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only images with this in their name, e.g. `etcd` or `zookeeper:3.9`
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only images that this tier needs
    #[arg(long, default_value_t = Tier::Nightly)]
    tier: Tier,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let engine = Engine::detect()?;
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only));
    let mut count = 0;
    for (_, spec) in Spec::discover(&workspace::root())? {
        for version in &spec.versions {
            if version.debian.is_some()
                && version.tier <= args.tier
                && wanted(&format!("{}:{}", spec.product, version.name))
            {
                let start = Instant::now();
                let image = image::build(&engine, &spec, version, &|what| println!("{what}"))?;
                println!("{image}: {:.1?}", start.elapsed());
                count += 1;
            }
        }
    }
    ensure!(
        count > 0,
        "no image of this tier has `{}` in its name",
        args.only.as_deref().unwrap_or_default()
    );
    Ok(ExitCode::SUCCESS)
}
