//! Reading the past: the committed state with the changes since taken back.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use kv_backend::{Timestamp, within};
use kv_core::{
    CallOptions, Entry, Error, History, Key, KeyVersion, ListOptions, Listing, Operation, Prefix, Result,
    Store, Version, VersionsOptions,
};

use crate::list::{self, blocking};
use crate::lock::Fences;
use crate::name::NameRange;
use crate::store::{SledStore, unexpected};
use crate::txn::{Outcome, Write};

#[async_trait]
impl History for SledStore {
    async fn get_at_with(&self, key: &Key, at: Version, options: CallOptions) -> Result<Option<Entry>> {
        let fail = |error: Error| self.decorate(error, Operation::GetAt, Some(key.as_str()));
        let open = self.open_handle(Operation::GetAt)?;
        let (database, namespace) = (Arc::clone(&open.database), Arc::clone(self.namespace()));
        let native = namespace.native(key);
        let reading = blocking(move || {
            let view = database.view();
            let mut snapshot = view.snapshot_at(at)?;
            let name = || Bound::Included(native.clone());
            let found = view.page(&mut snapshot, &NameRange { from: name(), to: name() }, 1)?;
            match found.entries.first() {
                Some((native, record)) => view.entry(&snapshot, &namespace, native, record),
                None => Ok(None),
            }
        });
        within(open.timeout(options.timeout), reading).await.map_err(fail)
    }

    async fn list_at_with(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing> {
        self.capabilities().admit_list_at(prefix.as_str(), &options)?;
        let fail = |error: Error| self.decorate(error, Operation::ListAt, Some(prefix.as_str()));
        let open = self.open_handle(Operation::ListAt)?;
        let snapshot = open.database.view().snapshot_at(at).map_err(fail)?;
        // What was there then is listed, also where its time is over by now.
        Ok(list::listing(
            &open.database,
            (snapshot, Timestamp::from_millis(0)),
            self.namespace(),
            prefix,
            &options,
            open.timeout(options.timeout),
            self.endpoint(),
        ))
    }

    async fn versions_with(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>> {
        let fail = |error: Error| self.decorate(error, Operation::Versions, Some(key.as_str()));
        let open = self.open_handle(Operation::Versions)?;
        let (database, name) = (Arc::clone(&open.database), key.clone());
        let native = self.namespace().native(key);
        let limit = options.limit.unwrap_or(usize::MAX);
        let reading = blocking(move || database.view().versions(&native, &name, limit));
        within(open.timeout(options.timeout), reading).await.map_err(fail)
    }

    async fn compact_with(&self, up_to: Version, options: CallOptions) -> Result<Version> {
        let fail = |error: Error| self.decorate(error, Operation::Compact, None);
        let open = self.open_handle(Operation::Compact)?;
        let write = Write::Compact { up_to: up_to.get() };
        match open.write(write, Fences::None, options.timeout).await.map_err(fail)? {
            Outcome::Oldest(oldest) => Ok(oldest),
            other => Err(fail(unexpected(&other))),
        }
    }
}
