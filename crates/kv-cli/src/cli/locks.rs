//! `kv lock`, `kv locks` and `kv elect`.

use std::time::Duration;

use clap::Args;
use kv_core::FencingToken;

use crate::input::{count, duration, positive_duration, token};

/// The options of a command that runs under the lock.
const RUNNING: [&str; 7] = ["attempt", "wait", "ttl", "max_hold", "owner", "grace", "command"];

#[derive(Args, Debug)]
pub(crate) struct Lock {
    /// The name of the lock
    pub(crate) key: String,
    /// Fail at once if somebody else holds it
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) attempt: bool,
    /// Wait at most this long [default: for ever]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = positive_duration)]
    pub(crate) wait: Option<Duration>,
    /// How long the lock outlives a holder that died [default: the store's]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Stop the command when it runs longer than this
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = positive_duration)]
    pub(crate) max_hold: Option<Duration>,
    /// What others see as the holder [default: HOST:PID]
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,
    /// How long what is stopped has from TERM to KILL [default: 5s while the lock is held, 500ms when it
    /// is lost]; when it is lost, never more than half the time until another can have it
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not run anything: tell who holds the lock
    #[arg(long, conflicts_with_all = RUNNING)]
    pub(crate) holder: bool,
    /// Do not run anything: end the hold of whoever has the lock, which asks first. The holder may still be
    /// at work, and is told; the next waiter acquires the lock
    #[arg(long = "break", conflicts_with_all = RUNNING, conflicts_with = "holder")]
    pub(crate) ends: bool,
    /// End the hold with this fencing token and no other
    #[arg(long, value_name = "TOKEN", requires = "ends", conflicts_with_all = RUNNING, allow_negative_numbers = true, value_parser = token)]
    pub(crate) token: Option<FencingToken>,
    /// Do not ask
    // Where a command is given, the conflict of --break with it would make up for the --break that is missing.
    #[arg(long, short, requires = "ends", conflicts_with_all = RUNNING)]
    pub(crate) yes: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

impl Lock {
    /// Whether a command is to be run under the lock.
    pub(crate) fn runs(&self) -> bool {
        !(self.holder || self.ends)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Locks {
    /// The prefix that the locks are named below [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Follow one lock: who holds it now, then each change
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub(crate) watch: Option<String>,
    /// End after this many lines
    #[arg(long, value_name = "N", requires = "watch", allow_negative_numbers = true, value_parser = count::<u64>)]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Elect {
    /// The key of the office
    pub(crate) key: String,
    /// Follow who leads: now, then each change
    #[arg(long, conflicts_with_all = LEADING)]
    pub(crate) watch: bool,
    /// End after this many lines
    #[arg(long, value_name = "N", requires = "watch", conflicts_with_all = LEADING, allow_negative_numbers = true, value_parser = count::<u64>)]
    pub(crate) count: Option<u64>,
    /// What others see as the leader [default: HOST:PID]
    #[arg(long, value_name = "TEXT", requires = "command")]
    pub(crate) owner: Option<String>,
    /// Tell others this value while leading, such as an address
    #[arg(long, value_name = "VALUE", requires = "command", allow_hyphen_values = true)]
    pub(crate) proclaim: Option<String>,
    /// How long the office outlives a leader that died [default: the store's]
    #[arg(long, value_name = "TIME", requires = "command", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// How long the command has from TERM to KILL [default: 500ms when the office is lost]; never more than
    /// half the time until another can lead
    #[arg(long, value_name = "TIME", requires = "command", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// The command to run while leading, and its arguments; without one, who leads is told
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// The options of a candidate.
const LEADING: [&str; 5] = ["owner", "proclaim", "ttl", "grace", "command"];
