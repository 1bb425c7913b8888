//! What operators ask of a store beside its data: powers of their own, each reached by an `as_…` of
//! [`Store`](crate::Store) and `None` where the backend has nothing honest to offer.
//!
//! No administrative call is ever sent twice by a store or a layer: its caller decides.

mod access;
mod cluster;
mod history;
mod storage;

pub use access::{Access, AccessControl, NewUser, Right, User};
pub use cluster::{Cluster, Evict, Health, Joining, Member, MemberId, MemberRole, NewMember, Reconfigure};
pub use history::{History, KeyVersion, VersionsOptions};
pub use storage::{Defragmented, Size, Storage};
