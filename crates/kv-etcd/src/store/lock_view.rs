//! Seeing locks: they are the records that all programs on the cluster share.

use async_trait::async_trait;
use kv_core::implement::LockView;
use kv_core::{
    BreakLockOptions, FencingToken, Key, LockChanges, LockListing, LockWatchOptions, LocksOptions, Operation,
    Prefix, Result,
};

use super::{EtcdStore, about};
use crate::lock;

#[async_trait]
impl LockView for EtcdStore {
    async fn watch_lock_with(&self, key: &Key, options: LockWatchOptions) -> Result<LockChanges> {
        let watched = lock::watch(&self.handle.locks, key, options).await;
        watched.map_err(about(Operation::WatchLock, key.as_str()))
    }

    async fn locks_with(&self, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
        lock::list(&self.handle.locks, prefix, options)
            .await
            .map_err(about(Operation::Locks, prefix.as_str()))
    }

    async fn break_lock_with(
        &self,
        key: &Key,
        token: FencingToken,
        options: BreakLockOptions,
    ) -> Result<bool> {
        let broken = lock::break_lock(&self.handle.locks, key, token, options).await;
        broken.map_err(about(Operation::BreakLock, key.as_str()))
    }
}
