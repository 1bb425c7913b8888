//! The operations on entries: each is one request where etcd can do it in one.

mod condition;
mod delete_tree;
mod guards;
mod list;
mod put_lease;
mod read;
mod ttl;
mod txn;
mod write;

pub(crate) use delete_tree::delete_tree;
pub(crate) use list::list;
pub(crate) use read::get;
pub(crate) use txn::{MAX_OPS, MAX_TXN_BYTES, transact};
pub(crate) use write::{delete, put};
