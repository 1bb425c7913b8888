//! A session on zookeeper-async, made safe.
//!
//! What the crate gets wrong is put right here and nowhere else:
//!
//! - It cannot be stopped while it looks for a server, and a panic or a stall of its task hangs all
//!   its users. So each session has a runtime of its own, with one thread, that is thrown away with
//!   the session.
//! - A request whose future is dropped makes it log the answer. So each request is a task there.
//! - It forgets watches and credentials when it reconnects, and keeps the callbacks. So no callback
//!   is ever registered: reads set the watch flag, the catch-all watcher hands the event to our own
//!   list, and a broken connection ends every watch by saying so.
//! - It sends requests before it has authenticated again. So nothing is sent until that is done.
//! - It reconnects without a pause to a server that takes connections and hangs up, as servers
//!   without a quorum do. So its thread sleeps between steps while there is no connection.
//! - It takes leftovers of a broken connection for answers on the next one. So a new connection is
//!   asked what the answers to are known, before requests get through.
//! - It makes a new session in silence when the old one expired. So the first sign of it ends this
//!   session for good.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::Secret;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use zookeeper_async::{
    Acl, CreateMode, Permission, WatchedEvent, WatchedEventType, ZkResult, ZkState, ZooKeeper,
};

use super::runtime::OwnedRuntime;
use crate::client::error::Fault;
use crate::client::wire::{AclEntry, Fired, Link, Mode, MultiFault, MultiOp, OneShot, Reply, Session, Stat};

/// How long the crate waits between two attempts to reach a server: without it, it spins.
const RETRY: Duration = Duration::from_millis(600);

/// While there is no connection the session's thread sleeps between two steps: after this long, this
/// long at first and at last. Little at first, because a good server answers soon and a bad one is
/// asked fifty times in what is not braked.
const BRAKE_AFTER: Duration = Duration::from_millis(3);
const BRAKE_FROM: Duration = Duration::from_millis(5);
const BRAKE_TO: Duration = Duration::from_millis(250);

/// How many questions show whether answers pair up with requests.
const PROBES: usize = 8;

/// How long closing waits for the server's answer.
const CLOSE: Duration = Duration::from_secs(2);

pub(crate) struct AsyncSession {
    shared: Arc<Shared>,
    zk: Arc<ZooKeeper>,
    handle: Handle,
    runtime: Mutex<Option<OwnedRuntime>>,
    timeout: Duration,
    requests: Arc<AtomicU64>,
}

/// What the crate's callbacks reach.
struct Shared {
    link: watch::Sender<Link>,
    /// Counts the connections, so that what belongs to an earlier one is known.
    connection: AtomicU64,
    watches: Watches,
    credentials: Option<Secret>,
    zk: OnceLock<Weak<ZooKeeper>>,
}

impl AsyncSession {
    /// A session with one of these servers, in this order, counting its requests. Returns once requests
    /// get through; has no deadline of its own, and leaves nothing behind when dropped.
    pub(crate) async fn connect(
        servers: &[SocketAddr],
        timeout: Duration,
        credentials: Option<Secret>,
        requests: Arc<AtomicU64>,
    ) -> Reply<Self> {
        // From here on the runtime ends with this guard, whatever happens.
        let runtime = OwnedRuntime::start()?;
        let handle = runtime.handle().clone();
        let shared = Arc::new(Shared {
            link: watch::Sender::new(Link::Down),
            connection: AtomicU64::new(0),
            watches: Watches::default(),
            credentials,
            zk: OnceLock::new(),
        });
        handle.spawn(brake(shared.link.subscribe()));
        let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let zk = handle
            .spawn({
                let shared = Arc::clone(&shared);
                async move {
                    let events = Arc::clone(&shared);
                    let watcher = move |event: WatchedEvent| events.watches.fire(&event);
                    let zk = Arc::new(
                        ZooKeeper::connect_with_retry_time(&servers, timeout, watcher, RETRY).await?,
                    );
                    // Nothing else runs on the one thread until the next await: no state is missed.
                    let _ = shared.zk.set(Arc::downgrade(&zk));
                    zk.add_listener(move |state| Shared::changed(&shared, state));
                    Ok(zk)
                }
            })
            .await
            .map_err(|_| Fault::ClientClosed)?
            .map_err(|error: zookeeper_async::ZkError| Fault::from(error))?;
        let mut link = shared.link.subscribe();
        let reached = link.wait_for(|link| !matches!(link, Link::Down)).await;
        match reached.as_deref() {
            Ok(Link::Over(fault)) => return Err(fault.clone()),
            Ok(_) => {}
            Err(_) => return Err(Fault::ClientClosed),
        }
        drop(reached);
        Ok(Self { shared, zk, handle, runtime: Mutex::new(Some(runtime)), timeout, requests })
    }

    /// Runs one request on the session's own thread.
    async fn request<T, F>(&self, request: impl FnOnce(Arc<ZooKeeper>) -> F) -> Reply<T>
    where
        T: Send + 'static,
        F: Future<Output = ZkResult<T>> + Send + 'static,
    {
        match &*self.shared.link.borrow() {
            Link::Up => {}
            Link::Down => return Err(Fault::Unsent),
            Link::Over(fault) => return Err(fault.clone()),
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let connection = self.shared.connection.load(Ordering::SeqCst);
        let request = request(Arc::clone(&self.zk));
        let reply = self.handle.spawn(async move {
            let reply = request.await;
            // What the server said before this answer is with the dispatcher of watches: it goes first.
            tokio::task::yield_now().await;
            reply
        });
        let reply = reply.await;
        let fault = match reply {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Fault::from(error),
            // The session was closed under it.
            Err(_) => Fault::ConnectionLost,
        };
        // It overtook the credentials on a new connection: refused, so as good as not sent. A list of
        // access for whoever is authenticated is invalid while nobody is.
        let overtook = matches!(fault, Fault::NoAuth | Fault::InvalidAcl)
            && self.shared.credentials.is_some()
            && connection != self.shared.connection.load(Ordering::SeqCst);
        Err(if overtook { Fault::Unsent } else { fault })
    }

    fn arm(&self, path: &str, part: Part) -> Armed {
        Armed::new(Arc::clone(&self.shared), path, part)
    }
}

impl Shared {
    /// The crate's state listener. It runs on the crate's task, so it only notes.
    fn changed(shared: &Arc<Self>, state: ZkState) {
        #[allow(deprecated, reason = "the crate says it is not used any more; it is, for an expired session")]
        match state {
            ZkState::Connected | ZkState::ConnectedReadOnly => {
                let connection = shared.connection.load(Ordering::SeqCst);
                tokio::spawn(Self::authenticate(Arc::clone(shared), connection));
            }
            ZkState::Connecting | ZkState::Associating => {
                shared.connection.fetch_add(1, Ordering::SeqCst);
                shared.say(Link::Down);
                shared.watches.lose_all();
            }
            ZkState::NotConnected => shared.end(Fault::SessionExpired),
            ZkState::AuthFailed => shared.end(Fault::AuthFailed),
            ZkState::Closed => shared.end(Fault::ClientClosed),
        }
    }

    /// Sends the credentials on a new connection and then lets requests through.
    async fn authenticate(self: Arc<Self>, connection: u64) {
        if let (Some(credentials), Some(zk)) = (&self.credentials, self.zk.get().and_then(Weak::upgrade)) {
            match zk.add_auth("digest", credentials.expose().as_bytes().to_vec()).await {
                Ok(()) => {}
                Err(zookeeper_async::ZkError::AuthFailed) => return self.end(Fault::AuthFailed),
                // The connection broke again; the next one begins anew.
                Err(_) => return,
            }
        }
        // The first connection has nothing left of an earlier one.
        if connection > 0 {
            match self.pairs_up().await {
                Some(true) => {}
                Some(false) => {
                    tracing::warn!(
                        "answers do not fit the requests of a new connection; giving the session up"
                    );
                    return self.end(Fault::SessionExpired);
                }
                None => return,
            }
        }
        if self.connection.load(Ordering::SeqCst) == connection {
            self.say(Link::Up);
        }
    }

    /// Whether each request gets its own answer. The crate pairs them by their order alone, and what it
    /// had received and not parsed when a connection broke it takes for answers on the next one, which
    /// shifts all that follow. So it is asked one thing that is and then others that are not: whatever
    /// the shift, one of those is told that it is. `None` if the connection broke again.
    async fn pairs_up(&self) -> Option<bool> {
        let zk = self.zk.get().and_then(Weak::upgrade)?;
        let asking = (0..PROBES).map(|at| {
            let path = if at == 0 { "/" } else { "/zookeeper/kv.absent" };
            zk.exists(path, false)
        });
        for (at, answer) in futures_util::future::join_all(asking).await.into_iter().enumerate() {
            match answer {
                Ok(found) if found.is_some() == (at == 0) => {}
                Err(zookeeper_async::ZkError::NoAuth) if at == 0 => {}
                Err(zookeeper_async::ZkError::ConnectionLoss) => return None,
                _ => return Some(false),
            }
        }
        Some(true)
    }

    fn say(&self, now: Link) {
        self.link.send_if_modified(|link| {
            let open = !matches!(link, Link::Over(_));
            if open {
                *link = now;
            }
            open
        });
    }

    fn end(&self, fault: Fault) {
        self.say(Link::Over(fault));
        self.watches.lose_all();
    }
}

impl fmt::Debug for AsyncSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncSession").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Drop for AsyncSession {
    fn drop(&mut self) {
        self.shared.end(Fault::ClientClosed);
    }
}

#[async_trait]
impl Session for AsyncSession {
    fn is_full(&self) -> bool {
        false
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    async fn create(&self, path: &str, data: &Bytes, mode: Mode, acl: &[AclEntry]) -> Reply<(String, Stat)> {
        let (path, data, acl) = (path.to_owned(), data.to_vec(), native_acl(acl));
        let (path, stat) = self
            .request(|zk| async move {
                match mode {
                    Mode::Persistent => zk.create2(&path, data, acl, CreateMode::Persistent).await,
                    Mode::Ephemeral => zk.create2(&path, data, acl, CreateMode::Ephemeral).await,
                    Mode::EphemeralSequential => {
                        zk.create2(&path, data, acl, CreateMode::EphemeralSequential).await
                    }
                    Mode::Ttl(ttl) => {
                        zk.create2_ttl(&path, data, acl, CreateMode::PersistentWithTTL, ttl).await
                    }
                }
            })
            .await?;
        Ok((path, stat_of(&stat)))
    }

    async fn set(&self, path: &str, data: &Bytes, version: i32) -> Reply<Stat> {
        let (path, data) = (path.to_owned(), data.to_vec());
        let stat = self.request(|zk| async move { zk.set_data(&path, data, Some(version)).await }).await?;
        Ok(stat_of(&stat))
    }

    async fn delete(&self, path: &str, version: i32) -> Reply<()> {
        let path = path.to_owned();
        self.request(|zk| async move { zk.delete(&path, Some(version)).await }).await
    }

    async fn get(&self, path: &str) -> Reply<(Bytes, Stat)> {
        let path = path.to_owned();
        let (data, stat) = self.request(|zk| async move { zk.get_data(&path, false).await }).await?;
        Ok((data.into(), stat_of(&stat)))
    }

    async fn get_watched(&self, path: &str) -> Reply<(Bytes, Stat, OneShot)> {
        let armed = self.arm(path, Part::Node);
        let path = path.to_owned();
        let (data, stat) = self.request(|zk| async move { zk.get_data(&path, true).await }).await?;
        Ok((data.into(), stat_of(&stat), Box::pin(armed)))
    }

    async fn stat(&self, path: &str) -> Reply<Option<Stat>> {
        let path = path.to_owned();
        let stat = self.request(|zk| async move { zk.exists(&path, false).await }).await?;
        Ok(stat.as_ref().map(stat_of))
    }

    async fn stat_watched(&self, path: &str) -> Reply<(Option<Stat>, OneShot)> {
        let armed = self.arm(path, Part::Node);
        let path = path.to_owned();
        let stat = self.request(|zk| async move { zk.exists(&path, true).await }).await?;
        Ok((stat.as_ref().map(stat_of), Box::pin(armed)))
    }

    async fn children(&self, path: &str) -> Reply<Vec<String>> {
        let path = path.to_owned();
        self.request(|zk| async move { zk.get_children(&path, false).await }).await
    }

    async fn children_watched(&self, path: &str) -> Reply<(Vec<String>, OneShot)> {
        let armed = self.arm(path, Part::Children);
        let path = path.to_owned();
        let names = self.request(|zk| async move { zk.get_children(&path, true).await }).await?;
        Ok((names, Box::pin(armed)))
    }

    async fn acl(&self, path: &str) -> Reply<(Vec<AclEntry>, Stat)> {
        let path = path.to_owned();
        let (acl, stat) = self.request(|zk| async move { zk.get_acl(&path).await }).await?;
        let acl = acl
            .into_iter()
            .map(|entry| AclEntry {
                permissions: permission_bits(entry.perms),
                scheme: entry.scheme,
                id: entry.id,
            })
            .collect();
        Ok((acl, stat_of(&stat)))
    }

    async fn set_acl(&self, path: &str, acl: &[AclEntry], version: i32) -> Reply<()> {
        let (path, acl) = (path.to_owned(), native_acl(acl));
        self.request(|zk| async move { zk.set_acl(&path, acl, Some(version)).await }).await.map(drop)
    }

    async fn sync(&self) -> Reply<()> {
        Err(Fault::Unimplemented)
    }

    async fn multi(&self, _ops: &[MultiOp]) -> Result<Vec<Option<Stat>>, MultiFault> {
        Err(MultiFault::Failed(Fault::Unimplemented))
    }

    async fn close(&self) -> bool {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(runtime) = runtime else { return true };
        let before = self.link().borrow().clone();
        let told = match before {
            Link::Over(_) => true,
            Link::Down => false,
            Link::Up => {
                // The crate hangs up as soon as it has sent the end of the session, and does not wait for
                // the server. So what tells is that the server answered the moment before.
                let asked = self.request(|zk| async move { zk.exists("/", false).await });
                let mut link = self.link();
                let answered = tokio::select! {
                    answered = tokio::time::timeout(CLOSE, asked) => {
                        matches!(answered, Ok(Ok(_) | Err(Fault::NoAuth)))
                    }
                    _ = link.wait_for(|link| matches!(link, Link::Down)) => false,
                };
                let zk = Arc::clone(&self.zk);
                let closing = self.handle.spawn(async move { zk.close().await });
                // Where it is not said at once, it cannot be.
                let limit = if answered { CLOSE } else { CLOSE / 10 };
                answered & matches!(tokio::time::timeout(limit, closing).await, Ok(Ok(Ok(()))))
            }
        };
        self.shared.end(Fault::ClientClosed);
        drop(runtime);
        told
    }
}

/// Slows the session's thread down while there is no connection.
async fn brake(mut link: watch::Receiver<Link>) {
    loop {
        if link.wait_for(|link| matches!(link, Link::Down)).await.is_err() {
            return;
        }
        tokio::time::sleep(BRAKE_AFTER).await;
        let mut brake = BRAKE_FROM;
        while matches!(*link.borrow(), Link::Down) {
            // On purpose not the runtime's sleep: nothing else on this thread is to run.
            std::thread::sleep(brake);
            brake = (brake * 3 / 2).min(BRAKE_TO);
            tokio::task::yield_now().await;
        }
    }
}

/// What of a node a one-shot watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Node,
    Children,
}

/// The one-shot watches of a session.
#[derive(Default)]
struct Watches {
    next: AtomicU64,
    armed: Mutex<HashMap<String, Vec<Waiter>>>,
}

type Waiter = (u64, Part, oneshot::Sender<Fired>);

impl Watches {
    fn fire(&self, event: &WatchedEvent) {
        let Some(path) = &event.path else { return };
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = armed.get_mut(path) else { return };
        let deleted = event.event_type == WatchedEventType::NodeDeleted;
        let meant = |part: Part| match event.event_type {
            WatchedEventType::NodeDeleted => true,
            WatchedEventType::NodeChildrenChanged => part == Part::Children,
            _ => part == Part::Node,
        };
        for (_, _, sender) in waiting.extract_if(.., |(_, part, _)| meant(*part)) {
            let _ = sender.send(Fired::Changed { deleted, zxid: None });
        }
        if waiting.is_empty() {
            armed.remove(path);
        }
    }

    fn lose_all(&self) {
        // Dropping the senders is what tells.
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A watch in the list, from before its request is sent until it fires or is dropped.
struct Armed {
    shared: Arc<Shared>,
    path: String,
    id: u64,
    fired: oneshot::Receiver<Fired>,
}

impl Armed {
    fn new(shared: Arc<Shared>, path: &str, part: Part) -> Self {
        let (sender, fired) = oneshot::channel();
        let id = shared.watches.next.fetch_add(1, Ordering::Relaxed);
        let mut armed = shared.watches.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.entry(path.to_owned()).or_default().push((id, part, sender));
        drop(armed);
        Self { shared, path: path.to_owned(), id, fired }
    }
}

impl Future for Armed {
    type Output = Fired;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fired> {
        Pin::new(&mut self.fired).poll(cx).map(|fired| fired.unwrap_or(Fired::Lost))
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let mut armed = self.shared.watches.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = armed.get_mut(&self.path) {
            waiting.retain(|(id, _, _)| *id != self.id);
            if waiting.is_empty() {
                armed.remove(&self.path);
            }
        }
    }
}

const PERMISSIONS: [(u32, Permission); 6] = [
    (31, Permission::ALL),
    (1, Permission::READ),
    (2, Permission::WRITE),
    (4, Permission::CREATE),
    (8, Permission::DELETE),
    (16, Permission::ADMIN),
];

fn permission_bits(permission: Permission) -> u32 {
    PERMISSIONS.iter().filter(|(_, each)| permission.can(*each)).fold(0, |bits, (bit, _)| bits | bit)
}

fn native_acl(acl: &[AclEntry]) -> Vec<Acl> {
    acl.iter()
        .map(|entry| {
            let permission = PERMISSIONS
                .iter()
                .filter(|(bits, _)| entry.permissions & bits == *bits)
                .fold(Permission::NONE, |all, (_, each)| all | *each);
            Acl::new(permission, entry.scheme.clone(), entry.id.clone())
        })
        .collect()
}

fn stat_of(stat: &zookeeper_async::Stat) -> Stat {
    Stat {
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        pzxid: stat.pzxid,
        version: stat.version,
        aversion: stat.aversion,
        ephemeral_owner: stat.ephemeral_owner,
        data_length: stat.data_length,
        num_children: stat.num_children,
    }
}
