//! Entries as they were last read, so that reading them again asks sled nothing.
//!
//! A get through sled walks its tree, checks a seal and copies the value. What is kept here costs a
//! look at a hash table. It holds committed entries only: whoever shows a batch lets go of what the
//! batch changed, under the lock that readers hold while they add to it.

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::record::{Record, Value};

/// What an entry takes besides its name and value, roughly.
const OVERHEAD: usize = 192;

/// How many bytes an entry takes on average, to begin with.
const TYPICAL: usize = 512;

/// Entries by native name, up to so many bytes in all.
pub(crate) struct EntryCache(Cache<String, Record, Bytes>);

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<String, Record> for Bytes {
    fn weight(&self, native: &String, record: &Record) -> u64 {
        (OVERHEAD + native.len() + record.value.len()) as u64
    }
}

impl EntryCache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Cache::with_weighter(bytes / TYPICAL, bytes as u64, Bytes))
    }

    pub(crate) fn get(&self, native: &str) -> Option<Record> {
        self.0.get(native)
    }

    /// Keeps a record, unless its value is in chunks: those are read from sled in any case.
    pub(crate) fn keep(&self, native: &str, record: &Record) {
        if matches!(record.value, Value::Inline(_)) {
            self.0.insert(native.to_owned(), record.clone());
        }
    }

    pub(crate) fn forget(&self, native: &str) {
        self.0.remove(native);
    }

    pub(crate) fn forget_all(&self) {
        self.0.clear();
    }
}

impl std::fmt::Debug for EntryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryCache").field("entries", &self.0.len()).finish_non_exhaustive()
    }
}
