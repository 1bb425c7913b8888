//! watch: what one consumer has not read yet, and the stream it reads.
//!
//! A consumer that does not read costs what there are keys, and no more: of each key only the latest
//! is kept, and its value only while there is room; else it is read again when its turn comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{DeleteCause, Deletion, Entry, Error, Key, Result, Version, WatchEvent, WatchFilter};
use tokio::sync::{Notify, oneshot};

use crate::session::closed;

/// How many bytes of values wait for one consumer.
const ROOM: usize = 4 << 20;

/// How many entries are read again at once.
const REREADS: usize = 32;

/// How a key stands now.
#[derive(Clone, Debug)]
pub(crate) enum Now {
    Gone(Option<Version>),
    Entry(Entry),
    /// It exists; its value was not kept.
    Unread,
}

#[derive(Debug)]
struct Slot {
    /// Whether the consumer holds an entry of this key.
    was: bool,
    now: Now,
    asked: bool,
}

/// What waits for one consumer.
#[derive(Debug)]
pub(crate) struct Feed {
    filter: WatchFilter,
    inner: Mutex<Inner>,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// A `Resync` is due.
    resync: bool,
    /// The state is being delivered; `Synced` follows.
    state_phase: bool,
    /// All of the state is known.
    complete: bool,
    state: BTreeMap<Key, Slot>,
    changes: BTreeMap<Key, Slot>,
    order: VecDeque<Key>,
    kept: usize,
    error: Option<Error>,
}

impl Feed {
    pub(crate) fn new(filter: WatchFilter) -> Arc<Self> {
        Arc::new(Self { filter, inner: Mutex::default(), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on the state is delivered, then `Synced`; with `resync`, after a `Resync`.
    pub(crate) fn begin_state(&self, resync: bool) {
        let mut inner = self.lock();
        let resync = resync || inner.resync;
        *inner = Inner { resync, state_phase: true, error: inner.error.take(), ..Inner::default() };
        drop(inner);
        self.changed.notify_one();
    }

    /// The state is complete.
    pub(crate) fn complete_state(&self) {
        self.lock().complete = true;
        self.changed.notify_one();
    }

    /// A key changed, or was found.
    pub(crate) fn push(&self, key: &Key, was: bool, now: Now) {
        let mut inner = self.lock();
        let now = inner.keep(now);
        if let Some(slot) = inner.changes.get_mut(key) {
            let old = std::mem::replace(&mut slot.now, now);
            slot.asked = false;
            inner.release(&old);
        } else if let Some(slot) = inner.state.get_mut(key) {
            let old = std::mem::replace(&mut slot.now, now);
            slot.asked = false;
            inner.release(&old);
        } else if !was && inner.state_phase {
            inner.state.insert(key.clone(), Slot { was, now, asked: false });
        } else {
            inner.changes.insert(key.clone(), Slot { was, now, asked: false });
            inner.order.push_back(key.clone());
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// The answer to a request for a value that was not kept.
    pub(crate) fn fill(&self, key: &Key, now: Now) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let slot = match inner.changes.get_mut(key) {
            Some(slot) => Some(slot),
            None => inner.state.get_mut(key),
        };
        if let Some(slot) = slot
            && matches!(slot.now, Now::Unread)
        {
            slot.asked = false;
            if let Now::Entry(entry) = &now {
                inner.kept += entry.value.len();
            }
            slot.now = now;
        }
        drop(guard);
        self.changed.notify_one();
    }

    /// Ends the watch.
    pub(crate) fn fail(&self, error: Error) {
        self.lock().error.get_or_insert(error);
        self.changed.notify_one();
    }

    /// The next event there is, or the keys whose values must be read before there is one.
    pub(super) fn take(&self) -> Taken {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if let Some(error) = inner.error.take() {
            return Taken::End(error);
        }
        if inner.resync {
            inner.resync = false;
            return Taken::Event(WatchEvent::Resync);
        }
        let wants_puts = self.filter != WatchFilter::Deletes;
        let mut unread = Vec::new();
        if inner.state_phase {
            // Of those that wait for their value only the first are looked at: they were asked for.
            let ready = |slot: &Slot| !wants_puts || !matches!(slot.now, Now::Unread);
            while let Some((key, _)) = inner.state.iter().take(2 * REREADS).find(|(_, slot)| ready(slot)) {
                let key = key.clone();
                let Some(Slot { now, .. }) = inner.state.remove(&key) else { break };
                inner.release(&now);
                if let (Now::Entry(entry), true) = (now, wants_puts) {
                    return Taken::Event(WatchEvent::Put(entry));
                }
            }
            if inner.state.is_empty() {
                if inner.complete {
                    inner.state_phase = false;
                    return Taken::Event(WatchEvent::Synced);
                }
                return Taken::Nothing(unread);
            }
            for (key, slot) in inner.state.iter_mut().take(REREADS) {
                if matches!(slot.now, Now::Unread) && !std::mem::replace(&mut slot.asked, true) {
                    unread.push(key.clone());
                }
            }
            return Taken::Nothing(unread);
        }
        let mut at = 0;
        while let Some(key) = inner.order.get(at).cloned() {
            let Some(slot) = inner.changes.get_mut(&key) else {
                inner.order.remove(at);
                continue;
            };
            if matches!(slot.now, Now::Unread) && wants_puts {
                if !std::mem::replace(&mut slot.asked, true) {
                    unread.push(key);
                }
                at += 1;
                if at >= REREADS {
                    break;
                }
                continue;
            }
            let (was, now) = (slot.was, slot.now.clone());
            inner.changes.remove(&key);
            inner.order.remove(at);
            inner.release(&now);
            let event = match now {
                Now::Entry(entry) => WatchEvent::Put(entry),
                Now::Gone(version) if was => {
                    let mut deletion = Deletion::new(key).with_cause(DeleteCause::Unknown);
                    deletion.version = version;
                    WatchEvent::Delete(deletion)
                }
                Now::Gone(_) | Now::Unread => continue,
            };
            if self.filter.admits(&event) {
                return Taken::Event(event);
            }
        }
        Taken::Nothing(unread)
    }
}

impl Inner {
    /// Keeps a value while there is room.
    fn keep(&mut self, now: Now) -> Now {
        match now {
            Now::Entry(entry) if self.kept + entry.value.len() <= ROOM => {
                self.kept += entry.value.len();
                Now::Entry(entry)
            }
            Now::Entry(_) => Now::Unread,
            now => now,
        }
    }

    fn release(&mut self, now: &Now) {
        if let Now::Entry(entry) = now {
            self.kept = self.kept.saturating_sub(entry.value.len());
        }
    }
}

pub(super) enum Taken {
    Event(WatchEvent),
    End(Error),
    Nothing(Vec<Key>),
}

/// Says when a watch has begun that begins with changes.
#[derive(Debug)]
pub(crate) struct Quiet {
    begun: oneshot::Sender<Result<()>>,
    progress: Arc<Notify>,
}

/// Waits for that.
#[derive(Debug)]
pub(crate) struct Beginning {
    begun: oneshot::Receiver<Result<()>>,
    progress: Arc<Notify>,
}

impl Quiet {
    pub(crate) fn new() -> (Self, Beginning) {
        let (sender, begun) = oneshot::channel();
        let progress = Arc::<Notify>::default();
        (Self { begun: sender, progress: Arc::clone(&progress) }, Beginning { begun, progress })
    }

    pub(crate) fn begun(self, result: Result<()>) {
        let _ = self.begun.send(result);
    }

    /// One of the requests it takes was answered.
    pub(crate) fn goes_on(&self) {
        self.progress.notify_one();
    }
}

impl Beginning {
    /// Waits until it has begun, as long as no request takes more time than this.
    pub(crate) async fn wait(mut self, timeout: Duration) -> Result<()> {
        loop {
            let deadline = Deadline::after(timeout);
            let answered = deadline.run(async {
                tokio::select! {
                    begun = &mut self.begun => Ok(Some(begun.unwrap_or_else(|_| Err(closed())))),
                    () = self.progress.notified() => Ok(None),
                }
            });
            if let Some(begun) = answered.await? {
                return begun;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn entry(text: &str, version: u64) -> Entry {
        Entry::new(key(text), Bytes::from_static(b"v"), Version::new(version), Version::new(1))
    }

    fn events(feed: &Feed) -> Vec<WatchEvent> {
        std::iter::from_fn(|| match feed.take() {
            Taken::Event(event) => Some(event),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn of_each_key_the_latest_is_delivered() {
        let feed = Feed::new(WatchFilter::All);
        feed.push(&key("a"), false, Now::Entry(entry("a", 5)));
        feed.push(&key("b"), true, Now::Gone(None));
        feed.push(&key("a"), true, Now::Entry(entry("a", 7)));
        let seen = events(&feed);
        assert_eq!(seen, [WatchEvent::Put(entry("a", 7)), WatchEvent::Delete(Deletion::new(key("b")))]);
    }

    #[test]
    fn what_came_and_went_unseen_is_not_told() {
        let feed = Feed::new(WatchFilter::All);
        feed.push(&key("a"), false, Now::Entry(entry("a", 5)));
        feed.push(&key("a"), true, Now::Gone(None));
        assert!(events(&feed).is_empty());
    }

    #[test]
    fn the_state_comes_first_then_synced_then_changes() {
        let feed = Feed::new(WatchFilter::All);
        feed.begin_state(true);
        feed.push(&key("a"), false, Now::Entry(entry("a", 5)));
        assert_eq!(events(&feed), [WatchEvent::Resync, WatchEvent::Put(entry("a", 5))]);
        feed.push(&key("a"), true, Now::Gone(None));
        feed.push(&key("b"), false, Now::Entry(entry("b", 6)));
        feed.complete_state();
        assert_eq!(
            events(&feed),
            [WatchEvent::Put(entry("b", 6)), WatchEvent::Synced, WatchEvent::Delete(Deletion::new(key("a")))]
        );
    }

    #[test]
    fn values_that_have_no_room_are_read_again() {
        let feed = Feed::new(WatchFilter::All);
        let mut big = entry("a", 5);
        big.value = Bytes::from(vec![0; ROOM]);
        feed.push(&key("a"), false, Now::Entry(big));
        feed.push(&key("b"), false, Now::Entry(entry("b", 6)));
        assert_eq!(events(&feed).len(), 1);
        match feed.take() {
            Taken::Nothing(unread) => assert!(unread.is_empty() || unread == [key("b")]),
            _ => panic!("b has no value yet"),
        }
        feed.fill(&key("b"), Now::Entry(entry("b", 6)));
        assert_eq!(events(&feed), [WatchEvent::Put(entry("b", 6))]);
    }

    #[test]
    fn a_filter_keeps_the_frame() {
        let feed = Feed::new(WatchFilter::Deletes);
        feed.begin_state(false);
        feed.push(&key("a"), false, Now::Unread);
        feed.complete_state();
        feed.push(&key("a"), true, Now::Gone(Some(Version::new(9))));
        let deletion = Deletion::new(key("a")).with_version(Version::new(9));
        assert_eq!(events(&feed), [WatchEvent::Synced]);
        feed.push(&key("b"), true, Now::Gone(None));
        let _ = deletion;
        assert_eq!(events(&feed), [WatchEvent::Delete(Deletion::new(key("b")))]);
    }
}
