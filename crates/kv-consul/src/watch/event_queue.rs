//! The bounded queue between a query and one watch.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kv_core::{Error, WatchEvent};
use tokio::sync::Notify;

/// What a consumer that does not read may cost: then it is told to begin anew.
const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 8 << 20;

/// What a consumer gets.
#[derive(Debug)]
pub(crate) enum Item {
    Event(WatchEvent),
    /// Something changed, for subscribers that look themselves.
    Changed,
    /// There is a gap: it is not subscribed any more and must read the state.
    Gap,
    /// Nothing will follow.
    End(Error),
}

/// Events on their way to one consumer.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<WatchEvent>,
    bytes: usize,
    changed: bool,
    gap: bool,
    end: Option<Error>,
}

fn size(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(entry) => entry.key.as_str().len() + entry.value.len(),
        WatchEvent::Delete(deletion) => deletion.key.as_str().len(),
        _ => 0,
    }
}

impl EventQueue {
    /// Adds an event; false if the consumer is too slow, and has now a gap.
    pub(crate) fn push(&self, event: WatchEvent) -> bool {
        let mut queue = self.lock();
        let size = size(&event);
        if queue.events.len() >= MAX_EVENTS || (queue.bytes > 0 && queue.bytes + size > MAX_BYTES) {
            drop(queue);
            self.gap();
            return false;
        }
        queue.bytes += size;
        queue.events.push_back(event);
        drop(queue);
        self.ready.notify_one();
        true
    }

    /// Tells that something changed.
    pub(crate) fn poke(&self) {
        self.lock().changed = true;
        self.ready.notify_one();
    }

    /// Drops what is queued: the consumer must begin anew.
    pub(crate) fn gap(&self) {
        let mut queue = self.lock();
        queue.events = VecDeque::new();
        queue.bytes = 0;
        queue.gap = true;
        drop(queue);
        self.ready.notify_one();
    }

    /// Ends it, behind what is queued.
    pub(crate) fn end(&self, error: Error) {
        self.lock().end.get_or_insert(error);
        self.ready.notify_one();
    }

    /// The next item. Cancel-safe; for one consumer.
    pub(crate) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.take() {
                return item;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Option<Item> {
        let mut queue = self.lock();
        if let Some(event) = queue.events.pop_front() {
            queue.bytes -= size(&event);
            return Some(Item::Event(event));
        }
        if std::mem::take(&mut queue.changed) {
            return Some(Item::Changed);
        }
        if let Some(error) = queue.end.take() {
            return Some(Item::End(error));
        }
        std::mem::take(&mut queue.gap).then_some(Item::Gap)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kv_core::{Entry, Key, Version};

    use super::*;

    fn put(value: usize) -> WatchEvent {
        let version = Version::new(1);
        WatchEvent::Put(Entry::new(Key::new("k").unwrap(), Bytes::from(vec![0; value]), version, version))
    }

    #[tokio::test]
    async fn a_slow_consumer_gets_a_gap_and_costs_nothing() {
        let queue = EventQueue::default();
        assert!((0..MAX_EVENTS).all(|_| queue.push(put(0))));
        assert!(!queue.push(put(0)));
        assert!(matches!(queue.next().await, Item::Gap));
        assert!(queue.push(put(MAX_BYTES)));
        assert!(!queue.push(put(1)));
        assert_eq!(queue.lock().events.capacity(), 0);
    }

    #[tokio::test]
    async fn the_end_comes_behind_what_is_queued() {
        let queue = EventQueue::default();
        queue.push(put(0));
        queue.end(Error::new(kv_core::ErrorKind::Closed));
        assert!(matches!(queue.next().await, Item::Event(_)));
        assert!(matches!(queue.next().await, Item::End(_)));
    }
}
