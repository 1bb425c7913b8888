//! Which image a server runs from: the public one, or one built here from Debian packages.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::debian;
use crate::engine::Engine;
use crate::spec::{Spec, Version};

const PULL_LIMIT: Duration = Duration::from_secs(600);
/// On built images: the hash of the recipe they were built by.
pub(crate) const RECIPE: &str = "kv.testkit.recipe";

/// Where images may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImagePolicy {
    /// Whatever is on the machine already, the public image before the built one.
    #[default]
    Auto,
    /// The public image, pinned by tag.
    Upstream,
    /// The image built from Debian packages.
    Debian,
}

impl ImagePolicy {
    /// The policy of this run, from `KV_IMAGES`.
    ///
    /// # Errors
    /// If the variable holds an unknown word.
    pub fn current() -> Result<Self> {
        match std::env::var("KV_IMAGES") {
            Ok(word) => word.parse().context("in the environment variable KV_IMAGES"),
            Err(_) => Ok(Self::Auto),
        }
    }
}

impl FromStr for ImagePolicy {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "auto" => Ok(Self::Auto),
            "upstream" => Ok(Self::Upstream),
            "debian" => Ok(Self::Debian),
            other => bail!("no image source is called `{other}`: auto, upstream or debian"),
        }
    }
}

impl fmt::Display for ImagePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Upstream => "upstream",
            Self::Debian => "debian",
        })
    }
}

/// An image that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What `docker run` takes.
    pub reference: String,
    /// `upstream` or `debian`.
    pub source: &'static str,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reference, self.source)
    }
}

/// The image to use for a version, if it is on this machine. Fetches and builds nothing.
///
/// # Errors
/// If there is none; the message says what was looked for and what would bring it.
pub fn find(engine: &Engine, spec: &Spec, version: &Version, policy: ImagePolicy) -> Result<Image> {
    let upstream = || {
        engine.docker(&["image", "inspect", "--format", "{{.Id}}", &version.upstream]).ok()?;
        Some(Image { reference: version.upstream.clone(), source: "upstream" })
    };
    let built = || {
        let reference = built_name(spec, version);
        let recipe = recipe_hash(spec, version);
        is_built(engine, &reference, &recipe).then_some(Image { reference, source: "debian" })
    };
    let found = match policy {
        ImagePolicy::Auto => upstream().or_else(built),
        ImagePolicy::Upstream => upstream(),
        ImagePolicy::Debian => built(),
    };
    found.with_context(|| {
        let pull = format!("`docker pull {}`", version.upstream);
        let build = "`cargo xtask images`";
        let way = match policy {
            ImagePolicy::Auto if version.debian.is_none() => format!("{pull} brings one"),
            ImagePolicy::Auto => format!("{pull} or {build} brings one"),
            ImagePolicy::Upstream => format!("{pull} brings it"),
            ImagePolicy::Debian => format!("{build} builds it"),
        };
        format!("no {policy} image of {} {} is here: {way}", spec.product, version.name)
    })
}

/// As [`find`], but pulls or builds what is missing; `Auto` tries to pull the public image.
/// `say` is told of what takes long.
///
/// # Errors
/// If it can be neither found nor made.
pub fn provide(
    engine: &Engine,
    spec: &Spec,
    version: &Version,
    policy: ImagePolicy,
    say: &dyn Fn(&str),
) -> Result<Image> {
    find(engine, spec, version, policy).or_else(|missing| {
        if policy == ImagePolicy::Debian {
            return build(engine, spec, version, say);
        }
        say(&format!("pulling {}", version.upstream));
        engine
            .docker_within(PULL_LIMIT, &["pull", "--quiet", &version.upstream])
            .with_context(|| missing.to_string())?;
        find(engine, spec, version, ImagePolicy::Upstream)
    })
}

/// Builds a version's image from Debian packages, unless one by the same recipe is there.
///
/// # Errors
/// If the machine lacks what it takes (the message says what to install), or a step fails.
pub fn build(engine: &Engine, spec: &Spec, version: &Version, say: &dyn Fn(&str)) -> Result<Image> {
    let reference = built_name(spec, version);
    let recipe = recipe_hash(spec, version);
    let Some(debian_recipe) = &version.debian else {
        bail!("no Debian release has {} {}: only its public image is tested", spec.product, version.name);
    };
    if is_built(engine, &reference, &recipe) {
        say(&format!("{reference}: there already"));
    } else {
        let replaced = engine.docker(&["image", "inspect", "--format", "{{.Id}}", &reference]);
        debian::build(engine, spec, debian_recipe, &reference, &recipe, say)
            .with_context(|| format!("cannot build {reference}"))?;
        if let Ok(id) = replaced {
            // A container may still run from it; then it stays, without a name.
            let _ = engine.docker(&["image", "rm", &id]);
        }
    }
    Ok(Image { reference, source: "debian" })
}

fn built_name(spec: &Spec, version: &Version) -> String {
    format!("kv-testkit/{}:{}-debian", spec.product, version.name)
}

fn recipe_hash(spec: &Spec, version: &Version) -> String {
    let mut hasher = DefaultHasher::new();
    if let Some(recipe) = &version.debian {
        (recipe, &spec.debian_setup, debian::BASE, debian::STEPS).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Whether an image of this name was built by this recipe.
pub(crate) fn is_built(engine: &Engine, reference: &str, recipe: &str) -> bool {
    let format = format!("{{{{index .Config.Labels \"{RECIPE}\"}}}}");
    engine.docker(&["image", "inspect", "--format", &format, reference]).is_ok_and(|there| there == recipe)
}
