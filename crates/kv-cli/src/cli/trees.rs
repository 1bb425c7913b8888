//! Commands about what lies below a prefix.

use clap::Args;
use kv_core::Version;

use crate::input::{count, number, version};

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// List all keys below, not one level
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Show versions and sizes; reads the values
    #[arg(long, short)]
    pub(crate) long: bool,
    /// Show when keys expire, too; reads the values
    #[arg(long, short)]
    pub(crate) expiry: bool,
    /// At most this many
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<usize>)]
    pub(crate) limit: Option<usize>,
    /// Begin behind this key, or with a slash at its end behind everything below it
    #[arg(long, value_name = "KEY")]
    pub(crate) start_after: Option<String>,
    /// Settle for a possibly older state
    #[arg(long)]
    pub(crate) stale: bool,
    /// Print how many there are, and nothing else
    #[arg(long, conflicts_with_all = ["long", "expiry"])]
    pub(crate) count: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Draw at most this many levels
    #[arg(long, short, value_name = "N", allow_negative_numbers = true, value_parser = count::<u16>)]
    pub(crate) depth: Option<u16>,
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// The prefix, watched strictly below itself, or with --key the key [default: everything]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) target: String,
    /// Watch the one key, not what lies below it
    #[arg(long)]
    pub(crate) key: bool,
    /// Begin with the first change after this version
    #[arg(long, value_name = "VERSION", allow_negative_numbers = true, value_parser = version, conflicts_with = "initial")]
    pub(crate) from: Option<Version>,
    /// Begin with the entries there are
    #[arg(long)]
    pub(crate) initial: bool,
    /// Puts only
    #[arg(long, conflicts_with = "deletes")]
    pub(crate) puts: bool,
    /// Deletes only
    #[arg(long)]
    pub(crate) deletes: bool,
    /// End after this many lines
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count::<u64>)]
    pub(crate) count: Option<u64>,
    /// Run this command for each change, one at a time: the change is in KV_EVENT, KV_KEY and
    /// KV_VERSION, the value on its standard input
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Du {
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Tell keys of this many levels apart
    #[arg(long, short, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = count::<u16>)]
    pub(crate) depth: u16,
}

#[derive(Args, Debug)]
pub(crate) struct Grep {
    /// What to look for: a regular expression
    pub(crate) pattern: String,
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Take the pattern literally
    #[arg(long, short = 'F')]
    pub(crate) fixed: bool,
    /// Take large and small letters for the same
    #[arg(long, short)]
    pub(crate) ignore_case: bool,
    /// Print the keys alone
    #[arg(long, short)]
    pub(crate) list: bool,
    /// Look at the names of keys, not at their values
    #[arg(long, short)]
    pub(crate) names: bool,
}
