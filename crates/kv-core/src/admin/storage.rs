//! What the data take on the disk, and how to give back what is not in use.

use async_trait::async_trait;

use super::cluster::MemberId;
use crate::error::Result;
use crate::options::CallOptions;

/// The power to see and to tidy what the data take on the disk: reached by
/// [`Store::as_storage`](crate::Store::as_storage), declared as [`Power::Storage`](crate::Power::Storage).
#[async_trait]
pub trait Storage: Send + Sync {
    /// What each member's database takes, in the order of their ids; an embedded store is one member, with an
    /// empty id. Only the endpoints this handle is configured with are asked.
    ///
    /// # Errors
    ///
    /// If one of them cannot tell, the error is its.
    async fn sizes_with(&self, options: CallOptions) -> Result<Vec<Size>>;

    /// Gives back to the disk what is not in use: of one member, or of all configured ones, one after the
    /// other and the leader last. On etcd a member serves nobody meanwhile, so the deadline should be a
    /// minute and more for gigabytes; it counts for each member.
    ///
    /// # Errors
    ///
    /// `NotFound` for a member that is none of the configured endpoints. It stops at the first member that
    /// fails; those before it are done, and asking again does no harm.
    async fn defragment_with(
        &self,
        member: Option<&MemberId>,
        options: CallOptions,
    ) -> Result<Vec<Defragmented>>;
}

/// What one member's database takes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Size {
    /// Whose.
    pub member: MemberId,
    /// Bytes on the disk.
    pub bytes: u64,
    /// What of it is in use, where the store tells.
    pub in_use: Option<u64>,
}

impl Size {
    /// A size of which all may be in use.
    #[must_use]
    pub fn new(member: MemberId, bytes: u64) -> Self {
        Self { member, bytes, in_use: None }
    }

    /// The same with what of it is in use.
    #[must_use]
    pub fn with_in_use(mut self, bytes: u64) -> Self {
        self.in_use = Some(bytes);
        self
    }
}

/// What defragmenting a member did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defragmented {
    /// Whose database.
    pub member: MemberId,
    /// Bytes on the disk before.
    pub before: u64,
    /// And after.
    pub after: u64,
}

impl Defragmented {
    /// What it took before and after.
    #[must_use]
    pub fn new(member: MemberId, before: u64, after: u64) -> Self {
        Self { member, before, after }
    }
}

const _: fn(&dyn Storage) = |_| {};
