//! Snapshots: what lies below some prefixes, as it stood at one moment, in memory and in files.

mod file;
mod state;
mod take;

pub use state::{Consistent, Snapshot};
pub use take::SnapshotOptions;
