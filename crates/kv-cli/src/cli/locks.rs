//! `kv lock`.

use std::time::Duration;

use clap::Args;

use crate::input::{duration, positive_duration};

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
    #[arg(long, conflicts_with_all = ["attempt", "wait", "ttl", "max_hold", "owner", "grace", "command"])]
    pub(crate) holder: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}
