//! Following who holds a lock.
//!
//! A watch of the records begins in the present, which the server serves at once; then the state is
//! read, and what the watch tells of before that is left out. From then on the records' own changes say
//! who holds the lock at each revision. Where changes were missed, it begins again like that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Key, LockChanges, LockHolder, LockWatchOptions, Operation, Result};

use super::fate::PAUSE;
use super::locks::Locks;
use super::queue::{Candidate, Queue};
use super::records::{holder_of, is_directly_below, records};
use crate::client::error::{self, BACKEND};
use crate::client::{Change, Range, Read};
use crate::feed::{Signal, Spec, Subscription};
use crate::pager::Pager;
use crate::record;

/// How often a watch that begins reads the state whose history is compacted at the same time.
const ATTEMPTS: usize = 8;

/// See [`kv_core::implement::LockView::watch_lock_with`].
pub(crate) async fn watch(locks: &Arc<Locks>, key: &Key, options: LockWatchOptions) -> Result<LockChanges> {
    locks.env.check_open()?;
    let mut reader = Reader {
        locks: Arc::clone(locks),
        key: key.clone(),
        range: records(locks, key),
        timeout: options.timeout.unwrap_or(locks.env.timeout),
        changes: None,
        queue: Queue::default(),
        seen: 0,
        told: None,
        token: 0,
        ready: VecDeque::new(),
    };
    let mut attempts = 1;
    while !reader.load().await? {
        if attempts == ATTEMPTS {
            return Err(Error::new(ErrorKind::Unavailable)
                .with_detail("the state of the lock was compacted each time before it was read"));
        }
        attempts += 1;
    }
    Ok(LockChanges::new(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(holder) => Some((Ok(holder), Some(reader))),
            Err(error) => {
                let error = error.with_operation(Operation::WatchLock).with_backend(BACKEND);
                Some((Err(error.with_key(reader.key.as_str())), None))
            }
        }
    })))
}

struct Reader {
    locks: Arc<Locks>,
    key: Key,
    range: Range,
    timeout: Duration,
    /// `None`: some were missed, and the state must be read.
    changes: Option<Subscription>,
    queue: Queue,
    /// The revision at which the queue is as it stands here.
    seen: i64,
    /// Whose record was told last, with the revision that wrote it; `Some(None)`: nobody's.
    told: Option<Option<(i64, i64)>>,
    /// The greatest token that was told.
    token: i64,
    /// What is to be told.
    ready: VecDeque<Option<LockHolder>>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<LockHolder>> {
        loop {
            if let Some(holder) = self.ready.pop_front() {
                return Ok(holder);
            }
            self.locks.env.check_open()?;
            let done = match &mut self.changes {
                None => self.load().await,
                Some(changes) => match changes.next().await {
                    Signal::Changes(changes) => self.changed(changes).await.map(|()| true),
                    Signal::Overflow(_) | Signal::Gap(_) => {
                        self.changes = None;
                        Ok(true)
                    }
                    Signal::Failed(error) => Err(error),
                },
            };
            match done {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(PAUSE).await,
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, key = %self.key, "a lock cannot be watched; trying again");
                    self.changes = None;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins in the present; `false` if the state was gone before it was read.
    async fn load(&mut self) -> Result<bool> {
        let spec = Spec { range: self.range.clone(), start: 0, seen: 0, puts: true, deletes: true };
        let changes = self.locks.hub.watch(Deadline::after(self.timeout), spec).await?;
        let read = Read::new(self.range.clone()).keys_only();
        let mut pager = Pager::new(Arc::clone(&self.locks.env.client), read, self.timeout);
        let mut queue = Queue::default();
        let revision = loop {
            let page = match pager.next(usize::MAX).await {
                Err(error) if error::compacted(&error) => return Ok(false),
                page => page?,
            };
            let own = |record: &_| is_directly_below(&self.locks, &self.key, record);
            page.records.into_iter().filter(own).for_each(|record| queue.read(record));
            if !page.more {
                break pager.revision();
            }
        };
        self.queue = queue;
        if !self.tell(revision).await? {
            return Ok(false);
        }
        self.changes = Some(changes);
        Ok(true)
    }

    /// Follows the changes, one revision after the other: what a transaction does is one change.
    async fn changed(&mut self, changes: Vec<Change>) -> Result<()> {
        let mut changes = changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            let revision = change.record.version;
            // What the state that was read shows already.
            if revision <= self.seen {
                continue;
            }
            if is_directly_below(&self.locks, &self.key, &change.record) {
                self.queue.change(change);
            }
            if changes.peek().is_some_and(|next| next.record.version == revision) {
                continue;
            }
            let is_told = loop {
                match self.tell(revision).await {
                    Err(error) if error.is_transient() => {
                        tracing::debug!(%error, key = %self.key, "the owner of a lock cannot be read");
                        self.locks.env.check_open()?;
                        tokio::time::sleep(PAUSE).await;
                    }
                    done => break done?,
                }
            };
            if !is_told {
                self.changes = None;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells who holds the lock at this revision, if that is not what was told last; `false` if the
    /// server does not know it any more.
    async fn tell(&mut self, revision: i64) -> Result<bool> {
        let first = self.queue.first();
        let mark = first.map(|first| (first.created, first.version));
        if self.told != Some(mark) {
            let holder = match first.cloned() {
                None => None,
                Some(first) if first.created < self.token => return Err(fell(self.token, first.created)),
                Some(first) => {
                    let Some(holder) = self.holder(first, revision).await? else { return Ok(false) };
                    Some(holder)
                }
            };
            self.token = mark.map_or(self.token, |(created, _)| created);
            self.told = Some(mark);
            self.ready.push_back(holder);
        }
        self.seen = revision;
        Ok(true)
    }

    /// What is told of the holder; `None` if the server does not know it any more.
    async fn holder(&self, first: Candidate, revision: i64) -> Result<Option<LockHolder>> {
        let Candidate { name, created, version, owner } = first;
        let owner = match owner {
            Some(owner) => owner,
            None => {
                let mut read = Read::new(Range::one(name.clone()));
                read.revision = revision;
                let page = match self.locks.env.client.read(Deadline::after(self.timeout), &read).await {
                    Err(error) if error::compacted(&error) => return Ok(None),
                    page => page?,
                };
                match page.records.into_iter().next() {
                    Some(record) if record.version == version && record::is_lock(&record) => record.value,
                    _ => return Err(error::nonsense("another holder of a lock than just before")),
                }
            }
        };
        Ok(Some(holder_of(&name, created, owner)))
    }
}

/// The tokens of a lock grow for as long as the cluster keeps what it has acknowledged.
fn fell(told: i64, found: i64) -> Error {
    Error::new(ErrorKind::Protocol).with_detail(format!(
        "the lock's fencing tokens fell from {told} to {found}: the cluster was set back to an older state, \
         or another program made a record of an older key"
    ))
}
