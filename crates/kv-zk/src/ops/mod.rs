//! Reading and writing keys.

mod delete;
mod delete_tree;
mod list;
mod parents;
mod pin;
mod put;
mod txn;
