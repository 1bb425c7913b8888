//! Users and their rights: each user that is granted something has a role of its own, `kv-NAME`.

use async_trait::async_trait;
use kv_backend::Deadline;
use kv_core::text::escape;
use kv_core::{
    Access, AccessControl, CallOptions, Error, ErrorKind, NewUser, Operation, Prefix, Result, Right, Secret,
    User,
};

use super::cluster::about;
use crate::client::{Permission, Range};
use crate::env::Env;
use crate::store::EtcdStore;

/// The role of etcd's own administrators, which may do everything.
const ROOT: &str = "root";

fn role_of(name: &str) -> String {
    format!("kv-{name}")
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.chars().any(char::is_control) {
        let reason = "a user's name is not empty and has no control characters";
        return Err(Error::invalid_argument(reason));
    }
    Ok(())
}

/// etcd would take an empty one, and then anybody who knows the name is let in.
fn check_password(password: &Secret) -> Result<()> {
    if password.expose().is_empty() { Err(Error::invalid_argument("the password is empty")) } else { Ok(()) }
}

fn no_user(name: &str) -> Error {
    Error::new(ErrorKind::NotFound).with_detail(format!("no user is named {name:?}"))
}

/// What a role may do on exactly this range.
fn access_on(permissions: &[Permission], range: &Range) -> Option<Access> {
    permissions.iter().find(|permission| permission.range == *range).map(|permission| permission.access)
}

/// A right as it is told.
fn right(env: &Env, permission: &Permission) -> Right {
    let Range { start, end } = &permission.range;
    let text = |name: &[u8]| escape(&String::from_utf8_lossy(name)).into_owned();
    let native = match end.as_deref() {
        None => text(start),
        Some([0]) => format!("[{}, no end)", text(start)),
        Some(end) => format!("[{}, {})", text(start), text(end)),
    };
    Right::new(subtree(env, &permission.range), permission.access, native)
}

/// The prefix below which this range lies, if it is exactly that subtree of the namespace.
fn subtree(env: &Env, range: &Range) -> Option<Prefix> {
    let root = env.namespace.native_prefix(&Prefix::root());
    if *range == Range::below(&root) {
        return Some(Prefix::root());
    }
    let below = std::str::from_utf8(&range.start).ok()?.strip_prefix(&root)?.strip_suffix('/')?;
    let prefix = Prefix::new(below).ok()?;
    (*range == Range::below(&env.namespace.native_prefix(&prefix))).then_some(prefix)
}

impl EtcdStore {
    async fn add_user(&self, name: &str, user: NewUser, options: CallOptions) -> Result<()> {
        let env = self.env();
        env.check_open()?;
        check_name(name)?;
        check_password(&user.password)?;
        env.client.add_user(env.deadline(options.timeout), name, &user.password).await
    }

    async fn remove_user(&self, name: &str, options: CallOptions) -> Result<bool> {
        let env = self.env();
        env.check_open()?;
        check_name(name)?;
        let deadline = env.deadline(options.timeout);
        let existed = env.client.delete_user(deadline, name).await?;
        // Without its user it allows nothing to anybody; a later user of this name must not find it.
        env.client.delete_role(deadline, &role_of(name)).await.map_err(Error::maybe_applied)?;
        Ok(existed)
    }

    async fn set_password(&self, name: &str, password: Secret, options: CallOptions) -> Result<()> {
        let env = self.env();
        env.check_open()?;
        check_name(name)?;
        check_password(&password)?;
        env.client.set_password(env.deadline(options.timeout), name, &password).await
    }

    /// The user's own role and its rights; made if it has none yet.
    async fn own_role(&self, deadline: Deadline, name: &str) -> Result<(String, Vec<Permission>)> {
        let client = &self.env().client;
        let role = role_of(name);
        let roles = client.roles(deadline, name).await?.ok_or_else(|| no_user(name))?;
        if roles.contains(&role)
            && let Some(permissions) = client.permissions(deadline, &role).await?
        {
            return Ok((role, permissions));
        }
        // One that is there already is what is left of an earlier user of this name.
        client.delete_role(deadline, &role).await?;
        client.add_role(deadline, &role).await?;
        client.join_role(deadline, name, &role).await?;
        Ok((role, Vec::new()))
    }

    async fn grant(&self, name: &str, access: Access, prefix: &Prefix, options: CallOptions) -> Result<()> {
        let env = self.env();
        env.check_open()?;
        check_name(name)?;
        let deadline = env.deadline(options.timeout);
        let range = Range::below(&env.namespace.native_prefix(prefix));
        let (role, permissions) = self.own_role(deadline, name).await?;
        let before = access_on(&permissions, &range);
        let wanted = before.map_or(access, |before| before.plus(access));
        if before == Some(wanted) {
            return Ok(());
        }
        env.client.permit(deadline, &role, &Permission { range: range.clone(), access: wanted }).await?;
        self.stands(deadline, &role, &range, Some(wanted)).await
    }

    async fn revoke(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<bool> {
        let env = self.env();
        env.check_open()?;
        check_name(name)?;
        let deadline = env.deadline(options.timeout);
        let range = Range::below(&env.namespace.native_prefix(prefix));
        let role = role_of(name);
        let roles = env.client.roles(deadline, name).await?.ok_or_else(|| no_user(name))?;
        let permissions = match roles.contains(&role) {
            true => env.client.permissions(deadline, &role).await?.unwrap_or_default(),
            false => Vec::new(),
        };
        let Some(before) = access_on(&permissions, &range) else { return Ok(false) };
        let left = before.minus(access);
        if left == Some(before) {
            return Ok(false);
        }
        match left {
            Some(access) => {
                env.client.permit(deadline, &role, &Permission { range: range.clone(), access }).await?;
            }
            None => {
                env.client.forbid(deadline, &role, &range).await?;
            }
        }
        self.stands(deadline, &role, &range, left).await?;
        Ok(true)
    }

    /// Looks whether a change is there: there is no compare-and-set, and another administrator may have
    /// written over it.
    async fn stands(
        &self,
        deadline: Deadline,
        role: &str,
        range: &Range,
        wanted: Option<Access>,
    ) -> Result<()> {
        let permissions = self.env().client.permissions(deadline, role).await;
        let permissions = permissions.map_err(Error::maybe_applied)?.unwrap_or_default();
        if access_on(&permissions, range) == wanted {
            return Ok(());
        }
        let reason = "somebody else changed the right at the same time: look at it and ask again".to_owned();
        Err(Error::new(ErrorKind::Refused { reason }).maybe_applied())
    }

    async fn user(&self, name: &str, options: CallOptions) -> Result<Option<User>> {
        let env = self.env();
        env.check_open()?;
        check_name(name)?;
        let deadline = env.deadline(options.timeout);
        let Some(roles) = env.client.roles(deadline, name).await? else { return Ok(None) };
        let mut rights = Vec::new();
        for role in roles {
            if role == ROOT {
                rights.push(Right::new(None, Access::ReadWrite, "everything, by the role root"));
                continue;
            }
            let permissions = env.client.permissions(deadline, &role).await?.unwrap_or_default();
            rights.extend(permissions.iter().map(|permission| right(env, permission)));
        }
        rights.sort_by(|a: &Right, b| a.native.cmp(&b.native));
        Ok(Some(User::new(name, rights)))
    }

    async fn users(&self, options: CallOptions) -> Result<Vec<String>> {
        let env = self.env();
        env.check_open()?;
        let mut users = env.client.users(env.deadline(options.timeout)).await?;
        users.sort();
        Ok(users.iter().map(|user| escape(user).into_owned()).collect())
    }
}

#[async_trait]
impl AccessControl for EtcdStore {
    async fn add_user_with(&self, name: &str, user: NewUser, options: CallOptions) -> Result<()> {
        self.add_user(name, user, options).await.map_err(about(Operation::AddUser))
    }

    async fn remove_user_with(&self, name: &str, options: CallOptions) -> Result<bool> {
        self.remove_user(name, options).await.map_err(about(Operation::RemoveUser))
    }

    async fn set_password_with(&self, name: &str, password: Secret, options: CallOptions) -> Result<()> {
        self.set_password(name, password, options).await.map_err(about(Operation::SetPassword))
    }

    async fn grant_with(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<()> {
        let granted = self.grant(name, access, prefix, options).await;
        granted.map_err(|error| about(Operation::Grant)(error).with_key(prefix.as_str()))
    }

    async fn revoke_with(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<bool> {
        let revoked = self.revoke(name, access, prefix, options).await;
        revoked.map_err(|error| about(Operation::Revoke)(error).with_key(prefix.as_str()))
    }

    async fn user_with(&self, name: &str, options: CallOptions) -> Result<Option<User>> {
        self.user(name, options).await.map_err(about(Operation::User))
    }

    async fn users_with(&self, options: CallOptions) -> Result<Vec<String>> {
        self.users(options).await.map_err(about(Operation::Users))
    }
}
