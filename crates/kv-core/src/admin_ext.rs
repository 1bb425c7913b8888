//! Short forms of the administrative powers, written once for every backend.

use std::fmt::Display;

use crate::admin::{
    Access, AccessControl, Cluster, Defragmented, Evict, History, Joining, KeyVersion, Member, MemberId,
    NewMember, NewUser, Reconfigure, Size, Storage, User, VersionsOptions,
};
use crate::entry::Entry;
use crate::error::{Error, Operation, Result};
use crate::key::{IntoKey, IntoPrefix};
use crate::list::Listing;
use crate::options::{CallOptions, ListOptions};
use crate::power::Power;
use crate::secret::Secret;
use crate::store::Store;
use crate::version::Version;

/// Short forms of what operators ask of a store, for every store. Not to be implemented by hand.
///
/// They are apart from [`StoreExt`](crate::StoreExt), because an application that reads and writes needs
/// none of them. Each reports a store without the power as `Unsupported`, before anything is sent.
pub trait AdminExt: Store {
    /// The entry under `key` as it was at version `at`: see [`History::get_at_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, StoreExt};
    ///
    /// let before = store.put("config/limit", "10").await?;
    /// store.delete("config/limit").await?;
    /// assert_eq!(store.get_at("config/limit", before).await?.unwrap().text()?, "10");
    /// # Ok(()) }
    /// ```
    fn get_at<K>(&self, key: K, at: Version) -> impl Future<Output = Result<Option<Entry>>> + Send
    where
        K: IntoKey,
    {
        async move {
            let key = key.into_key(Operation::GetAt)?;
            history(self, Operation::GetAt)?.get_at_with(&key, at, CallOptions::default()).await
        }
    }

    /// The entries strictly below `prefix` as they were at version `at`: see [`History::list_at_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, StoreExt};
    ///
    /// store.put("app/a", "1").await?;
    /// let before = store.put("app/b", "2").await?;
    /// store.delete_tree("app").await?; // By mistake.
    /// for entry in store.list_at("app", before).await?.entries().await? {
    ///     store.create(&entry.key, entry.value).await?;
    /// }
    /// assert_eq!(store.keys("app").await?.len(), 2);
    /// # Ok(()) }
    /// ```
    fn list_at<P>(&self, prefix: P, at: Version) -> impl Future<Output = Result<Listing>> + Send
    where
        P: IntoPrefix,
    {
        async move {
            let prefix = prefix.into_prefix(Operation::ListAt)?;
            history(self, Operation::ListAt)?.list_at_with(&prefix, at, ListOptions::default()).await
        }
    }

    /// Every version of `key` that the store still keeps, the oldest first: see
    /// [`History::versions_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, StoreExt};
    ///
    /// store.put("config/limit", "10").await?;
    /// store.put("config/limit", "20").await?;
    /// store.delete("config/limit").await?;
    /// let versions = store.key_versions("config/limit").await?;
    /// let values: Vec<_> = versions.iter().map(|one| one.entry.as_ref().map(|entry| &entry.value[..])).collect();
    /// assert_eq!(values, [Some(&b"10"[..]), Some(b"20"), None]);
    /// # Ok(()) }
    /// ```
    fn key_versions<K>(&self, key: K) -> impl Future<Output = Result<Vec<KeyVersion>>> + Send
    where
        K: IntoKey,
    {
        async move {
            let key = key.into_key(Operation::Versions)?;
            history(self, Operation::Versions)?.versions_with(&key, VersionsOptions::default()).await
        }
    }

    /// Forgets every state before `up_to` and returns the oldest version that is left: see
    /// [`History::compact_with`].
    ///
    /// ```
    /// # use kv_mem::{MemConfig, MemStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let store = MemStore::open(MemConfig::new())?;
    /// use kv_core::{AdminExt, ErrorKind, StoreExt};
    ///
    /// let first = store.put("a", "1").await?;
    /// let second = store.put("a", "2").await?;
    /// assert_eq!(store.compact(second).await?, second);
    /// let gone = store.get_at("a", first).await.unwrap_err();
    /// assert_eq!(*gone.kind(), ErrorKind::Compacted { oldest: Some(second) });
    /// # Ok(()) }
    /// ```
    fn compact(&self, up_to: Version) -> impl Future<Output = Result<Version>> + Send {
        async move { history(self, Operation::Compact)?.compact_with(up_to, CallOptions::default()).await }
    }

    /// The members of the cluster behind the store, and how each is: see [`Cluster::members_with`].
    ///
    /// ```
    /// use kv_core::{AdminExt, Result, Store};
    ///
    /// # #[allow(dead_code)]
    /// async fn print(store: &dyn Store) -> Result<()> {
    ///     for member in store.members().await? {
    ///         println!("{} {:?} {} {}", member.id, member.name, member.role, member.health);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    fn members(&self) -> impl Future<Output = Result<Vec<Member>>> + Send {
        async move { cluster(self, Operation::Members)?.members_with(CallOptions::default()).await }
    }

    /// Lets this handle, with all its clones, speak to these endpoints from now on: see
    /// [`Cluster::set_endpoints_with`].
    fn set_endpoints<E: Into<String>>(
        &self,
        endpoints: impl IntoIterator<Item = E> + Send,
    ) -> impl Future<Output = Result<()>> + Send {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        async move {
            let cluster = cluster(self, Operation::SetEndpoints)?;
            cluster.set_endpoints_with(&endpoints, CallOptions::default()).await
        }
    }

    /// Removes a member from the cluster for good, and tells whether it was one: see
    /// [`Evict::remove_member_with`].
    fn remove_member(&self, id: &MemberId) -> impl Future<Output = Result<bool>> + Send {
        async move { evict(self)?.remove_member_with(id, CallOptions::default()).await }
    }

    /// Removes the member of this name, and tells whether there was one; `InvalidArgument` if several members
    /// bear it.
    ///
    /// ```
    /// use kv_core::{AdminExt, Result, Store};
    ///
    /// # #[allow(dead_code)]
    /// async fn retire(store: &dyn Store) -> Result<()> {
    ///     if !store.remove_member_named("node-7").await? {
    ///         println!("there is no node-7");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    fn remove_member_named(&self, name: &str) -> impl Future<Output = Result<bool>> + Send {
        async move {
            let evict = evict(self)?;
            let members = self.members().await?;
            let mut found = members.iter().filter(|member| member.name.as_deref() == Some(name));
            match (found.next(), found.next()) {
                (None, _) => Ok(false),
                (Some(member), None) => evict.remove_member_with(&member.id, CallOptions::default()).await,
                (Some(one), Some(other)) => {
                    let reason = format!(
                        "several members are named {name:?}: name one by its id, {} or {}",
                        one.id, other.id
                    );
                    Err(Error::invalid_argument(reason)
                        .with_operation(Operation::RemoveMember)
                        .with_backend(self.capabilities().backend))
                }
            }
        }
    }

    /// Adds a member, which is started afterwards: see [`Reconfigure::add_member_with`].
    ///
    /// ```
    /// use kv_core::{AdminExt, NewMember, Result, Store};
    ///
    /// # #[allow(dead_code)]
    /// async fn grow(store: &dyn Store) -> Result<()> {
    ///     let joining = store.add_member(NewMember::learner(["http://10.0.0.4:2380"])).await?;
    ///     println!("etcd --name n4 --initial-cluster-state existing \\");
    ///     println!("     --initial-cluster {}", joining.initial_cluster("n4"));
    ///     // When it runs and has caught up:
    ///     store.promote_member(&joining.member.id).await
    /// }
    /// ```
    fn add_member(&self, member: NewMember) -> impl Future<Output = Result<Joining>> + Send {
        async move {
            let power = reconfigure(self, Operation::AddMember)?;
            power.add_member_with(member, CallOptions::default()).await
        }
    }

    /// Gives a learner its vote: see [`Reconfigure::promote_member_with`].
    fn promote_member(&self, id: &MemberId) -> impl Future<Output = Result<()>> + Send {
        async move {
            let power = reconfigure(self, Operation::PromoteMember)?;
            power.promote_member_with(id, CallOptions::default()).await
        }
    }

    /// Changes the URLs by which the other members reach a member: see
    /// [`Reconfigure::update_member_with`].
    fn update_member(
        &self,
        id: &MemberId,
        peer_urls: &[String],
    ) -> impl Future<Output = Result<Joining>> + Send {
        async move {
            let power = reconfigure(self, Operation::UpdateMember)?;
            power.update_member_with(id, peer_urls, CallOptions::default()).await
        }
    }

    /// Makes another member the leader: see [`Reconfigure::transfer_leadership_with`].
    fn transfer_leadership(&self, id: &MemberId) -> impl Future<Output = Result<()>> + Send {
        async move {
            let power = reconfigure(self, Operation::TransferLeadership)?;
            power.transfer_leadership_with(id, CallOptions::default()).await
        }
    }

    /// What each member's database takes on the disk: see [`Storage::sizes_with`].
    fn sizes(&self) -> impl Future<Output = Result<Vec<Size>>> + Send {
        async move { storage(self, Operation::Sizes)?.sizes_with(CallOptions::default()).await }
    }

    /// Gives back to the disk what is not in use, of all members or of one: see
    /// [`Storage::defragment_with`].
    ///
    /// ```
    /// use kv_core::{AdminExt, Result, Store};
    ///
    /// # #[allow(dead_code)]
    /// async fn tidy(store: &dyn Store) -> Result<()> {
    ///     for done in store.defragment(None).await? {
    ///         println!("{}: {} bytes, {} before", done.member, done.after, done.before);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    fn defragment(
        &self,
        member: Option<&MemberId>,
    ) -> impl Future<Output = Result<Vec<Defragmented>>> + Send {
        async move { storage(self, Operation::Defragment)?.defragment_with(member, CallOptions::default()).await }
    }

    /// Makes a user without rights: see [`AccessControl::add_user_with`].
    fn add_user(&self, name: &str, password: Secret) -> impl Future<Output = Result<()>> + Send {
        async move {
            let user = NewUser::with_password(password);
            access(self, Operation::AddUser)?.add_user_with(name, user, CallOptions::default()).await
        }
    }

    /// Removes a user with all its rights, and tells whether there was one: see
    /// [`AccessControl::remove_user_with`].
    fn remove_user(&self, name: &str) -> impl Future<Output = Result<bool>> + Send {
        async move { access(self, Operation::RemoveUser)?.remove_user_with(name, CallOptions::default()).await }
    }

    /// Gives a user another password: see [`AccessControl::set_password_with`].
    fn set_password(&self, name: &str, password: Secret) -> impl Future<Output = Result<()>> + Send {
        async move {
            let power = access(self, Operation::SetPassword)?;
            power.set_password_with(name, password, CallOptions::default()).await
        }
    }

    /// Lets a user do this strictly below a prefix, beside what it may do already: see
    /// [`AccessControl::grant_with`].
    ///
    /// ```
    /// use kv_core::{Access, AdminExt, Result, Secret, Store};
    ///
    /// # #[allow(dead_code)]
    /// async fn let_in(store: &dyn Store, password: Secret) -> Result<()> {
    ///     store.add_user("reporter", password).await?;
    ///     store.grant("reporter", Access::Read, "metrics").await?; // metrics/x, not metrics itself
    ///     store.grant("reporter", Access::ReadWrite, "reports").await
    /// }
    /// ```
    fn grant<P>(&self, name: &str, access: Access, prefix: P) -> impl Future<Output = Result<()>> + Send
    where
        P: IntoPrefix,
    {
        async move {
            let prefix = prefix.into_prefix(Operation::Grant)?;
            let power = self::access(self, Operation::Grant)?;
            power.grant_with(name, access, &prefix, CallOptions::default()).await
        }
    }

    /// Takes from a user the right to do this below a prefix, and tells whether it had any of it: see
    /// [`AccessControl::revoke_with`].
    fn revoke<P>(&self, name: &str, access: Access, prefix: P) -> impl Future<Output = Result<bool>> + Send
    where
        P: IntoPrefix,
    {
        async move {
            let prefix = prefix.into_prefix(Operation::Revoke)?;
            let power = self::access(self, Operation::Revoke)?;
            power.revoke_with(name, access, &prefix, CallOptions::default()).await
        }
    }

    /// A user and its rights, or `None`.
    fn user(&self, name: &str) -> impl Future<Output = Result<Option<User>>> + Send {
        async move { access(self, Operation::User)?.user_with(name, CallOptions::default()).await }
    }

    /// The names of all users, in byte order.
    fn users(&self) -> impl Future<Output = Result<Vec<String>>> + Send {
        async move { access(self, Operation::Users)?.users_with(CallOptions::default()).await }
    }
}

impl<S: Store + ?Sized> AdminExt for S {}

fn history<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn History> {
    store.as_history().ok_or_else(|| absent(store, Power::History.name(), operation))
}

fn cluster<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn Cluster> {
    store.as_cluster().ok_or_else(|| absent(store, Power::Cluster.name(), operation))
}

fn evict<S: Store + ?Sized>(store: &S) -> Result<&dyn Evict> {
    let operation = Operation::RemoveMember;
    cluster(store, operation)?
        .as_evict()
        .ok_or_else(|| absent(store, "to remove members: its servers do not offer it", operation))
}

fn reconfigure<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn Reconfigure> {
    cluster(store, operation)?
        .as_reconfigure()
        .ok_or_else(|| absent(store, "to change members: its servers do not offer it", operation))
}

fn storage<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn Storage> {
    store.as_storage().ok_or_else(|| absent(store, Power::Storage.name(), operation))
}

fn access<S: Store + ?Sized>(store: &S, operation: Operation) -> Result<&dyn AccessControl> {
    store.as_access().ok_or_else(|| absent(store, Power::Access.name(), operation))
}

fn absent<S: Store + ?Sized>(store: &S, what: impl Display, operation: Operation) -> Error {
    Error::unsupported(what.to_string()).with_operation(operation).with_backend(store.capabilities().backend)
}
