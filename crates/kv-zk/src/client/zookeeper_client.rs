//! A session on zookeeper-client: with multi, sync, TLS and SASL.
//!
//! Put right here: requests are not queued while there is no connection, because nobody could tell
//! then whether one was sent; closing waits for the server; and an answer that makes the crate panic
//! is an error of the request it was for.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::watch;
use zookeeper_client as native;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, CreateOptions, EventType, SessionState};

use crate::config::{Credentials, Tls};
use crate::error::Fault;
use crate::mapping::is_marker;
use crate::session::{AclEntry, Fired, Link, Mode, MultiFault, MultiOp, OneShot, Reply, Session, Stat};

/// How long closing waits for the server's answer.
const CLOSE: Duration = Duration::from_secs(2);

pub(crate) struct FullSession {
    client: Mutex<Option<Client>>,
    link: watch::Sender<Link>,
    timeout: Duration,
    requests: Arc<AtomicU64>,
}

impl FullSession {
    /// A session with one of these servers (`host:port`), counting its requests. Has no deadline of
    /// its own.
    pub(crate) async fn connect(
        servers: &[String],
        timeout: Duration,
        credentials: Option<&Credentials>,
        tls: Option<&Tls>,
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
        let client = match tls {
            None => connector.connect(&servers).await?,
            Some(tls) => connector.with_tls(tls_options(tls)?).secure_connect(&servers).await?,
        };
        let timeout = client.session_timeout();
        let mut states = client.state_watcher();
        let link = watch::Sender::new(Link::Up);
        let follow = link.clone();
        tokio::spawn(async move {
            loop {
                let now = match states.changed().await {
                    SessionState::SyncConnected | SessionState::ConnectedReadOnly => Link::Up,
                    SessionState::Disconnected => Link::Down,
                    SessionState::AuthFailed => Link::Over(Fault::AuthFailed),
                    SessionState::Expired => Link::Over(Fault::SessionExpired),
                    SessionState::Closed => Link::Over(Fault::ClientClosed),
                };
                let over = matches!(now, Link::Over(_));
                follow.send_replace(now);
                if over {
                    return;
                }
            }
        });
        Ok(Self { client: Mutex::new(Some(client)), link, timeout, requests })
    }

    /// The client, for one request.
    fn client(&self) -> Reply<Client> {
        match &*self.link.borrow() {
            Link::Up => {}
            Link::Down => return Err(Fault::Unsent),
            Link::Over(fault) => return Err(fault.clone()),
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone().ok_or(Fault::ClientClosed)
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
        self.link.subscribe()
    }

    async fn create(&self, path: &str, data: &Bytes, mode: Mode, acl: &[AclEntry]) -> Reply<(String, Stat)> {
        let (client, acl) = (self.client()?, native_acl(acl));
        let options = options(mode, Acls::new(&acl));
        let (stat, sequence) = contained(client.create(path, data, &options)).await?;
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
        let client = self.client()?;
        let (data, stat, watcher) = contained(client.get_and_watch_data(path)).await?;
        Ok((data.into(), stat_of(&stat), one_shot(watcher)))
    }

    async fn stat(&self, path: &str) -> Reply<Option<Stat>> {
        let request = self.client()?.check_stat(path);
        Ok(contained(request).await?.as_ref().map(stat_of))
    }

    async fn stat_watched(&self, path: &str) -> Reply<(Option<Stat>, OneShot)> {
        let client = self.client()?;
        let (stat, watcher) = contained(client.check_and_watch_stat(path)).await?;
        Ok((stat.as_ref().map(stat_of), one_shot(watcher)))
    }

    async fn children(&self, path: &str) -> Reply<Vec<String>> {
        let client = self.client()?;
        contained(client.list_children(path)).await
    }

    async fn children_watched(&self, path: &str) -> Reply<(Vec<String>, OneShot)> {
        let client = self.client()?;
        let (names, watcher) = contained(client.list_and_watch_children(path)).await?;
        Ok((names, one_shot(watcher)))
    }

    async fn acl(&self, path: &str) -> Reply<(Vec<AclEntry>, Stat)> {
        let client = self.client()?;
        let (acl, stat) = contained(client.get_acl(path)).await?;
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
        let client = self.client()?;
        let acl = native_acl(acl);
        contained(client.set_acl(path, &acl, Some(version))).await?;
        Ok(())
    }

    async fn sync(&self) -> Reply<()> {
        let client = self.client()?;
        contained(client.sync("/")).await
    }

    async fn multi(&self, ops: &[MultiOp]) -> Result<Vec<Option<Stat>>, MultiFault> {
        let failed = |error: native::Error| MultiFault::Failed(error.into());
        let client = self.client().map_err(MultiFault::Failed)?;
        let mut writer = client.new_multi_writer();
        // To which of ours each of the native operations belongs.
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
            }
            .map_err(failed)?;
        }
        let Ok(committed) = AssertUnwindSafe(writer.commit()).catch_unwind().await else {
            return Err(MultiFault::Failed(nonsense()));
        };
        match committed {
            Ok(results) => {
                let mut stats = vec![None; ops.len()];
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

    async fn close(&self) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(client) = client else { return };
        let mut link = self.link.subscribe();
        let up = matches!(*link.borrow(), Link::Up);
        // The crate closes the session when its last handle goes.
        drop(client);
        if up {
            let over = link.wait_for(|link| matches!(link, Link::Over(_)));
            let _ = tokio::time::timeout(CLOSE, over).await;
        }
        self.link.send_replace(Link::Over(Fault::ClientClosed));
    }
}

/// Waits for an answer. One that is shorter than it should be makes the crate panic where it is
/// awaited: in its caller.
async fn contained<T>(request: impl Future<Output = Result<T, native::Error>>) -> Reply<T> {
    match AssertUnwindSafe(request).catch_unwind().await {
        Ok(reply) => Ok(reply?),
        Err(_) => Err(nonsense()),
    }
}

fn nonsense() -> Fault {
    Fault::Protocol("the client crate panicked over it".to_owned())
}

fn one_shot(watcher: native::OneshotWatcher) -> OneShot {
    Box::pin(async move {
        // It panics where the crate's own task did.
        let Ok(event) = AssertUnwindSafe(watcher.changed()).catch_unwind().await else { return Fired::Lost };
        match event.event_type {
            EventType::Session => Fired::Lost,
            kind => Fired::Changed {
                deleted: kind == EventType::NodeDeleted,
                zxid: (event.zxid > 0).then_some(event.zxid),
            },
        }
    })
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

fn tls_options(tls: &Tls) -> Reply<native::TlsOptions> {
    let bad = |error: native::Error| Fault::BadRequest(format!("the certificates: {error}"));
    let mut options = native::TlsOptions::new().with_pem_ca(&tls.ca).map_err(bad)?;
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
