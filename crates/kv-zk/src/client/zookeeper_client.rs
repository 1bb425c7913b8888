//! A session on zookeeper-client: with multi, sync, TLS and SASL.
//!
//! Put right here: requests are not queued while there is no connection, because nobody could tell
//! then whether one was sent; an answer that makes the crate panic is an error of the request it was
//! for; the crate's watchers, which panic when the crate's task is gone, are not asked any more then; and
//! a break of the connection costs no session, however much is watched.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use zookeeper_client as native;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, CreateOptions, EventType};

use super::held::Held;
use super::native::{Dial, Life, Native, contained};
use crate::client::error::Fault;
use crate::client::wire::{AclEntry, Fired, Link, Mode, MultiFault, MultiOp, OneShot, Reply, Session, Stat};
use crate::names::is_marker;

#[cfg(test)]
#[path = "../../tests/common/fake.rs"]
mod fake;

/// How many bytes of paths are watched at most where the crate is left to set its watches again after a
/// break. It begins a second request after 128 KiB, and takes the second answer for an error.
const MANY: usize = 96 << 10;

/// Between two attempts to take a session over.
const AGAIN: Duration = Duration::from_millis(300);

pub(crate) struct FullSession {
    inner: Arc<Inner>,
    timeout: Duration,
}

struct Inner {
    dial: Dial,
    /// None once it is closed, and while another takes its place.
    native: Mutex<Option<Native>>,
    link: watch::Sender<Link>,
    /// How many bytes of paths are watched.
    watched: Arc<AtomicUsize>,
}

impl FullSession {
    /// A session, counting its requests. Has no deadline of its own, and leaves nothing behind when
    /// dropped.
    pub(crate) async fn connect(dial: Dial) -> Reply<Self> {
        let native = dial.connect(None).await?;
        let timeout = native.client.session_timeout();
        let states = native.life.link.subscribe();
        let (native, link) = (Mutex::new(Some(native)), watch::Sender::new(Link::Up));
        let inner = Arc::new(Inner { dial, native, link, watched: Arc::default() });
        tokio::spawn(follow(Arc::downgrade(&inner), states));
        Ok(Self { inner, timeout })
    }

    /// The client, for one request.
    fn client(&self) -> Reply<(Client, Arc<Held>, Arc<Life>)> {
        match &*self.inner.link.borrow() {
            Link::Up => {}
            Link::Down => return Err(Fault::Unsent),
            Link::Over(fault) => return Err(fault.clone()),
        }
        self.inner.dial.requests.fetch_add(1, Ordering::Relaxed);
        let native = self.inner.native.lock().unwrap_or_else(PoisonError::into_inner);
        let native = native.as_ref().ok_or(Fault::Unsent)?;
        Ok((native.client.clone(), Arc::clone(&native.held), Arc::clone(&native.life)))
    }

    /// Makes a request that holds the client until it is answered.
    async fn request<T, F>(&self, request: impl FnOnce(Client) -> F) -> Reply<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, native::Error>> + Send + 'static,
    {
        let (client, held, _) = self.client()?;
        self.inner.held(&held, request(client)).await
    }

    /// The same for one that sets a watch.
    async fn watched<T, F>(&self, path: &str, request: impl FnOnce(Client) -> F) -> Reply<(T, OneShot)>
    where
        T: Send + 'static,
        F: Future<Output = Result<(T, native::OneshotWatcher), native::Error>> + Send + 'static,
    {
        let (client, held, life) = self.client()?;
        let (answer, watcher) = self.inner.held(&held, request(client)).await?;
        let watched = Arc::clone(&self.inner.watched);
        Ok((answer, Box::pin(Armed::new(life, watched, path.len(), watcher))))
    }
}

/// Passes on how the connection stands; where the crate could not set its watches again, another client
/// takes the session over.
async fn follow(session: Weak<Inner>, mut states: watch::Receiver<Link>) {
    loop {
        let now = states.borrow_and_update().clone();
        let Some(inner) = session.upgrade() else { return };
        inner.say(now.clone());
        match now {
            Link::Over(_) => return,
            Link::Down if inner.watched.load(Ordering::Relaxed) > MANY => {
                let Some(others) = take_over(inner).await else { return };
                states = others;
                continue;
            }
            Link::Down | Link::Up => drop(inner),
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Goes on with the session on a client without watches: what was watched is told as lost.
async fn take_over(inner: Arc<Inner>) -> Option<watch::Receiver<Link>> {
    let old = inner.native.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let session = old.client.session().clone();
    // First of all: two clients would take the session from each other.
    old.end();
    let inner = {
        let weak = Arc::downgrade(&inner);
        drop(inner);
        weak
    };
    loop {
        let strong = inner.upgrade().filter(|inner| !inner.is_over())?;
        match strong.dial.again(session.clone()).await {
            Ok(native) => return strong.put(native),
            Err(fault @ (Fault::SessionExpired | Fault::AuthFailed)) => {
                strong.say(Link::Over(fault));
                return None;
            }
            Err(fault) => tracing::debug!(%fault, "the ZooKeeper session is not taken over yet"),
        }
        drop(strong);
        tokio::time::sleep(AGAIN).await;
    }
}

impl Inner {
    fn is_over(&self) -> bool {
        matches!(*self.link.borrow(), Link::Over(_))
    }

    /// Makes a request that ends with its client. Where another client goes on with the session, that
    /// is as good as a break of the connection.
    async fn held<T: Send + 'static>(
        &self,
        held: &Arc<Held>,
        request: impl Future<Output = Result<T, native::Error>> + Send + 'static,
    ) -> Reply<T> {
        let broken = |fault, instead| match fault {
            Fault::ClientClosed if !self.is_over() => instead,
            fault => fault,
        };
        let request = held.hold(contained(request)).map_err(|fault| broken(fault, Fault::Unsent))?;
        request.await.map_err(|fault| broken(fault, Fault::ConnectionLost))
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

    /// Puts a client in the place of the one before; closes it if the session was closed meanwhile.
    fn put(&self, native: Native) -> Option<watch::Receiver<Link>> {
        let states = native.life.link.subscribe();
        let mut slot = self.native.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over() {
            drop(slot);
            tokio::spawn(native.close());
            return None;
        }
        *slot = Some(native);
        Some(states)
    }
}

/// A watcher of the crate, as long as the crate's task is there.
struct Armed {
    life: Arc<Life>,
    watched: Arc<AtomicUsize>,
    size: usize,
    changed: Pin<Box<dyn Future<Output = Fired> + Send>>,
}

impl Armed {
    fn new(life: Arc<Life>, watched: Arc<AtomicUsize>, size: usize, watcher: native::OneshotWatcher) -> Self {
        watched.fetch_add(size, Ordering::Relaxed);
        let changed = async move {
            match watcher.changed().await {
                event if event.event_type == EventType::Session => Fired::Lost,
                event => Fired::Changed {
                    deleted: event.event_type == EventType::NodeDeleted,
                    zxid: (event.zxid > 0).then_some(event.zxid),
                },
            }
        };
        Self { life, watched, size, changed: Box::pin(changed) }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.watched.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl Future for Armed {
    type Output = Fired;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fired> {
        let Self { life, changed, .. } = &mut *self;
        // Held meanwhile, so that the task is not ended under it.
        let runs = life.runs.read().unwrap_or_else(PoisonError::into_inner);
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
        self.inner.say(Link::Over(Fault::ClientClosed));
        let native = self.inner.native.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(native) = native {
            native.end();
        }
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
        self.inner.link.subscribe()
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
        let request = self.client()?.0.set_data(path, data, Some(version));
        Ok(stat_of(&contained(request).await?))
    }

    async fn delete(&self, path: &str, version: i32) -> Reply<()> {
        let request = self.client()?.0.delete(path, Some(version));
        contained(request).await
    }

    async fn get(&self, path: &str) -> Reply<(Bytes, Stat)> {
        let request = self.client()?.0.get_data(path);
        let (data, stat) = contained(request).await?;
        Ok((data.into(), stat_of(&stat)))
    }

    async fn get_watched(&self, path: &str) -> Reply<(Bytes, Stat, OneShot)> {
        let name = path.to_owned();
        let get = |client: Client| async move {
            let (data, stat, watcher) = client.get_and_watch_data(&name).await?;
            Ok(((data, stat), watcher))
        };
        let ((data, stat), armed) = self.watched(path, get).await?;
        Ok((data.into(), stat_of(&stat), armed))
    }

    async fn stat(&self, path: &str) -> Reply<Option<Stat>> {
        let request = self.client()?.0.check_stat(path);
        Ok(contained(request).await?.as_ref().map(stat_of))
    }

    async fn stat_watched(&self, path: &str) -> Reply<(Option<Stat>, OneShot)> {
        let name = path.to_owned();
        let check = |client: Client| async move { client.check_and_watch_stat(&name).await };
        let (stat, armed) = self.watched(path, check).await?;
        Ok((stat.as_ref().map(stat_of), armed))
    }

    async fn children(&self, path: &str) -> Reply<Vec<String>> {
        let request = self.client()?.0.get_children(path);
        Ok(contained(request).await?.0)
    }

    async fn children_watched(&self, path: &str) -> Reply<(Vec<String>, OneShot)> {
        let name = path.to_owned();
        let list = |client: Client| async move { client.list_and_watch_children(&name).await };
        self.watched(path, list).await
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
        let (client, held, _) = self.client().map_err(MultiFault::Failed)?;
        let (ops, count) = (ops.to_vec(), ops.len());
        // The crate's own error is the answer: it tells which operation was refused.
        let committed = self.inner.held(&held, async move { Ok(commit(&client, &ops).await) }).await;
        let (owners, committed) = committed.map_err(MultiFault::Failed)?.map_err(failed)?;
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
        let before = self.inner.link.borrow().clone();
        // First of all, for whoever takes the session over.
        self.inner.say(Link::Over(Fault::ClientClosed));
        let native = self.inner.native.lock().unwrap_or_else(PoisonError::into_inner).take();
        match native {
            Some(native) => native.close().await,
            None => matches!(before, Link::Over(_)),
        }
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

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_request_that_a_take_over_ends_is_one_whose_connection_broke() {
        let fake = fake::Fake::start(|_| None).await;
        let dial = Dial {
            servers: vec![fake.address.clone()],
            addresses: vec![fake.address.parse().unwrap()],
            timeout: Duration::from_secs(10),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
            requests: Arc::default(),
        };
        let session = FullSession::connect(dial).await.unwrap();
        session.inner.watched.store(MANY + 1, Ordering::Relaxed);
        let mut asked = session.acl("/a");
        assert!(poll!(&mut asked).is_pending());
        let mut watched = session.get_watched("/a");
        assert!(poll!(&mut watched).is_pending());
        let ops = [MultiOp::Delete { path: "/a".to_owned(), version: 1 }];
        let mut multi = session.multi(&ops);
        assert!(poll!(&mut multi).is_pending());
        let (_, held, _) = session.client().unwrap();
        let address = fake.address.clone();
        fake.stop().await;
        let mut link = session.link();
        let taken_over = async {
            link.wait_for(|link| matches!(link, Link::Down)).await.unwrap();
            // Only now: the client would be back before its break is seen.
            let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
            let fake = fake::Fake::on(listener, |_| None);
            loop {
                if session.stat("/a").await == Ok(None) {
                    return fake;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let limit = Duration::from_secs(10);
        let _fake = tokio::time::timeout(limit, taken_over).await.expect("the session goes on");
        assert_eq!(asked.await, Err(Fault::ConnectionLost));
        assert_eq!(watched.await.map(drop), Err(Fault::ConnectionLost));
        assert!(matches!(multi.await, Err(MultiFault::Failed(Fault::ConnectionLost))));
        // One that had its client before it ended, and is made now.
        let late = session.inner.held(&held, async { Ok(()) });
        assert_eq!(late.await, Err(Fault::Unsent));
        // The end of the session is no break.
        let (_, held, _) = session.client().unwrap();
        session.close().await;
        assert_eq!(session.inner.held(&held, async { Ok(()) }).await, Err(Fault::ClientClosed));
    }
}
