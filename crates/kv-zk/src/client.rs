//! The session of a store handle, kept alive: connecting, heartbeats, giving up, connecting again.
//!
//! There is always one session or an attempt to get one. Its life is judged by our own clock: each
//! acknowledged heartbeat vouches for two thirds of the session timeout from the moment it was sent.
//! The remaining third covers what a follower may take to tell its leader that the session lives. A
//! session that is not renewed in that time is given up and never used again, so what was reported
//! lost stays lost.

mod zookeeper_async;
#[cfg(feature = "zookeeper-client")]
mod zookeeper_client;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use kv_backend::{Deadline, HoldState, SessionCell};
use kv_core::{Error, ErrorKind, LockLoss, Result, SessionState, SessionStates};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{Credentials, ZkClient, ZkConfig};
use crate::error::{BACKEND, Fault};
use crate::session::{Link, Reply, Session};

/// Between two attempts to get a session.
const RECONNECT: Duration = Duration::from_millis(600);

/// How long one server may take to take a connection before the next is tried.
const PROBE: Duration = Duration::from_secs(1);

/// Between two attempts of a read whose connection broke.
const REREAD: Duration = Duration::from_millis(20);

/// A session that is, or was, in use.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) session: Arc<dyn Session>,
    /// Tells this session from earlier ones of the handle.
    pub(crate) epoch: u64,
    /// The server's number of the session, once an ephemeral node has shown it.
    pub(crate) own_id: OnceLock<i64>,
    /// When the last acknowledged heartbeat was sent.
    renewed: watch::Sender<Instant>,
}

impl Live {
    /// How long a renewal vouches for the session.
    fn margin(&self) -> Duration {
        self.session.timeout() / 3
    }

    fn vouched_until(&self) -> Instant {
        *self.renewed.borrow() + (self.session.timeout() - self.margin())
    }
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
    /// Whether something lives by the session, so that its loss matters.
    needed: AtomicBool,
    holds: Mutex<Vec<Weak<HoldState>>>,
}

impl Client {
    /// Connects, within the configuration's connect timeout.
    pub(crate) async fn connect(config: ZkConfig) -> Result<Arc<Self>> {
        let timeout = config.connect_timeout;
        let first = tokio::time::timeout(timeout, connect(&config)).await;
        let endpoints = config.servers().join(",");
        let live = match first {
            Ok(Ok(session)) => session.into_live(1),
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
            holds: Mutex::default(),
        });
        tokio::spawn(keep(Arc::downgrade(&client), live));
        Ok(client)
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
        loop {
            let live = self.up(deadline).await?;
            match deadline.run(async { Ok(request(Arc::clone(&live.session)).await) }).await? {
                Err(fault) if fault.is_transient() => {
                    deadline.remaining().map_err(|_| fault.into_error().not_applied())?;
                    tokio::time::sleep(REREAD).await;
                }
                reply => return Ok(reply),
            }
        }
    }

    /// Makes a write, once: again only if it certainly was not sent.
    pub(crate) async fn write<T, F>(
        &self,
        deadline: Deadline,
        request: impl Fn(Arc<dyn Session>) -> F,
    ) -> Result<Reply<T>>
    where
        F: Future<Output = Reply<T>>,
    {
        loop {
            let live = self.up(deadline).await?;
            match deadline.run(async { Ok(request(Arc::clone(&live.session)).await) }).await? {
                Err(Fault::Unsent) => tokio::time::sleep(REREAD).await,
                reply => return Ok(reply),
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

    /// Notes that something lives by this session from now on: its loss is then reported.
    pub(crate) fn need(&self, live: &Live) {
        if !self.needed.swap(true, Ordering::SeqCst) || self.cell.state() == SessionState::Lost {
            self.cell.renewed(*live.renewed.borrow(), live.session.timeout(), live.margin());
        }
    }

    /// Lets the heartbeats of this session vouch for a hold, beginning with the last one. Returns
    /// whether it still stands.
    pub(crate) fn vouch(&self, live: &Live, hold: &Arc<HoldState>) -> bool {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|hold| hold.strong_count() > 0);
        holds.push(Arc::downgrade(hold));
        drop(holds);
        let current = matches!(&*self.current.borrow(), Current::Live(now) if now.epoch == live.epoch);
        current && hold.renewed(*live.renewed.borrow(), live.session.timeout(), live.margin())
    }

    fn holds(&self) -> Vec<Arc<HoldState>> {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.iter().filter_map(Weak::upgrade).collect()
    }

    /// Ends everything: locks are reported lost, the session is closed.
    pub(crate) async fn close(&self) {
        for hold in self.holds() {
            hold.lose(LockLoss::Closed);
        }
        self.cell.close();
        if let Current::Live(live) = self.current.send_replace(Current::Closed) {
            live.session.close().await;
        }
    }

    fn heartbeat_acknowledged(&self, live: &Live, sent_at: Instant) {
        live.renewed.send_replace(sent_at);
        if self.needed.load(Ordering::SeqCst) {
            self.cell.renewed(sent_at, live.session.timeout(), live.margin());
        }
        for hold in self.holds() {
            hold.renewed(sent_at, live.session.timeout(), live.margin());
        }
    }

    /// The session is over, by the server's account or by ours.
    fn lose(&self, why: &Fault) {
        // Nobody may take up the session again before its loss is reported.
        self.current.send_if_modified(|current| {
            let open = !matches!(current, Current::Closed);
            if open {
                *current = Current::None(Some(why.to_string()));
            }
            open
        });
        for hold in self.holds() {
            hold.lose(LockLoss::SessionLost);
        }
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if self.needed.swap(false, Ordering::SeqCst) {
            self.cell.lost();
        }
    }
}

/// A session with its first heartbeat acknowledged.
struct Fresh {
    session: Arc<dyn Session>,
    sent_at: Instant,
}

impl Fresh {
    async fn new(session: impl Session) -> Reply<Self> {
        let sent_at = Instant::now();
        match session.stat("/").await {
            Ok(_) | Err(Fault::NoAuth) => Ok(Self { session: Arc::new(session), sent_at }),
            Err(fault) => Err(fault),
        }
    }

    fn into_live(self, epoch: u64) -> Arc<Live> {
        let own_id = OnceLock::new();
        Arc::new(Live { session: self.session, epoch, own_id, renewed: watch::Sender::new(self.sent_at) })
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
        strong.lose(&why);
        let old = Arc::clone(&live.session);
        // Where the server still has it, its ephemeral nodes need not wait for their timeout.
        tokio::spawn(async move { old.close().await });
        let config = strong.config.clone();
        drop(strong);
        let session = loop {
            let attempt = tokio::time::timeout(config.connect_timeout, connect(&config)).await;
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
        live = session.into_live(live.epoch + 1);
        let Some(strong) = client.upgrade() else { return live.session.close().await };
        let taken = strong.current.send_if_modified(|current| {
            let open = !matches!(current, Current::Closed);
            if open {
                *current = Current::Live(Arc::clone(&live));
            }
            open
        });
        if !taken {
            return live.session.close().await;
        }
    }
}

/// Heartbeats until the session is over, the client is closed or dropped.
async fn live_on(client: &Weak<Client>, live: &Arc<Live>) -> Fault {
    let timeout = live.session.timeout();
    let mut link = live.session.link();
    let mut ticks = tokio::time::interval(timeout / 8);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let until = live.vouched_until();
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
        let sent_at = Instant::now();
        let beat = tokio::time::timeout_at(until, live.session.stat("/"));
        if let Ok(Ok(_) | Err(Fault::NoAuth)) = beat.await {
            // An answer that took too long vouches for nothing: the next one is asked for at once.
            client.heartbeat_acknowledged(live, sent_at);
        }
    }
}

/// One attempt to get a session.
async fn connect(config: &ZkConfig) -> Result<Fresh> {
    let servers = reachable(&config.servers()).await?;
    let failed = |fault: Fault| match fault {
        Fault::Unsent | Fault::ConnectionLost => fault
            .into_error()
            .not_applied()
            .with_detail("the server took the connection and no session came of it"),
        Fault::AuthFailed => fault.into_error(),
        Fault::BadRequest(what) => Error::invalid_config(what).with_backend(BACKEND),
        fault => fault.into_error().not_applied(),
    };
    match config.client {
        ZkClient::ZookeeperAsync => {
            let addresses: Vec<SocketAddr> = servers.into_iter().map(|server| server.address).collect();
            let credentials = config.credentials().and_then(|credentials| match credentials {
                Credentials::Digest(secret) => Some(secret),
                Credentials::Sasl { .. } => None,
            });
            let connecting =
                zookeeper_async::AsyncSession::connect(&addresses, config.session_timeout, credentials);
            Fresh::new(connecting.await.map_err(failed)?).await.map_err(failed)
        }
        #[cfg(feature = "zookeeper-client")]
        ZkClient::ZookeeperClient => {
            let mut names: Vec<String> = Vec::new();
            for server in servers {
                if !names.contains(&server.name) {
                    names.push(server.name);
                }
            }
            let (credentials, tls) = (config.credentials(), config.tls());
            let connecting = zookeeper_client::FullSession::connect(
                &names,
                config.session_timeout,
                credentials.as_ref(),
                tls.as_ref(),
            );
            Fresh::new(connecting.await.map_err(failed)?).await.map_err(failed)
        }
        #[cfg(not(feature = "zookeeper-client"))]
        ZkClient::ZookeeperClient => Err(Error::invalid_config("the feature zookeeper-client is off")),
    }
}

/// One address of a server that is named in the configuration.
struct Server {
    name: String,
    address: SocketAddr,
}

/// All addresses of all servers, in a random order, those that take a connection first.
///
/// # Errors
///
/// `Unavailable` if none does, saying why.
async fn reachable(names: &[String]) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    let mut reasons = Vec::new();
    for name in names {
        match tokio::net::lookup_host(name).await {
            Ok(addresses) => {
                servers.extend(addresses.map(|address| Server { name: name.clone(), address }));
            }
            Err(error) => reasons.push(format!("{name}: {error}")),
        }
    }
    fastrand::shuffle(&mut servers);
    let mut unreachable = Vec::new();
    let mut servers = servers.into_iter();
    while let Some(server) = servers.next() {
        match tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(server.address)).await {
            Ok(Ok(_)) => {
                return Ok(std::iter::once(server).chain(servers).chain(unreachable).collect());
            }
            Ok(Err(error)) => reasons.push(format!("{}: {error}", server.name)),
            Err(_) => reasons.push(format!("{}: no answer within {PROBE:?}", server.name)),
        }
        unreachable.push(server);
    }
    Err(Error::new(ErrorKind::Unavailable)
        .not_applied()
        .with_backend(BACKEND)
        .with_detail(reasons.join("; ")))
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed).with_backend(BACKEND)
}
