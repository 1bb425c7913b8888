//! Locks: in the table beside the data, so that a fenced write and its lock are judged in one step.

use std::sync::Arc;

use kv_backend::{Clock, HandleId, LockAccess, LockTable, Namespace, Timestamp};
use kv_core::{Error, Fence, FencingToken, Result};

use crate::state::{Database, Writer};

/// The locks as the handles of one namespace see them.
pub(crate) struct LockHandle {
    database: Arc<Database>,
    /// The database and the namespace, which is where the key of a fence lies: the handle it is given
    /// to can be one on another.
    record: Arc<str>,
}

impl LockHandle {
    pub(crate) fn new(database: &Arc<Database>, namespace: &Namespace) -> Self {
        let record = [&*database.fence_record, ":", namespace.path()].concat().into();
        Self { database: Arc::clone(database), record }
    }
}

impl LockAccess for LockHandle {
    fn with_locks<T>(&self, work: impl FnOnce(&mut LockTable, Timestamp) -> T) -> T {
        self.database.write(|writer| work(&mut writer.data.locks, writer.now))
    }

    fn with_new_token<T>(
        &self,
        handle: HandleId,
        work: impl FnOnce(&mut LockTable, FencingToken, Timestamp) -> T,
    ) -> Result<T> {
        self.database.write(|writer| {
            writer.check_open(handle)?;
            let token = FencingToken::new(writer.version().get());
            Ok(work(&mut writer.data.locks, token, writer.now))
        })
    }

    fn clock(&self) -> &dyn Clock {
        &*self.database.clock
    }

    fn fence_record(&self) -> Arc<str> {
        Arc::clone(&self.record)
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
    pub(crate) fn check_fence(&self, database: &Database, fence: Option<&Fence>) -> Result<()> {
        let Some(fence) = fence else { return Ok(()) };
        if let Some((of, namespace)) = fence.record().split_once(':') {
            let name = [namespace, fence.key().as_str()].concat();
            if of == &*database.fence_record && self.data.locks.is_held(&name, fence.token()) {
                return Ok(());
            }
        }
        Err(Error::not_held(None).with_detail(format!(
            "the fence is of the lock {:?} with the token {}",
            fence.key(),
            fence.token()
        )))
    }
}
