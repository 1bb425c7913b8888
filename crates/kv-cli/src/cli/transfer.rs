//! Commands that move many keys.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::formats::Source;

/// Which time to live an imported key gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lifetime {
    /// What was left of it when it was exported
    Remaining,
    /// The whole time it was put with
    Granted,
    /// None: every key is permanent
    None,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// A directory (each file becomes a key), or a file with JSON lines or what `consul kv export` or
    /// `etcdctl get -w json` wrote; `-` reads standard input
    pub(crate) source: PathBuf,
    /// Put the keys below this prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// What the source is [default: found out by looking]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Source>,
    /// Put only keys that do not exist, and count the others
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Succeed although files or rows were refused; they are listed all the same
    #[arg(long)]
    pub(crate) skip_refused: bool,
    /// Read what symbolic links in the directory point to, in place of leaving them out
    #[arg(long)]
    pub(crate) follow: bool,
    /// The time to live of a row that expires
    #[arg(long, value_enum, default_value_t = Lifetime::Remaining, value_name = "WHICH")]
    pub(crate) expiry: Lifetime,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Write to this file, which appears when it is complete [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Write keys relative to the prefix
    #[arg(long)]
    pub(crate) relative: bool,
    /// Write versions too
    #[arg(long, conflicts_with = "consul")]
    pub(crate) meta: bool,
    /// Write what `consul kv import` reads, which has no place for an expiry
    #[arg(long)]
    pub(crate) consul: bool,
    /// Leave out when keys expire, which saves a read for each key
    #[arg(long)]
    pub(crate) no_expiry: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Diff {
    /// The one store, as a URL
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// The other
    #[arg(value_name = "DST")]
    pub(crate) destination: String,
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Take what lies below the prefix FROM of the first store for what lies below TO of the second
    #[arg(long, value_name = "FROM=TO", conflicts_with = "prefix")]
    pub(crate) prefix_map: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Sync {
    /// The store to copy from, as a URL
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// The store to copy to
    #[arg(value_name = "DST")]
    pub(crate) destination: String,
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Take what lies below the prefix FROM of the first store for what lies below TO of the second
    #[arg(long, value_name = "FROM=TO", conflicts_with = "prefix")]
    pub(crate) prefix_map: Option<String>,
    /// Say what there is to do and do nothing; exit code 4 if there is something
    #[arg(long)]
    pub(crate) plan: bool,
    /// Also delete what only the destination has
    #[arg(long)]
    pub(crate) delete: bool,
    /// Copy times to live, which costs a read for each key copied; without it every copy is permanent
    #[arg(long)]
    pub(crate) keep_ttl: bool,
    /// Copy the rest although some keys cannot be
    #[arg(long)]
    pub(crate) skip_refused: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Mv {
    /// The key to move, with everything below it
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// The key that it becomes
    #[arg(value_name = "DST")]
    pub(crate) destination: String,
    /// Say what there is to do and do nothing; exit code 4 if there is something
    #[arg(long)]
    pub(crate) plan: bool,
    /// Replace other values that are at the new keys
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Also delete what is only at the new place
    #[arg(long)]
    pub(crate) delete: bool,
    /// Move the rest although some keys cannot be moved
    #[arg(long)]
    pub(crate) skip_refused: bool,
}
