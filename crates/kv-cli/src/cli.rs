//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kv_core::Version;

use crate::formats::Source;
use crate::input::{duration, positive_duration};
use crate::output::Format;

/// One key-value store after another: etcd, Consul, ZooKeeper, sled or memory
#[derive(Debug, Parser)]
#[command(name = "kv", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 other failure, 2 usage, 3 not found, 4 conflict, \
5 timeout, lock not acquired, or sled directory in use, 6 unreachable or no permission; 128 + N after signal N.";

#[derive(Args, Debug)]
pub(crate) struct Global {
    /// The store, as a URL: sled:PATH, etcd://HOST:2379/NAMESPACE, consul://…, zk://…, mem:;
    /// `kv help urls` tells the rest [default: a sled store in your data directory]
    // The URL can hold a password, so its value is never shown.
    #[arg(
        long,
        short,
        global = true,
        help_heading = "For every command",
        env = "KV_STORE",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) store: Option<String>,
    /// Deadline of each request, such as 5s; also how long to wait for a sled directory
    #[arg(long, global = true, help_heading = "For every command", value_name = "TIME", value_parser = positive_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Form of the output
    #[arg(long, short, global = true, help_heading = "For every command", value_enum, value_name = "FORM")]
    pub(crate) output: Option<Format>,
    /// Say more on standard error; twice and three times for yet more
    #[arg(long, short, global = true, help_heading = "For every command", action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value under a key
    Get(Get),
    /// Put a value under a key
    Put(Put),
    /// Delete a key, or everything below one
    Del(Del),
    /// List the keys directly below a prefix
    Ls(Ls),
    /// Draw the keys below a prefix as a tree
    Tree(Tree),
    /// Print changes below a prefix as JSON lines, as they happen
    Watch(Watch),
    /// Run a command while holding a lock
    Lock(Lock),
    /// Put a directory tree or an export into the store
    Import(Import),
    /// Write everything below a prefix as JSON lines
    Export(Export),
    /// Show what the store can do
    Capabilities,
    /// Check that the store can be reached and used
    Doctor(Doctor),
    /// Explain store URLs and their parameters
    #[command(override_help = crate::urls::HELP)]
    Urls,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key
    pub(crate) key: String,
    /// Show version, creation, expiry and size too
    #[arg(long)]
    pub(crate) meta: bool,
    /// Print the value in hex digits
    #[arg(long, conflicts_with = "base64")]
    pub(crate) hex: bool,
    /// Print the value in base64
    #[arg(long)]
    pub(crate) base64: bool,
    /// Settle for a possibly older state
    #[arg(long)]
    pub(crate) stale: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key
    pub(crate) key: String,
    /// The value; `-` reads standard input, `@FILE` a file
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: String,
    /// Take VALUE as it is, also `-` and `@…`
    #[arg(long)]
    pub(crate) raw: bool,
    /// The value is given in hex digits
    #[arg(long, conflicts_with = "base64")]
    pub(crate) hex: bool,
    /// The value is given in base64
    #[arg(long)]
    pub(crate) base64: bool,
    /// The key goes this long after the put, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    #[command(flatten)]
    pub(crate) condition: PutCondition,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct PutCondition {
    /// Only if the key does not exist
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Only if the key exists
    #[arg(long)]
    pub(crate) if_present: bool,
    /// Only if the key is at this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<Version>,
}

#[derive(Args, Debug)]
pub(crate) struct Del {
    /// The key, or with --tree the prefix; `/` is the whole namespace
    pub(crate) key: String,
    /// Delete everything strictly below the prefix, lock records included
    #[arg(long, conflicts_with_all = ["if_present", "if_version"])]
    pub(crate) tree: bool,
    /// Do not ask; needed for the whole namespace
    #[arg(long, short, requires = "tree")]
    pub(crate) yes: bool,
    /// Fail if the key does not exist
    #[arg(long, conflicts_with = "if_version")]
    pub(crate) if_present: bool,
    /// Only if the key is at this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<Version>,
}

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
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Begin behind this key, or with a slash at its end behind everything below it
    #[arg(long, value_name = "KEY")]
    pub(crate) start_after: Option<String>,
    /// Settle for a possibly older state
    #[arg(long)]
    pub(crate) stale: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// The prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Draw at most this many levels
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
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
    #[arg(long, value_name = "VERSION", conflicts_with = "initial")]
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Lock {
    /// The name of the lock
    pub(crate) key: String,
    /// Fail at once if somebody else holds it
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) attempt: bool,
    /// Wait at most this long [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) wait: Option<Duration>,
    /// How long the lock outlives a holder that died [default: the store's]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Stop the command when it runs longer than this
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) max_hold: Option<Duration>,
    /// What others see as the holder [default: HOST:PID]
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,
    /// How long what is stopped has from TERM to KILL [default: 5s while the lock is held, 500ms when it
    /// is lost]; when it is lost, never more than half the time until another can have it
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not run anything: tell who holds the lock
    #[arg(long, conflicts_with_all = ["attempt", "wait", "ttl", "max_hold", "owner", "grace", "command"])]
    pub(crate) holder: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

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
    /// A directory (each file becomes a key), or a file with JSON lines or what `consul kv export`
    /// wrote; `-` reads standard input
    pub(crate) source: PathBuf,
    /// Put the keys below this prefix [default: the whole namespace]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// What the source is [default: found out by looking]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Source>,
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
pub(crate) struct Doctor {
    /// Also put, read and delete a key of its own, kv-doctor/HOST-PID
    #[arg(long)]
    pub(crate) write: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
