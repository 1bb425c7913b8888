//! The committer: the one thread that changes the database, for all writers waiting at a time with one
//! flush.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use kv_backend::{Clock, Hub, Timestamp};
use kv_core::{DeleteCause, Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{Durability, EngineConfig};
use crate::counter::Counter;
use crate::lock::{Fences, Locks, StoreClock};
use crate::name::Namespaces;
use crate::record::{Meta, number_in, space};
use crate::space::Room;
use crate::stage::{HistoryBounds, Prepared, Stage, look_up};
use crate::txn::{Outcome, Write, carry_out};
use crate::view::{MAX_BEHIND, View};

/// How many requests are taken at a time.
const MAX_GROUP: usize = 1024;

/// A group is full when it writes so much: short of a segment of the log, so that one flush never
/// covers more than sled keeps apart.
const MAX_GROUP_BYTES: usize = 1 << 20;

/// How many expired entries go in one group.
const MAX_EXPIRED: usize = 1024;

/// History is let go in steps of this many changes: each step reads them first.
const TRIM_STEP: u64 = 64;

/// How soon expiry is tried again when the disk is full.
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

/// The most bytes of history: keys, values before and after each change.
const MAX_HISTORY_WEIGHT: u64 = 64 << 20;

/// A request to the committer.
#[derive(Debug)]
pub(crate) enum Command {
    Write(Request),
    /// Look at the clock and at what is reserved.
    Wake,
}

/// A write, and who waits for it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) write: Write,
    pub(crate) fence: Fences,
    pub(crate) reply: oneshot::Sender<Result<Outcome>>,
    /// Bounds how many wait at a time. None for what must not wait.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// What the committer has done since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) changes: AtomicU64,
    pub(crate) flushes: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> [u64; 2] {
        [self.changes.load(Ordering::Relaxed), self.flushes.load(Ordering::Relaxed)]
    }
}

/// Why nothing is written any more.
#[derive(Clone, Debug)]
struct Failure {
    kind: ErrorKind,
    text: String,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self { kind: error.kind().clone(), text: error.to_string() }
    }

    /// For the writes that were on their way.
    fn unknown(&self) -> Error {
        Error::new(self.kind.clone()).maybe_applied().with_detail(self.text.clone())
    }

    /// For the writes that come after.
    fn refused(&self) -> Error {
        Error::new(self.kind.clone()).not_applied().with_detail(format!(
            "nothing is written any more since this failed: {}; put it right, close every handle of this \
             directory and open it again",
            self.text
        ))
    }
}

/// The state of the committer's thread.
pub(crate) struct Committer {
    pub(crate) dir: PathBuf,
    pub(crate) config: EngineConfig,
    pub(crate) view: Arc<View>,
    pub(crate) hub: Hub,
    pub(crate) locks: Arc<Locks>,
    pub(crate) counter: Arc<Counter>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) meta: Meta,
    state: CommitState,
}

#[derive(Default)]
struct CommitState {
    namespaces: Namespaces,
    failed: Option<Failure>,
    /// Since when there are changes that are not flushed.
    dirty: Option<Instant>,
    /// When the first entry expires; unknown until looked up.
    next_expiry: Option<Option<Timestamp>>,
}

impl Committer {
    pub(crate) fn new(
        dir: PathBuf,
        config: EngineConfig,
        view: Arc<View>,
        hub: Hub,
        locks: Arc<Locks>,
        counter: Arc<Counter>,
        meta: Meta,
    ) -> Self {
        let (counts, state) = Default::default();
        Self { dir, config, view, hub, locks, counter, counts, meta, state }
    }

    /// Removes what a process that died left behind: its session keys, and what expired meanwhile. And
    /// reserves numbers, so that none of the last process's is given out again.
    pub(crate) fn take_over(&mut self) -> Result<()> {
        loop {
            let view = Arc::clone(&self.view);
            let client = view.client();
            let now = self.locks.clock().now();
            let room = Room::measure(&self.dir, client.log_len()?, self.meta.bytes)?;
            let mut stage =
                Stage::new(client, &self.counter, &mut self.state.namespaces, self.meta.clone(), now, room);
            let mut gone = look_up(client, space::SESSION, 0, u64::MAX, MAX_EXPIRED)?;
            gone.extend(look_up(client, space::EXPIRY, 0, whole_millis(now), MAX_EXPIRED)?);
            let gone = stage.indexed(gone)?;
            let done = gone.is_empty();
            stage.room().take_for_deletes(gone.len())?;
            for (name, live) in gone {
                stage.delete(&name, live, DeleteCause::Expired)?;
            }
            let changes = stage.changes();
            let prepared = stage.prepare();
            self.commit(prepared, changes)?;
            if done {
                break;
            }
        }
        self.flush()?;
        self.counter.reserved(self.meta.ceiling);
        Ok(())
    }

    /// Works until every handle is closed, and leaves the database as it should be found.
    pub(crate) async fn run(&mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut taken = Vec::new();
        loop {
            match self.wait(&mut commands, &mut taken).await {
                Waited::Ended => break,
                Waited::Commands | Waited::Time => {}
            }
            let requests = taken.drain(..).filter_map(|command| match command {
                Command::Write(request) => Some(request),
                Command::Wake => None,
            });
            let mut requests: VecDeque<Request> = requests.collect();
            self.work(&mut requests);
            while !requests.is_empty() {
                self.work(&mut requests);
            }
            self.flush_if_due();
        }
        self.finish();
    }

    async fn wait(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        taken: &mut Vec<Command>,
    ) -> Waited {
        let receive = std::pin::pin!(commands.recv_many(taken, MAX_GROUP));
        let time =
            std::pin::pin!(Self::sleep(self.locks.clock().clone(), self.next_deadline(), self.flush_due()));
        match select(receive, time).await {
            Either::Left((0, _)) => Waited::Ended,
            Either::Left(_) => Waited::Commands,
            Either::Right(_) => Waited::Time,
        }
    }

    async fn sleep(clock: StoreClock, deadline: Option<Timestamp>, flush: Option<Instant>) {
        let expiry = async {
            match deadline {
                Some(deadline) => clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let flush = async {
            match flush {
                Some(flush) => tokio::time::sleep_until(flush).await,
                None => std::future::pending().await,
            }
        };
        select(std::pin::pin!(expiry), std::pin::pin!(flush)).await;
    }

    /// When an entry expires or a lock is held too long.
    fn next_deadline(&mut self) -> Option<Timestamp> {
        let locks = self.locks.expire();
        if self.state.failed.is_some() {
            return locks;
        }
        let expiry = match self.state.next_expiry {
            Some(known) => known,
            None => {
                let found = self.first_expiry();
                self.state.next_expiry = Some(found);
                found
            }
        };
        [locks, expiry].into_iter().flatten().min()
    }

    fn first_expiry(&mut self) -> Option<Timestamp> {
        let mut first = None;
        let range = (
            std::ops::Bound::Included(vec![space::EXPIRY]),
            std::ops::Bound::Excluded(vec![space::EXPIRY + 1]),
        );
        let found = self.view.client().scan(range, |key, _| {
            first = number_in(key, 0).map(Timestamp::from_millis);
            Ok(std::ops::ControlFlow::Break(()))
        });
        if let Err(error) = found {
            self.fail(&error);
        }
        first
    }

    fn flush_due(&self) -> Option<Instant> {
        match (self.config.durability, self.state.dirty) {
            (Durability::Interval(interval), Some(since)) => Some(since + interval),
            _ => None,
        }
    }

    /// Carries out as many requests as go into one group.
    fn work(&mut self, requests: &mut VecDeque<Request>) {
        if let Some(failure) = &self.state.failed {
            for request in requests.drain(..) {
                answer(request, Err(failure.refused()));
            }
            return;
        }
        if let Err(error) = self.group(requests, MAX_GROUP) {
            self.fail(&error);
        }
    }

    /// One group. An error means that nothing can be written any more.
    fn group(&mut self, requests: &mut VecDeque<Request>, max: usize) -> Result<()> {
        let locks = Arc::clone(&self.locks);
        let view = Arc::clone(&self.view);
        let client = view.client();
        let now = locks.clock().now();
        let room = client.log_len().and_then(|len| Room::measure(&self.dir, len, self.meta.bytes));
        let room = match room {
            Ok(room) => room,
            Err(error) => {
                let failure = Failure::of(&error);
                for request in requests.drain(..) {
                    answer(request, Err(failure.unknown().not_applied()));
                }
                return Ok(());
            }
        };
        let mut stage =
            Stage::new(client, &self.counter, &mut self.state.namespaces, self.meta.clone(), now, room);
        let mut retry_expiry = None;
        let expired = self.state.next_expiry.flatten().is_some_and(|first| first <= now);
        if expired {
            let due = look_up(client, space::EXPIRY, 0, whole_millis(now), MAX_EXPIRED)?;
            let due = stage.indexed(due)?;
            if stage.room().take_for_deletes(due.len()).is_ok() {
                for (name, live) in due {
                    stage.delete(&name, live, DeleteCause::Expired)?;
                }
            } else {
                // Without space they stay for now.
                retry_expiry = Some(Some(locks.clock().now().after(EXPIRY_RETRY)));
            }
        }

        // Known again after the group, when it is seen what is left.
        if expired {
            self.state.next_expiry = retry_expiry;
        }
        let frozen = requests
            .iter()
            .take(max)
            .any(|request| !matches!(request.fence, Fences::None))
            .then(|| locks.freeze());
        let mut answers = Vec::new();
        let mut trees = Vec::new();
        let mut spoilt = None;
        while answers.len() < max && stage.bytes() < MAX_GROUP_BYTES {
            let Some(request) = requests.pop_front() else { break };
            // Nobody waits for it any more: whether it is applied is open, so better not.
            if request.reply.is_closed() && !matches!(request.write, Write::EndSession { .. }) {
                continue;
            }
            let held = match (&request.fence, &frozen) {
                (Fences::None, _) => true,
                (Fences::One(fence), Some(frozen)) => frozen.holds(fence),
                (Fences::One(_), None) | (Fences::Foreign, _) => false,
            };
            if !held {
                answers.push((request, Err(ErrorKind::NotHeld.into())));
                continue;
            }
            match carry_out(&request.write, &mut stage) {
                Ok(result) => {
                    if let (Write::DeleteTree { prefix }, Ok(_)) = (&request.write, &result) {
                        trees.push(prefix.clone());
                    }
                    answers.push((request, result));
                }
                Err(error) => {
                    spoilt = Some((request, error));
                    break;
                }
            }
        }

        if let Some((request, error)) = spoilt {
            drop(stage);
            drop(frozen);
            if answers.is_empty() {
                answer(request, Err(error.not_applied()));
                return Ok(());
            }
            // Each for itself, so that one damaged entry fails one write.
            requests.push_front(request);
            for (request, _) in answers.into_iter().rev() {
                requests.push_front(request);
            }
            for _ in 0..requests.len() {
                self.group(requests, 1)?;
            }
            return Ok(());
        }

        let changes = stage.changes();
        let done = match trim(&mut stage, room, &view, self.config, self.meta.version) {
            Ok(()) if stage.is_empty() && !self.counter.is_low() => Ok(()),
            Ok(()) => {
                let prepared = stage.prepare();
                self.commit(prepared, changes)
            }
            Err(error) => Err(error),
        };
        drop(frozen);
        match done {
            Ok(()) => {
                for prefix in trees {
                    locks.remove_tree(&prefix);
                }
                for (request, result) in answers {
                    answer(request, result);
                }
                Ok(())
            }
            Err(error) => {
                let failure = Failure::of(&error);
                for (request, result) in answers {
                    // What was refused was refused on the ground of writes that may not be.
                    let applied =
                        if result.is_ok() { failure.unknown() } else { failure.unknown().not_applied() };
                    answer(request, Err(applied));
                }
                Err(error)
            }
        }
    }

    /// Applies a group, makes it as durable as promised, shows it and publishes it.
    fn commit(&mut self, prepared: Prepared, changes: usize) -> Result<()> {
        let Prepared { batch, meta, before, changes: events } = prepared;
        let client = self.view.client();
        self.view.hide(before);
        client.apply(batch)?;
        // Numbers that are not reserved yet may not be seen before they are.
        let reserving = meta.version > self.counter.ceiling();
        let must_flush = !matches!(self.config.durability, Durability::Interval(_)) || reserving;
        if must_flush {
            self.flush()?;
            self.counter.reserved(meta.ceiling);
        } else {
            self.state.dirty.get_or_insert_with(Instant::now);
        }
        self.view.show(meta.version, meta.floor);
        self.meta = meta;
        self.state.next_expiry = None;
        self.counts.changes.fetch_add(changes as u64, Ordering::Relaxed);
        self.hub.publish(events).wake();
        self.view.client().reclaim();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let client = self.view.client();
        client.flush()?;
        if self.config.durability == Durability::Power {
            client.sync()?;
        }
        self.counts.flushes.fetch_add(1, Ordering::Relaxed);
        self.state.dirty = None;
        Ok(())
    }

    fn flush_if_due(&mut self) {
        if self.state.failed.is_none() && self.flush_due().is_some_and(|due| due <= Instant::now()) {
            match self.flush() {
                Ok(()) => self.counter.reserved(self.meta.ceiling),
                Err(error) => self.fail(&error),
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        tracing::error!(dir = %self.dir.display(), %error, "the sled store is not written any more");
        self.state.failed.get_or_insert_with(|| Failure::of(error));
    }

    /// Writes down that all numbers given out are known, and makes everything durable.
    fn finish(&mut self) {
        if self.state.failed.is_some() {
            return;
        }
        self.meta.version = self.counter.last().max(self.meta.version);
        self.meta.ceiling = self.meta.version;
        let mut batch = crate::client::Batch::default();
        batch.insert(crate::record::META, self.meta.encode());
        let client = self.view.client();
        let finished = client.apply(batch).and_then(|()| client.flush()).and_then(|()| client.sync());
        if let Err(error) = finished {
            // Nothing acknowledged is lost by it: the next start takes it for a crash.
            tracing::warn!(dir = %self.dir.display(), %error, "the sled store was not closed in good order");
        }
    }
}

/// What ended a wait.
enum Waited {
    Commands,
    Time,
    Ended,
}

/// Keeps history within its bounds, but not what a list still needs, unless that is far too much. On
/// a full disk nothing of it is kept.
fn trim(stage: &mut Stage<'_>, room: Room, view: &View, config: EngineConfig, committed: u64) -> Result<()> {
    let bounds = if room.is_low() {
        HistoryBounds { events: 0, weight: 0 }
    } else {
        HistoryBounds { events: config.history as u64, weight: MAX_HISTORY_WEIGHT }
    };
    let now = stage.history();
    let over = now.events.saturating_sub(bounds.events);
    let worth_it = over >= TRIM_STEP || now.weight > bounds.weight;
    let max = if room.is_low() { 16 } else { 256 + 2 * stage.changes() };
    if !worth_it || room.is_low() && stage.room().take_for_deletes(max).is_err() {
        return Ok(());
    }
    let pinned = view.pins().oldest().filter(|_| over < MAX_BEHIND);
    stage.trim(bounds, max, committed.min(pinned.unwrap_or(u64::MAX)))
}

/// Deadlines are on disk in milliseconds, rounded up: what is due at `now` is so at its millisecond.
fn whole_millis(now: Timestamp) -> u64 {
    u64::try_from(now.since_epoch().as_millis()).unwrap_or(u64::MAX)
}

fn answer(request: Request, result: Result<Outcome>) {
    drop(request.permit);
    // Whoever asked may have gone.
    drop(request.reply.send(result));
}
