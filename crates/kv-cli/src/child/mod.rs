//! A command that `kv` runs: in a process group of its own, with the signals `kv` gets, and on the
//! terminal if there is one.

mod group;
mod signals;
mod terminal;

pub(crate) use self::group::Group;
pub(crate) use self::signals::{Signals, number};
