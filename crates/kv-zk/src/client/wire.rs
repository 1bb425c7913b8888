//! What the store needs of a ZooKeeper client: one session, its requests, one-shot watches and its end.
//!
//! Everything above this trait is written once; everything below it is a client crate made safe.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::client::error::Fault;

/// What a request answers.
pub(crate) type Reply<T> = Result<T, Fault>;

/// What ZooKeeper tells about a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) czxid: i64,
    pub(crate) mzxid: i64,
    pub(crate) pzxid: i64,
    pub(crate) version: i32,
    pub(crate) aversion: i32,
    pub(crate) ephemeral_owner: i64,
    pub(crate) data_length: i32,
    pub(crate) num_children: i32,
}

/// How long a node that is created lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Persistent,
    Ephemeral,
    /// The server appends ten digits to the name.
    EphemeralSequential,
    Ttl(Duration),
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AclEntry {
    /// ZooKeeper's permission bits.
    pub(crate) permissions: u32,
    pub(crate) scheme: String,
    pub(crate) id: String,
}

/// All of ZooKeeper's permission bits.
pub(crate) const ALL_PERMISSIONS: u32 = 31;

/// Before a request whose connection broke is made again.
pub(crate) const AGAIN: Duration = Duration::from_millis(50);

/// Any version of a node's data, where a request names one.
pub(crate) const ANY_VERSION: i32 = -1;

/// What ended a one-shot watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fired {
    /// What was watched changed.
    Changed {
        /// The node was deleted.
        deleted: bool,
        /// The transaction that did it, where the client and the server tell.
        zxid: Option<i64>,
    },
    /// The watch is gone with its connection: what it would have told is not known.
    Lost,
}

/// A one-shot watch that is armed; dropping it forgets it.
pub(crate) type OneShot = Pin<Box<dyn Future<Output = Fired> + Send>>;

/// How the connection of a session stands.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// Requests get through.
    Up,
    /// The connection broke; the client is looking for a server.
    Down,
    /// The session is over, by the client's account; nothing gets through any more.
    Over(Fault),
}

/// One operation of a [`Session::multi`].
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "zookeeper-client"), allow(dead_code, reason = "only that client has multi"))]
pub(crate) enum MultiOp {
    /// The node exists and its data is at this version.
    Check {
        path: String,
        version: i32,
    },
    Create {
        path: String,
        data: Bytes,
        mode: Mode,
        acl: Vec<AclEntry>,
    },
    Set {
        path: String,
        data: Bytes,
        version: i32,
    },
    Delete {
        path: String,
        version: i32,
    },
}

impl MultiOp {
    /// What it takes in a request, roughly and never less.
    pub(crate) fn size(&self) -> usize {
        const HEADER: usize = 96;
        HEADER
            + match self {
                Self::Check { path, .. } | Self::Delete { path, .. } => path.len(),
                Self::Set { path, data, .. } => path.len() + data.len(),
                Self::Create { path, data, acl, .. } => {
                    let acl: usize = acl.iter().map(|entry| 12 + entry.scheme.len() + entry.id.len()).sum();
                    // The path travels twice: see `Session::multi`.
                    2 * path.len() + data.len() + acl
                }
            }
    }
}

/// Why a [`Session::multi`] did nothing, or may have.
#[derive(Debug)]
#[cfg_attr(not(feature = "zookeeper-client"), allow(dead_code, reason = "only that client has multi"))]
pub(crate) enum MultiFault {
    /// This operation was refused, and with it all of them.
    Refused { index: usize, fault: Fault },
    /// The request as a whole failed.
    Failed(Fault),
}

/// One session with an ensemble.
///
/// Requests are sent in the order they are made and their futures may be dropped: a request that
/// was begun is then still carried out. None has a deadline here. Requests made while the link is
/// down fail with [`Fault::Unsent`].
#[async_trait]
pub(crate) trait Session: fmt::Debug + Send + Sync + 'static {
    /// Whether [`sync`](Self::sync) and [`multi`](Self::multi) work and the timeout is the server's.
    fn is_full(&self) -> bool;

    /// The session timeout: the negotiated one where the client tells it, else the one asked for.
    fn timeout(&self) -> Duration;

    /// How the connection stands, and each change.
    fn link(&self) -> watch::Receiver<Link>;

    async fn create(&self, path: &str, data: &Bytes, mode: Mode, acl: &[AclEntry]) -> Reply<(String, Stat)>;
    async fn set(&self, path: &str, data: &Bytes, version: i32) -> Reply<Stat>;
    async fn delete(&self, path: &str, version: i32) -> Reply<()>;
    async fn get(&self, path: &str) -> Reply<(Bytes, Stat)>;
    /// Arms nothing when the node is absent.
    async fn get_watched(&self, path: &str) -> Reply<(Bytes, Stat, OneShot)>;
    async fn stat(&self, path: &str) -> Reply<Option<Stat>>;
    /// Arms also when the node is absent.
    async fn stat_watched(&self, path: &str) -> Reply<(Option<Stat>, OneShot)>;
    async fn children(&self, path: &str) -> Reply<Vec<String>>;
    /// Arms nothing when the node is absent.
    async fn children_watched(&self, path: &str) -> Reply<(Vec<String>, OneShot)>;
    async fn acl(&self, path: &str) -> Reply<(Vec<AclEntry>, Stat)>;
    async fn set_acl(&self, path: &str, acl: &[AclEntry], version: i32) -> Reply<()>;
    /// What this session reads afterwards is no older than what was acknowledged before the call.
    async fn sync(&self) -> Reply<()>;
    /// The same for sessions that have no sync, at the price of a refused write in the server's log.
    async fn barrier(&self, path: &str) -> Reply<()> {
        match self.delete(path, ANY_VERSION).await {
            Ok(()) | Err(Fault::NoNode | Fault::NoAuth) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
    /// All or none. Answers the state of each node that was set or made with a value.
    async fn multi(&self, ops: &[MultiOp]) -> Result<Vec<Option<Stat>>, MultiFault>;

    /// Ends the session: the server drops its ephemeral nodes. Waits for the server's answer, and
    /// releases every task and socket. Says whether the server knows: false if it could not be told, and
    /// the session lives there until its timeout.
    async fn close(&self) -> bool;
}

/// A delete of it is refused, which shows the present where the client has no sync. It lies in the
/// server's own tree, where nobody has keys.
pub(crate) const BARRIER: &str = "/zookeeper/kv.barrier";

/// Asks the leader: what this session reads afterwards is no older than what was acknowledged before
/// the call. By the client's sync, or what takes its place.
pub(crate) async fn caught_up(session: &dyn Session) -> Reply<()> {
    if session.is_full() { session.sync().await } else { session.barrier(BARRIER).await }
}

/// Waits until requests get through; fails once they never will again.
pub(crate) async fn connected(session: &dyn Session) -> Reply<()> {
    let mut link = session.link();
    let link = link.wait_for(|link| !matches!(link, Link::Down)).await;
    match link.as_deref() {
        Ok(Link::Over(Fault::AuthFailed)) => Err(Fault::AuthFailed),
        Ok(Link::Over(_)) | Err(_) => Err(Fault::SessionExpired),
        Ok(_) => Ok(()),
    }
}

/// Makes a request on this very session until it is answered; fails once the session is over. Only
/// for what may be done twice.
pub(crate) async fn answered<T, F>(session: &dyn Session, request: impl Fn() -> F) -> Reply<T>
where
    F: Future<Output = Reply<T>>,
{
    loop {
        connected(session).await?;
        match request().await {
            Err(
                Fault::ConnectionLost
                | Fault::Unsent
                | Fault::SessionMoved
                | Fault::Throttled
                | Fault::Protocol(_),
            ) => tokio::time::sleep(AGAIN).await,
            reply => return reply,
        }
    }
}
