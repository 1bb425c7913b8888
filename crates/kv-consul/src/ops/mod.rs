//! Reads, writes, lists and transactions.

pub(crate) mod delete;
pub(crate) mod delete_tree;
pub(crate) mod list;
mod precondition;
pub(crate) mod put;
pub(crate) mod read;
mod retries;
pub(crate) mod txn;
