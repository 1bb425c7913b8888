//! One watch: reads the log at its own pace, and the state where the log does not reach.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::Fuse;
use kv_core::{Entry, Error, ErrorKind, Operation, Result, Version, WatchEvent, WatchFilter, WatchTarget};

use super::log::{Change, key_of};
use super::state::{Contained, Page, Pages, State, StateFor};
use super::topics::{TopicId, WatchId};
use super::{Shared, is_compacted};
use crate::coop::poll_budget;
use crate::namespace::Namespace;

pub(super) struct HubWatch {
    pub(super) shared: Arc<Shared>,
    pub(super) topic: TopicId,
    pub(super) id: WatchId,
    pub(super) namespace: Arc<Namespace>,
    pub(super) state: Arc<dyn State>,
    pub(super) target: WatchTarget,
    pub(super) filter: WatchFilter,
    /// Everything before this place in the log is delivered or does not matter.
    pub(super) position: u64,
    /// Changes up to this version were not asked for.
    pub(super) after: Version,
    pub(super) contained: Option<Contained>,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    /// Delivering changes.
    Changes,
    /// Delivering the state: what is left of a page, and the pages behind it.
    State(Fuse<Pages>, std::vec::IntoIter<Entry>),
    /// Ended with an error.
    Ended,
}

/// What the log has for a watch.
enum Found {
    Change(u64, Arc<Change>),
    Lost,
    Closed,
}

impl HubWatch {
    /// Begins to deliver the state, as of now or later, and then what happens after it.
    pub(super) fn begin_state(&mut self, wanted_for: StateFor) {
        // The place is taken before the state is read: a change between the two is in both, and is
        // left out by what the pages say they contain.
        self.position = self.shared.inner.lock().log.next();
        self.contained = Some(Contained::default());
        let pages: Pages = if self.filter == WatchFilter::Deletes {
            Box::pin(futures_util::stream::empty())
        } else {
            self.state.pages(&self.target, wanted_for)
        };
        self.phase = Phase::State(pages.fuse(), Vec::new().into_iter());
    }

    /// Reads the next page of the state. Ready with `false` if there is none.
    pub(super) fn poll_page(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        let Phase::State(pages, page) = &mut self.phase else { return Poll::Ready(Ok(false)) };
        match ready!(pages.poll_next_unpin(cx)) {
            Some(Ok(Page { entries, as_of })) => {
                if let Some(contained) = &mut self.contained {
                    contained.add(entries.last().map(|entry| entry.key.clone()), as_of);
                }
                *page = entries.into_iter();
                Poll::Ready(Ok(true))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                if let Some(contained) = &mut self.contained {
                    contained.complete();
                }
                Poll::Ready(Ok(false))
            }
        }
    }

    /// The next change in the log that matches. Parks the task where there is none.
    fn poll_log(&self, cx: &Context<'_>) -> Poll<Found> {
        let mut inner = self.shared.inner.lock();
        let inner = &mut *inner;
        let Some(topic) = inner.topics.get_mut(self.topic).filter(|topic| topic.has_member(self.id)) else {
            return Poll::Ready(Found::Closed);
        };
        if topic.has_lost(self.position) {
            return Poll::Ready(Found::Lost);
        }
        match topic.next_match(self.position) {
            Some((place, change)) => Poll::Ready(Found::Change(place, change)),
            None => {
                topic.park(self.id, cx.waker(), inner.log.next());
                Poll::Pending
            }
        }
    }

    fn is_open(&self) -> bool {
        self.shared.inner.lock().topics.get_mut(self.topic).is_some_and(|topic| topic.has_member(self.id))
    }

    /// Whether this change is to be delivered.
    fn is_wanted(&mut self, version: Version, event: &WatchEvent) -> bool {
        if version <= self.after {
            return false;
        }
        let Some(contained) = &self.contained else { return true };
        if contained.ends_before(version) {
            // Versions only grow: nothing that follows is contained either.
            self.contained = None;
            return true;
        }
        key_of(event).is_none_or(|key| !contained.has(key, version))
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<WatchEvent>>> {
        self.phase = Phase::Ended;
        self.shared.inner.lock().topics.leave(self.topic, self.id);
        Poll::Ready(Some(Err(error)))
    }

    fn closed(&self) -> Error {
        Error::new(ErrorKind::Closed)
            .with_operation(Operation::Watch)
            .with_backend(self.shared.backend)
            .with_key(self.target.path())
    }
}

impl Stream for HubWatch {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::State(_, page) => {
                    if page.len() > 0 {
                        ready!(poll_budget(cx));
                    }
                    if let Some(entry) = page.next() {
                        return Poll::Ready(Some(Ok(WatchEvent::Put(entry))));
                    }
                    if !this.is_open() {
                        return this.fail(this.closed());
                    }
                    match ready!(this.poll_page(cx)) {
                        Ok(true) => {}
                        Ok(false) => {
                            this.phase = Phase::Changes;
                            return Poll::Ready(Some(Ok(WatchEvent::Synced)));
                        }
                        Err(error) if is_compacted(&error) => {
                            // What was delivered of it is a part of a version that is gone.
                            this.begin_state(StateFor::Resync);
                            return Poll::Ready(Some(Ok(WatchEvent::Resync)));
                        }
                        Err(error) => return this.fail(error),
                    }
                }
                Phase::Changes => match ready!(this.poll_log(cx)) {
                    Found::Change(place, change) => {
                        ready!(poll_budget(cx));
                        this.position = place + 1;
                        let event = change.seen_from(&this.namespace);
                        if let Some(event) = event.filter(|event| this.is_wanted(change.version(), event)) {
                            return Poll::Ready(Some(Ok(event)));
                        }
                    }
                    Found::Lost => {
                        this.begin_state(StateFor::Resync);
                        return Poll::Ready(Some(Ok(WatchEvent::Resync)));
                    }
                    Found::Closed => return this.fail(this.closed()),
                },
            }
        }
    }
}

impl Drop for HubWatch {
    fn drop(&mut self) {
        self.shared.inner.lock().topics.leave(self.topic, self.id);
    }
}
