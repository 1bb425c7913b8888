//! The committer: the one thread that changes the database.

use std::collections::{BTreeSet, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use kv_backend::{Clock, Hub, Timestamp};
use kv_core::{Error, ErrorKind, Result, Version};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use crate::client::{Batch, Client};
use crate::config::{Durability, EngineConfig};
use crate::counter::Counter;
use crate::dirlock::wait_until_unlocked;
use crate::lock::{Fences, Locks, StoreClock};
use crate::name::Namespaces;
use crate::open;
use crate::record::{META, Meta, corrupt, number_in, space};
use crate::tree::Doomed;
use crate::txn::{Outcome, Write};
use crate::view::View;

/// How many requests are taken at a time.
pub(crate) const MAX_GROUP: usize = 1024;

/// How soon a database that failed is opened again, and expiry tried again on a full disk.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How long it may take until nobody uses a closed database any more.
pub(crate) const RELEASE: Duration = Duration::from_secs(10);

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

impl Request {
    pub(crate) fn answer(self, result: Result<Outcome>) {
        drop(self.permit);
        // Whoever asked may have gone.
        drop(self.reply.send(result));
    }

    /// Whether nobody waits for it any more: then it is open whether it is applied, so better not.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_closed() && !matches!(self.write, Write::EndSession { .. })
    }
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

/// Why nothing is written for now.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    text: String,
    /// When to open the database again; never if that could show an older state than was seen.
    retry: Option<Instant>,
}

impl Failure {
    pub(crate) fn of(error: &Error) -> Self {
        Self { kind: error.kind().clone(), text: error.to_string(), retry: Some(Instant::now() + RETRY) }
    }

    /// For the writes that were on their way.
    pub(crate) fn unknown(&self) -> Error {
        Error::new(self.kind.clone()).maybe_applied().with_detail(self.text.clone())
    }

    /// For who closes the store.
    pub(crate) fn at_close(&self) -> Error {
        Error::new(self.kind.clone()).with_detail(format!(
            "it is closed, but not everything could be made durable: {}; what the mode promises is kept",
            self.text
        ))
    }

    /// For the writes that come after.
    pub(crate) fn refused(&self) -> Error {
        let advice = match self.retry {
            Some(_) => "the store tries again by itself",
            None => "close every handle of this directory and open it again",
        };
        Error::new(self.kind.clone())
            .not_applied()
            .with_detail(format!("nothing is written since this failed: {}; {advice}", self.text))
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
    pub(crate) namespaces: Namespaces,
    pub(crate) failed: Option<Failure>,
    /// Since when there are changes that are not flushed.
    pub(crate) dirty: Option<Instant>,
    /// When the first entry expires; unknown until looked up.
    pub(crate) next_expiry: Option<Option<Timestamp>>,
    /// Deleted subtrees of which something may be left. The view has the same.
    pub(crate) doomed: Vec<Doomed>,
    pub(crate) purge: Purge,
    /// When more of the history is to be let go without a write.
    pub(crate) trim_at: Option<Instant>,
    /// How many segments the log had when the disk was last nearly full.
    pub(crate) segments: u64,
    /// Sessions that are over and whose keys could not be removed, and when to try again.
    ended: BTreeSet<u64>,
    retry_ended: Option<Instant>,
}

/// How far the removal of the first deleted subtree is.
#[derive(Debug, Default)]
pub(crate) struct Purge {
    /// Nothing is left up to this name.
    pub(crate) behind: Option<String>,
    /// Put off for want of space.
    pub(crate) not_before: Option<Instant>,
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
        Self {
            dir,
            config,
            doomed: view.doomed(),
            view,
            hub,
            locks,
            counter,
            counts: Arc::default(),
            meta,
            namespaces: Namespaces::default(),
            failed: None,
            dirty: None,
            next_expiry: None,
            purge: Purge::default(),
            trim_at: None,
            segments: 0,
            ended: BTreeSet::new(),
            retry_ended: None,
        }
    }

    /// Works until every handle is closed, and leaves the database as it should be found; says why if
    /// it could not.
    pub(crate) async fn run(&mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> Closed {
        let mut taken = Vec::new();
        while self.wait(&mut commands, &mut taken).await {
            let requests = taken.drain(..).filter_map(|command| match command {
                Command::Write(request) => Some(request),
                Command::Wake => None,
            });
            let mut requests: VecDeque<Request> = requests.collect();
            loop {
                self.work(&mut requests);
                if requests.is_empty() {
                    break;
                }
            }
            self.flush_if_due();
        }
        self.finish()
    }

    /// Waits for commands or until something is to be done. False at the end.
    async fn wait(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        taken: &mut Vec<Command>,
    ) -> bool {
        let deadline = self.next_deadline();
        let clock = self.locks.clock().clone();
        let time = std::pin::pin!(sleep(clock, deadline, self.next_chore()));
        let receive = std::pin::pin!(commands.recv_many(taken, MAX_GROUP));
        !matches!(select(receive, time).await, Either::Left((0, _)))
    }

    /// When an entry expires or a lock is held too long.
    fn next_deadline(&mut self) -> Option<Timestamp> {
        let locks = self.locks.expire();
        if self.failed.is_some() {
            return locks;
        }
        let expiry = self.next_expiry().unwrap_or_else(|error| {
            self.fail(&error);
            None
        });
        [locks, expiry].into_iter().flatten().min()
    }

    /// When the first entry expires.
    pub(crate) fn next_expiry(&mut self) -> Result<Option<Timestamp>> {
        if let Some(known) = self.next_expiry {
            return Ok(known);
        }
        let mut first = None;
        let range = (Bound::Included(vec![space::EXPIRY]), Bound::Excluded(vec![space::EXPIRY + 1]));
        self.view.client()?.scan(range, |key, _| {
            first = number_in(key, 0).map(Timestamp::from_millis);
            Ok(ControlFlow::Break(()))
        })?;
        self.next_expiry = Some(first);
        Ok(first)
    }

    /// When there is something to do that no caller waits for.
    fn next_chore(&self) -> Option<Instant> {
        if let Some(failure) = &self.failed {
            return failure.retry;
        }
        let purge = (!self.doomed.is_empty()).then(|| self.purge.not_before.unwrap_or_else(Instant::now));
        [purge, self.flush_due(), self.trim_at, self.retry_ended].into_iter().flatten().min()
    }

    fn flush_due(&self) -> Option<Instant> {
        match (self.config.durability, self.dirty) {
            (Durability::Interval(interval), Some(since)) => Some(since + interval),
            _ => None,
        }
    }

    fn flush_if_due(&mut self) {
        if self.failed.is_none() && self.flush_due().is_some_and(|due| due <= Instant::now()) {
            match self.flush() {
                Ok(()) => self.counter.reserved(self.meta.ceiling),
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Carries out as many requests as go into one group.
    fn work(&mut self, requests: &mut VecDeque<Request>) {
        if self.failed.as_ref().is_some_and(|failure| failure.retry.is_some_and(|at| at <= Instant::now())) {
            self.recover();
        }
        if let Some(failure) = self.failed.clone() {
            requests.drain(..).for_each(|request| self.reply(request, Err(failure.refused())));
            return;
        }
        if self.retry_ended.is_some_and(|at| at <= Instant::now()) {
            self.retry_ended = None;
            for session in std::mem::take(&mut self.ended) {
                let (reply, _) = oneshot::channel();
                let write = Write::EndSession { session };
                requests.push_front(Request { write, fence: Fences::None, reply, permit: None });
            }
        }
        if let Err(error) = self.group(requests, MAX_GROUP) {
            self.fail(&error);
        }
    }

    /// Answers a request. A session that could not be ended is tried again: nobody else would.
    pub(crate) fn reply(&mut self, request: Request, result: Result<Outcome>) {
        if let (Write::EndSession { session }, Err(_)) = (&request.write, &result) {
            self.ended.insert(*session);
            self.retry_ended = Some(Instant::now() + RETRY);
        }
        request.answer(result);
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        let client = self.view.client()?;
        if let Err(error) = client.flush() {
            // What did not fit was not begun. Of anything else see below.
            if self.config.durability == Durability::Power && error.kind() != &ErrorKind::NoSpace {
                self.fail_for_good(&error);
            }
            return Err(error);
        }
        if self.config.durability == Durability::Power
            && let Err(error) = client.sync()
        {
            self.fail_for_good(&error);
            return Err(error);
        }
        self.counts.flushes.fetch_add(1, Ordering::Relaxed);
        self.dirty = None;
        Ok(())
    }

    /// Writes nothing any more before somebody opens the directory again. The system may have given up
    /// the pages it could not write and take them for clean: the next sync would succeed, with a hole
    /// below it.
    fn fail_for_good(&mut self, error: &Error) {
        self.failed = Some(Failure { retry: None, ..Failure::of(error) });
    }

    fn fail(&mut self, error: &Error) {
        tracing::error!(dir = %self.dir.display(), %error, "the sled store is not written for now");
        self.failed.get_or_insert_with(|| Failure::of(error));
    }

    /// Opens the database again after a failure, which sled needs. Readers and watches go on with
    /// what is found, unless that is older than what they saw.
    fn recover(&mut self) {
        match self.reopen() {
            Ok(()) if self.failed.is_none() => {
                tracing::info!(dir = %self.dir.display(), "the sled store is written again");
            }
            Ok(()) => {}
            Err(error) => self.failed = Some(Failure::of(&error)),
        }
    }

    fn reopen(&mut self) -> Result<()> {
        self.close_client()?;
        let (client, meta) = open::open(&self.dir, self.config)?;
        if meta.version < self.meta.version {
            self.fail_for_good(&corrupt("what was not flushed yet is lost, and readers saw it"));
            return Ok(());
        }
        if let Err(error) = open::sync(&self.dir, &client, self.config) {
            self.fail_for_good(&error);
            return Ok(());
        }
        self.doomed = Doomed::load(&client)?;
        self.meta = meta;
        self.dirty = None;
        self.next_expiry = None;
        self.counter.reserved(self.meta.ceiling);
        self.view.attach(client, &self.meta, self.doomed.clone());
        let oldest = Version::new(self.meta.oldest());
        if oldest > self.hub.newest() {
            // Something was changed that nobody was told, and history does not say what.
            self.hub.lose_all(oldest).wake();
        }
        open::publish_history(&*self.view.client()?, &self.hub, self.hub.newest().get())?;
        self.failed = None;
        Ok(())
    }

    fn close_client(&mut self) -> Result<()> {
        if let Some(client) = self.view.detach() {
            drop_shared(client);
        }
        wait_until_unlocked(&self.dir.join("db"), RELEASE)
    }

    /// Writes down that all numbers given out are known, and makes everything durable.
    fn finish(&mut self) -> Closed {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let meta = Meta { ceiling: self.counter.last(), ..self.meta.clone() };
        let mut batch = Batch::default();
        batch.insert(META, meta.encode());
        let finish =
            |client: &Client| client.apply(batch).and_then(|()| client.flush()).and_then(|()| client.sync());
        self.view.client().and_then(|client| finish(&client)).map_err(|error| {
            tracing::error!(dir = %self.dir.display(), %error, "the sled store was not closed in good order");
            Failure::of(&error)
        })
    }
}

/// How a database was closed.
pub(crate) type Closed = std::result::Result<(), Failure>;

/// Sleeps until a moment of store time, or of the machine's.
async fn sleep(clock: StoreClock, deadline: Option<Timestamp>, chore: Option<Instant>) {
    let expiry = async {
        match deadline {
            Some(deadline) => clock.sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let chore = async {
        match chore {
            Some(chore) => tokio::time::sleep_until(chore).await,
            None => std::future::pending().await,
        }
    };
    select(std::pin::pin!(expiry), std::pin::pin!(chore)).await;
}

/// Drops the last of something that readers may be about to let go.
pub(crate) fn drop_shared<T>(mut shared: Arc<T>) {
    let deadline = std::time::Instant::now() + RELEASE;
    while let Err(still_shared) = Arc::try_unwrap(shared) {
        if std::time::Instant::now() >= deadline {
            tracing::warn!("a reader still holds the sled store: the next open may have to wait");
            return;
        }
        shared = still_shared;
        thread::sleep(Duration::from_millis(1));
    }
}
