//! A started server of one to three nodes, removed when dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::engine::{Engine, blocking};
use crate::node::{Node, Plan};
use crate::ports;
use crate::servers::Servers;
use crate::spec::{Spec, Variant};
use crate::template::fill;
use crate::workspace;

const LAUNCH_TRIES: u32 = 5;
const SUBNET_TRIES: u32 = 20;
const LEADER_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Nodes in containers, each at a loopback address that stays the same over restarts.
///
/// Clients reach a node over its published port; nodes of one cluster speak to each other over a
/// network of their own, so either side can be cut without the other. Dropping the cluster
/// removes containers, data and network, also while panicking; then the nodes' logs are kept
/// under `target/conformance/logs` first.
#[derive(Debug)]
pub struct Cluster {
    spec: Arc<Spec>,
    variant: Variant,
    version: String,
    nodes: Vec<Node>,
    _remains: Remains,
}

/// Containers and network to be removed.
#[derive(Debug)]
struct Remains {
    engine: Engine,
    containers: Vec<String>,
    network: Option<String>,
}

impl Drop for Remains {
    fn drop(&mut self) {
        // There is nobody to hand an error to. What stays is swept by the next process.
        for container in &self.containers {
            let _ = self.engine.remove_container(container);
        }
        if let Some(network) = &self.network {
            let _ = self.engine.docker(&["network", "rm", network]);
        }
    }
}

/// Creates and starts the containers; does not wait for them.
pub(crate) fn launch(servers: &Servers) -> Result<Cluster> {
    let mut tries = 0;
    loop {
        tries += 1;
        match launch_once(servers) {
            Err(error) if tries < LAUNCH_TRIES && is_port_clash(&error) => {}
            done => return done,
        }
    }
}

/// Another process took a port between our look and the container's start.
fn is_port_clash(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("port is already allocated") || text.contains("address already in use")
}

fn launch_once(servers: &Servers) -> Result<Cluster> {
    let engine = &servers.engine;
    let spec = &servers.spec;
    let id = format!("{}-{:08x}", spec.product, ports::random() >> 32);
    let mut remains = Remains { engine: engine.clone(), containers: Vec::new(), network: None };
    let mut network = None;
    if servers.nodes > 1 {
        let name = format!("kv-{id}");
        remains.network = Some(name.clone());
        let subnet = make_network(engine, &name)?;
        network = Some((name, subnet));
    }
    let client_port = servers.changes.port.unwrap_or(spec.node.port);
    let container_ports = spec.node.ports(client_port, servers.changes.ready.as_ref());
    let host_ports = ports::pick(engine, container_ports.len() * servers.nodes)?;
    let mut plans = Vec::new();
    for (index, host_ports) in (1..).zip(host_ports.chunks(container_ports.len())) {
        let published = container_ports.iter().copied().zip(host_ports.iter().copied());
        plans.push(Plan {
            engine: engine.clone(),
            container: format!("kv-{id}-n{index}"),
            index,
            ip: match &network {
                Some((_, subnet)) => format!("{subnet}.{}", 10 + index),
                None => "127.0.0.1".to_owned(),
            },
            network: network.as_ref().map(|(name, _)| name.clone()),
            published: published.collect(),
        });
    }
    let ips: Vec<_> = plans.iter().map(|plan| plan.ip.clone()).collect();
    let mut nodes = Vec::new();
    for plan in plans {
        remains.containers.push(plan.container.clone());
        nodes.push(Node::create(servers, plan, &id, &ips)?);
    }
    let cluster = Cluster {
        spec: Arc::clone(spec),
        variant: servers.variant.clone(),
        version: servers.version.clone(),
        nodes,
        _remains: remains,
    };
    for node in &cluster.nodes {
        node.start_now()?;
    }
    Ok(cluster)
}

/// Makes a network for the nodes alone and returns the first three numbers of its addresses.
///
/// Docker knows which addresses are free on this machine, but lets a container choose and keep its
/// own only in a range that was asked for. So one network finds the range, and a second asks for it.
fn make_network(engine: &Engine, name: &str) -> Result<String> {
    let labels = engine.labels();
    let make = |more: &[&str]| {
        let create = ["network", "create", "--internal", &labels[0], &labels[1]];
        engine.docker(&[&create[..], more, &[name]].concat())
    };
    let subnet_of = ["network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", name];
    for _ in 0..SUBNET_TRIES {
        make(&[])?;
        let range = engine.docker(&subnet_of);
        engine.docker(&["network", "rm", name])?;
        let range = range?;
        match make(&[&format!("--subnet={range}")]) {
            Ok(_) => {
                let start: Vec<_> = range.split('.').take(3).collect();
                return Ok(start.join("."));
            }
            // Another process was faster.
            Err(error) if format!("{error:#}").contains("overlaps") => {}
            Err(error) => return Err(error),
        }
    }
    bail!("found no free address range for a network of containers in {SUBNET_TRIES} tries")
}

impl Cluster {
    /// The nodes, the first having index 1.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this index, counted from 1.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index - 1]
    }

    /// The version that runs, as `servers.toml` calls it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The nodes' client addresses, as `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    /// The store URL that names every node, with the variant's query parameters.
    ///
    /// # Errors
    /// If the URL in `servers.toml` has an unknown placeholder.
    pub fn url(&self) -> Result<String> {
        self.url_of(&self.endpoints())
    }

    /// As [`Cluster::url`], but names these addresses, e.g. those of proxies.
    ///
    /// # Errors
    /// If the URL in `servers.toml` has an unknown placeholder.
    pub fn url_of<S: AsRef<str>>(&self, endpoints: &[S]) -> Result<String> {
        let endpoints: Vec<_> = endpoints.iter().map(AsRef::as_ref).collect();
        let url = fill(&self.spec.url, &[("endpoints", &endpoints.join(","))])?;
        Ok(self.variant.add_to(&url))
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    /// If one is not, within the time `servers.toml` gives it: the message names its kept log.
    pub async fn ready(&self) -> Result<()> {
        for node in &self.nodes {
            node.ready().await?;
        }
        Ok(())
    }

    /// The node that leads the others, waited for up to 30 s.
    ///
    /// # Errors
    /// If none says it leads, or `servers.toml` has no `leader` probe.
    pub async fn leader(&self) -> Result<&Node> {
        self.leader_where(|_| true).await
    }

    /// The node that leads, as [`Cluster::leader`], but not this one: one that was cut off from
    /// its peers goes on saying that it leads for a while.
    ///
    /// # Errors
    /// As [`Cluster::leader`].
    pub async fn leader_other_than(&self, node: &Node) -> Result<&Node> {
        self.leader_where(|other| other.index() != node.index()).await
    }

    async fn leader_where(&self, wanted: impl Fn(&Node) -> bool) -> Result<&Node> {
        let deadline = Instant::now() + LEADER_LIMIT;
        loop {
            let mut answers = Vec::new();
            for node in self.nodes.iter().filter(|node| wanted(node)) {
                match node.leads().await {
                    Ok(()) => return Ok(node),
                    Err(error) => answers.push(format!("{}: {error:#}", node.name())),
                }
            }
            if Instant::now() > deadline {
                bail!("no node led within {LEADER_LIMIT:?}: {}", answers.join("; "));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes every node's log below `target/conformance/logs` and says where.
    ///
    /// # Errors
    /// If a log cannot be read or written.
    pub async fn save_logs(&self) -> Result<Vec<PathBuf>> {
        let nodes = self.nodes.clone();
        blocking(move || nodes.iter().map(Node::save_log).collect()).await
    }
}

impl Drop for Cluster {
    #[allow(clippy::print_stderr)] // A failed test's author reads this.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                match node.save_log() {
                    Ok(file) => eprintln!("log of {}: {}", node.name(), file.display()),
                    Err(error) => eprintln!("no log of {}: {error:#}", node.name()),
                }
            }
        }
    }
}

/// The file a node's log is kept in.
pub(crate) fn log_file(container: &str) -> Result<PathBuf> {
    Ok(workspace::output_dir("logs")?.join(format!("{container}.log")))
}
