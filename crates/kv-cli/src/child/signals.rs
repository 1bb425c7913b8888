//! The signals that are passed on to a command.

use std::future::poll_fn;
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::exit::Failure;

const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The number of a signal, as exit codes use it.
pub(crate) fn number(signal: Signal) -> u8 {
    u8::try_from(signal as i32).unwrap_or_default()
}

/// The signals this process gets, but those it was told to ignore, as by `nohup`: the command
/// ignores them too.
pub(crate) struct Signals {
    all: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let ignored = ignored();
        let all = PASSED_ON
            .into_iter()
            .filter(|signal| ignored & (1 << (number(*signal) - 1)) == 0)
            .map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)))
            .collect::<std::io::Result<_>>()
            .map_err(|error| Failure::io("cannot listen for signals", error))?;
        Ok(Self { all })
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|cx| {
            for (signal, received) in &mut self.all {
                if received.poll_recv(cx).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The signals this process ignores, as a set of bits; none where the system does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}
