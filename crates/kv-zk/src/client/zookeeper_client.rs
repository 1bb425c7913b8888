//! A session on zookeeper-client: with multi, sync, TLS and SASL.
//!
//! Put right here: requests are not queued while there is no connection, because nobody could tell
//! then whether one was sent; closing waits for the server, and is not held up by requests and watches
//! that are under way; an answer that makes the crate panic is an error of the request it was for; and
//! the crate's watchers, which panic when the crate's task is gone, are not asked any more then.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use kv_backend::TlsOptions;
use tokio::sync::watch;
use zookeeper_client as native;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, CreateOptions, EventType, SessionState};

use super::flood::{Guard, this_thread};
use super::held::Held;
use super::runtime::OwnedRuntime;
use crate::config::Credentials;
use crate::error::Fault;
use crate::mapping::is_marker;
use crate::session::{AclEntry, Fired, Link, Mode, MultiFault, MultiOp, OneShot, Reply, Session, Stat};

/// How long closing waits for the server's answer.
const CLOSE: Duration = Duration::from_secs(2);

pub(crate) struct FullSession {
    client: Mutex<Option<Client>>,
    held: Arc<Held>,
    shared: Arc<Shared>,
    runtime: Arc<Mutex<Option<OwnedRuntime>>>,
    timeout: Duration,
    requests: Arc<AtomicU64>,
}

struct Shared {
    link: watch::Sender<Link>,
    /// The same by the crate's account, also after we have closed the session.
    native: watch::Sender<Link>,
    /// Whether the crate's task is there, as far as we end it.
    runs: RwLock<bool>,
}

impl Shared {
    /// From here on the crate's task may be ended, and none of its watchers is asked any more.
    fn end(&self, why: Fault) {
        *self.runs.write().unwrap_or_else(PoisonError::into_inner) = false;
        self.say(Link::Over(why));
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
}

impl FullSession {
    /// A session with one of these servers (`host:port`) at these addresses, counting its requests. Has
    /// no deadline of its own, and leaves nothing behind when dropped.
    pub(crate) async fn connect(
        servers: &[String],
        addresses: &[SocketAddr],
        timeout: Duration,
        credentials: Option<&Credentials>,
        tls: Option<&TlsOptions>,
        requests: Arc<AtomicU64>,
    ) -> Reply<Self> {
        let mut connector = Client::connector().with_session_timeout(timeout).with_fail_eagerly();
        match credentials {
            None => {}
            Some(Credentials::Digest(secret)) => {
                connector = connector.with_auth("digest", secret.expose().as_bytes());
            }
            Some(Credentials::Sasl { user, password }) => {
                let sasl = native::SaslOptions::digest_md5(user.clone(), password.expose().to_owned());
                connector = connector.with_sasl(sasl);
            }
        }
        let servers = servers.join(",");
        let secure = tls.is_some();
        if let Some(tls) = tls {
            connector = connector.with_tls(tls_options(tls)?);
        }
        let runtime = OwnedRuntime::start()?;
        let handle = runtime.handle().clone();
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let (link, native) = (watch::Sender::new(Link::Up), watch::Sender::new(Link::Up));
        let shared = Arc::new(Shared { link, native, runs: RwLock::new(true) });
        let guard = Guard {
            handle: handle.clone(),
            thread: handle.spawn(async { this_thread() }).await.ok().flatten(),
            servers: addresses.to_vec(),
            requests: Arc::clone(&requests),
        };
        let (weak, ended) = (Arc::downgrade(&runtime), Arc::clone(&shared));
        tokio::spawn(guard.keep(move || {
            ended.end(endless());
            if let Some(runtime) = weak.upgrade() {
                drop(runtime.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
        }));
        // The crate's task runs where it was connected.
        let connecting = handle.spawn(async move {
            if secure { connector.secure_connect(&servers).await } else { connector.connect(&servers).await }
        });
        let client = connecting.await.map_err(|error| match error.is_panic() {
            true => nonsense(),
            false => endless(),
        })??;
        let timeout = client.session_timeout();
        let mut states = client.state_watcher();
        let follow = Arc::clone(&shared);
        handle.spawn(async move {
            loop {
                let now = match states.changed().await {
                    SessionState::SyncConnected | SessionState::ConnectedReadOnly => Link::Up,
                    SessionState::Disconnected => Link::Down,
                    SessionState::AuthFailed => Link::Over(Fault::AuthFailed),
                    SessionState::Expired => Link::Over(Fault::SessionExpired),
                    SessionState::Closed => Link::Over(Fault::ClientClosed),
                };
                let over = matches!(now, Link::Over(_));
                follow.native.send_replace(now.clone());
                follow.say(now);
                if over {
                    return;
                }
            }
        });
        Ok(Self {
            client: Mutex::new(Some(client)),
            held: Arc::default(),
            shared,
            runtime,
            timeout,
            requests,
        })
    }

    /// The client, for one request.
    fn client(&self) -> Reply<Client> {
        match &*self.shared.link.borrow() {
            Link::Up => {}
            Link::Down => return Err(Fault::Unsent),
            Link::Over(fault) => return Err(fault.clone()),
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone().ok_or(Fault::ClientClosed)
    }

    /// Makes a request that holds the client until it is answered.
    async fn request<T, F>(&self, request: impl FnOnce(Client) -> F) -> Reply<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, native::Error>> + Send + 'static,
    {
        self.held.hold(contained(request(self.client()?)))?.await
    }

    fn one_shot(&self, watcher: native::OneshotWatcher) -> OneShot {
        let changed = async move {
            match watcher.changed().await {
                event if event.event_type == EventType::Session => Fired::Lost,
                event => Fired::Changed {
                    deleted: event.event_type == EventType::NodeDeleted,
                    zxid: (event.zxid > 0).then_some(event.zxid),
                },
            }
        };
        Box::pin(Armed { shared: Arc::clone(&self.shared), changed: Box::pin(changed) })
    }
}

/// A watcher of the crate, as long as the crate's task is there.
struct Armed {
    shared: Arc<Shared>,
    changed: Pin<Box<dyn Future<Output = Fired> + Send>>,
}

impl Future for Armed {
    type Output = Fired;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fired> {
        let Self { shared, changed } = &mut *self;
        // Held meanwhile, so that the task is not ended under it.
        let runs = shared.runs.read().unwrap_or_else(PoisonError::into_inner);
        if !*runs {
            return Poll::Ready(Fired::Lost);
        }
        // It panics where the crate's own task did.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| changed.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(Fired::Lost))
    }
}

impl Drop for FullSession {
    fn drop(&mut self) {
        self.shared.end(Fault::ClientClosed);
    }
}

impl fmt::Debug for FullSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FullSession").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[async_trait]
impl Session for FullSession {
    fn is_full(&self) -> bool {
        true
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    async fn create(&self, path: &str, data: &Bytes, mode: Mode, acl: &[AclEntry]) -> Reply<(String, Stat)> {
        let (name, data, acl) = (path.to_owned(), data.clone(), native_acl(acl));
        let create = |client: Client| async move {
            let options = options(mode, Acls::new(&acl));
            client.create(&name, &data, &options).await
        };
        let (stat, sequence) = self.request(create).await?;
        let path = match mode {
            Mode::EphemeralSequential => format!("{path}{sequence}"),
            _ => path.to_owned(),
        };
        Ok((path, stat_of(&stat)))
    }

    async fn set(&self, path: &str, data: &Bytes, version: i32) -> Reply<Stat> {
        let request = self.client()?.set_data(path, data, Some(version));
        Ok(stat_of(&contained(request).await?))
    }

    async fn delete(&self, path: &str, version: i32) -> Reply<()> {
        let request = self.client()?.delete(path, Some(version));
        contained(request).await
    }

    async fn get(&self, path: &str) -> Reply<(Bytes, Stat)> {
        let request = self.client()?.get_data(path);
        let (data, stat) = contained(request).await?;
        Ok((data.into(), stat_of(&stat)))
    }

    async fn get_watched(&self, path: &str) -> Reply<(Bytes, Stat, OneShot)> {
        let path = path.to_owned();
        let get = |client: Client| async move { client.get_and_watch_data(&path).await };
        let (data, stat, watcher) = self.request(get).await?;
        Ok((data.into(), stat_of(&stat), self.one_shot(watcher)))
    }

    async fn stat(&self, path: &str) -> Reply<Option<Stat>> {
        let request = self.client()?.check_stat(path);
        Ok(contained(request).await?.as_ref().map(stat_of))
    }

    async fn stat_watched(&self, path: &str) -> Reply<(Option<Stat>, OneShot)> {
        let path = path.to_owned();
        let check = |client: Client| async move { client.check_and_watch_stat(&path).await };
        let (stat, watcher) = self.request(check).await?;
        Ok((stat.as_ref().map(stat_of), self.one_shot(watcher)))
    }

    async fn children(&self, path: &str) -> Reply<Vec<String>> {
        let request = self.client()?.get_children(path);
        Ok(contained(request).await?.0)
    }

    async fn children_watched(&self, path: &str) -> Reply<(Vec<String>, OneShot)> {
        let path = path.to_owned();
        let list = |client: Client| async move { client.list_and_watch_children(&path).await };
        let (names, watcher) = self.request(list).await?;
        Ok((names, self.one_shot(watcher)))
    }

    async fn acl(&self, path: &str) -> Reply<(Vec<AclEntry>, Stat)> {
        let path = path.to_owned();
        let (acl, stat) = self.request(|client| async move { client.get_acl(&path).await }).await?;
        let acl = acl
            .iter()
            .map(|entry| AclEntry {
                permissions: permission_bits(entry.permission()),
                scheme: entry.scheme().to_owned(),
                id: entry.id().to_owned(),
            })
            .collect();
        Ok((acl, stat_of(&stat)))
    }

    async fn set_acl(&self, path: &str, acl: &[AclEntry], version: i32) -> Reply<()> {
        let (path, acl) = (path.to_owned(), native_acl(acl));
        let set = |client: Client| async move { client.set_acl(&path, &acl, Some(version)).await };
        self.request(set).await.map(drop)
    }

    async fn sync(&self) -> Reply<()> {
        self.request(|client| async move { client.sync("/").await }).await
    }

    async fn multi(&self, ops: &[MultiOp]) -> Result<Vec<Option<Stat>>, MultiFault> {
        let failed = |error: native::Error| MultiFault::Failed(error.into());
        let client = self.client().map_err(MultiFault::Failed)?;
        let (ops, count) = (ops.to_vec(), ops.len());
        // The crate's own error is the answer: it tells which operation was refused.
        let committed = self.held.hold(contained(async move { Ok(commit(&client, &ops).await) }));
        let (owners, committed) = match committed {
            Ok(committed) => committed.await.map_err(MultiFault::Failed)?.map_err(failed)?,
            Err(fault) => return Err(MultiFault::Failed(fault)),
        };
        match committed {
            Ok(results) => {
                let mut stats = vec![None; count];
                for (owner, result) in owners.iter().zip(&results) {
                    if let native::MultiWriteResult::SetData { stat } = result {
                        stats[*owner] = Some(stat_of(stat));
                    }
                }
                Ok(stats)
            }
            Err(native::MultiWriteError::OperationFailed { index, source }) => {
                let index = owners.get(index).copied().unwrap_or(index);
                Err(MultiFault::Refused { index, fault: source.into() })
            }
            Err(native::MultiWriteError::RequestFailed { source }) => Err(failed(source)),
        }
    }

    async fn close(&self) -> bool {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(client) = client else { return true };
        // The crate closes the session when its last handle goes.
        self.held.close();
        drop(client);
        let Some(runtime) = runtime else { return false };
        let mut link = self.shared.native.subscribe();
        let up = matches!(*link.borrow(), Link::Up);
        let over = async move { link.wait_for(|link| matches!(link, Link::Over(_))).await.is_ok() };
        let mut over = Box::pin(over);
        let limit = if up { CLOSE } else { Duration::ZERO };
        let told = tokio::time::timeout(limit, over.as_mut()).await.is_ok();
        self.shared.end(Fault::ClientClosed);
        if !up && !told {
            // The crate goes on looking for a server to tell, as long as one can have the session.
            let limit = self.timeout * 2;
            runtime.handle().clone().spawn(async move {
                let _ = tokio::time::timeout(limit, over).await;
                drop(runtime);
            });
        }
        told
    }
}

/// Commits these operations. Answers also to which of them each of the native operations belongs.
async fn commit(client: &Client, ops: &[MultiOp]) -> Result<(Vec<usize>, Committed), native::Error> {
    let mut writer = client.new_multi_writer();
    let mut owners = Vec::with_capacity(ops.len());
    for (at, op) in ops.iter().enumerate() {
        owners.push(at);
        match op {
            MultiOp::Check { path, version } => writer.add_check_version(path, *version),
            MultiOp::Create { path, data, mode, acl } => {
                let acl = native_acl(acl);
                let options = options(*mode, Acls::new(&acl));
                if is_marker(data) {
                    writer.add_create(path, data, &options)
                } else {
                    // A server before 3.9 does not tell the state of a node that a multi creates,
                    // but of one that it sets.
                    owners.push(at);
                    let created = writer.add_create(path, b"", &options);
                    created.and_then(|()| writer.add_set_data(path, data, Some(0)))
                }
            }
            MultiOp::Set { path, data, version } => writer.add_set_data(path, data, Some(*version)),
            MultiOp::Delete { path, version } => writer.add_delete(path, Some(*version)),
        }?;
    }
    Ok((owners, writer.commit().await))
}

type Committed = Result<Vec<native::MultiWriteResult>, native::MultiWriteError>;

/// Waits for an answer. One that is shorter than it should be makes the crate panic where it is
/// awaited: in its caller.
async fn contained<T>(request: impl Future<Output = Result<T, native::Error>>) -> Reply<T> {
    match AssertUnwindSafe(request).catch_unwind().await {
        Ok(reply) => Ok(reply?),
        Err(_) => Err(nonsense()),
    }
}

fn endless() -> Fault {
    Fault::Protocol("it sends without end what nobody asked for".to_owned())
}

fn nonsense() -> Fault {
    Fault::Protocol("the client crate panicked over it".to_owned())
}

fn options(mode: Mode, acls: Acls<'_>) -> CreateOptions<'_> {
    match mode {
        Mode::Persistent => CreateMode::Persistent.with_acls(acls),
        Mode::Ephemeral => CreateMode::Ephemeral.with_acls(acls),
        Mode::EphemeralSequential => CreateMode::EphemeralSequential.with_acls(acls),
        Mode::Ttl(ttl) => CreateMode::Persistent.with_acls(acls).with_ttl(ttl),
    }
}

const PERMISSIONS: [(u32, native::Permission); 6] = [
    (31, native::Permission::ALL),
    (1, native::Permission::READ),
    (2, native::Permission::WRITE),
    (4, native::Permission::CREATE),
    (8, native::Permission::DELETE),
    (16, native::Permission::ADMIN),
];

fn permission_bits(permission: native::Permission) -> u32 {
    PERMISSIONS.iter().filter(|(_, each)| permission.has(*each)).fold(0, |bits, (bit, _)| bits | bit)
}

fn native_acl(acl: &[AclEntry]) -> Vec<Acl> {
    acl.iter()
        .map(|entry| {
            let permission = PERMISSIONS
                .iter()
                .filter(|(bits, _)| entry.permissions & bits == *bits)
                .fold(native::Permission::NONE, |all, (_, each)| all | *each);
            Acl::new(permission, AuthId::new(&entry.scheme, &entry.id))
        })
        .collect()
}

fn tls_options(tls: &TlsOptions) -> Reply<native::TlsOptions> {
    let bad = |error: native::Error| Fault::BadRequest(format!("the certificates: {error}"));
    let ca = tls.ca.as_deref().unwrap_or_default();
    let mut options = native::TlsOptions::new().with_pem_ca(ca).map_err(bad)?;
    if let Some((cert, key)) = &tls.identity {
        options = options.with_pem_identity(cert, key.expose()).map_err(bad)?;
    }
    Ok(options)
}

fn stat_of(stat: &native::Stat) -> Stat {
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
