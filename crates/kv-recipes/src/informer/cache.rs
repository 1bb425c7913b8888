//! The entries of a cached tree, with what is kept in step with them.

use std::fmt;
use std::sync::{Arc, Weak};

use kv_core::{Error, Result, WatchEvent, WatchState};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::changes::{Change, Feed};

/// Something that is kept in step with the entries. Called while they are locked.
pub(super) trait Indexing: Send + Sync {
    fn apply(&self, change: &Change);
}

/// How far it is.
#[derive(Clone, Debug, Default)]
struct Progress {
    is_ready: bool,
    /// Why the entries may be behind.
    trouble: Option<Error>,
    end: Option<Error>,
}

pub(super) struct Cache {
    inner: RwLock<Inner>,
    progress: watch::Sender<Progress>,
}

struct Inner {
    state: WatchState,
    indexes: Vec<Weak<dyn Indexing>>,
    feeds: Vec<Weak<Feed>>,
}

impl Cache {
    pub(super) fn new() -> Self {
        let inner = Inner { state: WatchState::new(), indexes: Vec::new(), feeds: Vec::new() };
        Self { inner: RwLock::new(inner), progress: watch::Sender::new(Progress::default()) }
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&WatchState) -> T) -> T {
        look(&self.inner.read().state)
    }

    /// Takes an event of the watch and hands on what it changes.
    pub(super) fn apply(&self, event: WatchEvent) {
        let is_synced = event == WatchEvent::Synced;
        let relisted = is_synced && self.progress.borrow().is_ready;
        let mut inner = self.inner.write();
        let changes = inner.state.apply(event);
        if !changes.is_empty() {
            inner.hand_on(changes.into_iter().map(|change| Change::new(change, relisted)).collect());
        }
        drop(inner);
        if is_synced {
            self.progress.send_modify(|progress| (progress.is_ready, progress.trouble) = (true, None));
        }
    }

    pub(super) fn trouble(&self, error: Error) {
        self.progress.send_modify(|progress| progress.trouble = Some(error));
    }

    pub(super) fn end(&self, error: Error) {
        let inner = self.inner.write();
        for feed in inner.feeds.iter().filter_map(Weak::upgrade) {
            feed.end(error.clone());
        }
        self.progress.send_modify(|progress| progress.end = Some(error));
    }

    /// Why the entries may be behind.
    pub(super) fn problem(&self) -> Option<Error> {
        let progress = self.progress.borrow();
        progress.end.clone().or_else(|| progress.trouble.clone())
    }

    /// Waits until the first state is complete.
    pub(super) async fn ready(&self) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let is_known = |progress: &Progress| progress.is_ready || progress.end.is_some();
        // The sender lives in `self`, so this cannot fail.
        match progress.wait_for(is_known).await {
            Ok(progress) if !progress.is_ready => progress.end.clone().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    pub(super) fn add_index(&self, index: Arc<dyn Indexing>) {
        let mut inner = self.inner.write();
        for entry in inner.state.entries() {
            index.apply(&Change::appeared(entry.clone()));
        }
        inner.indexes.push(Arc::downgrade(&index));
    }

    /// A follower from now on, with the entries there are as its first changes.
    pub(super) fn follow(&self) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        let mut inner = self.inner.write();
        feed.push(inner.state.entries().cloned().map(Change::appeared));
        if let Some(error) = self.progress.borrow().end.clone() {
            feed.end(error);
        }
        inner.feeds.push(Arc::downgrade(&feed));
        feed
    }
}

impl Inner {
    fn hand_on(&mut self, changes: Vec<Change>) {
        self.indexes.retain(|index| index.strong_count() > 0);
        for index in self.indexes.iter().filter_map(Weak::upgrade) {
            changes.iter().for_each(|change| index.apply(change));
        }
        self.feeds.retain(|feed| feed.strong_count() > 0);
        for feed in self.feeds.iter().filter_map(Weak::upgrade) {
            feed.push(changes.iter().cloned());
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}
