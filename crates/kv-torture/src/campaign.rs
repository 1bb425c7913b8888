//! A campaign: starts the target and the processes, lets the nemesis loose, brings everything to rest,
//! and hands the history to the checker.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kv_any::kv_core::{ErrorKind, Guarantee, Power, Store, StoreExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::check::{self, Findings};
use crate::history::{Client, History, Note, Promises, Recorder, now};
use crate::nemesis::{self, Fault};
use crate::target::{Backend, Target};
use crate::worker;

const HANDLES: u32 = 2;
const UNIT_KEYS: u64 = 5;
const UNITS_EACH: u64 = 100;

/// The nemesis's own number; processes have others.
const NEMESIS: Client = Client { process: 0, handle: 0 };

/// What a campaign is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is tortured.
    pub backend: Backend,
    /// For how long faults are made.
    pub faults_for: Duration,
    /// The seed of all choices.
    pub seed: u64,
    /// The faults to choose from.
    pub faults: Vec<Fault>,
    /// Where the histories go.
    pub folder: PathBuf,
    /// The program `kv-torture`, which is started as each process.
    pub program: PathBuf,
}

/// What a campaign found.
#[derive(Debug)]
pub struct Outcome {
    /// What the checker says.
    pub findings: Findings,
    /// How many calls were made.
    pub calls: usize,
    /// How many of them nobody knows the outcome of.
    pub unknown: usize,
    /// How many faults were made.
    pub faults: usize,
}

struct Process {
    number: u32,
    child: Child,
    orders: tokio::process::ChildStdin,
    answers: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

/// Runs a campaign.
///
/// # Errors
/// If it cannot be run; what it finds is no error.
pub async fn run(plan: &Plan) -> Result<Outcome> {
    std::fs::create_dir_all(&plan.folder)?;
    let target = Target::start(plan.backend).await.context("the target does not start")?;
    let recorder = Recorder::create(&plan.folder.join("nemesis.jsonl"))?;
    let mut campaign = Campaign {
        plan,
        recorder,
        origin: now(),
        random: fastrand::Rng::with_seed(plan.seed),
        next_process: 1,
        faults: 0,
        target,
    };
    campaign.prepare().await?;
    let mut processes = Vec::new();
    for _ in 0..campaign.target.processes() {
        processes.push(campaign.spawn().await?);
    }
    campaign.torment(&mut processes).await?;
    campaign.settle(processes).await?;
    let history = History::read(&plan.folder)?;
    Ok(Outcome {
        findings: check::check(&history),
        calls: history.ops.len(),
        unknown: history.ops.iter().filter(|op| op.is_unknown()).count(),
        faults: campaign.faults,
    })
}

struct Campaign<'a> {
    plan: &'a Plan,
    recorder: Recorder,
    origin: u64,
    random: fastrand::Rng,
    next_process: u32,
    faults: usize,
    target: Target,
}

impl Campaign<'_> {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        kv_any::open(&self.target.url).await.context("open")
    }

    /// Notes what the store declares, and puts the units.
    async fn prepare(&self) -> Result<()> {
        let store = self.open().await?;
        let capabilities = store.capabilities();
        let promises = Promises {
            linearizable_reads: capabilities.guarantees(Guarantee::LinearizableReads),
            watch_complete: capabilities.guarantees(Guarantee::WatchComplete),
            cas_detects_recreate: capabilities.guarantees(Guarantee::CasDetectsRecreate),
            timeout: 3_000_000_000,
            session_ttl: u64::try_from(capabilities.limits.session_bound.as_nanos())?,
            units: UNIT_KEYS * UNITS_EACH,
            unit_keys: UNIT_KEYS,
        };
        std::fs::write(self.plan.folder.join("promises.json"), serde_json::to_string(&promises)?)?;
        for number in 0..UNIT_KEYS {
            store.put(worker::unit_key(number)?, UNITS_EACH.to_string()).await?;
        }
        store.close().await?;
        Ok(())
    }

    async fn spawn(&mut self) -> Result<Process> {
        let number = self.next_process;
        self.next_process += 1;
        let mut child = Command::new(&self.plan.program)
            .arg("worker")
            .args(["--url", &self.target.url])
            .args(["--process", &number.to_string()])
            .args(["--handles", &HANDLES.to_string()])
            .args(["--seed", &self.plan.seed.to_string()])
            .args(["--origin", &self.origin.to_string()])
            .args(["--unit-keys", &UNIT_KEYS.to_string()])
            .arg("--history")
            .arg(self.plan.folder.join(format!("process-{number:03}.jsonl")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Process { number, child, orders, answers })
    }

    /// Makes one fault after the other until the time is over.
    async fn torment(&mut self, processes: &mut [Process]) -> Result<()> {
        let until = Instant::now() + self.plan.faults_for;
        let usable: Vec<_> = self
            .plan
            .faults
            .iter()
            .copied()
            .filter(|fault| self.target.cluster.is_some() || !fault.is_of_servers())
            .collect();
        tokio::time::sleep(Duration::from_secs(3)).await;
        while Instant::now() < until {
            let calm = Duration::from_millis(self.random.u64(500..8_000));
            tokio::time::sleep(calm.min(until.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= until || usable.is_empty() {
                continue;
            }
            let fault = usable[self.random.usize(..usable.len())];
            self.faults += 1;
            self.note(Note::Fault { what: format!("{fault:?} begins") })?;
            match fault {
                Fault::KillClient => self.kill_client(processes).await?,
                Fault::StopClient => self.stop_client(processes).await?,
                Fault::BreakLock => self.break_lock().await?,
                of_servers => {
                    let cluster = self.target.cluster.as_ref().context("no cluster")?;
                    let mut random = self.random.fork();
                    nemesis::strike(cluster, of_servers, &mut random).await?;
                }
            }
            self.note(Note::Fault { what: format!("{fault:?} is over") })?;
        }
        Ok(())
    }

    async fn kill_client(&mut self, processes: &mut [Process]) -> Result<()> {
        let at = self.random.usize(..processes.len());
        self.note(Note::Killed { process: processes[at].number })?;
        processes[at].child.kill().await?;
        processes[at] = self.spawn().await?;
        Ok(())
    }

    async fn stop_client(&mut self, processes: &[Process]) -> Result<()> {
        let process = &processes[self.random.usize(..processes.len())];
        signal(process, rustix::process::Signal::STOP)?;
        tokio::time::sleep(Duration::from_millis(self.random.u64(500..20_000))).await;
        signal(process, rustix::process::Signal::CONT)
    }

    /// Ends a hold through a handle of its own, where the store has the power and somebody holds.
    async fn break_lock(&mut self) -> Result<()> {
        if self.target.cluster.is_none() {
            return Ok(());
        }
        let Ok(store) = kv_any::open(&self.target.url).await else { return Ok(()) };
        let lock = format!("lock{}", self.random.u8(..2));
        let key: kv_any::kv_core::Key = lock.parse()?;
        if store.capabilities().has(Power::LockView)
            && let Ok(Some(holder)) = store.lock_holder(&key).await
        {
            // Noted first: its holder may see the loss before the answer is here.
            self.note(Note::Broken { lock, token: holder.token.get() })?;
            let broken = store.break_lock(key, holder.token).await;
            if let Err(error) = broken.as_ref().map_err(kv_any::kv_core::Error::kind)
                && matches!(error, ErrorKind::Protocol)
            {
                bail!("break_lock: {broken:?}");
            }
        }
        let _ = store.close().await; // The servers may be unwell: the next handle is another.
        Ok(())
    }

    fn note(&self, note: Note) -> Result<()> {
        self.recorder.note(NEMESIS, now(), note)
    }

    /// Ends the faults, brings the processes to rest and looks at what is left.
    async fn settle(&self, mut processes: Vec<Process>) -> Result<()> {
        if let Some(cluster) = &self.target.cluster {
            nemesis::heal(cluster).await?;
        }
        self.note(Note::Healed)?;
        for process in &mut processes {
            process.hears(worker::READY).await?;
        }
        for order in [worker::STAND_STILL, worker::SETTLE, worker::CLOSE] {
            for process in &mut processes {
                process.orders.write_all(format!("{order}\n").as_bytes()).await?;
            }
            for process in &mut processes {
                process.hears(order).await?;
            }
        }
        for process in &mut processes {
            process.child.wait().await?;
        }
        self.note(Note::Left { keys: self.left().await? })
    }

    /// The keys that should have expired, once those of killed processes have had their time.
    async fn left(&self) -> Result<Vec<String>> {
        let store = self.open().await?;
        let limits = &store.capabilities().limits;
        let bound = limits.session_bound.max(limits.ttl_bound.latest(Duration::from_secs(3)));
        let until = Instant::now() + bound + Duration::from_secs(10);
        loop {
            let mut keys = BTreeSet::new();
            for prefix in ["sess", "ttl"] {
                keys.extend(store.keys(prefix).await?.iter().map(ToString::to_string));
            }
            if keys.is_empty() || Instant::now() > until {
                store.close().await?;
                return Ok(keys.into_iter().collect());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Process {
    /// Waits until the process says this.
    async fn hears(&mut self, wanted: &str) -> Result<()> {
        let limit = Duration::from_secs(240);
        let said = tokio::time::timeout(limit, self.answers.next_line()).await;
        match said
            .with_context(|| format!("process {} does not say {wanted:?} for {limit:?}", self.number))??
        {
            Some(line) if line == wanted => Ok(()),
            other => bail!("process {} says {other:?} in place of {wanted:?}", self.number),
        }
    }
}

fn signal(process: &Process, signal: rustix::process::Signal) -> Result<()> {
    let id = process.child.id().context("the process is gone")?;
    let id = rustix::process::Pid::from_raw(i32::try_from(id)?).context("no process has the number 0")?;
    Ok(rustix::process::kill_process(id, signal)?)
}

/// The folder of a campaign's histories, which is made anew.
///
/// # Errors
/// If it cannot be emptied.
pub fn folder(root: &Path, backend: Backend, seed: u64) -> Result<PathBuf> {
    let folder = root.join(format!("{}-{seed}", backend.name()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(folder)
}
