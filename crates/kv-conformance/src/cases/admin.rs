//! Servers, their disks and their users: what can be asked of a server that must go on serving others.

use anyhow::{Context, Result, ensure};
use kv_core::{Access, AdminExt, ErrorKind, MemberRole, Secret, Store, StoreExt, User};

use crate::case::needs::{ACCESS, CLUSTER, STORAGE};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{ensure_eq, refused};

pub(super) const CASES: &[Case] = &[
    case!(members_are_listed, "The members are listed once each, and at most one of them leads.", CLUSTER),
    case!(
        endpoints_are_changed_or_kept,
        "Endpoints that cannot be are refused, and the old ones stay.",
        CLUSTER
    ),
    case!(sizes_are_told, "Sizes are told, and no more is in use than there is.", STORAGE),
    case!(users_come_and_go, "A user is made once, with a password, and removed once.", ACCESS),
    case!(
        grants_add_and_revocations_subtract,
        "Grants add and revocations subtract, prefix by prefix.",
        ACCESS
    ),
];

async fn members_are_listed(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let members = store.members().await?;
    ensure!(!members.is_empty(), "there is no member, and the store answers");
    let leaders = members.iter().filter(|member| member.role == MemberRole::Leader).count();
    ensure!(leaders <= 1, "{leaders} members lead: {members:?}");
    let mut ids: Vec<_> = members.iter().map(|member| &member.id).collect();
    ids.sort();
    ids.dedup();
    ensure_eq!(ids.len(), members.len(), "the number of different ids of {members:?}");
    let cluster = store.as_cluster().context("cluster is declared, and as_cluster() has none")?;
    ensure!(!cluster.endpoints().is_empty(), "the store answers and tells no endpoint");
    Ok(())
}

async fn endpoints_are_changed_or_kept(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let cluster = store.as_cluster().context("cluster is declared, and as_cluster() has none")?;
    let before = cluster.endpoints();
    refused!(
        store.set_endpoints(["a host/that cannot be"]).await,
        ErrorKind::InvalidConfig { .. },
        "an endpoint that is none"
    );
    refused!(
        store.set_endpoints(Vec::<String>::new()).await,
        ErrorKind::InvalidConfig { .. },
        "no endpoint at all"
    );
    ensure_eq!(cluster.endpoints(), before, "the endpoints after refusals");
    store.set_endpoints(before.clone()).await?;
    ensure_eq!(cluster.endpoints(), before, "the endpoints after they were set to what they are");
    store.put("k", "x").await?;
    Ok(())
}

async fn sizes_are_told(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("k", "x").await?;
    let sizes = store.sizes().await?;
    ensure!(!sizes.is_empty(), "no size is told");
    for size in &sizes {
        ensure!(
            size.in_use.is_none_or(|in_use| in_use <= size.bytes),
            "more is in use than there is: {size:?}"
        );
    }
    Ok(())
}

/// A name that nobody else has.
fn somebody(fixture: &Fixture) -> String {
    format!("kv-conformance-{:016x}", fixture.random().u64(..))
}

async fn user(store: &impl Store, name: &str) -> Result<User> {
    store.user(name).await?.with_context(|| format!("the user {name} is not there"))
}

async fn users_come_and_go(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let name = somebody(fixture);
    let password = || Secret::new("a password of a test");
    refused!(
        store.add_user(&name, Secret::new("")).await,
        ErrorKind::InvalidArgument { .. },
        "a user with an empty password"
    );
    ensure_eq!(store.user(&name).await?, None, "the user after it was refused");
    refused!(store.grant(&name, Access::Read, "").await, ErrorKind::NotFound, "a right for nobody");
    store.add_user(&name, password()).await?;
    ensure!(store.users().await?.contains(&name), "the user is not listed");
    ensure_eq!(user(store, &name).await?.rights, vec![], "the rights of a new user");
    refused!(store.add_user(&name, password()).await, ErrorKind::AlreadyExists { .. }, "the same user again");
    ensure!(store.remove_user(&name).await?, "the user was not there to be removed");
    ensure!(!store.remove_user(&name).await?, "the user was there after it was removed");
    ensure!(!store.users().await?.contains(&name), "a removed user is listed");
    Ok(())
}

/// What a user may do below each prefix, as text.
async fn rights(store: &impl Store, name: &str) -> Result<Vec<String>> {
    let told = user(store, name).await?.rights;
    let mut rights: Vec<_> = told
        .iter()
        .map(|right| {
            let prefix = right.prefix.as_ref().map_or(right.native.as_str(), |prefix| prefix.as_str());
            format!("{prefix}: {}", right.access)
        })
        .collect();
    rights.sort();
    Ok(rights)
}

async fn grants_add_and_revocations_subtract(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let name = somebody(fixture);
    store.add_user(&name, Secret::new("a password of a test")).await?;
    store.grant(&name, Access::Read, "app").await?;
    ensure_eq!(rights(store, &name).await?, ["app: read"], "after a grant");
    store.grant(&name, Access::ReadWrite, "app").await?;
    ensure_eq!(rights(store, &name).await?, ["app: read-write"], "after a wider grant");
    store.grant(&name, Access::Read, "app").await?;
    ensure_eq!(rights(store, &name).await?, ["app: read-write"], "after a grant of what is there");
    store.grant(&name, Access::Read, "app2").await?;
    ensure_eq!(rights(store, &name).await?, ["app2: read", "app: read-write"], "after a grant beside it");
    ensure!(!store.revoke(&name, Access::ReadWrite, "").await?, "a right that was not there was revoked");
    ensure!(store.revoke(&name, Access::Write, "app").await?, "the right to write was not there");
    ensure_eq!(rights(store, &name).await?, ["app2: read", "app: read"], "after a revocation");
    ensure!(!store.revoke(&name, Access::Write, "app").await?, "the same right was there again");
    ensure!(store.revoke(&name, Access::ReadWrite, "app").await?, "the right to read was not there");
    ensure_eq!(rights(store, &name).await?, ["app2: read"], "after the last revocation");
    store.remove_user(&name).await?;
    Ok(())
}
