//! Watch fan-out: one bounded log of changes that all watches of a store read, each at its own pace.

mod log;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::HashSet;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use kv_core::{Error, ErrorKind, Operation, Result, Version, Watch, WatchOptions, WatchStart, WatchTarget};
use parking_lot::Mutex;

pub use self::log::{Change, HubOptions};
pub use self::state::{Page, Pages, State, StateFor};

use self::log::Log;
use self::stream::{HubWatch, Phase};
use self::topics::{Scope, Topics, WatchId};
use crate::handle::HandleId;
use crate::namespace::Namespace;
use crate::wakes::Wakes;

/// The change log of one in-process store, and the watches that read it.
///
/// - Writers never wait for a watch: publishing takes a look-up for the key and one for each prefix
///   above it, and wakes the watches that match and have read everything, however many others there
///   are.
/// - A watch that does not read costs bounded memory: it shares the log, and of the changes that
///   match it, those the log has let go are kept up to 1024 and 256 KiB. Only when more are unread it
///   gets `Resync`, the state and `Synced`. Changes that do not match it never make it late.
/// - The log is the history that watches can begin in.
///
/// Clones are one hub.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    backend: &'static str,
    inner: Mutex<Inner>,
}

struct Inner {
    log: Log,
    topics: Topics,
    open: HashSet<HandleId>,
    next_watch: u64,
}

impl Hub {
    /// An empty log: watches can begin after `version`, and at no earlier one.
    ///
    /// A store that keeps its history on disk gives the version before the oldest change there and
    /// then publishes what it has.
    #[must_use]
    pub fn new(backend: &'static str, options: HubOptions, version: Version) -> Self {
        let inner = Inner {
            log: Log::new(options, version),
            topics: Topics::default(),
            open: HashSet::new(),
            next_watch: 0,
        };
        Self { shared: Arc::new(Shared { backend, inner: Mutex::new(inner) }) }
    }

    /// Lets a handle watch.
    pub fn open(&self, handle: HandleId) {
        self.shared.inner.lock().open.insert(handle);
    }

    /// Ends the watches of a handle, each with `Closed`, and lets it begin no other.
    pub fn close(&self, handle: HandleId) -> Wakes {
        let mut inner = self.shared.inner.lock();
        inner.open.remove(&handle);
        inner.topics.close(handle)
    }

    /// Adds changes to the log, all visible in one step.
    ///
    /// Called inside the store's critical section, so that the log is in the order of the versions,
    /// and when the store's state has the changes already. Versions never go back; changes of one
    /// transaction may share one, changes of one key may not.
    pub fn publish(&self, changes: impl IntoIterator<Item = Change>) -> Wakes {
        let mut wakes = Wakes::none();
        let mut inner = self.shared.inner.lock();
        let Inner { log, topics, .. } = &mut *inner;
        for change in changes {
            let change = Arc::new(change);
            let is_listed = topics.publish(log.next(), &change, &mut wakes);
            log.push(change, is_listed);
            while let Some((place, gone)) = log.overflow() {
                topics.forget(place, &gone);
            }
        }
        wakes
    }

    /// Forgets every change up to `version`, told or not: watches can begin after it, and each there
    /// is gets `Resync` and the state. For a store that changed in a way it cannot tell.
    ///
    /// Called where [`publish`](Self::publish) would be.
    pub fn lose_all(&self, version: Version) -> Wakes {
        let mut inner = self.shared.inner.lock();
        let Inner { log, topics, .. } = &mut *inner;
        log.clear(version);
        topics.lose_all(log.next())
    }

    /// Lets go of every change up to `version`: from now on watches can begin after it, and at no earlier
    /// one. A watch that has not read them yet keeps those that match it, within the bounds of one that
    /// is slow.
    ///
    /// Called where [`publish`](Self::publish) would be.
    pub fn compact(&self, version: Version) {
        let mut inner = self.shared.inner.lock();
        let Inner { log, topics, .. } = &mut *inner;
        while let Some((place, gone)) = log.compact(version) {
            topics.forget(place, &gone);
        }
    }

    /// The version of the last change that was published, or the one the log began with.
    #[must_use]
    pub fn newest(&self) -> Version {
        self.shared.inner.lock().log.newest()
    }

    /// Begins a watch of `target`, which is relative to `namespace`. When it returns, every later
    /// change is delivered or covered by a `Resync`; for [`WatchStart::Initial`] the first page of
    /// the state has been read.
    ///
    /// # Errors
    ///
    /// `Closed` if the handle is; `Compacted` if the changes asked for are gone; what reading the
    /// state fails with.
    pub async fn watch(
        &self,
        handle: HandleId,
        namespace: &Arc<Namespace>,
        state: Arc<dyn State>,
        target: WatchTarget,
        options: WatchOptions,
    ) -> Result<Watch> {
        let mut watch = self.join(handle, namespace, state, &target, &options).map_err(|error| {
            error.with_operation(Operation::Watch).with_backend(self.shared.backend).with_key(target.path())
        })?;
        if options.start == WatchStart::Initial {
            // Where the version it began at goes while it is read, and nothing was delivered yet.
            while !begin_initial(&mut watch).await? {}
        }
        Ok(Watch::new(watch))
    }

    /// The oldest version a watch can begin after.
    #[must_use]
    pub fn oldest(&self) -> Version {
        self.shared.inner.lock().log.complete_after()
    }

    /// How many watches there are.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.shared.inner.lock().topics.watches()
    }

    fn join(
        &self,
        handle: HandleId,
        namespace: &Arc<Namespace>,
        state: Arc<dyn State>,
        target: &WatchTarget,
        options: &WatchOptions,
    ) -> Result<HubWatch> {
        let scope = match target {
            WatchTarget::Key(key) => Scope::Path(namespace.native(key)),
            WatchTarget::Prefix(prefix) => Scope::Path(namespace.native_prefix(prefix)),
            WatchTarget::Tree(key) => Scope::Tree(namespace.native(key)),
            _ => return Err(Error::unsupported("this kind of watch target")),
        };
        let mut inner = self.shared.inner.lock();
        let Inner { log, topics, open, next_watch } = &mut *inner;
        if !open.contains(&handle) {
            return Err(Error::new(ErrorKind::Closed));
        }
        let (position, after) = match options.start {
            WatchStart::Now | WatchStart::Initial => (log.next(), Version::ZERO),
            WatchStart::After(version) => {
                let compacted = |oldest| Error::new(ErrorKind::Compacted { oldest: Some(oldest) });
                (log.after(version).map_err(compacted)?, version)
            }
            _ => return Err(Error::unsupported("this start of a watch")),
        };
        *next_watch += 1;
        let id = WatchId(*next_watch);
        let topic = topics.join(&scope, options.filter, id, handle, log, position);
        Ok(HubWatch {
            shared: Arc::clone(&self.shared),
            topic,
            id,
            namespace: Arc::clone(namespace),
            state,
            target: target.clone(),
            filter: options.filter,
            position,
            after,
            contained: None,
            phase: Phase::Changes,
        })
    }
}

/// Reads the first page of the state. False if the version it was read at is gone.
async fn begin_initial(watch: &mut HubWatch) -> Result<bool> {
    watch.begin_state(StateFor::Initial);
    match poll_fn(|cx| watch.poll_page(cx)).await {
        Err(error) if is_compacted(&error) => Ok(false),
        page => page.map(|_| true),
    }
}

/// Whether the version that was being read is gone.
fn is_compacted(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Compacted { .. })
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("oldest", &self.oldest()).field("watches", &self.watches()).finish()
    }
}
