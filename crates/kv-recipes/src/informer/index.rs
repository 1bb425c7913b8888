//! Finding entries of a cached tree by what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kv_core::{Entry, Key};
use parking_lot::Mutex;

use super::cache::{Cache, Indexing};
use super::changes::Change;

/// The entries of an [`Informer`](super::Informer) by values that a function finds in them.
///
/// It is as fresh as the informer: one read of it sees the entries of one moment. It keeps the watch of the
/// informer going.
pub struct Index<I> {
    keys: Arc<Keys<I>>,
    cache: Arc<Cache>,
    /// What keeps the informer going.
    _informer: Arc<dyn fmt::Debug + Send + Sync>,
}

/// The function by which entries are found.
type Of<I> = Box<dyn Fn(&Entry) -> Vec<I> + Send + Sync>;

struct Keys<I> {
    of: Of<I>,
    /// Locked only while the cache is.
    by_value: Mutex<BTreeMap<I, BTreeSet<Key>>>,
}

impl<I: Ord + Send + 'static> Indexing for Keys<I> {
    fn apply(&self, change: &Change) {
        let mut by_value = self.by_value.lock();
        for value in change.old.iter().flat_map(&self.of) {
            if let Some(keys) = by_value.get_mut(&value) {
                keys.remove(&change.key);
                if keys.is_empty() {
                    by_value.remove(&value);
                }
            }
        }
        for value in change.new.iter().flat_map(&self.of) {
            by_value.entry(value).or_default().insert(change.key.clone());
        }
    }
}

impl<I: Ord + Send + 'static> Index<I> {
    pub(super) fn new(cache: Arc<Cache>, informer: Arc<dyn fmt::Debug + Send + Sync>, of: Of<I>) -> Self {
        let keys = Arc::new(Keys { of, by_value: Mutex::default() });
        cache.add_index(Arc::clone(&keys) as Arc<dyn Indexing>);
        Self { keys, cache, _informer: informer }
    }

    /// The entries in which the function finds this value, in key order.
    #[must_use]
    pub fn get(&self, value: &I) -> Vec<Entry> {
        self.cache.read(|state| {
            let by_value = self.keys.by_value.lock();
            let keys = by_value.get(value).into_iter().flatten();
            keys.filter_map(|key| state.get(key)).cloned().collect()
        })
    }
}

impl<I: Ord + Clone + Send + 'static> Index<I> {
    /// The values there are, in order.
    #[must_use]
    pub fn values(&self) -> Vec<I> {
        self.cache.read(|_| self.keys.by_value.lock().keys().cloned().collect())
    }
}

impl<I> fmt::Debug for Index<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}
