//! Reading the past: the present state with the changes since taken back.

use std::sync::Arc;

use async_trait::async_trait;
use kv_core::{
    CallOptions, Entry, Error, ErrorKind, History, Key, KeyVersion, ListOptions, Listing, Operation, Prefix,
    Result, Store, Version, VersionsOptions,
};
use tokio::task::consume_budget;

use crate::list::Items;
use crate::name::native;
use crate::record::Record;
use crate::state::{Data, Database, Ordered};
use crate::store::{BACKEND, MemStore, about};

/// Refuses a version that cannot be read.
fn check(database: &Database, data: &Data, at: Version) -> Result<()> {
    let (oldest, newest) = (database.hub.oldest(), data.newest());
    if at > newest {
        return Err(Error::invalid_argument(format!(
            "the version {at} is yet to come: the newest is {newest}"
        )));
    }
    if at < oldest {
        return Err(Error::new(ErrorKind::Compacted { oldest: Some(oldest) }));
    }
    Ok(())
}

impl MemStore {
    fn get_at_now(&self, key: &Key, at: Version) -> Result<Option<Entry>> {
        self.check_open()?;
        let name = native(self.namespace(), key);
        let database = self.database();
        database.read(|data| {
            check(database, data, at)?;
            let change = data.past.of(&name).find(|before| before.version > at);
            let seen = |record: &Record| record.seen_from(self.namespace());
            Ok(match change {
                Some(before) => before.record.as_deref().and_then(seen),
                None => data.record(&name).and_then(seen),
            })
        })
    }

    /// Everything there was at a version.
    fn state_at(&self, at: Version) -> Result<Ordered> {
        self.check_open()?;
        let database = self.database();
        database.read(|data| {
            check(database, data, at)?;
            let mut state = data.snapshot().0;
            for before in data.past.back_to(at) {
                match &before.record {
                    Some(record) => state.insert(before.name.clone(), Arc::clone(record)),
                    None => state.remove(before.name.as_str()),
                };
            }
            Ok(state)
        })
    }

    fn versions_now(&self, key: &Key, limit: usize) -> Result<Vec<KeyVersion>> {
        self.check_open()?;
        let name = native(self.namespace(), key);
        let seen = |record: &Record| record.seen_from(self.namespace());
        self.database().read(|data| {
            let mut versions = Vec::new();
            // What a change took the place of is what the one before it left.
            let mut deleted = None;
            for before in data.past.of(&name) {
                match &before.record {
                    Some(record) => versions.extend(seen(record).map(KeyVersion::put)),
                    None => versions.extend(deleted.take().map(KeyVersion::deleted)),
                }
                deleted = Some(before.version);
            }
            match data.record(&name) {
                Some(record) => versions.extend(seen(record).map(KeyVersion::put)),
                None => versions.extend(deleted.map(KeyVersion::deleted)),
            }
            Ok(versions.split_off(versions.len().saturating_sub(limit)))
        })
    }

    fn compact_now(&self, up_to: Version) -> Result<Version> {
        let database = self.database();
        database.write(|writer| {
            writer.check_open(self.id())?;
            let oldest = database.hub.oldest();
            if up_to <= oldest {
                return Ok(oldest);
            }
            check(database, writer.data, up_to)?;
            database.hub.compact(up_to);
            writer.data.past.forget_up_to(up_to);
            Ok(up_to)
        })
    }
}

#[async_trait]
impl History for MemStore {
    async fn get_at_with(&self, key: &Key, at: Version, _: CallOptions) -> Result<Option<Entry>> {
        consume_budget().await;
        self.get_at_now(key, at).map_err(|error| about(error, Operation::GetAt, key.as_str()))
    }

    async fn list_at_with(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing> {
        self.capabilities().admit_list_at(prefix.as_str(), &options)?;
        consume_budget().await;
        let state = self.state_at(at).map_err(|error| about(error, Operation::ListAt, prefix.as_str()))?;
        let clock = &self.database().clock;
        Ok(Listing::new(Some(at), Items::new(state, self.namespace(), prefix, &options, clock)))
    }

    async fn versions_with(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>> {
        consume_budget().await;
        self.versions_now(key, options.limit.unwrap_or(usize::MAX))
            .map_err(|error| about(error, Operation::Versions, key.as_str()))
    }

    async fn compact_with(&self, up_to: Version, _: CallOptions) -> Result<Version> {
        consume_budget().await;
        self.compact_now(up_to)
            .map_err(|error| error.with_operation(Operation::Compact).with_backend(BACKEND))
    }
}
