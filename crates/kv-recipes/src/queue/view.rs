//! What a worker knows of the queue: the jobs that can be claimed, and the claims of others with the time
//! for which it has seen them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kv_core::{Entry, Key, Version};
use tokio::time::Instant;

use super::record::{Head, decode};

/// A job that nobody has claimed, as it stood.
pub(super) struct Free {
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) head: Head,
    pub(super) payload: Bytes,
}

/// A claim, and when it was seen first. It was written before that.
#[derive(Clone, Copy)]
struct Claimed {
    version: Version,
    seen: Instant,
    visibility: Duration,
}

impl Claimed {
    fn ends(&self) -> Option<Instant> {
        self.seen.checked_add(self.visibility)
    }
}

#[derive(Default)]
pub(super) struct View {
    free: Vec<Free>,
    claimed: BTreeMap<Key, Claimed>,
}

impl View {
    /// Takes in a job as it stands now.
    pub(super) fn see(&mut self, entry: &Entry, now: Instant) {
        let Some((head, payload)) = decode(entry) else {
            tracing::warn!(key = %kv_core::text::escape(entry.key.as_str()), "an entry in a queue is no job");
            return;
        };
        if let (Some(claim), false) = (&head.claim, head.dead) {
            let known = self.claimed.get(&entry.key).filter(|known| known.version == entry.version);
            let claimed = known.copied().unwrap_or(Claimed {
                version: entry.version,
                seen: now,
                visibility: claim.visibility(),
            });
            self.claimed.insert(entry.key.clone(), claimed);
            if claimed.ends().is_none_or(|ends| ends > now) {
                return;
            }
        }
        if !self.free.iter().any(|free| free.key == entry.key && free.version == entry.version) {
            let key = entry.key.clone();
            self.free.push(Free { key, version: entry.version, head, payload });
        }
    }

    /// Takes out one of the jobs that can be claimed: a random one, as others have seen the same ones.
    pub(super) fn take(&mut self) -> Option<Free> {
        if self.free.is_empty() {
            return None;
        }
        let taken = self.free.swap_remove(fastrand::usize(..self.free.len()));
        self.claimed.remove(&taken.key);
        Some(taken)
    }

    /// Takes back a job that could not be claimed and is as it was.
    pub(super) fn give_back(&mut self, free: Free) {
        self.free.push(free);
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Forgets the claims of jobs up to this key that were not seen at `now`: they are gone. `None` is the
    /// end of the queue.
    pub(super) fn forget_unseen(&mut self, up_to: Option<&Key>, seen: &std::collections::BTreeSet<Key>) {
        self.claimed.retain(|key, _| seen.contains(key) || up_to.is_some_and(|end| key > end));
    }

    /// When the next claim that was seen ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.claimed.values().filter_map(Claimed::ends).min()
    }
}
