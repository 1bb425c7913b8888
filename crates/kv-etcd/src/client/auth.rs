//! Requests about users and roles. None that changes anything is ever sent twice.

use std::sync::Arc;

use etcd_client as native;
use kv_backend::Deadline;
use kv_core::{Access, ErrorKind, Result, Secret};

use super::error::{administrative, nonsense, not_granted};
use super::member::{Leader, Native};
use super::wire::Range;
use super::{Client, Repeat};

/// A right of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) range: Range,
    pub(crate) access: Access,
}

impl Permission {
    fn native(&self) -> native::Permission {
        let kind = match self.access {
            Access::Read => native::PermissionType::Read,
            Access::Write => native::PermissionType::Write,
            _ => native::PermissionType::Readwrite,
        };
        let permission = native::Permission::new(kind, self.range.start.clone());
        match &self.range.end {
            Some(end) => permission.with_range_end(end.clone()),
            None => permission,
        }
    }
}

/// `None` where what was looked for does not exist.
fn found<T>(asked: Result<T>) -> Result<Option<T>> {
    match asked {
        Err(error) if *error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Whether what was to be removed existed.
fn existed(asked: Result<()>) -> Result<bool> {
    Ok(found(asked)?.is_some())
}

/// Makes a request of the native client for users, as a call of [`Client::change`].
macro_rules! auth {
    ($self:ident, $deadline:ident, $request:ident($($arg:expr),*)) => {{
        let ask = |native: Arc<Native>| async move {
            native.all.auth_client().$request($($arg),*).await?;
            Ok(())
        };
        $self.change($deadline, ask).await
    }};
}

impl Client {
    pub(crate) async fn add_user(&self, deadline: Deadline, name: &str, password: &Secret) -> Result<()> {
        auth!(self, deadline, user_add(name, password.expose(), None))
    }

    pub(crate) async fn set_password(&self, deadline: Deadline, name: &str, password: &Secret) -> Result<()> {
        auth!(self, deadline, user_change_password(name, password.expose()))
    }

    pub(crate) async fn delete_user(&self, deadline: Deadline, name: &str) -> Result<bool> {
        existed(auth!(self, deadline, user_delete(name)))
    }

    pub(crate) async fn add_role(&self, deadline: Deadline, role: &str) -> Result<()> {
        auth!(self, deadline, role_add(role))
    }

    pub(crate) async fn delete_role(&self, deadline: Deadline, role: &str) -> Result<bool> {
        existed(auth!(self, deadline, role_delete(role)))
    }

    /// Gives a user a role.
    pub(crate) async fn join_role(&self, deadline: Deadline, user: &str, role: &str) -> Result<()> {
        auth!(self, deadline, user_grant_role(user, role))
    }

    /// Gives a role a right, in place of what it had on the same range.
    pub(crate) async fn permit(&self, deadline: Deadline, role: &str, permission: &Permission) -> Result<()> {
        auth!(self, deadline, role_grant_permission(role, permission.native()))
    }

    /// Takes from a role what it has on a range, and tells whether that was anything.
    pub(crate) async fn forbid(&self, deadline: Deadline, role: &str, range: &Range) -> Result<bool> {
        let options = || {
            let options = native::RoleRevokePermissionOptions::new();
            range.end.as_ref().map(|end| options.with_range_end(end.clone()))
        };
        match auth!(self, deadline, role_revoke_permission(role, range.start.clone(), options())) {
            Err(error) if not_granted(&error) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// The names of all users.
    pub(crate) async fn users(&self, deadline: Deadline) -> Result<Vec<String>> {
        let ask = |native: Arc<Native>| async move {
            Ok(native.all.auth_client().user_list().await?.users().to_vec())
        };
        self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await.map_err(administrative)
    }

    /// The roles of a user, if there is one.
    pub(crate) async fn roles(&self, deadline: Deadline, name: &str) -> Result<Option<Vec<String>>> {
        let ask = |native: Arc<Native>| async move {
            Ok(native.all.auth_client().user_get(name).await?.roles().to_vec())
        };
        found(self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await.map_err(administrative))
    }

    /// The rights of a role, if there is one.
    pub(crate) async fn permissions(
        &self,
        deadline: Deadline,
        role: &str,
    ) -> Result<Option<Vec<Permission>>> {
        let ask = |native: Arc<Native>| async move {
            let told = native.all.auth_client().role_get(role).await?.0.perm;
            let permissions = told.into_iter().map(|told| {
                let access = match told.perm_type {
                    0 => Access::Read,
                    1 => Access::Write,
                    2 => Access::ReadWrite,
                    _ => return Err(nonsense("a right of an unknown kind")),
                };
                let end = (!told.range_end.is_empty()).then_some(told.range_end);
                Ok(Permission { range: Range { start: told.key, end }, access })
            });
            Ok(permissions.collect::<Result<Vec<_>>>()?)
        };
        found(self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await.map_err(administrative))
    }
}
