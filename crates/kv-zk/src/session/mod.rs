//! The session of a store handle, kept alive: connecting, heartbeats, giving up, connecting again.
//!
//! There is always one session or an attempt to get one. Its life is judged by our own clock: each
//! acknowledged heartbeat vouches for three fifths of the session timeout from the moment it was sent.
//! A session that is not renewed in that time is given up and never used again, so what was reported
//! lost stays lost.
//!
//! Where something lives by the session, only what went through the leader counts as a heartbeat: a
//! follower that is cut off from its leader goes on answering reads while the leader lets the session
//! expire. The other two fifths are for what the leader knows late. It learns from a follower's answer
//! to its ping, every half tick, that a session was heard of; a tick is at most half of a timeout. So
//! the leader may count from a quarter of the timeout and one heartbeat before the last one it passed.

pub(crate) mod grace;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future;
use kv_backend::{Deadline, SessionCell};
use kv_core::{Error, ErrorKind, LockLoss, Result, SessionState, SessionStates};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use self::grace::Held;
use crate::client::connect::connect;
use crate::client::error::{BACKEND, Fault};
use crate::client::wire::{BARRIER, Link, Reply, Session, caught_up};
use crate::config::{ZkClient, ZkConfig};

/// Between two attempts to get a session.
const RECONNECT: Duration = Duration::from_millis(600);

/// How many heartbeats there are in a session timeout.
const BEATS: u32 = 10;

/// From this session timeout on a sync shows that the leader knows the session. A leader that has lost its
/// followers answers syncs for a tick longer than they wait for it, which matters below 2.5 ticks, 5 s as
/// ZooKeeper is shipped.
const SYNC_PROVES: Duration = Duration::from_secs(5);

/// Between two attempts of a read whose connection broke.
const REREAD: Duration = Duration::from_millis(20);

/// How many answers to one read may make no sense before it fails.
const NONSENSE: u32 = 3;

/// A session that is, or was, in use.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) session: Arc<dyn Session>,
    /// Tells this session from earlier ones of the handle.
    pub(crate) epoch: u64,
    /// The server's number of the session, once an ephemeral node has shown it.
    pub(crate) own_id: OnceLock<i64>,
    /// When the last acknowledged heartbeat was sent, of any kind.
    renewed: watch::Sender<Instant>,
    /// When the last acknowledged request that went through the leader was sent, as far as noted.
    proved: watch::Sender<Instant>,
    /// Whether only a write shows that the leader knows the session.
    by_write: bool,
}

impl Live {
    /// `sent_at`: when the request was sent that showed that the leader knows the session.
    fn new(session: Arc<dyn Session>, sent_at: Instant, epoch: u64, asked: Duration) -> Arc<Self> {
        let (renewed, proved) = (watch::Sender::new(sent_at), watch::Sender::new(sent_at));
        // A server that grants more than was asked for grants its least, two of its ticks as shipped.
        let by_write = session.timeout() < SYNC_PROVES || session.timeout() > asked;
        Arc::new(Self { session, epoch, own_id: OnceLock::new(), renewed, proved, by_write })
    }

    /// How much of its timeout a renewal does not vouch for.
    fn margin(&self) -> Duration {
        self.session.timeout() * 2 / 5
    }

    /// Notes a request that went through the leader and was acknowledged.
    fn note_proof(&self, sent_at: Instant) {
        for noted in [&self.renewed, &self.proved] {
            noted.send_if_modified(|at| {
                let later = sent_at > *at;
                *at = (*at).max(sent_at);
                later
            });
        }
    }

    /// Makes sure that the leader knows the session.
    pub(crate) async fn prove(&self) -> Reply<Instant> {
        let sent_at = Instant::now();
        match self.by_write {
            true => self.session.barrier(BARRIER).await?,
            false => caught_up(&*self.session).await?,
        }
        self.note_proof(sent_at);
        Ok(sent_at)
    }
}

/// The session that carried a request, and since when it certainly was alive.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) live: Arc<Live>,
    pub(crate) sent_at: Instant,
}

/// Where the handle is in its life.
#[derive(Clone, Debug)]
pub(crate) enum Current {
    /// There is no session; an attempt to get one is under way. Why the last one failed.
    None(Option<String>),
    Live(Arc<Live>),
    Closed,
}

/// The client of one store handle.
#[derive(Debug)]
pub(crate) struct Client {
    config: ZkConfig,
    current: watch::Sender<Current>,
    cell: SessionCell,
    /// Whether something has lived by the session, so that its loss is reported.
    needed: AtomicBool,
    /// Whether that was a key, which may still be there.
    keys: AtomicBool,
    holds: Mutex<Vec<Weak<Held>>>,
    /// How many requests were sent, and how many times one waited for answers.
    requests: Arc<AtomicU64>,
    round_trips: AtomicU64,
}

impl Client {
    /// Connects, within the configuration's connect timeout.
    pub(crate) async fn connect(config: ZkConfig) -> Result<Arc<Self>> {
        let timeout = config.connect_timeout;
        let requests = Arc::default();
        let first = tokio::time::timeout(timeout, connect(&config, &requests)).await;
        let endpoints = config.servers().join(",");
        let live = match first {
            Ok(Ok((session, sent_at))) => Live::new(session, sent_at, 1, config.session_timeout),
            Ok(Err(error)) => return Err(error.with_endpoint(endpoints)),
            Err(_) => {
                return Err(Error::new(ErrorKind::Unavailable)
                    .with_backend(BACKEND)
                    .with_endpoint(endpoints)
                    .with_detail(format!("no session within {timeout:?}")));
            }
        };
        let client = Arc::new(Self {
            config,
            current: watch::Sender::new(Current::Live(Arc::clone(&live))),
            cell: SessionCell::new(),
            needed: AtomicBool::new(false),
            keys: AtomicBool::new(false),
            holds: Mutex::default(),
            requests,
            round_trips: AtomicU64::new(0),
        });
        tokio::spawn(keep(Arc::downgrade(&client), live));
        Ok(client)
    }

    /// How many requests were sent, but for heartbeats.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many times an operation on keys waited for answers.
    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    pub(crate) fn current(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.current.borrow(), Current::Closed)
    }

    /// Fails once the handle is closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// Resolves when the handle is closed.
    pub(crate) async fn closed(&self) {
        let _ = self.current.subscribe().wait_for(|current| matches!(current, Current::Closed)).await;
    }

    /// The session, once requests get through.
    pub(crate) async fn up(&self, deadline: Deadline) -> Result<Arc<Live>> {
        let mut why = None;
        let waiting = deadline.run(async {
            let mut current = self.current.subscribe();
            loop {
                let now = current.borrow_and_update().clone();
                let live = match now {
                    Current::Closed => return Err(closed()),
                    Current::Live(live) => live,
                    Current::None(reason) => {
                        why = reason;
                        let _ = current.changed().await;
                        continue;
                    }
                };
                let mut link = live.session.link();
                tokio::select! {
                    up = async { link.wait_for(|link| matches!(link, Link::Up)).await.is_ok() } => {
                        if up {
                            return Ok(live);
                        }
                        let _ = current.changed().await;
                    }
                    _ = current.changed() => {}
                }
            }
        });
        match waiting.await {
            Err(error) if *error.kind() == ErrorKind::Timeout => Err(Error::new(ErrorKind::Unavailable)
                .not_applied()
                .with_backend(BACKEND)
                .with_endpoint(self.config.servers().join(","))
                .with_detail(why.unwrap_or_else(|| "no connection within the deadline".to_owned()))),
            waited => waited,
        }
    }

    /// Makes a read, again and again until it is answered or the deadline passes.
    pub(crate) async fn read<T, F>(
        &self,
        deadline: Deadline,
        request: impl Fn(Arc<dyn Session>) -> F,
    ) -> Result<Reply<T>>
    where
        F: Future<Output = Reply<T>>,
    {
        let mut nonsense = 0;
        loop {
            let live = self.up(deadline).await?;
            self.round_trips.fetch_add(1, Ordering::Relaxed);
            match deadline.run(async { Ok(request(Arc::clone(&live.session)).await) }).await? {
                // Another connection may do better; asking on and on does not.
                Err(Fault::Protocol(what)) if nonsense >= NONSENSE => {
                    return Err(Fault::Protocol(what).into_error().not_applied());
                }
                Err(fault) if fault.is_transient() => {
                    nonsense += u32::from(matches!(fault, Fault::Protocol(_)));
                    deadline.remaining().map_err(|_| fault.into_error().not_applied())?;
                    tokio::time::sleep(REREAD).await;
                }
                reply => return Ok(reply),
            }
        }
    }

    /// Makes a write, once: again only if it certainly was not sent. Answers also what carried it.
    pub(crate) async fn write<T, F>(
        &self,
        deadline: Deadline,
        request: impl Fn(Arc<dyn Session>) -> F,
    ) -> Result<(Reply<T>, Carried)>
    where
        F: Future<Output = Reply<T>>,
    {
        loop {
            let live = self.up(deadline).await?;
            self.round_trips.fetch_add(1, Ordering::Relaxed);
            let sent_at = Instant::now();
            match deadline.run(async { Ok(request(Arc::clone(&live.session)).await) }).await? {
                Err(Fault::Unsent) => tokio::time::sleep(REREAD).await,
                reply => return Ok((reply, Carried { live, sent_at })),
            }
        }
    }

    /// Whether the client crate has multi and sync.
    pub(crate) fn is_full(&self) -> bool {
        self.config.client == ZkClient::ZookeeperClient
    }

    pub(crate) fn state(&self) -> SessionState {
        self.cell.state()
    }

    pub(crate) fn states(&self) -> SessionStates {
        self.cell.states()
    }

    /// Notes that a key lives by the session that carried this: its loss is then reported.
    pub(crate) fn keeps_key(&self, carried: &Carried) {
        self.keys.store(true, Ordering::SeqCst);
        self.need(carried);
    }

    /// Notes that the loss of the session that carried this is to be reported.
    pub(crate) fn need(&self, carried: &Carried) {
        let live = &carried.live;
        live.note_proof(carried.sent_at);
        if !self.is_current(live) {
            // What was just made goes with the session, which nobody could tell then.
            self.cell.lost();
        } else if !self.needed.swap(true, Ordering::SeqCst) || self.cell.state() == SessionState::Lost {
            self.cell.renewed(*live.proved.borrow(), live.session.timeout(), live.margin());
        }
    }

    /// Lets the heartbeats of this session vouch for a hold, beginning with the last one. Returns
    /// whether it still stands.
    pub(crate) fn vouch(&self, live: &Live, hold: &Arc<Held>) -> bool {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|hold| hold.strong_count() > 0);
        holds.push(Arc::downgrade(hold));
        drop(holds);
        self.is_current(live)
            && hold.state.renewed(*live.proved.borrow(), live.session.timeout(), live.margin())
    }

    fn is_current(&self, live: &Live) -> bool {
        matches!(&*self.current.borrow(), Current::Live(now) if now.epoch == live.epoch)
    }

    fn holds(&self) -> Vec<Arc<Held>> {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.iter().filter_map(Weak::upgrade).collect()
    }

    /// Ends everything: locks are reported lost, the session is closed.
    ///
    /// # Errors
    ///
    /// `Unavailable` if something lives by the session and the servers could not be told.
    pub(crate) async fn close(&self) -> Result<()> {
        let at_stake = self.at_stake();
        // First of all: what would become held from here on is refused.
        let before = self.current.send_replace(Current::Closed);
        for hold in self.holds() {
            hold.state.lose(LockLoss::Closed);
        }
        self.cell.close();
        let Current::Live(live) = before else { return Ok(()) };
        if live.session.close().await || !at_stake {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable)
            .maybe_applied()
            .with_backend(BACKEND)
            .with_endpoint(self.config.servers().join(","))
            .with_detail(format!(
                "no server could be told that the session is over: its keys and locks stay there for up to \
                 the session timeout of {:?}",
                live.session.timeout()
            )))
    }

    /// Whether a key or a lock lives by the session now.
    fn at_stake(&self) -> bool {
        self.keys.load(Ordering::SeqCst) || self.holds().iter().any(|hold| hold.state.loss().is_none())
    }

    /// Until when the session is taken for alive: by what went through the leader where it matters.
    fn vouched_until(&self, live: &Live) -> Instant {
        let noted = if self.at_stake() { &live.proved } else { &live.renewed };
        *noted.borrow() + (live.session.timeout() - live.margin())
    }

    /// Makes a heartbeat, through the leader where something is at stake.
    async fn beat(&self, live: &Live) -> Reply<()> {
        // Not what operations cost.
        self.requests.fetch_sub(1, Ordering::Relaxed);
        let sent_at = if self.at_stake() {
            let sent_at = live.prove().await?;
            for hold in self.holds() {
                hold.state.renewed(sent_at, live.session.timeout(), live.margin());
            }
            sent_at
        } else {
            let sent_at = Instant::now();
            match live.session.stat("/").await {
                Ok(_) | Err(Fault::NoAuth) => live.renewed.send_replace(sent_at),
                Err(fault) => return Err(fault),
            };
            sent_at
        };
        if self.needed.load(Ordering::SeqCst) {
            self.cell.renewed(sent_at, live.session.timeout(), live.margin());
        }
        Ok(())
    }

    /// The session is over, by the server's account or by ours. Answers the holds that were lost with
    /// it.
    fn lose(&self, why: &Fault) -> Vec<Arc<Held>> {
        // Nobody may take up the session again before its loss is reported.
        self.current.send_if_modified(|current| {
            let open = !matches!(current, Current::Closed);
            if open {
                *current = Current::None(Some(why.to_string()));
            }
            open
        });
        let holds = self.holds();
        for hold in &holds {
            hold.state.lose(LockLoss::SessionLost);
        }
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.keys.store(false, Ordering::SeqCst);
        if self.needed.swap(false, Ordering::SeqCst) {
            self.cell.lost();
        }
        holds
    }
}

/// The task of a handle. It ends with the handle.
async fn keep(client: Weak<Client>, mut live: Arc<Live>) {
    loop {
        let why = live_on(&client, &live).await;
        let Some(strong) = client.upgrade() else {
            live.session.close().await;
            return;
        };
        if strong.is_closed() {
            return;
        }
        tracing::warn!(reason = %why, "the ZooKeeper session is over");
        let holds = strong.lose(&why);
        let (old, mut current) = (Arc::clone(&live.session), strong.current());
        // Where the server still has it, its ephemeral nodes need not wait for their timeout. But who
        // holds a lock by it has time to stop.
        tokio::spawn(async move {
            tokio::select! {
                _ = future::join_all(holds.iter().map(|hold| hold.given_up())) => {}
                _ = current.wait_for(|current| matches!(current, Current::Closed)) => {}
            }
            old.close().await;
        });
        let (config, requests) = (strong.config.clone(), Arc::clone(&strong.requests));
        drop(strong);
        let (session, sent_at) = loop {
            let attempt = tokio::time::timeout(config.connect_timeout, connect(&config, &requests)).await;
            let why = match attempt {
                Ok(Ok(session)) => break session,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no session within {:?}", config.connect_timeout),
            };
            let Some(strong) = client.upgrade() else { return };
            if strong.is_closed() {
                return;
            }
            strong.current.send_if_modified(|current| {
                if let Current::None(reason) = current {
                    *reason = Some(why);
                }
                false
            });
            drop(strong);
            tokio::time::sleep(RECONNECT).await;
        };
        live = Live::new(session, sent_at, live.epoch + 1, config.session_timeout);
        let Some(strong) = client.upgrade() else {
            live.session.close().await;
            return;
        };
        let taken = strong.current.send_if_modified(|current| {
            let open = !matches!(current, Current::Closed);
            if open {
                *current = Current::Live(Arc::clone(&live));
            }
            open
        });
        if !taken {
            live.session.close().await;
            return;
        }
    }
}

/// Heartbeats until the session is over, the client is closed or dropped.
async fn live_on(client: &Weak<Client>, live: &Arc<Live>) -> Fault {
    let mut link = live.session.link();
    let mut ticks = tokio::time::interval(live.session.timeout() / BEATS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let Some(until) = client.upgrade().map(|client| client.vouched_until(live)) else {
            return Fault::ClientClosed;
        };
        tokio::select! {
            _ = ticks.tick() => {}
            changed = link.changed() => {
                if changed.is_err() {
                    return Fault::ClientClosed;
                }
            }
            () = tokio::time::sleep_until(until) => {}
        }
        let Some(client) = client.upgrade() else { return Fault::ClientClosed };
        if client.is_closed() {
            return Fault::ClientClosed;
        }
        let until = client.vouched_until(live);
        if Instant::now() >= until {
            return Fault::SessionExpired;
        }
        match link.borrow_and_update().clone() {
            Link::Up => {}
            Link::Down => {
                client.cell.suspect();
                continue;
            }
            Link::Over(fault) => return fault,
        }
        // An answer that took too long vouches for nothing: the next one is asked for at once.
        let _ = tokio::time::timeout_at(until, client.beat(live)).await;
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed).with_backend(BACKEND)
}
