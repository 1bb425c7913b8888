//! The power to see locks, and what there is to see.

use kv_core::implement::LockView;
use kv_core::{Error, Operation, Power, Store};

use crate::output::say;
use crate::session::Session;

/// The store's power to see locks.
pub(super) fn view(store: &dyn Store, operation: Operation) -> Result<&dyn LockView, Error> {
    store.as_lock_view().ok_or_else(|| {
        Error::unsupported(Power::LockView.name())
            .with_operation(operation)
            .with_backend(store.capabilities().backend)
    })
}

/// Says what is to be seen on a store whose locks end with their process.
pub(super) fn warn_where_alone(session: &Session) {
    if session.is_for_one_process() {
        say(
            "kv: warning: while kv looks, no other process can use this store, so that nobody holds a lock in it; \
             for several processes use a server: etcd, Consul or ZooKeeper",
        );
    }
}
