//! Users of the servers, and what each may do.

use std::fmt;

use async_trait::async_trait;

use crate::error::Result;
use crate::key::Prefix;
use crate::options::CallOptions;
use crate::secret::Secret;

/// The power to manage users and their rights: reached by
/// [`Store::as_access`](crate::Store::as_access), declared as [`Power::Access`](crate::Power::Access).
///
/// A right is on what lies *strictly below* a prefix of this handle's namespace: a right on `app` covers
/// `app/x`, and neither `app` itself nor `app2`. The empty prefix is the whole namespace, and nothing outside
/// of it. Grants add and revocations subtract, so that reading and writing can be granted one after the other.
///
/// Servers keep no version of a user's rights: two who change the rights of one user at the same time can
/// undo each other. Each change is read back, and one that does not stand is an error.
///
/// Rights count once the servers enforce them (etcd: `auth enable`); users and rights can be made before.
#[async_trait]
pub trait AccessControl: Send + Sync {
    /// Makes a user without rights.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`; `InvalidArgument` for an empty name or password.
    async fn add_user_with(&self, name: &str, user: NewUser, options: CallOptions) -> Result<()>;

    /// Removes a user with all its rights, and tells whether there was one.
    ///
    /// # Errors
    ///
    /// `Refused` for the server's own administrator.
    async fn remove_user_with(&self, name: &str, options: CallOptions) -> Result<bool>;

    /// Gives a user another password.
    ///
    /// # Errors
    ///
    /// `NotFound`; `InvalidArgument` for an empty password.
    async fn set_password_with(&self, name: &str, password: Secret, options: CallOptions) -> Result<()>;

    /// Lets a user do this below a prefix, beside what it may do already.
    ///
    /// # Errors
    ///
    /// `NotFound` for a user that does not exist; `Unsupported` where the servers do not know the right (Consul: [`Write`](Access::Write) alone), before any change.
    async fn grant_with(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<()>;

    /// Takes from a user the right to do this below a prefix, and tells whether it had any of it. A right on
    /// a wider prefix is another right, and stays.
    ///
    /// # Errors
    ///
    /// As for a grant.
    async fn revoke_with(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<bool>;

    /// A user and its rights, or `None`.
    async fn user_with(&self, name: &str, options: CallOptions) -> Result<Option<User>>;

    /// The names of all users, in byte order.
    async fn users_with(&self, options: CallOptions) -> Result<Vec<String>>;
}

/// What a right allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// To get, list and watch.
    Read,
    /// To put and delete without looking: no precondition, no lock and no transaction that compares.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    /// From what it allows; `None` for nothing.
    #[must_use]
    pub const fn of(reads: bool, writes: bool) -> Option<Self> {
        match (reads, writes) {
            (true, true) => Some(Self::ReadWrite),
            (true, false) => Some(Self::Read),
            (false, true) => Some(Self::Write),
            (false, false) => None,
        }
    }

    /// Whether it allows to read.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether it allows to write.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// Both together.
    ///
    /// ```
    /// use kv_core::Access;
    ///
    /// assert_eq!(Access::Read.plus(Access::Write), Access::ReadWrite);
    /// ```
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        match Self::of(self.reads() || other.reads(), self.writes() || other.writes()) {
            Some(sum) => sum,
            None => self,
        }
    }

    /// What is left of it without the other; `None` for nothing.
    ///
    /// ```
    /// use kv_core::Access;
    ///
    /// assert_eq!(Access::ReadWrite.minus(Access::Write), Some(Access::Read));
    /// assert_eq!(Access::Read.minus(Access::ReadWrite), None);
    /// ```
    #[must_use]
    pub const fn minus(self, other: Self) -> Option<Self> {
        Self::of(self.reads() && !other.reads(), self.writes() && !other.writes())
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read-write",
        })
    }
}

/// A user to be made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewUser {
    /// What it signs in with. `Debug` does not show it.
    pub password: Secret,
}

impl NewUser {
    /// A user that signs in with this password.
    #[must_use]
    pub fn with_password(password: Secret) -> Self {
        Self { password }
    }
}

/// One right of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Right {
    /// Below which prefix of this handle's namespace; `None` for a right that is not the right on a subtree
    /// of it, such as one that a native tool granted: then [`native`](Self::native) describes it.
    pub prefix: Option<Prefix>,
    /// What it allows.
    pub access: Access,
    /// What it covers, in the server's words, escaped.
    pub native: String,
}

impl Right {
    /// A right to do this below a prefix.
    #[must_use]
    pub fn new(prefix: Option<Prefix>, access: Access, native: impl Into<String>) -> Self {
        Self { prefix, access, native: crate::text::escaped(native.into()) }
    }
}

/// A user and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its rights, those that native tools gave it included, in the order of what they cover.
    pub rights: Vec<Right>,
}

impl User {
    /// A user with these rights.
    #[must_use]
    pub fn new(name: impl Into<String>, rights: Vec<Right>) -> Self {
        Self { name: crate::text::escaped(name.into()), rights }
    }
}

const _: fn(&dyn AccessControl) = |_| {};
