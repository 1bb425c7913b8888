//! The commands, one file each.

pub(crate) mod capabilities;
pub(crate) mod completions;
pub(crate) mod conformance;
pub(crate) mod context;
pub(crate) mod del;
pub(crate) mod doctor;
pub(crate) mod du;
#[cfg(unix)]
pub(crate) mod edit;
#[cfg(not(unix))]
#[path = "edit_unsupported.rs"]
pub(crate) mod edit;
#[cfg(unix)]
pub(crate) mod elect;
#[cfg(not(unix))]
#[path = "elect_unsupported.rs"]
pub(crate) mod elect;
mod entry;
mod expiry;
pub(crate) mod export;
mod fence;
pub(crate) mod get;
mod get_tree;
pub(crate) mod grep;
#[cfg(unix)]
mod hold;
pub(crate) mod import;
pub(crate) mod leader;
mod level;
#[cfg(unix)]
pub(crate) mod lock;
#[cfg(not(unix))]
#[path = "lock_unsupported.rs"]
pub(crate) mod lock;
pub(crate) mod locks;
pub(crate) mod ls;
pub(crate) mod man;
#[cfg(unix)]
pub(crate) mod on_change;
#[cfg(not(unix))]
#[path = "on_change_unsupported.rs"]
pub(crate) mod on_change;
mod owner;
pub(crate) mod ping;
pub(crate) mod put;
pub(crate) mod sync;
pub(crate) mod touch;
pub(crate) mod tree;
pub(crate) mod txn;
pub(crate) mod wait;
pub(crate) mod watch;

use kv_core::{Key, Operation, Prefix};

use crate::exit::Failure;

/// The key an argument names.
fn key(argument: &str, operation: Operation) -> Result<Key, Failure> {
    Ok(Key::new(argument).map_err(|error| error.with_operation(operation))?)
}

/// The keys several arguments name; all of them are keys before any of them is used.
fn keys(arguments: &[String], operation: Operation) -> Result<Vec<Key>, Failure> {
    arguments.iter().map(|argument| key(argument, operation)).collect()
}

/// The prefix an argument names.
fn prefix(argument: &str, operation: Operation) -> Result<Prefix, Failure> {
    Ok(Prefix::new(argument).map_err(|error| error.with_operation(operation))?)
}

/// A name as it can be typed into a shell.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':' | '@' | '+');
    let name = kv_core::text::escape(name);
    if name.chars().all(plain) && !name.starts_with('-') {
        return name.into_owned();
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}

/// A prefix in words.
fn shown(prefix: &Prefix) -> String {
    if prefix.is_root() { "the whole namespace".to_owned() } else { format!("{:?}", prefix.as_str()) }
}
