//! The built `kv` command in a place of its own.
#![allow(dead_code, reason = "each test target uses some of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything a test waits for may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A place with a store.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    url: String,
}

/// What a run of the command came to.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let out = String::from_utf8_lossy(&self.out);
        f.debug_struct("Run").field("code", &self.code).field("out", &out).field("err", &self.err).finish()
    }
}

impl Run {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The same, if it succeeded and had nothing to complain about.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self
    }

    /// The same, if it failed with this code, said all of this on standard error, and nothing else on
    /// standard output.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("kv: "), "{self:?}");
        for words in words {
            assert!(self.err.contains(words), "{words:?} is not in {:?}", self.err);
        }
        assert_eq!(self.text(), "", "{self:?}");
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap());
        Self { code, out: output.stdout, err: String::from_utf8(output.stderr).unwrap() }
    }
}

impl Place {
    /// A place with a sled store of its own.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sled:{}", dir.path().join("store").display());
        Self { dir, url }
    }

    /// A place of its own for this store.
    pub(crate) fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The command with these arguments, on this place's store, with no input.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
        command
            .args(args)
            .env("KV_STORE", self.url())
            .env_remove("ETCDCTL_ENDPOINTS")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Whether the store declares this power.
    pub(crate) fn has(&self, power: &str) -> bool {
        let declared = self.kv(["capabilities", "-o", "json"]).ok().json();
        declared["powers"][power].as_bool().unwrap_or_else(|| panic!("{power} in {declared}"))
    }

    /// The command on a terminal of this kind and width, through `script`; standard error goes there
    /// too. `None` after saying that there is no such program here.
    pub(crate) fn on_terminal(&self, kind: &str, columns: u16, line: &str) -> Option<Run> {
        let kv = env!("CARGO_BIN_EXE_kv");
        let line = format!("stty rows 40 cols {columns}; kv() {{ {kv} \"$@\"; }}; {line}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", kind);
        script.env("KV_STORE", self.url()).current_dir(self.dir.path()).stdin(Stdio::null());
        match piped(&mut script).spawn() {
            Ok(child) => Some(Running::from(child).end()),
            Err(error) => {
                kv_testkit::skip(&format!("script, which gives a terminal, is not there: {error}"));
                None
            }
        }
    }

    /// Runs the command to its end.
    pub(crate) fn kv<const N: usize>(&self, args: [&str; N]) -> Run {
        self.start(args).end()
    }

    /// The same, with this on standard input.
    pub(crate) fn kv_with<const N: usize>(&self, args: [&str; N], input: &[u8]) -> Run {
        let mut running =
            Running::from(piped(&mut self.command(args)).stdin(Stdio::piped()).spawn().unwrap());
        let mut stdin = running.child().stdin.take().unwrap();
        std::thread::scope(|scope| {
            // It may end without reading all of it.
            scope.spawn(move || drop(stdin.write_all(input)));
            running.end()
        })
    }

    /// Starts the command and leaves it running.
    pub(crate) fn start<const N: usize>(&self, args: [&str; N]) -> Running {
        self.start_all(&args)
    }

    /// The same, with as many arguments as there are.
    pub(crate) fn start_all(&self, args: &[&str]) -> Running {
        Running(Some(piped(&mut self.command(args)).spawn().unwrap()))
    }

    /// Starts a command that has the store's directory until it is ended.
    pub(crate) fn occupy(&self) -> Running {
        let ready = self.path("occupied");
        let script = format!("echo ready > {}; exec sleep 1000", ready.display());
        let holder = self.start(["lock", "occupied", "--", "sh", "-c", &script]);
        wait_for("the store to be occupied", || ready.exists());
        std::fs::remove_file(ready).unwrap();
        holder
    }
}

fn piped(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// A command that runs. Dropping it kills it.
pub(crate) struct Running(Option<Child>);

impl From<Child> for Running {
    fn from(child: Child) -> Self {
        Self(Some(child))
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for it to end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Run {
        let child = self.0.take().unwrap();
        let pid = child.id();
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
        ended.recv_timeout(PATIENCE).map_or_else(
            |_| {
                terminate(pid);
                let rest = ended.recv_timeout(PATIENCE).map(Run::from);
                panic!("it did not end until it was ended: {rest:?}");
            },
            Run::from,
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            terminate(child.id());
            let _ = child.wait();
        }
    }
}

/// With TERM, so that it ends what it started.
fn terminate(pid: u32) {
    let _ = Command::new("kill").arg(pid.to_string()).status();
}

/// Sets signals back that this process was told to ignore, as by `nohup` or `&`: the commands it starts
/// would ignore them too. A signal with a handler has its default again in a new program.
pub(crate) async fn heed_signals() {
    use tokio::signal::unix::{SignalKind, signal};

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default();
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()] {
        if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
            // The handler stays when this is dropped.
            drop(signal(kind).unwrap());
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and not only waiting to be reaped.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// Random bytes, a generator of them, and the seed to print.
pub(crate) fn random() -> (u64, fastrand::Rng) {
    let seed = std::env::var("KV_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("KV_TEST_SEED={seed}");
    (seed, fastrand::Rng::with_seed(seed))
}
