//! Locks, in the layout of etcd's own tools: below the lock's name each candidate has a record named
//! after its lease, and the one created first holds the lock.

mod acquire;
mod fate;
mod hold;
mod list;
mod locks;
mod queue;
mod records;
mod watch;

pub(crate) use acquire::lock;
pub(crate) use fate::Place;
pub(crate) use list::list;
pub(crate) use locks::Locks;
pub(crate) use records::{break_lock, holder};
pub(crate) use watch::watch;
