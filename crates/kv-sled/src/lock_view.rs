//! Seeing locks: nobody else has the directory, so they are all in this process's table.

use async_trait::async_trait;
use kv_backend::{LockAccess, list_table, watch_in_table};
use kv_core::implement::LockView;
use kv_core::{
    BreakLockOptions, FencingToken, Key, LockChanges, LockListing, LockWatchOptions, LocksOptions, Operation,
    Prefix, Result,
};

use crate::store::SledStore;

#[async_trait]
impl LockView for SledStore {
    async fn watch_lock_with(&self, key: &Key, _: LockWatchOptions) -> Result<LockChanges> {
        let name = self.open_handle(Operation::WatchLock)?.name(key).native;
        let changes = watch_in_table(self.locks(), self.id(), name);
        // Looked at again when the watch has begun: a close from now on ends it.
        self.open_handle(Operation::WatchLock)?;
        Ok(changes)
    }

    async fn locks_with(&self, prefix: &Prefix, _: LocksOptions) -> Result<LockListing> {
        self.open_handle(Operation::Locks)?;
        Ok(list_table(self.locks(), self.namespace(), prefix))
    }

    async fn break_lock_with(&self, key: &Key, token: FencingToken, _: BreakLockOptions) -> Result<bool> {
        let name = self.open_handle(Operation::BreakLock)?.name(key).native;
        let (was_held, wakes) = self.locks().with_locks(|locks, now| locks.remove(&name, token, now));
        wakes.wake();
        Ok(was_held)
    }
}
