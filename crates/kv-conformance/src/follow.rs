//! A watch's reader that keeps the state as the contract says a consumer may, and fails the case on
//! every event the contract forbids. The state itself is core's fold of the events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use kv_core::{
    Entry, Key, Store, StoreExt, Version, Watch, WatchEvent, WatchFilter, WatchOptions, WatchStart,
    WatchState, WatchTarget,
};

use crate::fixture::PATIENCE;

/// Follows one watch.
pub(crate) struct Follower {
    watch: Watch,
    target: WatchTarget,
    filter: WatchFilter,
    /// The entries that events told of: the last complete state.
    pub(crate) state: WatchState,
    /// Every event, in the order it came.
    pub(crate) events: Vec<WatchEvent>,
    /// The newest version seen of each key, and whether it was a put.
    newest: BTreeMap<Key, (Version, bool)>,
    /// Nothing at or below this may come as a change.
    start: Version,
    /// Whether entries are being delivered that existed before: up to `Synced`.
    pub(crate) syncing: bool,
}

impl Follower {
    pub(crate) async fn start(
        store: &impl Store,
        target: impl Into<WatchTarget>,
        options: WatchOptions,
    ) -> Result<Self> {
        let target = target.into();
        let (filter, syncing) = (options.filter, options.start == WatchStart::Initial);
        let start = match options.start {
            WatchStart::After(version) => version,
            _ => Version::ZERO,
        };
        let watch = store.watch_with(target.clone(), options).await?;
        Ok(Self {
            watch,
            target,
            filter,
            state: if syncing { WatchState::new() } else { WatchState::of([]) },
            events: Vec::new(),
            newest: BTreeMap::new(),
            start,
            syncing,
        })
    }

    /// From now on.
    pub(crate) async fn now(store: &impl Store, target: impl Into<WatchTarget>) -> Result<Self> {
        Self::start(store, target, WatchOptions::default()).await
    }

    /// With the entries there are, read up to `Synced`.
    pub(crate) async fn synced(store: &impl Store, target: impl Into<WatchTarget>) -> Result<Self> {
        let mut follower = Self::start(store, target, WatchOptions::default().with_initial()).await?;
        follower.until("Synced", |follower| !follower.syncing).await?;
        Ok(follower)
    }

    /// The next event, which must come soon.
    pub(crate) async fn next(&mut self, what: &str) -> Result<WatchEvent> {
        let Ok(event) = tokio::time::timeout(PATIENCE, self.watch.next()).await else {
            bail!("the watch did not deliver {what} within {PATIENCE:?}; it delivered {:?}", self.tail());
        };
        let Some(event) = event else { bail!("the watch ended without saying why, before {what}") };
        let event = event?;
        self.take(event.clone())?;
        Ok(event)
    }

    /// The next event if one comes within `limit`; the future it waits on is dropped otherwise.
    pub(crate) async fn poll_for(&mut self, limit: Duration) -> Result<Option<WatchEvent>> {
        let Ok(event) = tokio::time::timeout(limit, self.watch.next()).await else { return Ok(None) };
        let Some(event) = event else { bail!("the watch ended without saying why") };
        let event = event?;
        self.take(event.clone())?;
        Ok(Some(event))
    }

    /// Reads on until `done`.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE * 2;
        while !done(self) {
            ensure!(Instant::now() < deadline, "the watch went on without {what}: {:?}", self.tail());
            self.next(what).await?;
        }
        Ok(())
    }

    /// Reads on until the newest that was told of `key` is `version`.
    pub(crate) async fn until_version(&mut self, key: &Key, version: Version) -> Result<()> {
        self.until(&format!("{key:?} at version {version}"), |follower| {
            follower.newest.get(key).is_some_and(|(newest, put)| *put && *newest == version)
        })
        .await
    }

    /// Takes these entries for known, as from a list before the watch.
    pub(crate) fn begin_with(&mut self, entries: Vec<Entry>) {
        self.state = WatchState::of(entries);
    }

    /// Reads on until the state is exactly `expected`.
    pub(crate) async fn until_state(&mut self, expected: &[Entry]) -> Result<()> {
        let what = format!("a state of these {} entries: {:?}", expected.len(), summary(expected));
        self.until(&what, |follower| !follower.syncing && follower.state.entries().eq(expected)).await
    }

    /// Reads on until a deletion of `key` is told.
    pub(crate) async fn until_deleted(&mut self, key: &Key) -> Result<kv_core::Deletion> {
        loop {
            let event = self.next(&format!("the deletion of {key:?}")).await?;
            match event {
                WatchEvent::Delete(deletion) if deletion.key == *key => return Ok(deletion),
                _ => {}
            }
        }
    }

    /// The versions of the puts of `key` that were told, in order.
    pub(crate) fn versions_of(&self, key: &Key) -> Vec<Version> {
        self.events
            .iter()
            .filter_map(|event| match event {
                WatchEvent::Put(entry) if entry.key == *key => Some(entry.version),
                _ => None,
            })
            .collect()
    }

    /// The versions of all puts that were told.
    pub(crate) fn put_versions(&self) -> impl Iterator<Item = Version> {
        self.events.iter().filter_map(|event| match event {
            WatchEvent::Put(entry) => Some(entry.version),
            _ => None,
        })
    }

    /// The keys that events named.
    pub(crate) fn named(&self) -> Vec<String> {
        let mut named: Vec<String> = self
            .events
            .iter()
            .filter_map(|event| match event {
                WatchEvent::Put(entry) => Some(entry.key.to_string()),
                WatchEvent::Delete(deletion) => Some(deletion.key.to_string()),
                _ => None,
            })
            .collect();
        named.dedup();
        named
    }

    /// Whether a gap was told.
    pub(crate) fn resynced(&self) -> bool {
        self.events.contains(&WatchEvent::Resync)
    }

    /// Whether events so far were enough to know what a key was, so that a second deletion in a row
    /// is one too many.
    fn sees_puts(&self) -> bool {
        self.filter == WatchFilter::All
    }

    fn take(&mut self, event: WatchEvent) -> Result<()> {
        ensure!(self.filter.admits(&event), "the filter {:?} let through {event:?}", self.filter);
        match &event {
            WatchEvent::Put(entry) => self.take_put(entry)?,
            WatchEvent::Delete(deletion) => self.take_delete(deletion)?,
            WatchEvent::Resync => {
                self.newest.clear();
                self.syncing = true;
            }
            WatchEvent::Synced => {
                ensure!(self.syncing, "Synced without Resync, and not for the entries at the start");
                self.syncing = false;
            }
            other => bail!("an event of no known kind: {other:?}"),
        }
        self.state.apply(event.clone());
        self.events.push(event);
        Ok(())
    }

    fn take_put(&mut self, entry: &Entry) -> Result<()> {
        let key = &entry.key;
        ensure!(self.target.matches(key), "a watch of {:?} told of {key:?}", self.target);
        ensure!(
            entry.created <= entry.version,
            "{key:?} is at version {} and created later, at {}",
            entry.version,
            entry.created
        );
        if !self.syncing {
            ensure!(
                entry.version > self.start,
                "{key:?} was told at version {}, older than the start {}",
                entry.version,
                self.start
            );
        }
        if let Some((newest, _)) = self.newest.get(key) {
            ensure!(
                entry.version > *newest,
                "{key:?} was told at version {} after version {newest}",
                entry.version
            );
        }
        self.newest.insert(key.clone(), (entry.version, true));
        Ok(())
    }

    fn take_delete(&mut self, deletion: &kv_core::Deletion) -> Result<()> {
        let key = &deletion.key;
        ensure!(self.target.matches(key), "a watch of {:?} told that {key:?} was deleted", self.target);
        ensure!(!self.syncing, "{key:?} was told deleted between the entries before Synced");
        let newest = self.newest.get(key).copied();
        if let (Some(version), Some((newest, _))) = (deletion.version, newest) {
            ensure!(version > newest, "{key:?} was told deleted at version {version} after version {newest}");
        }
        if self.sees_puts() {
            ensure!(
                newest.is_none_or(|(_, put)| put),
                "{key:?} was told deleted twice without a put in between"
            );
        }
        let version = deletion.version.or(newest.map(|(version, _)| version));
        self.newest.insert(key.clone(), (version.unwrap_or_default(), false));
        Ok(())
    }

    /// The last events, for a failure's words.
    fn tail(&self) -> &[WatchEvent] {
        &self.events[self.events.len().saturating_sub(5)..]
    }
}

/// Entries in the few words a failure has room for.
fn summary(entries: &[Entry]) -> Vec<(&str, u64)> {
    entries.iter().take(20).map(|entry| (entry.key.as_str(), entry.version.get())).collect()
}
