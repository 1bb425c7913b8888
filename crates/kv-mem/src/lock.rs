//! Locks: in the table beside the data, so that a fenced write and its lock are judged in one step.

use std::sync::Arc;

use kv_backend::{Clock, HandleId, LockAccess, LockTable, Namespace, Timestamp};
use kv_core::{Error, ErrorKind, Fence, FencingToken, Result};

use crate::name::native;
use crate::state::{Database, Writer};

impl LockAccess for Database {
    fn with_locks<T>(&self, work: impl FnOnce(&mut LockTable, Timestamp) -> T) -> T {
        self.write(|writer| work(&mut writer.data.locks, writer.now))
    }

    fn with_new_token<T>(
        &self,
        handle: HandleId,
        work: impl FnOnce(&mut LockTable, FencingToken, Timestamp) -> T,
    ) -> Result<T> {
        self.write(|writer| {
            writer.check_open(handle)?;
            let token = FencingToken::new(writer.version().get());
            Ok(work(&mut writer.data.locks, token, writer.now))
        })
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn fence_record(&self) -> Arc<str> {
        Arc::clone(&self.fence_record)
    }
}

impl Writer<'_> {
    /// Takes away the locks whose records a delete of everything below `prefix` takes.
    pub(crate) fn remove_locks(&mut self, prefix: &str) {
        let now = self.now;
        let wakes = self.data.locks.remove_tree(prefix, now);
        self.wakes.append(wakes);
    }

    /// Refuses a write whose lock is not held any more.
    pub(crate) fn check_fence(
        &self,
        record: &str,
        namespace: &Namespace,
        fence: Option<&Fence>,
    ) -> Result<()> {
        let Some(fence) = fence else { return Ok(()) };
        let is_ours = fence.record() == record;
        if is_ours && self.data.locks.is_held(&native(namespace, fence.key()), fence.token()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotHeld).with_detail(format!(
            "the fence is of the lock {:?} with the token {}",
            fence.key(),
            fence.token()
        )))
    }
}
