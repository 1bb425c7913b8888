//! Keys as Consul names them, and which names are not entries.

use kv_backend::Namespace;
use kv_core::{Entry, Error, ErrorKind, Key, Prefix, Result, Version, WatchTarget};

use crate::client::scope::Scope;
use crate::client::wire::Kv;

/// Flags of a key that Consul's own lock made.
pub(crate) const LOCK_FLAG: u64 = 3_304_740_253_564_472_344;

/// Flags of the keys of a semaphore, which `consul lock -n 2` makes.
pub(crate) const SEMAPHORE_FLAG: u64 = 16_210_313_421_097_356_768;

/// The last segment of a lock's record, as `consul lock` names it.
const RECORD: &str = ".lock";

/// Where the record of the lock `k` lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockLayout {
    /// In `k/.lock`, as `consul lock k` has it, so that it excludes us and we exclude it.
    #[default]
    Record,
    /// In `k` itself, as programs on the `Lock` of Consul's Go client have it. Then `k` cannot hold an
    /// entry too.
    Key,
}

/// How the keys of one store lie in Consul's key space.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: Namespace,
    layout: LockLayout,
}

impl Names {
    /// The keys below `namespace`, with lock records laid out so.
    pub(crate) fn new(namespace: &Prefix, layout: LockLayout) -> Result<Self> {
        Ok(Self { namespace: Namespace::new(namespace)?, layout })
    }

    /// The native name of a key.
    pub(crate) fn native(&self, key: &Key) -> String {
        self.namespace.native(key)
    }

    /// What the native names below `prefix` begin with.
    pub(crate) fn native_prefix(&self, prefix: &Prefix) -> String {
        self.namespace.native_prefix(prefix)
    }

    /// The native names a watch is about.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a target that this crate does not know.
    pub(crate) fn scope(&self, target: &WatchTarget) -> Result<Scope> {
        Ok(match target {
            WatchTarget::Key(key) => Scope::Key(self.native(key)),
            WatchTarget::Prefix(prefix) => Scope::Tree(self.native_prefix(prefix)),
            WatchTarget::Tree(key) => Scope::Branch(self.native(key)),
            _ => return Err(Error::unsupported("this kind of watch target")),
        })
    }

    /// The key of an entry; `None` for lock records and for foreign names that are no keys.
    pub(crate) fn entry(&self, native: &str, flags: u64) -> Option<Key> {
        if flags == SEMAPHORE_FLAG || (self.locks_keys() && flags == LOCK_FLAG) {
            return None;
        }
        self.namespace.key(native).filter(|key| key.name() != RECORD)
    }

    /// Whether names alone tell records from entries.
    pub(crate) fn names_tell_records(&self) -> bool {
        !self.locks_keys()
    }

    /// Refuses a key that can only be the record of a lock.
    pub(crate) fn check_writable(&self, key: &Key) -> Result<()> {
        if key.name() == RECORD {
            return Err(is_record(key, "names ending in \"/.lock\" are the records of locks on Consul"));
        }
        Ok(())
    }

    /// The native name of the record of the lock `key`.
    pub(crate) fn lock_record(&self, key: &Key) -> String {
        let native = self.native(key);
        if self.locks_keys() { native } else { format!("{native}/{RECORD}") }
    }

    /// The name of the lock whose record has this native name; `None` if it is none of ours.
    pub(crate) fn lock(&self, native: &str) -> Option<Key> {
        if self.locks_keys() {
            return self.namespace.key(native).filter(|key| key.name() != RECORD);
        }
        self.namespace.key(native.strip_suffix(RECORD)?.strip_suffix('/')?)
    }

    /// Whether the lock `k` is taken on the key `k` itself.
    pub(crate) fn locks_keys(&self) -> bool {
        self.layout == LockLayout::Key
    }
}

/// The refusal of a write to a lock's record.
pub(crate) fn is_record(key: &Key, why: &str) -> Error {
    Error::new(ErrorKind::InvalidKey { reason: why.to_owned() }).with_key(key.as_str())
}

/// What Consul shows of a key, as an entry.
pub(crate) fn to_entry(key: Key, kv: &Kv) -> Result<Entry> {
    let value = kv.bytes().map_err(|error| error.with_key(key.as_str()))?;
    Ok(Entry::new(key, value, Version::new(kv.modify_index), Version::new(kv.create_index)))
}

/// Whether a key says of itself that it is of a lock or a semaphore.
pub(crate) fn has_lock_flags(kv: &Kv) -> bool {
    matches!(kv.flags, LOCK_FLAG | SEMAPHORE_FLAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layout: LockLayout) -> Names {
        Names::new(&Prefix::new("app").unwrap(), layout).unwrap()
    }

    #[test]
    fn records_are_no_entries() {
        let ours = names(LockLayout::Record);
        assert_eq!(ours.entry("app/a", 5), Some(Key::new("a").unwrap()));
        assert_eq!(ours.entry("app/a/.lock", LOCK_FLAG), None);
        assert_eq!(ours.entry("app/a/0123", SEMAPHORE_FLAG), None);
        assert_eq!(ours.entry("app/leader", LOCK_FLAG), Some(Key::new("leader").unwrap()));
        assert_eq!(names(LockLayout::Key).entry("app/leader", LOCK_FLAG), None);
        for foreign in ["app/", "app/dir/", "apple/a", "app//a"] {
            assert_eq!(ours.entry(foreign, 0), None, "{foreign}");
        }
    }

    #[test]
    fn the_record_lies_where_the_native_tool_puts_it() {
        let key = Key::new("jobs/nightly").unwrap();
        assert_eq!(names(LockLayout::Record).lock_record(&key), "app/jobs/nightly/.lock");
        assert_eq!(names(LockLayout::Key).lock_record(&key), "app/jobs/nightly");
        assert_eq!(names(LockLayout::Record).lock("app/jobs/nightly/.lock"), Some(key.clone()));
        assert_eq!(names(LockLayout::Key).lock("app/jobs/nightly"), Some(key.clone()));
        for other in ["app/jobs/nightly", "app/.lock", "app/a.lock", "apple/a/.lock", "app/a//.lock"] {
            assert_eq!(names(LockLayout::Record).lock(other), None, "{other}");
        }
        let record = Key::new("jobs/.lock").unwrap();
        assert!(names(LockLayout::Record).check_writable(&record).is_err());
        assert!(names(LockLayout::Record).check_writable(&key).is_ok());
    }
}
