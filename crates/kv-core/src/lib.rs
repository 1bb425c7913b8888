#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where things are
//!
//! Each idea has a file of its name. What applications use is at the crate's root, what only the authors of
//! stores, layers and drivers need in [`implement`], and what makes text fit to be shown in [`text`].

mod admin;
mod admin_ext;
mod admission;
#[cfg(feature = "serde")]
mod as_text;
mod capabilities;
mod codec;
mod driver;
mod entry;
mod error;
mod ext;
mod fence;
pub mod implement;
mod key;
mod list;
mod lock;
mod lock_loss;
mod lock_view;
mod options;
mod params;
mod pending;
mod power;
mod secret;
mod session;
mod steps;
mod store;
mod stream;
pub mod text;
mod timeout;
mod txn;
mod typed;
mod update;
mod url;
mod version;
mod watch;
mod watch_state;

pub use admin::{
    Access, AccessControl, Cluster, Defragmented, Evict, Health, History, Joining, KeyVersion, Member,
    MemberId, MemberRole, NewMember, NewUser, Reconfigure, Right, Size, Storage, User, VersionsOptions,
};
pub use admin_ext::AdminExt;
pub use bytes::Bytes;
pub use capabilities::{Capabilities, ExpiryBound, Limits, LockTtl, TtlRange};
#[cfg(feature = "serde")]
pub use codec::Json;
pub use codec::{CodecError, Decode, Encode};
pub use driver::{Driver, Registry};
pub use entry::{Entry, EntryExpiry};
pub use error::{Applied, Error, ErrorKind, Measured, Operation, Result};
pub use ext::StoreExt;
pub use fence::Fence;
pub use futures_core::Stream;
pub use key::{IntoKey, IntoPrefix, Key, MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, Prefix};
pub use list::{ListItem, Listing};
pub use lock::{LockGuard, LockHolder, LockOptions, LockWait};
pub use lock_loss::LockLoss;
pub use lock_view::{BreakLockOptions, LockChanges, LockListing, LockState, LockWatchOptions, LocksOptions};
pub use options::{
    CallOptions, Consistency, DeleteOptions, DeleteResult, DeleteTreeOptions, Expiry, GetOptions,
    ListOptions, Precondition, PutOptions, PutResult,
};
pub use pending::{IntoValue, Pending};
pub use power::{Guarantee, Power};
pub use secret::Secret;
pub use session::{SessionState, SessionStates};
pub use store::{ServerInfo, Store};
pub use txn::{Compare, Condition, IntoPart, Test, Txn, TxnOp, TxnOutcome, TxnResult};
pub use typed::{Typed, TypedEvent, TypedExt, TypedListing, TypedStore, TypedWatch};
pub use update::{Settled, UpdateOptions};
pub use url::{Host, StoreUrl};
pub use version::{FencingToken, Version};
pub use watch::{
    DeleteCause, Deletion, Watch, WatchEvent, WatchFilter, WatchOptions, WatchStart, WatchTarget,
};
pub use watch_state::{KeyChange, WatchState};
