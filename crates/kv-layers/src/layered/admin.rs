//! The administrative powers of a layered store: each call passes the policy once, as any other.

use async_trait::async_trait;
use kv_core::{
    Access, AccessControl, CallOptions, Cluster, Defragmented, Entry, Evict, History, Joining, Key,
    KeyVersion, ListOptions, Listing, Member, MemberId, NewMember, NewUser, Operation, Power, Prefix,
    Reconfigure, Result, Secret, Size, Storage, Store, User, Version, VersionsOptions,
};

use super::{Layered, absent};
use crate::policy::{Policy, Target};

impl<P: Policy, S: Store> Layered<P, S> {
    fn history(&self) -> Result<&dyn History> {
        self.inner.as_history().ok_or_else(|| absent(Power::History))
    }

    fn cluster(&self) -> Result<&dyn Cluster> {
        self.inner.as_cluster().ok_or_else(|| absent(Power::Cluster))
    }

    fn evict(&self) -> Result<&dyn Evict> {
        self.cluster()?.as_evict().ok_or_else(|| absent(Power::Cluster))
    }

    fn reconfigure(&self) -> Result<&dyn Reconfigure> {
        self.cluster()?.as_reconfigure().ok_or_else(|| absent(Power::Cluster))
    }

    fn storage(&self) -> Result<&dyn Storage> {
        self.inner.as_storage().ok_or_else(|| absent(Power::Storage))
    }

    fn access(&self) -> Result<&dyn AccessControl> {
        self.inner.as_access().ok_or_else(|| absent(Power::Access))
    }
}

#[async_trait]
impl<P: Policy, S: Store> History for Layered<P, S> {
    async fn get_at_with(&self, key: &Key, at: Version, options: CallOptions) -> Result<Option<Entry>> {
        let inner = self.history()?;
        let next = || inner.get_at_with(key, at, options.clone());
        self.policy.around(self.call(Operation::GetAt, Target::Key(key)), &next).await
    }

    async fn list_at_with(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing> {
        let inner = self.history()?;
        let next = || inner.list_at_with(prefix, at, options.clone());
        let call = self.call(Operation::ListAt, Target::Prefix(prefix));
        Ok(self.policy.listing(self.policy.around(call, &next).await?))
    }

    async fn versions_with(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>> {
        let inner = self.history()?;
        let next = || inner.versions_with(key, options.clone());
        self.policy.around(self.call(Operation::Versions, Target::Key(key)), &next).await
    }

    async fn compact_with(&self, up_to: Version, options: CallOptions) -> Result<Version> {
        let inner = self.history()?;
        let next = || inner.compact_with(up_to, options.clone());
        self.policy.around(self.call(Operation::Compact, Target::Store), &next).await
    }
}

#[async_trait]
impl<P: Policy, S: Store> Cluster for Layered<P, S> {
    async fn members_with(&self, options: CallOptions) -> Result<Vec<Member>> {
        let inner = self.cluster()?;
        let next = || inner.members_with(options.clone());
        self.policy.around(self.call(Operation::Members, Target::Store), &next).await
    }

    fn endpoints(&self) -> Vec<String> {
        self.inner.as_cluster().map(Cluster::endpoints).unwrap_or_default()
    }

    async fn set_endpoints_with(&self, endpoints: &[String], options: CallOptions) -> Result<()> {
        let inner = self.cluster()?;
        let next = || inner.set_endpoints_with(endpoints, options.clone());
        self.policy.around(self.call(Operation::SetEndpoints, Target::Store), &next).await
    }

    fn as_evict(&self) -> Option<&dyn Evict> {
        self.evict().is_ok().then_some(self as &dyn Evict)
    }

    fn as_reconfigure(&self) -> Option<&dyn Reconfigure> {
        self.reconfigure().is_ok().then_some(self as &dyn Reconfigure)
    }
}

#[async_trait]
impl<P: Policy, S: Store> Evict for Layered<P, S> {
    async fn remove_member_with(&self, id: &MemberId, options: CallOptions) -> Result<bool> {
        let inner = self.evict()?;
        let next = || inner.remove_member_with(id, options.clone());
        self.policy.around(self.call(Operation::RemoveMember, Target::Store), &next).await
    }
}

#[async_trait]
impl<P: Policy, S: Store> Reconfigure for Layered<P, S> {
    async fn add_member_with(&self, member: NewMember, options: CallOptions) -> Result<Joining> {
        let inner = self.reconfigure()?;
        let next = || inner.add_member_with(member.clone(), options.clone());
        self.policy.around(self.call(Operation::AddMember, Target::Store), &next).await
    }

    async fn promote_member_with(&self, id: &MemberId, options: CallOptions) -> Result<()> {
        let inner = self.reconfigure()?;
        let next = || inner.promote_member_with(id, options.clone());
        self.policy.around(self.call(Operation::PromoteMember, Target::Store), &next).await
    }

    async fn update_member_with(
        &self,
        id: &MemberId,
        peer_urls: &[String],
        options: CallOptions,
    ) -> Result<Joining> {
        let inner = self.reconfigure()?;
        let next = || inner.update_member_with(id, peer_urls, options.clone());
        self.policy.around(self.call(Operation::UpdateMember, Target::Store), &next).await
    }

    async fn transfer_leadership_with(&self, id: &MemberId, options: CallOptions) -> Result<()> {
        let inner = self.reconfigure()?;
        let next = || inner.transfer_leadership_with(id, options.clone());
        self.policy.around(self.call(Operation::TransferLeadership, Target::Store), &next).await
    }
}

#[async_trait]
impl<P: Policy, S: Store> Storage for Layered<P, S> {
    async fn sizes_with(&self, options: CallOptions) -> Result<Vec<Size>> {
        let inner = self.storage()?;
        let next = || inner.sizes_with(options.clone());
        self.policy.around(self.call(Operation::Sizes, Target::Store), &next).await
    }

    async fn defragment_with(
        &self,
        member: Option<&MemberId>,
        options: CallOptions,
    ) -> Result<Vec<Defragmented>> {
        let inner = self.storage()?;
        let next = || inner.defragment_with(member, options.clone());
        self.policy.around(self.call(Operation::Defragment, Target::Store), &next).await
    }
}

#[async_trait]
impl<P: Policy, S: Store> AccessControl for Layered<P, S> {
    async fn add_user_with(&self, name: &str, user: NewUser, options: CallOptions) -> Result<()> {
        let inner = self.access()?;
        let next = || inner.add_user_with(name, user.clone(), options.clone());
        self.policy.around(self.call(Operation::AddUser, Target::Store), &next).await
    }

    async fn remove_user_with(&self, name: &str, options: CallOptions) -> Result<bool> {
        let inner = self.access()?;
        let next = || inner.remove_user_with(name, options.clone());
        self.policy.around(self.call(Operation::RemoveUser, Target::Store), &next).await
    }

    async fn set_password_with(&self, name: &str, password: Secret, options: CallOptions) -> Result<()> {
        let inner = self.access()?;
        let next = || inner.set_password_with(name, password.clone(), options.clone());
        self.policy.around(self.call(Operation::SetPassword, Target::Store), &next).await
    }

    async fn grant_with(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<()> {
        let inner = self.access()?;
        let next = || inner.grant_with(name, access, prefix, options.clone());
        self.policy.around(self.call(Operation::Grant, Target::Prefix(prefix)), &next).await
    }

    async fn revoke_with(
        &self,
        name: &str,
        access: Access,
        prefix: &Prefix,
        options: CallOptions,
    ) -> Result<bool> {
        let inner = self.access()?;
        let next = || inner.revoke_with(name, access, prefix, options.clone());
        self.policy.around(self.call(Operation::Revoke, Target::Prefix(prefix)), &next).await
    }

    async fn user_with(&self, name: &str, options: CallOptions) -> Result<Option<User>> {
        let inner = self.access()?;
        let next = || inner.user_with(name, options.clone());
        self.policy.around(self.call(Operation::User, Target::Store), &next).await
    }

    async fn users_with(&self, options: CallOptions) -> Result<Vec<String>> {
        let inner = self.access()?;
        let next = || inner.users_with(options.clone());
        self.policy.around(self.call(Operation::Users, Target::Store), &next).await
    }
}
