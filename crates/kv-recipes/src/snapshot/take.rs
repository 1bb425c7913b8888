//! How a snapshot is taken.

use std::time::Duration;

use kv_core::{Entry, Error, ErrorKind, Guarantee, Operation, Prefix, Result, Store, StoreExt, Version};

use super::state::{Consistent, Snapshot};
use crate::names::Prefixes;

/// How [`Snapshot::take_with`] goes about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// The most lists that are made on a store whose list is not the state at one version. The default is
    /// 20; at least two are made.
    pub lists: u32,
    /// Whether a snapshot that could not be confirmed is returned all the same. The default is to refuse
    /// it.
    pub fuzzy: bool,
    /// The deadline of each request, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self { lists: 20, fuzzy: false, timeout: None }
    }
}

impl SnapshotOptions {
    /// Changes the most lists that are made on a store whose list is not the state at one version.
    #[must_use]
    pub fn with_lists(mut self, lists: u32) -> Self {
        self.lists = lists;
        self
    }

    /// Returns the last list as [`Consistent::Fuzzy`] where none could be confirmed.
    #[must_use]
    pub fn allow_fuzzy(mut self) -> Self {
        self.fuzzy = true;
        self
    }

    /// Gives each request a deadline of its own, in place of the store's default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl Snapshot {
    /// Takes a snapshot of what lies strictly below these prefixes.
    ///
    /// # Errors
    ///
    /// `PreconditionFailed` where the store changed from list to list to the end; `InvalidArgument` without
    /// a prefix; what a list fails with.
    pub async fn take<S, P>(store: &S, prefixes: impl IntoIterator<Item = P>) -> Result<Self>
    where
        S: Store + ?Sized,
        P: TryInto<Prefix, Error: Into<Error>>,
    {
        Self::take_with(store, prefixes, SnapshotOptions::default()).await
    }

    /// Takes a snapshot with these options.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub async fn take_with<S, P>(
        store: &S,
        prefixes: impl IntoIterator<Item = P>,
        options: SnapshotOptions,
    ) -> Result<Self>
    where
        S: Store + ?Sized,
        P: TryInto<Prefix, Error: Into<Error>>,
    {
        let prefixes = Prefixes::new(prefixes, Operation::List)?;
        let mut latest = list(store, &prefixes, &options).await?;
        if store.capabilities().guarantees(Guarantee::ListSnapshot) {
            let consistency = latest.as_of.map_or(Consistent::Confirmed, Consistent::AtVersion);
            return Ok(latest.into_snapshot(prefixes, consistency));
        }
        for _ in 1..options.lists.max(2) {
            let again = list(store, &prefixes, &options).await?;
            if latest.is_same(&again) {
                return Ok(latest.into_snapshot(prefixes, Consistent::Confirmed));
            }
            latest = again;
        }
        if options.fuzzy {
            return Ok(latest.into_snapshot(prefixes, Consistent::Fuzzy));
        }
        Err(Error::new(ErrorKind::PreconditionFailed { current: latest.as_of })
            .with_operation(Operation::List)
            .with_backend(store.capabilities().backend)
            .with_key(prefixes.ancestor().as_str())
            .with_detail(format!("no two of {} lists in a row agreed", options.lists.max(2))))
    }
}

/// One list of all prefixes.
struct Listed {
    as_of: Option<Version>,
    entries: Vec<Entry>,
}

impl Listed {
    /// Whether everything in it stood still from one list to the next. Where the start of the watch moved,
    /// something may have come or gone in between.
    fn is_same(&self, again: &Self) -> bool {
        let same = |(a, b): (&Entry, &Entry)| a.key == b.key && a.version == b.version;
        self.as_of == again.as_of
            && self.entries.len() == again.entries.len()
            && self.entries.iter().zip(&again.entries).all(same)
    }

    fn into_snapshot(self, prefixes: Prefixes, consistency: Consistent) -> Snapshot {
        Snapshot { prefixes, consistency, as_of: self.as_of, entries: self.entries }
    }
}

async fn list<S: Store + ?Sized>(
    store: &S,
    prefixes: &Prefixes,
    options: &SnapshotOptions,
) -> Result<Listed> {
    let mut list = prefixes.range();
    list.timeout = options.timeout;
    let mut listing = store.list_with(&prefixes.ancestor(), list).await?;
    let as_of = listing.as_of();
    let mut entries = Vec::new();
    while let Some(item) = listing.next().await {
        entries.extend(item?.into_entry().filter(|entry| prefixes.covers(&entry.key)));
    }
    Ok(Listed { as_of, entries })
}
