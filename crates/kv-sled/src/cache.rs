//! Entries as they were last read, so that reading them again asks sled nothing.
//!
//! A get through sled walks its tree, checks a seal and copies the value. What is kept here costs a
//! look at a hash table. It holds committed entries only: whoever shows a batch lets go of what the
//! batch changed, under the lock that readers hold while they add to it.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::record::Record;

/// What an entry takes besides its name and value, roughly.
const OVERHEAD: usize = 256;

/// How many bytes an entry takes on average, to begin with.
const TYPICAL: usize = 512;

/// Entries by native name with their whole values, up to so many bytes in all.
pub(crate) struct EntryCache(Cache<String, (Record, Bytes), InBytes>);

#[derive(Clone, Debug)]
struct InBytes;

impl Weighter<String, (Record, Bytes)> for InBytes {
    fn weight(&self, native: &String, (_, value): &(Record, Bytes)) -> u64 {
        (OVERHEAD + native.len() + value.len()) as u64
    }
}

impl EntryCache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Cache::with_weighter(bytes / TYPICAL, bytes as u64, InBytes))
    }

    pub(crate) fn get(&self, native: &str) -> Option<(Record, Bytes)> {
        self.0.get(native)
    }

    pub(crate) fn keep(&self, native: &str, entry: &(Record, Bytes)) {
        self.0.insert(native.to_owned(), entry.clone());
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

#[cfg(test)]
mod tests {
    use crate::record::{StoredExpiry, Value};

    use super::*;

    #[test]
    fn it_holds_no_more_than_it_may() {
        const MAX: usize = 8 << 20;
        let cache = EntryCache::new(MAX);
        for n in 0..1024 {
            let value = Bytes::from(vec![0; 64 << 10]);
            let record = Record {
                namespace: 0,
                version: n,
                created: n,
                expiry: StoredExpiry::Never,
                value: Value::Inline(value.clone()),
            };
            cache.keep(&n.to_string(), &(record, value));
        }
        let kept = (0..1024).filter(|n: &i32| cache.get(&n.to_string()).is_some()).count();
        assert!(kept > 0 && kept * (64 << 10) <= MAX, "{kept} values of 64 KiB in {MAX} bytes");
    }
}
