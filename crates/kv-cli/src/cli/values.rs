//! Commands about single keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kv_core::Version;

use crate::input::{duration, positive_duration, version};

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key; several are printed as JSON lines
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Print everything below the prefix KEY as JSON lines, `/` for the whole namespace
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Print values alone, a line each
    #[arg(long, requires = "recursive", conflicts_with = "meta")]
    pub(crate) values: bool,
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
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration, conflicts_with_all = ["keep_ttl", "session"])]
    pub(crate) ttl: Option<Duration>,
    /// The key expires when it would have without this put
    #[arg(long, conflicts_with = "session")]
    pub(crate) keep_ttl: bool,
    /// The key lives as long as this command, which goes on until it is ended
    #[arg(long)]
    pub(crate) session: bool,
    /// Only while the lock is held that this command runs under: kv lock KEY -- kv put … --fence
    #[arg(long)]
    pub(crate) fence: bool,
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
    #[arg(long, value_name = "VERSION", allow_negative_numbers = true, value_parser = version)]
    pub(crate) if_version: Option<Version>,
    /// Only if the key has this value
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) if_value: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Del {
    /// The key, or several; or with --tree the prefix, `/` for the whole namespace
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Delete everything strictly below the prefix, lock records included
    #[arg(long, conflicts_with_all = ["if_present", "if_version", "if_value"])]
    pub(crate) tree: bool,
    /// Do not ask; needed for the whole namespace
    #[arg(long, short, requires = "tree")]
    pub(crate) yes: bool,
    /// Only while the lock is held that this command runs under
    #[arg(long, conflicts_with = "tree")]
    pub(crate) fence: bool,
    /// Fail if the key does not exist
    #[arg(long, conflicts_with_all = ["if_version", "if_value"])]
    pub(crate) if_present: bool,
    /// Only if the key is at this version
    #[arg(long, value_name = "VERSION", allow_negative_numbers = true, value_parser = version, conflicts_with = "if_value")]
    pub(crate) if_version: Option<Version>,
    /// Only if the key has this value
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) if_value: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Touch {
    /// The key, or several
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Give it this time to live, in place of the one it was put with
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration, conflicts_with = "permanent")]
    pub(crate) ttl: Option<Duration>,
    /// Let it never expire
    #[arg(long)]
    pub(crate) permanent: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// The key
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) state: Awaited,
    /// Wait at most this long [default: for ever]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = positive_duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct Awaited {
    /// Until the key does not exist
    #[arg(long)]
    pub(crate) absent: bool,
    /// Until it has this value
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) value: Option<String>,
    /// Until it is at a later version than this
    #[arg(long, value_name = "VERSION", allow_negative_numbers = true, value_parser = version)]
    pub(crate) after: Option<Version>,
}

#[derive(Args, Debug)]
pub(crate) struct Txn {
    /// The file with the transaction, as JSON; `-` reads standard input
    pub(crate) file: PathBuf,
    /// Only while the lock is held that this command runs under
    #[arg(long)]
    pub(crate) fence: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Edit {
    /// The key
    pub(crate) key: String,
    /// Begin with an empty value where the key does not exist
    #[arg(long)]
    pub(crate) create: bool,
}
