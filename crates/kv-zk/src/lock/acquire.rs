//! Locks: ephemeral sequential nodes below the key, in the layout of Curator or kazoo.
//!
//! Who has the smallest sequence number holds the lock; each waiter watches the one before it. The
//! name carries a number of ours, so that a node whose creation was not answered is found again, and
//! that nobody else's can be taken for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_backend::Deadline;
use kv_core::{
    Consistency, Error, ErrorKind, Fence, Key, LockGuard, LockHolder, LockLoss, LockOptions, LockWait, Result,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::{AGAIN, ANY_VERSION, BARRIER, Mode, Reply, Session, Stat, answered, connected};
use crate::config::LockLayout;
use crate::env::{Core, optional};
use crate::lock::hold::ZkHold;
use crate::lock::record::{Above, holder, rivals, token};
use crate::names::child;
use crate::session::grace::Held;
use crate::session::{Carried, Live, closed};

impl Core {
    pub(crate) async fn lock(self: &Arc<Self>, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.layout.check_writable(key)?;
        self.client.check_open()?;
        let request = options.timeout.unwrap_or(self.timeout);
        let wait_until = match options.wait {
            LockWait::Forever => None,
            LockWait::Try => Some(Instant::now()),
            LockWait::UpTo(wait) => Instant::now().checked_add(wait),
            _ => return Err(Error::invalid_argument("this way of waiting is not known to the store")),
        };
        let acquiring = self.acquire(key, &options, request, wait_until);
        tokio::select! {
            biased;
            acquired = acquiring => acquired,
            () = self.client.closed() => Err(closed()),
            // Waiting for the lock ends by itself; this ends waiting for the servers.
            () = until(wait_until.map(|at| at + request)) => Err(no_answer(request)),
        }
    }

    async fn acquire(
        self: &Arc<Self>,
        key: &Key,
        options: &LockOptions,
        request: Duration,
        wait_until: Option<Instant>,
    ) -> Result<LockGuard> {
        let path = self.layout.path(key);
        // Until a record was acknowledged this is a request like any other.
        let (first, mut queued) = (Deadline::after(request), false);
        let outlives = |queued: bool| queued && wait_until.is_none_or(|at| Instant::now() < at);
        loop {
            let deadline = if queued { Deadline::after(request) } else { first };
            let live = match self.open_lock(&path, deadline).await {
                Ok(live) => live,
                Err(error) if error.is_transient() && outlives(queued) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error.not_applied()),
            };
            let mut contender = Contender::new(Arc::clone(self), live, path.clone());
            let making = contender.enqueue(&options.owner);
            let own = if queued {
                making.await
            } else {
                // What was made and not acknowledged is taken away in the background.
                deadline.run(async { Ok(making.await) }).await.map_err(|_| no_answer(request))?
            };
            let waited = match own {
                Ok(own) => {
                    queued = true;
                    contender.wait(own, options, wait_until).await
                }
                Err(fault) => Err(fault),
            };
            match waited {
                Ok(Some(guard)) => {
                    // From here on the guard's task takes the node away.
                    contender.tracked = false;
                    return Ok(guard(key));
                }
                Ok(None) => {
                    contender.leave().await;
                    return Err(Error::new(ErrorKind::Locked).with_backend(BACKEND));
                }
                // The node to lock below was swept away, or the session is over: once more.
                Err(Fault::NoNode) => self.forget_parents(&child(&path, "-")),
                Err(Fault::SessionExpired | Fault::ClientClosed) => {
                    self.client.check_open()?;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(fault) => return Err(fault.into_error().not_applied()),
            }
        }
    }

    /// Makes sure that there is a node to lock below, and a session.
    async fn open_lock(&self, path: &str, deadline: Deadline) -> Result<Arc<Live>> {
        self.make_parents(&child(path, "-"), deadline).await?;
        self.client.up(deadline).await
    }

    pub(crate) async fn holder(&self, key: &Key, timeout: Option<Duration>) -> Result<Option<LockHolder>> {
        self.client.check_open()?;
        if !self.layout.is_readable(key) {
            return Ok(None);
        }
        let deadline = self.deadline(timeout);
        let path = self.layout.path(key);
        self.catch_up(Consistency::Linearizable, deadline).await?;
        loop {
            let reply = self
                .client
                .read(deadline, |session| {
                    let path = &path;
                    async move { session.children(path).await }
                })
                .await?;
            let Some(names) = optional(reply)? else { return Ok(None) };
            let Some(first) = rivals(names).into_iter().next() else { return Ok(None) };
            let node = child(&path, &first);
            if let Some((owner, stat)) = self.read(&node, Consistency::Stale, deadline).await? {
                return Ok(Some(holder(&first, owner, &stat)));
            }
        }
    }
}

fn no_answer(request: Duration) -> Error {
    let detail = format!("no answer within {request:?}");
    Error::new(ErrorKind::Timeout).not_applied().with_backend(BACKEND).with_detail(detail)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One try to get a lock within one session. Dropping it takes its node away in the background.
struct Contender {
    core: Arc<Core>,
    live: Arc<Live>,
    dir: String,
    /// The part of the node's name that is ours alone.
    mark: String,
    /// Whether a node may exist that nobody holds yet.
    tracked: bool,
}

/// The node of a contender.
struct Own {
    path: String,
    stat: Stat,
    /// When the request was sent that made it; not known where it was found.
    made_at: Option<Instant>,
}

type MakeGuard = Box<dyn FnOnce(&Key) -> LockGuard + Send>;

impl Contender {
    fn new(core: Arc<Core>, live: Arc<Live>, dir: String) -> Self {
        let mark = uuid::Uuid::new_v4();
        let mark = match core.lock_layout {
            LockLayout::Curator => format!("_c_{mark}-lock-"),
            LockLayout::Kazoo => format!("{}__lock__", mark.simple()),
        };
        Self { core, live, dir, mark, tracked: true }
    }

    /// Waits for the lock; `None` when the wait is over without it.
    async fn wait(
        &self,
        mut own: Own,
        options: &LockOptions,
        wait_until: Option<Instant>,
    ) -> Reply<Option<MakeGuard>> {
        let session = &*self.live.session;
        loop {
            let dir = &self.dir;
            let names = answered(session, || session.children(dir)).await?;
            let mut rivals = rivals(names);
            // A creation that was not answered can have left a second node of ours: the first counts.
            let mine: Vec<String> =
                rivals.iter().filter(|name| name.starts_with(&self.mark)).cloned().collect();
            for extra in mine.iter().skip(1) {
                self.remove(&child(dir, extra)).await?;
            }
            rivals.retain(|name| mine.iter().skip(1).all(|extra| extra != name));
            let Some(at) = rivals.iter().position(|name| name.starts_with(&self.mark)) else {
                // Taken away from outside while it waited.
                own = self.enqueue(&options.owner).await?;
                continue;
            };
            let node = child(dir, &rivals[at]);
            let Some(before) = at.checked_sub(1).and_then(|before| rivals.get(before)) else {
                if node != own.path {
                    let path = &node;
                    let stat = answered(session, || session.stat(path)).await?;
                    let Some(stat) = stat else { continue };
                    own = Own { path: node.clone(), stat, made_at: None };
                }
                // A server that is cut off from its leader shows who was first before.
                let sent_at = match own.made_at.filter(|at| at.elapsed() < session.timeout() / 10) {
                    Some(made_at) => made_at,
                    None => answered(session, || self.live.prove()).await?,
                };
                let carried = Carried { live: Arc::clone(&self.live), sent_at };
                return self.acquired(own.path, &own.stat, &carried, options).map(Some);
            };
            if wait_until.is_some_and(|at| Instant::now() >= at) {
                return Ok(None);
            }
            let before = child(dir, before);
            let before = &before;
            let watched = answered(session, || session.get_watched(before)).await;
            let fired = match watched {
                Ok((_, _, fired)) => fired,
                Err(Fault::NoNode) => continue,
                Err(fault) => return Err(fault),
            };
            tokio::select! {
                _ = fired => {}
                () = until(wait_until) => {}
            }
        }
    }

    /// Makes the node, once: it is looked for before it is made again.
    async fn enqueue(&self, owner: &Bytes) -> Reply<Own> {
        let (prefix, acl) = (child(&self.dir, &self.mark), self.core.access.acl());
        let session = &*self.live.session;
        loop {
            connected(session).await?;
            let sent_at = Instant::now();
            let created = session.create(&prefix, owner, Mode::EphemeralSequential, &acl).await;
            match created {
                Ok((path, stat)) => {
                    let _ = self.live.own_id.set(stat.ephemeral_owner);
                    return Ok(Own { path, stat, made_at: Some(sent_at) });
                }
                Err(Fault::Unsent | Fault::Throttled) => tokio::time::sleep(AGAIN).await,
                Err(Fault::ConnectionLost | Fault::SessionMoved | Fault::Protocol(_)) => {
                    tokio::time::sleep(AGAIN).await;
                    for path in self.nodes().await? {
                        let node = path.as_str();
                        let stat = answered(session, || session.stat(node)).await?;
                        if let Some(stat) = stat {
                            return Ok(Own { path, stat, made_at: None });
                        }
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Our nodes, as the server has them.
    async fn nodes(&self) -> Reply<Vec<String>> {
        let (session, dir) = (&*self.live.session, &self.dir);
        let names = answered(session, || session.children(dir)).await?;
        Ok(names.iter().filter(|name| name.starts_with(&self.mark)).map(|name| child(dir, name)).collect())
    }

    async fn remove(&self, node: &str) -> Reply<()> {
        let session = &*self.live.session;
        match answered(session, || session.delete(node, ANY_VERSION)).await {
            Err(Fault::NoNode) => Ok(()),
            reply => reply,
        }
    }

    /// The lock is ours: hands it over to the guard and the task that keeps it.
    fn acquired(
        &self,
        node: String,
        stat: &Stat,
        carried: &Carried,
        options: &LockOptions,
    ) -> Reply<MakeGuard> {
        let held = Arc::new(Held::new(options.max_hold));
        self.core.client.need(carried);
        if !self.core.client.vouch(&self.live, &held) {
            return Err(Fault::SessionExpired);
        }
        let (released, outcome) = watch::channel(None);
        let timeout = self.core.timeout;
        let token = token(stat);
        let (core, live, kept) = (Arc::clone(&self.core), Arc::clone(&self.live), Arc::clone(&held));
        let record = node.clone();
        // From here on the task takes the node away.
        self.core.runtime.spawn(async move {
            let result = keep(&core, &*live.session, &record, &kept).await;
            released.send_replace(Some(result));
        });
        Ok(Box::new(move |key: &Key| {
            let fence = Fence::new(key.clone(), token, node);
            LockGuard::new(ZkHold { fence, held, outcome, timeout })
        }))
    }

    /// Takes our node away and waits until it is. What takes too long goes on in the background.
    async fn leave(mut self) {
        let clean = sweep(&self.core, &self.live, &self.dir, &self.mark);
        self.tracked = tokio::time::timeout(self.core.timeout, clean).await.is_err();
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if !self.tracked {
            return;
        }
        let (core, live) = (Arc::clone(&self.core), Arc::clone(&self.live));
        let (dir, mark) = (self.dir.clone(), self.mark.clone());
        // Where the runtime is gone the node goes with the session.
        self.core.runtime.spawn(async move {
            let session = &*live.session;
            // A node that is being made may come later than the answer of the server we are with since a
            // break. The delete that finds nothing comes after it; where it fails, what is there is swept.
            let _ = answered(session, || session.barrier(BARRIER)).await;
            sweep(&core, &live, &dir, &mark).await;
        });
    }
}

/// Takes away every node with this mark, while the session lives.
async fn sweep(core: &Arc<Core>, live: &Arc<Live>, dir: &str, mark: &str) {
    let session = &*live.session;
    let Ok(names) = answered(session, || session.children(dir)).await else { return };
    let (ours, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.starts_with(mark));
    for (at, name) in ours.iter().enumerate() {
        let node = child(dir, name);
        let last = others.is_empty() && at + 1 == ours.len();
        let above = if last { core.above_record(session, &node).await } else { Vec::new() };
        if !matches!(take_away(core, session, &node, &above).await, Ok(()) | Err(Fault::NoNode)) {
            return;
        }
    }
}

/// Watches over a hold until it ends, then takes its node away. `NoNode`: it was gone before.
async fn keep(core: &Core, session: &dyn Session, node: &str, held: &Held) -> Reply<()> {
    let state = &held.state;
    let above = core.above_record(session, node).await;
    loop {
        let look = answered(session, || session.get_watched(node));
        let fired = tokio::select! {
            watched = look => match watched {
                Ok((_, _, fired)) => fired,
                Err(fault) => {
                    let loss = match fault {
                        Fault::NoNode => LockLoss::Removed,
                        Fault::NoAuth | Fault::AuthFailed => LockLoss::PermissionDenied,
                        _ => LockLoss::SessionLost,
                    };
                    // Released just now, and seen from here?
                    state.lose(loss);
                    if fault == Fault::NoNode {
                        return Err(fault);
                    }
                    break;
                }
            },
            _ = state.lost() => break,
        };
        tokio::select! {
            _ = fired => {}
            _ = state.lost() => break,
        }
    }
    tokio::select! {
        () = held.given_up() => {}
        () = core.client.closed() => {}
    }
    take_away(core, session, node, &above).await
}

/// Takes a node away that is ours alone: deleting it twice harms nobody.
async fn take_away(core: &Core, session: &dyn Session, node: &str, above: &[Above]) -> Reply<()> {
    let mut unsure = false;
    loop {
        connected(session).await?;
        match core.remove_record(session, node, above).await {
            Err(Fault::NoNode) if unsure => return Ok(()),
            Err(Fault::ConnectionLost | Fault::SessionMoved | Fault::Protocol(_)) => {
                unsure = true;
                tokio::time::sleep(AGAIN).await;
            }
            Err(Fault::Unsent | Fault::Throttled) => tokio::time::sleep(AGAIN).await,
            reply => return reply,
        }
    }
}
