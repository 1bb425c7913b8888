#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where things are
//!
//! Each recipe has a file or folder of its name. `pace` has the pauses between attempts.

mod election;
mod names;
mod pace;
mod tx;

pub use election::{Election, Leader, Leaders, Leadership, Term, TermEnd};
pub use kv_core;
pub use tx::{Committed, Transacted, Tx, TxOptions, transaction, transaction_with};
