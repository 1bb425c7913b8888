//! The command line.

mod about;
mod locks;
mod transfer;
mod trees;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use self::about::{Conformance, Context, ContextCommand, Man};
pub(crate) use self::locks::{Elect, Lock, Locks};
pub(crate) use self::transfer::{Diff, Export, Import, Lifetime, Mv, Sync};
pub(crate) use self::trees::{Du, Grep, Ls, Tree, Watch};
pub(crate) use self::values::{Awaited, Del, Edit, Get, Put, PutCondition, Touch, Txn, Wait};
use crate::input::{count, positive_duration};
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
    /// The store, as a URL: sled:PATH, etcd://HOST:2379/NAMESPACE, consul://…, zk://…, mem:, or @CONTEXT;
    /// `kv help urls` tells the rest [default: the context in use, else a sled store in your data directory]
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
    #[arg(long, global = true, help_heading = "For every command", value_name = "TIME", allow_hyphen_values = true, value_parser = positive_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Form of the output
    #[arg(long, short, global = true, help_heading = "For every command", value_enum, value_name = "FORM")]
    pub(crate) output: Option<Format>,
    /// Refuse everything that could change a store, before it is sent
    #[arg(long, global = true, help_heading = "For every command")]
    pub(crate) read_only: bool,
    /// Append a line of JSON to this file for each operation that could change a store; values are not in it
    #[arg(long, global = true, help_heading = "For every command", value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,
    /// Tell each request and its time on standard error; -vv also what the drivers log
    #[arg(long, short, global = true, help_heading = "For every command", action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value under a key, or several
    Get(Get),
    /// Put a value under a key
    Put(Put),
    /// Edit the value under a key in $EDITOR
    Edit(Edit),
    /// Delete keys, or everything below one
    Del(Del),
    /// Renew the time to live of keys, with the values they have
    Touch(Touch),
    /// Carry out a transaction from a file: conditions, and what to do if they hold or do not
    Txn(Txn),
    /// Wait until a key exists, is gone, or has a value
    Wait(Wait),
    /// Move a key and everything below it to another place in the store
    Mv(Mv),
    /// List the keys directly below a prefix
    Ls(Ls),
    /// Draw the keys below a prefix as a tree
    Tree(Tree),
    /// Count keys and bytes below a prefix
    Du(Du),
    /// Find the values, or keys, that match a pattern
    Grep(Grep),
    /// Print changes below a prefix as JSON lines as they happen, or run a command for each
    Watch(Watch),
    /// Run a command while holding a lock; tell who holds it, or end that hold
    Lock(Lock),
    /// Tell who holds which locks and who waits for them
    Locks(Locks),
    /// Run a command while leading, or tell who leads
    Elect(Elect),
    /// Put a directory tree or an export into the store
    Import(Import),
    /// Write everything below a prefix as JSON lines
    Export(Export),
    /// Tell what differs between two stores
    Diff(Diff),
    /// Copy what differs from one store to another
    Sync(Sync),
    /// Show what the store can do
    Capabilities,
    /// Check that the store can be reached and used
    Doctor(Doctor),
    /// Time requests to the store
    Ping(Ping),
    /// Try every promise of a store on this one
    Conformance(Conformance),
    /// Give stores names, and choose the one that is used where none is named
    Context(Context),
    /// Explain store URLs and their parameters
    #[command(override_help = crate::urls::HELP)]
    Urls,
    /// Print the manual for man, or write all of its pages
    Man(Man),
    /// Print what makes a shell complete commands, keys, schemes and contexts
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Also put, read and delete a key of its own, kv-doctor/HOST-PID
    #[arg(long)]
    pub(crate) write: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ping {
    /// How many requests
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, allow_negative_numbers = true, value_parser = count::<u32>)]
    pub(crate) count: u32,
    /// Settle for a possibly older state
    #[arg(long)]
    pub(crate) stale: bool,
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
