//! The container engine: the `docker` command line, with labels, deadlines and sweeping.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use process_control::{ChildExt, Control};

use crate::owner;

/// On every container and network of the kit, with the value 1.
pub(crate) const KIT: &str = "kv.testkit";
/// Which process it belongs to.
pub(crate) const OWNER: &str = "kv.testkit.owner";
/// The host ports a container publishes, also while it does not run.
pub(crate) const PORTS: &str = "kv.testkit.ports";

const PROBE_LIMIT: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(120);

/// A reachable container engine.
#[derive(Debug, Clone)]
pub struct Engine {
    version: String,
}

impl Engine {
    /// The engine of this machine. The first call in a process asks for it and removes what dead
    /// processes left behind.
    ///
    /// # Errors
    /// In words fit for a skip notice, if there is no `docker` command or its engine does not
    /// answer.
    pub fn detect() -> Result<Self> {
        static ENGINE: OnceLock<std::result::Result<Engine, String>> = OnceLock::new();
        ENGINE
            .get_or_init(|| {
                let engine = Self::ask().map_err(|error| format!("{error:#}"))?;
                engine.sweep().map_err(|error| format!("{error:#}"))?;
                Ok(engine)
            })
            .clone()
            .map_err(anyhow::Error::msg)
    }

    fn ask() -> Result<Self> {
        let ask = ["version", "--format", "{{.Server.Version}}"];
        let version = run(PROBE_LIMIT, &ask).context("no container engine is reachable")?;
        Ok(Self { version })
    }

    /// The engine's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a `docker` command and returns what it wrote, trimmed.
    pub(crate) fn docker(&self, args: &[&str]) -> Result<String> {
        run(LIMIT, args)
    }

    /// As [`Self::docker`], with a limit of its own for what takes long.
    pub(crate) fn docker_within(&self, limit: Duration, args: &[&str]) -> Result<String> {
        run(limit, args)
    }

    /// The arguments that label what is made as the kit's and this process's.
    pub(crate) fn labels(&self) -> [String; 2] {
        [format!("--label={KIT}=1"), format!("--label={OWNER}={}", owner::me())]
    }

    /// Host ports that containers of the kit publish or will publish again when restarted.
    pub(crate) fn ports_taken(&self) -> Result<Vec<u16>> {
        let format = format!("{{{{.Label \"{PORTS}\"}}}}");
        let filter = format!("label={KIT}=1");
        let lines = self.docker(&["ps", "--all", "--filter", &filter, "--format", &format])?;
        Ok(lines.lines().flat_map(|l| l.split(' ')).filter_map(|p| p.parse().ok()).collect())
    }

    /// Writes a container's log to a file.
    pub(crate) fn save_log(&self, container: &str, file: &Path) -> Result<()> {
        let out = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        let child = docker()
            .args(["logs", "--timestamps", container])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("cannot run docker")?;
        let mut child = child;
        let ended = child.controlled().time_limit(LIMIT).terminate_for_timeout().wait()?;
        if !ended.is_some_and(|status| status.success()) {
            bail!("`docker logs {container}` failed");
        }
        Ok(())
    }

    /// Removes containers, networks and half-built images whose process runs no more; says what
    /// it removed.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn sweep(&self) -> Result<Vec<String>> {
        self.remove_where(owner::is_dead)
    }

    /// Removes everything this process made that still stands; for the end of a program, when
    /// the guards that should have done it were interrupted.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn remove_own(&self) -> Result<Vec<String>> {
        self.remove_where(|owner, _| owner == owner::me())
    }

    fn remove_where(&self, is_rubbish: impl Fn(&str, bool) -> bool) -> Result<Vec<String>> {
        let filter = format!("label={KIT}=1");
        let mut removed = Vec::new();
        let format = format!("{{{{.Names}}}}\t{{{{.State}}}}\t{{{{.Label \"{OWNER}\"}}}}");
        let containers = self.docker(&["ps", "--all", "--filter", &filter, "--format", &format])?;
        for (name, state, owner) in containers.lines().filter_map(columns) {
            let running = !matches!(state, "created" | "exited" | "dead");
            if is_rubbish(owner, running) && self.remove_container(name).is_ok() {
                removed.push(name.to_owned());
            }
        }
        let format = format!("{{{{.Name}}}}\t\t{{{{.Label \"{OWNER}\"}}}}");
        let networks = self.docker(&["network", "ls", "--filter", &filter, "--format", &format])?;
        for (name, _, owner) in networks.lines().filter_map(columns) {
            if is_rubbish(owner, false) && self.docker(&["network", "rm", name]).is_ok() {
                removed.push(name.to_owned());
            }
        }
        Ok(removed)
    }

    /// Removes a container with its data, in whatever state it is.
    pub(crate) fn remove_container(&self, name: &str) -> Result<()> {
        match self.docker(&["rm", "--force", "--volumes", name]) {
            Err(error) if !format!("{error:#}").contains("No such container") => Err(error),
            _ => Ok(()),
        }
    }
}

fn columns(line: &str) -> Option<(&str, &str, &str)> {
    let mut columns = line.split('\t');
    Some((columns.next()?, columns.next()?, columns.next()?))
}

/// In a process group of its own, so that an interrupt from the terminal does not tear a command
/// of ours in the middle.
fn docker() -> Command {
    let mut docker = Command::new("docker");
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut docker, 0);
    docker
}

fn run(limit: Duration, args: &[&str]) -> Result<String> {
    let what = || format!("`docker {}`", args.first().copied().unwrap_or_default());
    let child = docker()
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}: is docker installed?", what()))?;
    let output = child
        .controlled_with_output()
        .time_limit(limit)
        .terminate_for_timeout()
        .wait()
        .with_context(what)?
        .with_context(|| format!("{} did not end within {limit:?}", what()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`docker {}` failed: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs blocking work, such as a `docker` command, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a docker command's thread panicked")?
}
