//! One node of a cluster and what can be done to it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::log_file;
use crate::engine::{Engine, PORTS, blocking};
use crate::ports::random;
use crate::probe;
use crate::servers::Servers;
use crate::spec::Probe;
use crate::template::{Values, fill};
use crate::workspace;

const POLL: Duration = Duration::from_millis(100);
/// The network that published ports go through.
const CLIENT_NETWORK: &str = "bridge";

/// A node, running or not. Clones name the same node.
///
/// Every verb returns when the engine has carried it out; none but [`Node::ready`] and
/// [`Node::restart`] waits for the server itself.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// The two sides of a node that can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Between this node and the others; clients still reach it. Only in clusters.
    Peers,
    /// Between this node and all clients: its port refuses, open connections end.
    Clients,
}

/// Where a node stands, decided before anything is made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    pub(crate) container: String,
    pub(crate) index: usize,
    pub(crate) ip: String,
    pub(crate) network: Option<String>,
    /// Container port to host port; the client port comes first.
    pub(crate) published: Vec<(u16, u16)>,
}

#[derive(Debug)]
struct Inner {
    plan: Plan,
    create: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    data: String,
    ready: Probe,
    leader: Option<Probe>,
    ready_within: Duration,
}

impl Node {
    /// Makes the node's container. `ips` are those of all nodes, this one's included.
    pub(crate) fn create(servers: &Servers, plan: Plan, cluster: &str, ips: &[String]) -> Result<Self> {
        let spec = &servers.spec.node;
        let changes = &servers.changes;
        let index = plan.index.to_string();
        let name = format!("n{index}");
        let count = ips.len().to_string();
        let port = plan.client_port().to_string();
        let peers = peers(servers, ips)?;
        let values = [
            ("cluster", cluster),
            ("count", &count),
            ("index", &index),
            ("ip", &plan.ip),
            ("name", &name),
            ("peers", &peers),
            ("port", &port),
            ("scheme", changes.scheme.as_ref().unwrap_or(&spec.scheme)),
        ];
        let host_ports: Vec<_> = plan.published.iter().map(|(_, host)| host.to_string()).collect();
        let mut create = vec!["create".to_owned(), format!("--name={}", plan.container)];
        create.extend(plan.engine.labels());
        create.push(format!("--label={PORTS}={}", host_ports.join(" ")));
        create.push(format!("--hostname={name}"));
        create.push(format!("--network={CLIENT_NETWORK}"));
        create.push(format!("--volume={}", spec.data));
        create.push("--entrypoint=".to_owned());
        for (container, host) in &plan.published {
            create.push(format!("--publish=127.0.0.1:{host}:{container}"));
        }
        for (variable, value) in spec.env.iter().chain(changes.env.iter().map(|(k, v)| (k, v))) {
            create.push(format!("--env={variable}={}", fill(value, &values)?));
        }
        create.push(servers.image.reference.clone());
        for arg in spec.command.iter().chain(&changes.args) {
            create.push(fill(arg, &values)?);
        }
        let mut files = Vec::new();
        for (file, text) in &spec.files {
            let mut text = fill(text, &values)?;
            for (_, more) in changes.appended.iter().filter(|(to, _)| to == file) {
                text.push_str(&fill(more, &values)?);
            }
            files.push((file.clone(), text.into_bytes()));
        }
        if let Some((file, _)) = changes.appended.iter().find(|(f, _)| !spec.files.contains_key(f)) {
            bail!("there is no file `{file}` in servers.toml to append to");
        }
        files.extend(changes.files.iter().cloned());
        let ready = fill_probe(changes.ready.as_ref().unwrap_or(&spec.ready), &values)?;
        let leader = spec.leader.as_ref().map(|probe| fill_probe(probe, &values)).transpose()?;
        let inner = Inner {
            plan,
            create,
            files,
            data: spec.data.clone(),
            ready,
            leader,
            ready_within: Duration::from_secs(spec.ready_within_s),
        };
        inner.create()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The node's number in its cluster, from 1.
    #[must_use]
    pub fn index(&self) -> usize {
        self.inner.plan.index
    }

    /// The container's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.plan.container
    }

    /// The client address, `127.0.0.1:PORT`; the same as long as the node is there.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.inner.plan.client_port())
    }

    /// Freezes every process of the node; its connections stay open and silent.
    ///
    /// # Errors
    /// As every verb: if the engine refuses, e.g. because the node does not run.
    pub async fn pause(&self) -> Result<()> {
        self.docker("pause").await
    }

    /// Ends a [`Node::pause`].
    ///
    /// # Errors
    /// As every verb.
    pub async fn unpause(&self) -> Result<()> {
        self.docker("unpause").await
    }

    /// Kills the node's processes at once (SIGKILL). Its data stays.
    ///
    /// # Errors
    /// As every verb.
    pub async fn kill(&self) -> Result<()> {
        self.docker("kill").await
    }

    /// Asks the node to stop (SIGTERM), and kills it after ten seconds.
    ///
    /// # Errors
    /// As every verb.
    pub async fn stop(&self) -> Result<()> {
        self.docker("stop").await
    }

    /// Starts a node that was killed, stopped or wiped, at the same addresses.
    ///
    /// # Errors
    /// As every verb.
    pub async fn start(&self) -> Result<()> {
        self.docker("start").await
    }

    /// Stops the node, starts it again and waits until it is ready.
    ///
    /// # Errors
    /// As every verb, and as [`Node::ready`].
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await?;
        self.ready().await
    }

    /// Kills the node and removes its data. It stands still afterwards and starts empty.
    ///
    /// # Errors
    /// As every verb.
    pub async fn wipe(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.plan.engine.remove_container(&inner.plan.container)?;
            inner.create()
        })
        .await
    }

    /// Cuts one side of the node off.
    ///
    /// # Errors
    /// As every verb; and for [`Link::Peers`] of a node that has none.
    pub async fn disconnect(&self, link: Link) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let network = inner.plan.network_of(link)?;
            let node = &inner.plan.container;
            inner.plan.engine.docker(&["network", "disconnect", network, node]).map(drop)
        })
        .await
    }

    /// Ends a [`Node::disconnect`]; addresses are the same as before.
    ///
    /// # Errors
    /// As every verb; and for [`Link::Peers`] of a node that has none.
    pub async fn reconnect(&self, link: Link) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || match link {
            Link::Peers => inner.plan.join_peers(),
            Link::Clients => {
                let node = &inner.plan.container;
                let connect = ["network", "connect", CLIENT_NETWORK, node];
                inner.plan.engine.docker(&connect).map(drop)
            }
        })
        .await
    }

    /// Runs a command inside the node and returns what it wrote to its output, trimmed.
    ///
    /// # Errors
    /// If it cannot be run or fails; the message has what it wrote to its error output.
    pub async fn exec(&self, command: &[&str]) -> Result<String> {
        let inner = Arc::clone(&self.inner);
        let mut args = vec!["exec".to_owned(), inner.plan.container.clone()];
        args.extend(command.iter().map(|&arg| arg.to_owned()));
        blocking(move || {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            inner.plan.engine.docker(&args)
        })
        .await
    }

    /// What the server wrote so far, both outputs mixed.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn logs(&self) -> Result<String> {
        let node = self.clone();
        blocking(move || {
            let file = workspace::output_dir("files")?.join(format!("{:x}.log", random()));
            node.inner.plan.engine.save_log(node.name(), &file)?;
            let log = fs::read(&file)?;
            fs::remove_file(&file)?;
            Ok(String::from_utf8_lossy(&log).into_owned())
        })
        .await
    }

    /// Waits until the node serves clients.
    ///
    /// # Errors
    /// If it does not within the time `servers.toml` gives it, or ends while waited for: the
    /// message has its last lines and names the file with its log.
    pub async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + self.inner.ready_within;
        loop {
            let Err(error) = self.ask(&self.inner.ready).await else { return Ok(()) };
            let runs = self.is_running().await.unwrap_or(false);
            if runs && Instant::now() < deadline {
                tokio::time::sleep(POLL).await;
                continue;
            }
            let what = if runs { "is not ready" } else { "does not run" };
            let (last, file) = self.last_words().await?;
            return Err(error).context(format!(
                "{} {what}; its log is {} and ends:\n{last}",
                self.name(),
                file.display()
            ));
        }
    }

    /// Whether the container runs; a paused one does.
    ///
    /// # Errors
    /// As every verb.
    pub async fn is_running(&self) -> Result<bool> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let inspect = ["inspect", "--format", "{{.State.Running}}", &inner.plan.container];
            Ok(inner.plan.engine.docker(&inspect)? == "true")
        })
        .await
    }

    /// An error says why it does not lead the others, or cannot tell.
    pub(crate) async fn leads(&self) -> Result<()> {
        self.ask(self.inner.leader.as_ref().context("servers.toml has no leader probe")?).await
    }

    /// Asks a question once.
    async fn ask(&self, probe: &Probe) -> Result<()> {
        let plan = &self.inner.plan;
        let host_port = match probe.port {
            None => plan.client_port(),
            Some(port) => plan.host_port(port).context("the probe's port is not published")?,
        };
        let probe = probe.clone();
        blocking(move || probe::ask(&probe, host_port)).await
    }

    pub(crate) fn start_now(&self) -> Result<()> {
        self.inner.plan.engine.docker(&["start", self.name()]).map(drop)
    }

    pub(crate) fn save_log(&self) -> Result<PathBuf> {
        let file = log_file(self.name())?;
        self.inner.plan.engine.save_log(self.name(), &file)?;
        Ok(file)
    }

    async fn last_words(&self) -> Result<(String, PathBuf)> {
        const LINES: usize = 12;
        let node = self.clone();
        let file = blocking(move || node.save_log()).await?;
        let log = String::from_utf8_lossy(&fs::read(&file)?).into_owned();
        let lines: Vec<_> = log.lines().collect();
        Ok((lines[lines.len().saturating_sub(LINES)..].join("\n"), file))
    }

    async fn docker(&self, verb: &'static str) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.plan.engine.docker(&[verb, &inner.plan.container]).map(drop)).await
    }
}

/// What `{peers}` stands for: one piece of text per node.
fn peers(servers: &Servers, ips: &[String]) -> Result<String> {
    let spec = &servers.spec.node;
    let mut peers = Vec::new();
    for (index, ip) in (1..).zip(ips) {
        let index: usize = index;
        let name = format!("n{index}");
        let index = index.to_string();
        peers.push(fill(&spec.peer, &[("index", &index), ("ip", ip), ("name", &name)])?);
    }
    Ok(peers.join(&spec.peer_separator))
}

fn fill_probe(probe: &Probe, values: Values<'_>) -> Result<Probe> {
    let filled = |text: &Option<String>| text.as_ref().map(|t| fill(t, values)).transpose();
    Ok(Probe {
        port: probe.port,
        http: filled(&probe.http)?,
        tcp: filled(&probe.tcp)?,
        expect: fill(&probe.expect, values)?,
    })
}

impl Plan {
    fn client_port(&self) -> u16 {
        self.published[0].1
    }

    fn host_port(&self, container_port: u16) -> Option<u16> {
        self.published.iter().find(|(port, _)| *port == container_port).map(|(_, host)| *host)
    }

    fn network_of(&self, link: Link) -> Result<&str> {
        match link {
            Link::Clients => Ok(CLIENT_NETWORK),
            Link::Peers => self.network.as_deref().context("a node that stands alone has no peers"),
        }
    }

    fn join_peers(&self) -> Result<()> {
        let network = self.network_of(Link::Peers)?;
        let ip = format!("--ip={}", self.ip);
        self.engine.docker(&["network", "connect", &ip, network, &self.container]).map(drop)
    }
}

impl Inner {
    fn create(&self) -> Result<()> {
        let engine = &self.plan.engine;
        let args: Vec<_> = self.create.iter().map(String::as_str).collect();
        engine.docker(&args)?;
        if self.plan.network.is_some() {
            self.plan.join_peers()?;
        }
        if self.files.is_empty() {
            return Ok(());
        }
        let dir = workspace::output_dir("files")?.join(format!("{:x}", random()));
        fs::create_dir_all(&dir)?;
        let copied = self.copy_files(&dir);
        fs::remove_dir_all(&dir)?;
        copied
    }

    fn copy_files(&self, dir: &std::path::Path) -> Result<()> {
        for (name, content) in &self.files {
            fs::write(dir.join(name), content).with_context(|| format!("cannot write {name}"))?;
        }
        let from = format!("{}/.", dir.display());
        let to = format!("{}:{}", self.plan.container, self.data);
        self.plan.engine.docker(&["cp", &from, &to]).map(drop)
    }
}
