//! A tree of the store kept in memory by a watch: reads without a request, indexes, and what changes.

mod cache;
mod changes;
mod index;
mod tree;

pub use changes::{Change, Changes};
pub use index::Index;
pub use tree::Informer;
