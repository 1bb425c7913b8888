//! One open directory, shared by all handles of this process, and the list of those there are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use kv_backend::{Deadline, HandleId, Hub, Timestamp};
use kv_core::{Error, ErrorKind, Operation, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::commit::{Closed, Command, Committer, Counts, RELEASE, Request, drop_shared};
use crate::config::{EngineConfig, SledConfig};
use crate::counter::Counter;
use crate::dirlock::{DirLock, wait_until_unlocked};
use crate::error::from_io;
use crate::lock::{Fences, Locks, StoreClock};
use crate::open;
use crate::tree::Doomed;
use crate::txn::{Outcome, Write};
use crate::view::View;

/// How many writes may wait for the committer before callers wait for a place.
const MAX_WAITING: usize = 4096;

/// An open database. It is closed when the last handle lets go of it.
#[derive(Debug)]
pub(crate) struct Database {
    // First, so that the committer ends when this is dropped.
    commands: mpsc::UnboundedSender<Command>,
    places: Arc<Semaphore>,
    view: Arc<View>,
    hub: Hub,
    locks: Arc<Locks>,
    counts: Arc<Counts>,
    config: EngineConfig,
    closed: watch::Receiver<Option<Closed>>,
}

impl Database {
    /// Opens the directory, or shares it if this process has it open.
    pub(crate) async fn open(config: SledConfig) -> Result<Arc<Self>> {
        let (opened, opening) = oneshot::channel();
        let name = "kv-sled-commit".to_owned();
        thread::Builder::new().name(name).spawn(move || serve(&config, opened)).map_err(from_io)?;
        // The thread answers unless it panicked, which is said on stderr.
        opening.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal)))
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn locks(&self) -> &Arc<Locks> {
        &self.locks
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Tells when everything is closed and the directory is free.
    pub(crate) fn closed(&self) -> watch::Receiver<Option<Closed>> {
        self.closed.clone()
    }

    /// Has a write made. Dropping the future may or may not stop it.
    pub(crate) async fn write(&self, write: Write, fence: Fences, deadline: Deadline) -> Result<Outcome> {
        let place = async { Ok(Arc::clone(&self.places).acquire_owned().await.ok()) };
        let permit = deadline.run(place).await.map_err(Error::not_applied)?;
        let (reply, answer) = oneshot::channel();
        self.send(Request { write, fence, reply, permit });
        let answer = async { answer.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal))) };
        deadline.run(answer).await
    }

    /// Ends a session without waiting for it.
    pub(crate) fn end_session(&self, handle: HandleId) -> oneshot::Receiver<Result<Outcome>> {
        let (reply, answer) = oneshot::channel();
        let write = Write::EndSession { session: handle.get() };
        self.send(Request { write, fence: Fences::None, reply, permit: None });
        answer
    }

    fn send(&self, request: Request) {
        // The committer ends after the last sender only. If it panicked, the answer is dropped too.
        drop(self.commands.send(Command::Write(request)));
    }
}

/// What this process knows of a directory.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    database: Weak<Database>,
    /// From the moment it is being opened until it is closed for good.
    busy: bool,
}

/// The directories this process has or had open.
static SLOTS: Mutex<BTreeMap<PathBuf, Arc<Slot>>> = Mutex::new(BTreeMap::new());

/// Frees the slot when the directory is closed, however that comes about.
struct Busy(Arc<Slot>);

impl Busy {
    /// Shares the open database or takes the slot.
    fn enter(slot: Arc<Slot>, config: &SledConfig) -> Result<Entered> {
        let deadline = Instant::now() + config.wait.max(RELEASE);
        let mut state = slot.state.lock();
        loop {
            if let Some(database) = state.database.upgrade() {
                return Ok(Entered::Shared(database));
            }
            if !state.busy {
                state.busy = true;
                drop(state);
                return Ok(Entered::Own(Self(slot)));
            }
            if slot.changed.wait_until(&mut state, deadline).timed_out() {
                let holder = Some(std::process::id());
                return Err(Error::new(ErrorKind::InUse { holder })
                    .with_detail("this process is still opening or closing it"));
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.busy = false;
        state.database = Weak::new();
        self.0.changed.notify_all();
    }
}

enum Entered {
    Shared(Arc<Database>),
    Own(Busy),
}

/// The life of a database, on a thread of its own: open, answer, commit, close.
fn serve(config: &SledConfig, opened: oneshot::Sender<Result<Arc<Database>>>) {
    let refuse = |error: Error| error.with_operation(Operation::Open);
    match begin(config) {
        Err(error) => drop(opened.send(Err(refuse(error)))),
        Ok(Begun::Shared(database)) => {
            let shared = if database.config == config.engine {
                Ok(database)
            } else {
                Err(refuse(Error::invalid_config(format!(
                    "this process has the directory open with {:?}: a second handle must ask for the same",
                    database.config
                ))))
            };
            drop(opened.send(shared));
        }
        Ok(Begun::Own(mut own)) => {
            let Own { runtime, committer, commands, database, .. } = &mut *own;
            let Some((database, commands)) = database.take().zip(commands.take()) else { return };
            // Nobody may wait for it any more; then it closes at once.
            drop(opened.send(Ok(database)));
            let closed = runtime.block_on(committer.run(commands));
            own.close(closed);
        }
    }
}

enum Begun {
    Shared(Arc<Database>),
    Own(Box<Own>),
}

/// What the thread of a database owns. Dropped from top to bottom.
struct Own {
    database: Option<Arc<Database>>,
    commands: Option<mpsc::UnboundedReceiver<Command>>,
    committer: Committer,
    runtime: tokio::runtime::Runtime,
    closed: watch::Sender<Option<Closed>>,
    lock: DirLock,
    busy: Busy,
}

fn begin(config: &SledConfig) -> Result<Begun> {
    let dir = open::directory(&config.path)?;
    let slot = Arc::clone(SLOTS.lock().entry(dir.clone()).or_default());
    let busy = match Busy::enter(slot, config)? {
        Entered::Shared(database) => return Ok(Begun::Shared(database)),
        Entered::Own(busy) => busy,
    };
    // Before anything is left there, and again when nobody else can change it.
    open::check_contents(&dir)?;
    let lock = DirLock::acquire(&dir, config.wait)?;
    // sled lets go of its own lock a moment after it was closed.
    wait_until_unlocked(&dir.join("db"), RELEASE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(from_io)?;
    let (client, meta) = open::open(&dir, config.engine)?;
    open::sync(&dir, &client, config.engine)?;
    let hub = open::load_history(&client, &meta, config.engine)?;

    let (commands, receiver) = mpsc::unbounded_channel();
    let clock = StoreClock::new(Arc::clone(&config.clock), Timestamp::from_millis(meta.time));
    // A store that was not closed may have given out every number up to the ceiling.
    let counter = Arc::new(Counter::new(meta.ceiling, meta.ceiling));
    let id = HandleId::unique().get();
    let locks = Arc::new(Locks::new(Arc::clone(&counter), clock, commands.downgrade(), id));
    let doomed = Doomed::load(&client)?;
    let view = Arc::new(View::new(client, &meta, doomed, config.engine.entry_cache_bytes()));
    let mut committer = Committer::new(
        dir.clone(),
        config.engine,
        Arc::clone(&view),
        hub.clone(),
        Arc::clone(&locks),
        counter,
        meta,
    );
    // What a process that died left behind goes before anybody looks.
    committer.take_over()?;
    let (closed, closing) = watch::channel(None);
    let database = Arc::new(Database {
        commands,
        places: Arc::new(Semaphore::new(MAX_WAITING)),
        view,
        hub,
        locks,
        counts: Arc::clone(&committer.counts),
        config: config.engine,
        closed: closing,
    });
    {
        let mut state = busy.0.state.lock();
        state.database = Arc::downgrade(&database);
        busy.0.changed.notify_all();
    }
    Ok(Begun::Own(Box::new(Own {
        database: Some(database),
        commands: Some(receiver),
        committer,
        runtime,
        closed,
        lock,
        busy,
    })))
}

impl Own {
    /// Lets go of everything, in order, and then tells.
    fn close(self, result: Closed) {
        let Self { committer, closed, lock, busy, .. } = self;
        let view = Arc::clone(&committer.view);
        drop(committer);
        drop_shared(view);
        drop(lock);
        drop(busy);
        closed.send_replace(Some(result));
    }
}
