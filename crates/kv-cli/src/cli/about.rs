//! Commands about stores as such, and about this one.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::input::count;

#[derive(Args, Debug)]
pub(crate) struct Conformance {
    /// Only cases with this in their name; can be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Vec<String>,
    /// No cases with this in their name; can be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) skip: Vec<String>,
    /// Write what was found to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Make the same random choices again
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How many cases run at a time [default: 8]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count::<usize>)]
    pub(crate) concurrency: Option<usize>,
    /// Print the cases and what they promise, and try none
    #[arg(long, conflicts_with = "report")]
    pub(crate) list: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Context {
    #[command(subcommand)]
    pub(crate) command: ContextCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Show the contexts there are, `*` before the one in use
    List,
    /// Make a context, or change it
    Set {
        /// Its name
        name: String,
        /// The URL of its store, without secrets
        url: String,
        /// Refuse everything that could change its store
        #[arg(id = "context_read_only", long = "refuse-writes")]
        read_only: bool,
        /// A shell command that prints the password or token
        #[arg(long, value_name = "COMMAND")]
        secret_command: Option<String>,
    },
    /// Use a context where no store is named
    Use {
        /// Its name
        name: String,
    },
    /// Use no context where no store is named
    Unuse,
    /// Forget a context; its store is left alone
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// The page of this command [default: that of kv]
    pub(crate) command: Option<String>,
    /// Write all pages to this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) dir: Option<PathBuf>,
}
