//! Watches as their readers see them: events, and the state whenever there was a gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{
    DeleteCause, Deletion, Error, ErrorKind, Operation, Result, Version, Watch, WatchEvent, WatchFilter,
    WatchOptions, WatchStart, WatchTarget,
};
use tokio::time::Instant;

use crate::client::error::{self, BACKEND};
use crate::client::{Change, Page, Range, Read};
use crate::env::Env;
use crate::feed::{Hub, Signal, Spec, Subscription};
use crate::pager::Pager;
use crate::record;

/// The pause before the state is read again after a failure, or after a gap right behind a gap.
const PAUSE: Duration = Duration::from_millis(500);
/// The server looks for watches of gone history ten times a second.
const TELLING: Duration = Duration::from_secs(1);

/// See [`kv_core::Store::watch_opts`].
pub(crate) async fn watch(
    env: &Arc<Env>,
    hub: &Arc<Hub>,
    target: WatchTarget,
    options: WatchOptions,
) -> Result<Watch> {
    env.check_open()?;
    let range = match &target {
        WatchTarget::Key(key) => Range::one(env.namespace.native(key)),
        WatchTarget::Prefix(prefix) => Range::below(&env.namespace.native_prefix(prefix)),
        WatchTarget::Tree(key) => Range::tree(&env.namespace.native(key)),
        _ => return Err(Error::unsupported("this kind of watch target")),
    };
    let mut reader = Reader {
        env: Arc::clone(env),
        hub: Arc::clone(hub),
        target,
        range,
        filter: options.filter,
        timeout: options.timeout.unwrap_or(env.timeout),
        ready: VecDeque::new(),
        phase: Phase::Behind,
        resynced: None,
    };
    match options.start {
        WatchStart::Now => {
            let now = Read::new(Range::one(reader.range.start.clone())).keys_only();
            let revision = env.client.read(Deadline::after(reader.timeout), &now).await?.revision;
            reader.phase = Phase::Live(reader.subscribe(revision.saturating_add(1), revision).await?);
        }
        WatchStart::Initial => reader.load().await?,
        WatchStart::After(version) => reader.phase = Phase::Live(reader.after(version).await?),
        _ => return Err(Error::unsupported("this kind of watch start")),
    }
    Ok(Watch::new(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(event) => Some((Ok(event), Some(reader))),
            Err(error) => {
                let error = error.with_operation(Operation::Watch).with_backend(BACKEND);
                Some((Err(error.with_key(reader.target.path())), None))
            }
        }
    })))
}

struct Reader {
    env: Arc<Env>,
    hub: Arc<Hub>,
    target: WatchTarget,
    range: Range,
    filter: WatchFilter,
    timeout: Duration,
    /// Events to hand out.
    ready: VecDeque<WatchEvent>,
    phase: Phase,
    /// When the state was last read again.
    resynced: Option<Instant>,
}

enum Phase {
    /// There was a gap.
    Behind,
    /// The state is being read; changes after it wait.
    Loading(Box<Pager>, Subscription),
    Live(Subscription),
    /// All was handed out up to this revision, with which the server must begin again.
    Slow(i64),
}

impl Reader {
    async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.env.check_open()?;
            match &mut self.phase {
                Phase::Behind => {
                    self.ready.push_back(WatchEvent::Resync);
                    self.resync().await?;
                }
                Phase::Loading(pager, _) => match pager.next(usize::MAX).await {
                    Ok(page) => self.loaded(page),
                    // What was read so far is a part of a state that cannot be completed.
                    Err(error) if error::compacted(&error) || error::is_future(&error) => {
                        self.phase = Phase::Behind;
                    }
                    Err(error) if error.is_transient() => {
                        tracing::debug!(%error, "the state of a watch cannot be read; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(error),
                },
                Phase::Live(subscription) => match subscription.next().await {
                    Signal::Changes(changes) => self.changed(changes),
                    Signal::Overflow(from) => self.phase = Phase::Slow(from),
                    Signal::Gap(_) => self.phase = Phase::Behind,
                    Signal::Failed(error) => return Err(error),
                },
                Phase::Slow(from) => {
                    let from = *from;
                    match self.resume(from).await {
                        Ok(phase) => self.phase = phase,
                        Err(error) if error.is_transient() => {
                            tracing::debug!(%error, "a watch cannot be taken up; trying again");
                            tokio::time::sleep(PAUSE).await;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Goes on with the changes from a revision that was seen, if they are still there.
    async fn resume(&self, from: i64) -> Result<Phase> {
        // As in `after`.
        let mut before = Read::new(Range::one(self.range.start.clone())).keys_only();
        before.revision = from.saturating_sub(1).max(1);
        match self.env.client.read(Deadline::after(self.timeout), &before).await {
            Err(error) if error::compacted(&error) || error::is_future(&error) => Ok(Phase::Behind),
            Err(error) => Err(error),
            Ok(_) => Ok(Phase::Live(self.subscribe(from, from).await?)),
        }
    }

    async fn subscribe(&self, start: i64, seen: i64) -> Result<Subscription> {
        let spec = Spec {
            range: self.range.clone(),
            start,
            seen,
            puts: self.filter != WatchFilter::Deletes,
            deletes: self.filter != WatchFilter::Puts,
        };
        self.hub.watch(Deadline::after(self.timeout), spec).await
    }

    /// Begins with the first change after `version`, or finds that changes since then are gone.
    async fn after(&self, version: Version) -> Result<Subscription> {
        let version = i64::try_from(version.get()).unwrap_or(i64::MAX - 1);
        let start = version.saturating_add(1);
        // The server takes a watch of gone history and cancels it later; a read there fails at once.
        // It is made one revision before the start: older servers lose a delete at the very revision
        // up to which they compacted, and take a watch from there all the same.
        let mut then = Read::new(Range::one(self.range.start.clone())).keys_only();
        then.revision = version.max(1);
        match self.env.client.read(Deadline::after(self.timeout), &then).await {
            Err(error) if error::compacted(&error) => {
                let oldest = self.oldest(start).await?;
                Err(Error::new(ErrorKind::Compacted { oldest: Some(record::version(oldest)) }))
            }
            // Nothing of the future is gone.
            Err(error) if error::is_future(&error) => self.subscribe(start, 0).await,
            Err(error) => Err(error),
            Ok(_) => self.subscribe(start, version).await,
        }
    }

    /// Up to where history is gone, if what lies before `start` is: the server tells by the cancel of
    /// a watch, and cancels none that begins right there.
    async fn oldest(&self, start: i64) -> Result<i64> {
        let mut subscription = self.subscribe(start, 0).await?;
        let telling = async { Ok(subscription.next().await) };
        match Deadline::after(self.timeout.min(TELLING)).run(telling).await {
            Ok(Signal::Gap(Some(oldest))) => Ok(oldest),
            _ => Ok(start),
        }
    }

    /// Reads the state again, however often it takes.
    async fn resync(&mut self) -> Result<()> {
        loop {
            if self.resynced.is_some_and(|at| at.elapsed() < 2 * PAUSE) {
                tokio::time::sleep(PAUSE).await;
            }
            self.resynced = Some(Instant::now());
            self.env.check_open()?;
            match self.load().await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "the state of a watch cannot be read; trying again");
                }
                done => return done,
            }
        }
    }

    /// Reads the first page of the state and begins to collect what changes after it.
    async fn load(&mut self) -> Result<()> {
        let read = Read::new(self.range.clone());
        let mut pager = Pager::new(Arc::clone(&self.env.client), read, self.timeout);
        let page = pager.next(usize::MAX).await?;
        let subscription = self.subscribe(page.revision.saturating_add(1), page.revision).await?;
        self.phase = Phase::Loading(Box::new(pager), subscription);
        self.loaded(page);
        Ok(())
    }

    fn loaded(&mut self, page: Page) {
        if self.filter != WatchFilter::Deletes {
            let entries =
                page.records.into_iter().filter_map(|record| record::entry(&self.env.namespace, record));
            let entries = entries.filter(|entry| self.target.matches(&entry.key));
            self.ready.extend(entries.map(WatchEvent::Put));
        }
        if !page.more {
            self.ready.push_back(WatchEvent::Synced);
            self.phase = match std::mem::replace(&mut self.phase, Phase::Behind) {
                Phase::Loading(_, subscription) => Phase::Live(subscription),
                other => other,
            };
        }
    }

    fn changed(&mut self, changes: Vec<Change>) {
        for change in changes {
            if change.deleted && change.previous.is_none() {
                // Compaction overtook it. What was deleted is promised, and without it a lock's record
                // looks like an entry: the state says what is true.
                self.phase = Phase::Behind;
                return;
            }
            let event = self.event(change);
            if let Some(event) = event.filter(|event| event.key().is_some_and(|key| self.target.matches(key)))
            {
                self.ready.push_back(event);
            }
        }
    }

    fn event(&self, change: Change) -> Option<WatchEvent> {
        let namespace = &self.env.namespace;
        let Change { deleted, record, previous } = change;
        if !deleted {
            return record::entry(namespace, record).map(WatchEvent::Put);
        }
        let previous = previous?;
        // Only what lives by a lease can have expired; what does may have been deleted all the same.
        let cause = if previous.lease == 0 { DeleteCause::Deleted } else { DeleteCause::Unknown };
        let previous = record::entry(namespace, previous)?;
        Some(WatchEvent::Delete(
            Deletion::new(previous.key.clone())
                .with_version(record::version(record.version))
                .with_previous(previous)
                .with_cause(cause),
        ))
    }
}
