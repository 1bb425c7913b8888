//! What a record on the server is to us: an entry, the record of a lock, or a foreign name.

use kv_backend::Namespace;
use kv_core::text::escape;
use kv_core::{Entry, Key, Version};

use crate::client::Record;

/// The version a revision stands for.
pub(crate) fn version(revision: i64) -> Version {
    Version::new(u64::try_from(revision).unwrap_or(0))
}

/// The lease id a name's last segment spells, as the lock layout of etcd's own tools has it:
/// lowercase hexadecimal without leading zeros.
pub(crate) fn spelt_lease(name: &[u8]) -> Option<i64> {
    let last = name.rsplit(|byte| *byte == b'/').next()?;
    let hex = last.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !hex || last.is_empty() || last[0] == b'0' {
        return None;
    }
    // Ids above i64::MAX are not given out.
    i64::from_str_radix(std::str::from_utf8(last).ok()?, 16).ok()
}

/// Whether it is the record of a lock: a name that ends in the id of the very lease it lives by.
pub(crate) fn is_lock(record: &Record) -> bool {
    record.lease != 0 && spelt_lease(&record.name) == Some(record.lease)
}

/// Whether it can be what is left of a lock's record that was written over: nothing but its history can
/// say so, because an entry can have such a name too.
pub(crate) fn may_have_been_lock(record: &Record) -> bool {
    record.version > record.created && !is_lock(record) && spelt_lease(&record.name).is_some()
}

/// The key a name stands for; `None` for one that is not ours.
pub(crate) fn key(namespace: &Namespace, name: &[u8]) -> Option<Key> {
    let key = std::str::from_utf8(name).ok().and_then(|name| namespace.key(name));
    if key.is_none() {
        tracing::debug!(
            name = %escape(&String::from_utf8_lossy(name)),
            "left out a name that is not a key of this store"
        );
    }
    key
}

/// The entry a record is, if it is one.
pub(crate) fn entry(namespace: &Namespace, record: Record) -> Option<Entry> {
    if is_lock(&record) {
        return None;
    }
    let key = key(namespace, &record.name)?;
    Some(Entry::new(key, record.value, version(record.version), version(record.created)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(name: &str, lease: i64) -> Record {
        Record { name: name.into(), value: Bytes::new(), version: 1, created: 1, lease }
    }

    #[test]
    fn only_a_name_that_ends_in_its_own_lease_is_a_lock() {
        let lease = 0x694d_77aa_9e38_260f;
        assert!(is_lock(&record("a/694d77aa9e38260f", lease)));
        for (name, lease) in [
            ("a/694d77aa9e38260f", 0),
            ("a/694d77aa9e38260f", 1),
            ("a/694D77AA9E38260F", lease),
            ("a/0694d77aa9e38260f", lease),
            ("a/694d77aa9e38260f/b", lease),
            ("a/", 10),
            ("a/b ", 11),
        ] {
            assert!(!is_lock(&record(name, lease)), "{name}");
        }
        assert_eq!(spelt_lease(b"x/ffffffffffffffff"), None);
        assert_eq!(spelt_lease(b"x/7fffffffffffffff"), Some(i64::MAX));
    }
}
