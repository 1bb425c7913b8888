//! What was being done: one name for each method of a store.

use std::fmt;

/// What was being done when an error occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the store method of that name")]
pub enum Operation {
    Open,
    Get,
    Put,
    Delete,
    List,
    DeleteTree,
    Watch,
    Lock,
    Unlock,
    LockHolder,
    WatchLock,
    Locks,
    BreakLock,
    Transact,
    GetAt,
    ListAt,
    Versions,
    Compact,
    Members,
    SetEndpoints,
    RemoveMember,
    AddMember,
    PromoteMember,
    UpdateMember,
    TransferLeadership,
    Sizes,
    Defragment,
    AddUser,
    RemoveUser,
    SetPassword,
    Grant,
    Revoke,
    User,
    Users,
    Session,
    Server,
    Close,
}

impl Operation {
    /// The name, as used in error texts and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::DeleteTree => "delete_tree",
            Self::Watch => "watch",
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::LockHolder => "lock_holder",
            Self::WatchLock => "watch_lock",
            Self::Locks => "locks",
            Self::BreakLock => "break_lock",
            Self::Transact => "transact",
            Self::GetAt => "get_at",
            Self::ListAt => "list_at",
            Self::Versions => "versions",
            Self::Compact => "compact",
            Self::Members => "members",
            Self::SetEndpoints => "set_endpoints",
            Self::RemoveMember => "remove_member",
            Self::AddMember => "add_member",
            Self::PromoteMember => "promote_member",
            Self::UpdateMember => "update_member",
            Self::TransferLeadership => "transfer_leadership",
            Self::Sizes => "sizes",
            Self::Defragment => "defragment",
            Self::AddUser => "add_user",
            Self::RemoveUser => "remove_user",
            Self::SetPassword => "set_password",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::User => "user",
            Self::Users => "users",
            Self::Session => "session",
            Self::Server => "server",
            Self::Close => "close",
        }
    }

    /// Whether it changes anything in the store.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Self::Put
                | Self::Delete
                | Self::DeleteTree
                | Self::Lock
                | Self::Unlock
                | Self::BreakLock
                | Self::Transact
                | Self::Compact
                | Self::RemoveMember
                | Self::AddMember
                | Self::PromoteMember
                | Self::UpdateMember
                | Self::TransferLeadership
                | Self::Defragment
                | Self::AddUser
                | Self::RemoveUser
                | Self::SetPassword
                | Self::Grant
                | Self::Revoke
        )
    }

    /// Whether it is one of the administrative calls, which nobody repeats but the caller.
    #[must_use]
    pub const fn is_administrative(self) -> bool {
        matches!(
            self,
            Self::Compact
                | Self::Members
                | Self::SetEndpoints
                | Self::RemoveMember
                | Self::AddMember
                | Self::PromoteMember
                | Self::UpdateMember
                | Self::TransferLeadership
                | Self::Sizes
                | Self::Defragment
                | Self::AddUser
                | Self::RemoveUser
                | Self::SetPassword
                | Self::Grant
                | Self::Revoke
                | Self::User
                | Self::Users
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
