//! What changes in a cached tree, for each of those who follow it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use kv_core::{DeleteCause, Entry, Error, Key, KeyChange, Result, Stream};
use parking_lot::Mutex;

/// What changed of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: Key,
    /// What was there before; `None`: nothing.
    pub old: Option<Entry>,
    /// What is there now; `None`: it is deleted.
    pub new: Option<Entry>,
    /// Why it was deleted, if it was and the watch told. `None` for a deletion that was found by reading
    /// the state again after a gap.
    pub cause: Option<DeleteCause>,
    /// Whether it was found by reading the state again after a gap: what happened in between is not known.
    pub relisted: bool,
    /// Whether it stands for several changes of the key, which came before the first of them was read.
    pub merged: bool,
}

impl Change {
    pub(super) fn new(change: KeyChange, relisted: bool) -> Self {
        let KeyChange { key, old, new, cause, .. } = change;
        Self { key, old, new, cause, relisted, merged: false }
    }

    /// The entry as one that was not there before.
    pub(super) fn appeared(entry: Entry) -> Self {
        let key = entry.key.clone();
        Self { key, old: None, new: Some(entry), cause: None, relisted: false, merged: false }
    }

    /// Whether the key is deleted.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        self.new.is_none()
    }

    /// This change with a later one of the same key.
    fn and(self, later: Self) -> Self {
        let relisted = self.relisted || later.relisted;
        Self { old: self.old, relisted, merged: true, ..later }
    }
}

/// The changes that one follower has not read yet: at most one for each key.
#[derive(Debug, Default)]
pub(super) struct Feed(Mutex<Unread>);

#[derive(Debug, Default)]
struct Unread {
    /// By the turn in which their keys changed first.
    changes: BTreeMap<u64, Change>,
    turns: HashMap<Key, u64>,
    next_turn: u64,
    end: Option<Error>,
    waker: Option<Waker>,
}

impl Feed {
    pub(super) fn push(&self, changes: impl IntoIterator<Item = Change>) {
        let mut unread = self.0.lock();
        for change in changes {
            unread.push(change);
        }
        let waker = unread.waker.take();
        drop(unread);
        wake(waker);
    }

    pub(super) fn end(&self, error: Error) {
        let mut unread = self.0.lock();
        unread.end = Some(error);
        let waker = unread.waker.take();
        drop(unread);
        wake(waker);
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Change>>> {
        let mut unread = self.0.lock();
        if let Some((_, change)) = unread.changes.pop_first() {
            unread.turns.remove(&change.key);
            return Poll::Ready(Some(Ok(change)));
        }
        match &unread.end {
            Some(error) => Poll::Ready(Some(Err(error.clone()))),
            None => {
                unread.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Unread {
    fn push(&mut self, change: Change) {
        let Some(turn) = self.turns.get(&change.key).copied() else {
            let turn = self.next_turn;
            self.next_turn += 1;
            self.turns.insert(change.key.clone(), turn);
            self.changes.insert(turn, change);
            return;
        };
        let Some(earlier) = self.changes.remove(&turn) else { return };
        let change = earlier.and(change);
        if change.old.is_none() && change.new.is_none() {
            // It came and went unseen: nothing to tell.
            self.turns.remove(&change.key);
        } else {
            self.changes.insert(turn, change);
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The changes of a cached tree: the entries there are first, as changes from nothing, then each change.
///
/// A reader that keeps up gets every change the watch delivers. One that does not costs memory for one
/// change per key: later changes of a key are merged into the one that was not read yet, which keeps the
/// first `old` and gets the last `new`; a key that came and went is not told. Keys come in the order in
/// which they changed first.
///
/// It ends, after an error that says why, when the watch of the informer ends for good. It keeps the watch
/// of the informer going.
pub struct Changes {
    feed: Arc<Feed>,
    /// What keeps the informer going.
    _informer: Arc<dyn fmt::Debug + Send + Sync>,
    has_ended: bool,
}

impl Changes {
    pub(super) fn new(feed: Arc<Feed>, informer: Arc<dyn fmt::Debug + Send + Sync>) -> Self {
        Self { feed, _informer: informer, has_ended: false }
    }

    /// The next change, without needing a stream library. `None` only after an error. Cancel-safe:
    /// dropping the future loses no change.
    pub async fn next(&mut self) -> Option<Result<Change>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Changes {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.feed.poll(cx));
        self.has_ended = matches!(next, Some(Err(_)));
        Poll::Ready(next)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}
