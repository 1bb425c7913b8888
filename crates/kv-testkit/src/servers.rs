//! Choosing what to start: which version, how many nodes, with which settings of a test's own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::cluster::{self, Cluster};
use crate::engine::{Engine, blocking};
use crate::image::{self, Image, ImagePolicy};
use crate::spec::{Probe, Spec, Variant, Version};

/// Servers of one version that can be started on this machine: the engine answers and the image
/// is here. Each [`Servers::start`] starts another, independent cluster.
#[derive(Debug, Clone)]
pub struct Servers {
    pub(crate) engine: Engine,
    pub(crate) spec: Arc<Spec>,
    pub(crate) version: String,
    pub(crate) image: Image,
    pub(crate) variant: Variant,
    pub(crate) nodes: usize,
    pub(crate) changes: Changes,
}

/// What a test wants other than `servers.toml` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) ready: Option<Probe>,
    pub(crate) port: Option<u16>,
    pub(crate) scheme: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) appended: Vec<(String, String)>,
}

impl Servers {
    /// One node of a version, from an image chosen before, for the backend as it comes.
    #[must_use]
    pub fn new(engine: Engine, spec: Arc<Spec>, version: &Version, image: Image) -> Self {
        let version = version.name.clone();
        let (variant, changes) = Default::default();
        Self { engine, spec, version, image, variant, nodes: 1, changes }
    }

    /// What the crate in this folder is tested on, as the environment chooses:
    /// `KV_SERVER_VERSION` (default: the version every run tests), `KV_VARIANT` and `KV_IMAGES`.
    ///
    /// # Errors
    /// If there is no engine, no such version or variant, or no image on this machine.
    pub fn available(crate_dir: &Path) -> Result<Self> {
        let spec = Spec::load(crate_dir)?;
        let version = match std::env::var("KV_SERVER_VERSION") {
            Ok(name) => spec.version(&name)?.clone(),
            Err(_) => spec.default_version().clone(),
        };
        let engine = Engine::detect()?;
        let image = image::find(&engine, &spec, &version, ImagePolicy::current()?)?;
        let variant = spec.current_variant()?;
        Ok(Self::new(engine, Arc::new(spec), &version, image).variant(variant))
    }

    /// The version that will run, as `servers.toml` calls it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The image it will run from.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The variant of the backend whose query parameters [`Cluster::url`] has.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// One, two or three nodes that form a cluster; one if not said.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }

    /// Another container port for clients, e.g. the one that speaks TLS.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.changes.port = Some(port);
        self
    }

    /// Another way to see that a node serves clients, e.g. where passwords stand before the usual one.
    #[must_use]
    pub fn ready_when(mut self, probe: Probe) -> Self {
        self.changes.ready = Some(probe);
        self
    }

    /// What `{scheme}` stands for, e.g. `https`.
    #[must_use]
    pub fn scheme(mut self, scheme: &str) -> Self {
        self.changes.scheme = Some(scheme.to_owned());
        self
    }

    /// One more argument at the end of the server's command line; may have placeholders.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.changes.args.push(arg.to_owned());
        self
    }

    /// One more environment variable of the server; may have placeholders.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.changes.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more file in the data folder, as it is.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.changes.files.push((name.to_owned(), content.into()));
        self
    }

    /// Text added to the end of a file that `servers.toml` has; may have placeholders.
    #[must_use]
    pub fn append(mut self, name: &str, text: &str) -> Self {
        self.changes.appended.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Starts the nodes and waits until each is ready. Dropping the [`Cluster`], or this future,
    /// removes them.
    ///
    /// # Errors
    /// If a container cannot be made or started, or a node is not ready in time: the message
    /// names the file its log was kept in.
    pub async fn start(&self) -> Result<Cluster> {
        ensure!((1..=3).contains(&self.nodes), "a cluster has one to three nodes");
        let servers = self.clone();
        let started = blocking(move || cluster::launch(&servers)).await;
        let cluster = started.with_context(|| {
            format!("cannot start {} {} from {}", self.spec.product, self.version, self.image)
        })?;
        cluster.ready().await?;
        Ok(cluster)
    }
}
