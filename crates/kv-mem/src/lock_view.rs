//! Seeing locks: they are all in the table beside the data.

use async_trait::async_trait;
use kv_backend::{LockAccess, list_table, watch_in_table};
use kv_core::implement::LockView;
use kv_core::{
    BreakLockOptions, FencingToken, Key, LockChanges, LockListing, LockWatchOptions, LocksOptions, Operation,
    Prefix, Result,
};

use crate::name::native;
use crate::store::{MemStore, about};

#[async_trait]
impl LockView for MemStore {
    async fn watch_lock_with(&self, key: &Key, _: LockWatchOptions) -> Result<LockChanges> {
        let changes = watch_in_table(self.locks(), self.id(), native(self.namespace(), key).into());
        // Looked at when the watch has begun: a close from now on ends it.
        self.check_open().map_err(|error| about(error, Operation::WatchLock, key.as_str()))?;
        Ok(changes)
    }

    async fn locks_with(&self, prefix: &Prefix, _: LocksOptions) -> Result<LockListing> {
        self.check_open().map_err(|error| about(error, Operation::Locks, prefix.as_str()))?;
        Ok(list_table(self.locks(), self.namespace(), prefix))
    }

    async fn break_lock_with(&self, key: &Key, token: FencingToken, _: BreakLockOptions) -> Result<bool> {
        self.check_open().map_err(|error| about(error, Operation::BreakLock, key.as_str()))?;
        let name = native(self.namespace(), key);
        let (was_held, wakes) = self.locks().with_locks(|locks, now| locks.remove(&name, token, now));
        wakes.wake();
        Ok(was_held)
    }
}
