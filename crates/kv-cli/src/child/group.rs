//! A command in a process group of its own: everything it starts is signalled with it and ends with it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{self, SignalKind};

use super::signals::number;
use super::terminal::Terminal;
use crate::exit::{self, Failure};
use crate::output::say;

/// How long to wait for what was killed to be gone.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How often to look, besides when told: not every system tells about a child's children.
const EVERY: Duration = Duration::from_millis(50);

/// A running command and everything it started, but what left the group on purpose. Dropping this
/// takes back the terminal and ends nothing.
pub(crate) struct Group {
    leader: Pid,
    /// The leader's exit code, once it has ended.
    exit: Option<u8>,
    /// Tells that some child changed its state.
    changes: unix::Signal,
    terminal: Option<Terminal>,
}

impl Group {
    /// Starts a command, with the terminal if we have it.
    ///
    /// `input` becomes its standard input, in place of ours; a command need not read it.
    pub(crate) fn spawn(
        command: &[OsString],
        environment: impl IntoIterator<Item = (&'static str, String)>,
        input: Option<Bytes>,
    ) -> Result<Self, Failure> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| Failure::Usage("there is no command to run".to_owned()))?;
        // Before there is a child, so that no change is missed.
        let changes = unix::signal(SignalKind::child())
            .map_err(|error| Failure::io("cannot watch over a command", error))?;
        adopt_orphans()?;
        let mut started = Command::new(program);
        started.args(arguments).envs(environment).process_group(0);
        if input.is_some() {
            started.stdin(Stdio::piped());
        }
        let mut child = started.spawn().map_err(|source| not_started(program, source))?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            // A thread of its own: the command reads when it likes, or never and ends.
            std::thread::spawn(move || drop(pipe.write_all(&input)));
        }
        let leader = Pid::from_raw(i32::try_from(child.id()).map_err(|_| {
            Failure::io("cannot watch over a command", io::Error::other("its process id is out of range"))
        })?);
        Ok(Self { leader, exit: None, changes, terminal: Terminal::hand_over(leader) })
    }

    /// Sends a signal to all of the group.
    pub(crate) fn signal(&mut self, signal: Signal) {
        // Looked at first: a group of which nothing is left may have lent its number to another.
        if self.reap() {
            match killpg(self.leader, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => say(&format!("kv: warning: cannot send {signal} to the command: {error}")),
            }
        }
    }

    /// Waits for the command itself to end; what it started may go on. Cancel-safe.
    pub(crate) async fn leader(&mut self) -> u8 {
        loop {
            let left = self.reap();
            match self.exit {
                Some(code) => return code,
                None if !left => return exit::OTHER,
                None => self.change().await,
            }
        }
    }

    /// Ends everything that is left, with TERM and after this time with KILL.
    pub(crate) async fn end(&mut self, grace: Duration) {
        for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, AFTER_KILL)] {
            self.signal(signal);
            // What is stopped hears TERM only when it goes on.
            self.signal(Signal::SIGCONT);
            if tokio::time::timeout(patience, self.gone()).await.is_ok() {
                return;
            }
        }
        say(&format!("kv: warning: process group {} did not end when it was killed", self.leader));
    }

    async fn gone(&mut self) {
        while self.reap() {
            self.change().await;
        }
    }

    async fn change(&mut self) {
        tokio::select! {
            _ = self.changes.recv() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }

    /// Takes note of what ended, and tells whether anything of the group is left. As long as it is,
    /// the group keeps its number.
    fn reap(&mut self) -> bool {
        let group = Pid::from_raw(-self.leader.as_raw());
        loop {
            match waitpid(group, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    self.exit = Some(u8::try_from(code).unwrap_or(exit::OTHER));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    self.exit = Some(exit::SIGNALLED.saturating_add(number(signal)));
                }
                Ok(WaitStatus::Stopped(_, signal)) => self.stopped(signal),
                Ok(_) | Err(Errno::EINTR) => {}
                // No child of ours is left in it; elsewhere than on Linux orphans are not ours.
                Err(_) => return !cfg!(target_os = "linux") && killpg(self.leader, None).is_ok(),
            }
        }
    }

    /// A command that has our terminal and is stopped by it would keep both the terminal and the
    /// lock: it goes on.
    fn stopped(&self, signal: Signal) {
        let by_terminal = matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU);
        if by_terminal && self.terminal.is_some() {
            // That it has gone meanwhile is told by the next look.
            let _ = killpg(self.leader, Signal::SIGCONT);
        }
    }
}

/// Makes what a child leaves behind ours, so that its end can be waited for.
#[cfg(target_os = "linux")]
fn adopt_orphans() -> Result<(), Failure> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|error| Failure::io("cannot watch over a command", error.into()))
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
fn adopt_orphans() -> Result<(), Failure> {
    Ok(())
}

/// With the codes shells use.
fn not_started(program: &OsString, source: io::Error) -> Failure {
    let code = if source.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Failure::Spawn { command: program.to_string_lossy().into_owned(), code, source }
}
