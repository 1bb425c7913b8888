#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where things are
//!
//! Each recipe has a file or folder of its name. `kept` keeps an entry alive for those that claim one, `follow`
//! is a watch that begins again after outages, and `pace` has the pauses between attempts.

mod collector;
mod counter;
mod election;
mod follow;
mod informer;
mod kept;
mod live;
mod members;
mod names;
mod pace;
mod queue;
mod registration;
mod run_once;
mod semaphore;
mod snapshot;
mod tx;

pub use collector::{Collected, Collector, CollectorOptions, Recorded, Replayed};
pub use counter::{Counter, IdAllocator};
pub use election::{Election, Leader, Leaders, Leadership, Term, TermEnd};
pub use informer::{Change, Changes, Index, Informer};
pub use kept::{EntryLoss, Lifetime};
pub use kv_core;
pub use live::Live;
pub use members::{MemberChange, MemberChanges, Members};
pub use queue::{DeadJob, Job, Queue, QueueOptions};
pub use registration::{OnLoss, Registration, RegistrationOptions, RegistrationState};
pub use run_once::{Firing, RunOnce};
pub use semaphore::{Permit, Semaphore};
pub use snapshot::{Consistent, Snapshot, SnapshotOptions};
pub use tx::{Committed, Transacted, Tx, TxOptions, transaction, transaction_with};
