#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where things are
//!
//! Each recipe has a file or folder of its name. `pace` has the pauses between attempts.

mod collector;
mod counter;
mod election;
mod names;
mod pace;
mod queue;
mod snapshot;
mod tx;

pub use collector::{Collected, Collector, CollectorOptions, Recorded, Replayed};
pub use counter::{Counter, IdAllocator};
pub use election::{Election, Leader, Leaders, Leadership, Term, TermEnd};
pub use kv_core;
pub use queue::{DeadJob, Job, Queue, QueueOptions};
pub use snapshot::{Consistent, Snapshot, SnapshotOptions};
pub use tx::{Committed, Transacted, Tx, TxOptions, transaction, transaction_with};
