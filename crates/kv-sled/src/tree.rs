//! Deleting large subtrees: all at once for everybody who looks, and bit by bit on disk.
//!
//! One batch with a million deletes would hold up everything for half a minute and take gigabytes. So
//! a large subtree is *doomed* by one small record: from its commit on, entries below the prefix that
//! are not newer than it are dead, and nobody sees them. The committer then removes them, a group at
//! a time, also after a restart.

use std::ops::{Bound, ControlFlow};

use kv_backend::{Change, Hub};
use kv_core::{DeleteCause, Entry, Result, Version};

use crate::client::Client;
use crate::name::{NameRange, Namespaces};
use crate::record::{self, Record, Stamp, corrupt, space, unseal};
use crate::view::{native_name, read_value};

/// Subtrees up to this many entries are deleted in one batch.
pub(crate) const SMALL_TREE: u64 = 2048;

/// And up to so many bytes of values, which the batch holds for those who watch.
pub(crate) const MAX_SMALL_BYTES: u64 = 16 << 20;

/// So many bytes of values are read at a time to be told.
const TOLD_AT_ONCE: usize = 4 << 20;

/// A subtree that was deleted and may not all be removed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doomed {
    /// Native: empty, or ending in a slash.
    pub(crate) prefix: String,
    /// Entries up to this version are dead.
    pub(crate) up_to: u64,
    /// The version of the last deletion.
    pub(crate) last: u64,
}

impl Doomed {
    /// Whether this entry is dead.
    pub(crate) fn covers(&self, native: &str, version: u64) -> bool {
        version <= self.up_to && native.starts_with(&self.prefix)
    }

    pub(crate) fn key(&self) -> Vec<u8> {
        record::number_key(space::DOOMED, self.last)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut content = vec![record::FORMAT];
        content.extend_from_slice(&self.up_to.to_le_bytes());
        content.extend_from_slice(self.prefix.as_bytes());
        content
    }

    fn decode(key: &[u8], content: &[u8]) -> Result<Self> {
        let wrong = || corrupt("a deleted subtree is not described as it should be");
        let last = record::number_in(key, 0).ok_or_else(wrong)?;
        let (up_to, prefix) = content.get(1..).and_then(<[u8]>::split_first_chunk::<8>).ok_or_else(wrong)?;
        let prefix = String::from_utf8(prefix.to_vec()).map_err(|_| wrong())?;
        Ok(Self { prefix, up_to: u64::from_le_bytes(*up_to), last })
    }

    /// Those a store was left with.
    pub(crate) fn load(client: &Client) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        let range = (Bound::Included(vec![space::DOOMED]), Bound::Excluded(vec![space::DOOMED + 1]));
        client.scan(range, |key, bytes| {
            all.push(Self::decode(key, unseal(key, bytes)?.0)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// Some of the dead entries that are still there, from a name on.
    pub(crate) fn remains(
        &self,
        client: &Client,
        from: Bound<String>,
        max: usize,
    ) -> Result<Vec<(String, Record, Stamp)>> {
        let mut found = Vec::new();
        let range = NameRange::below(&self.prefix).within(from, Bound::Unbounded);
        if range.is_empty() {
            return Ok(found);
        }
        client.scan(range.data_keys(), |key, bytes| {
            let native = native_name(key)?;
            let (content, stamp) = unseal(key, bytes)?;
            let record = Record::decode(content)?;
            if record.version <= self.up_to {
                found.push((native.to_owned(), record, stamp));
            }
            Ok(if found.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(found)
    }

    /// Tells watches of every deletion, before anything is removed. Their versions are the last ones
    /// before and including `last`, in the order of the names. The first `skipped` are left out, where
    /// nobody would see them. What was dead since `earlier` ones was told then.
    pub(crate) fn publish(
        &self,
        client: &Client,
        earlier: &[Self],
        hub: &Hub,
        namespaces: &mut Namespaces,
        skipped: u64,
    ) -> Result<()> {
        const STEP: usize = 1000;
        let mut version = self.up_to;
        let mut from = Bound::Unbounded;
        loop {
            let found = self.remains(client, from, STEP)?;
            let Some((last, ..)) = found.last() else { return Ok(()) };
            from = Bound::Excluded(last.clone());
            let mut changes = Vec::with_capacity(found.len());
            let mut bytes = 0;
            for (native, record, _) in found {
                if is_dead(earlier, &native, record.version) {
                    continue;
                }
                version += 1;
                if version <= self.up_to + skipped {
                    continue;
                }
                let name = namespaces.name(&native, record.namespace)?;
                let value = read_value(client, &record)?;
                bytes += value.len();
                let versions = (Version::new(record.version), Version::new(record.created));
                let previous = Entry::new(name.key, value, versions.0, versions.1);
                changes.push(Change::delete(
                    name.namespace,
                    previous,
                    Version::new(version),
                    DeleteCause::Deleted,
                ));
                if bytes >= TOLD_AT_ONCE {
                    bytes = 0;
                    hub.publish(changes.drain(..)).wake();
                }
            }
            hub.publish(changes).wake();
        }
    }
}

/// Whether an entry is dead.
pub(crate) fn is_dead(doomed: &[Doomed], native: &str, version: u64) -> bool {
    doomed.iter().any(|doomed| doomed.covers(native, version))
}

/// How much there is below a prefix.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TreeSize {
    pub(crate) entries: u64,
    /// Of values.
    pub(crate) bytes: u64,
}

/// What there is below a prefix that is not dead, counting no further than `max`.
pub(crate) fn count_below(
    client: &Client,
    doomed: &[Doomed],
    prefix: &str,
    max: TreeSize,
) -> Result<TreeSize> {
    let mut size = TreeSize::default();
    client.scan(NameRange::below(prefix).data_keys(), |key, bytes| {
        let native = native_name(key)?;
        let record = Record::decode(unseal(key, bytes)?.0)?;
        if !is_dead(doomed, native, record.version) {
            size.entries += 1;
            size.bytes += record.value.len() as u64;
        }
        let is_enough = size.entries >= max.entries || size.bytes >= max.bytes;
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doomed_subtree_covers_what_was_there_and_nothing_newer() {
        let doomed = Doomed { prefix: "a/".to_owned(), up_to: 5, last: 9 };
        assert!(doomed.covers("a/b", 5));
        assert!(!doomed.covers("a/b", 6) && !doomed.covers("a", 1) && !doomed.covers("ab", 1));
        assert_eq!(Doomed::decode(&doomed.key(), &doomed.encode()).unwrap(), doomed);
        assert!(Doomed::decode(&doomed.key(), &[1, 2]).is_err());
    }
}
