//! The administrative powers of a layered store: each call passes the policy once, as any other.

use async_trait::async_trait;
use kv_core::{
    CallOptions, Entry, History, Key, KeyVersion, ListOptions, Listing, Operation, Power, Prefix, Result,
    Store, Version, VersionsOptions,
};

use super::{Layered, absent};
use crate::policy::{Policy, Target};

impl<P: Policy, S: Store> Layered<P, S> {
    fn history(&self) -> Result<&dyn History> {
        self.inner.as_history().ok_or_else(|| absent(Power::History))
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
