//! What all operations of a store handle share: the client, where keys lie, and what is known of nodes.

pub(crate) mod acl;
pub(crate) mod write_queue;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use kv_backend::Deadline;
use kv_core::{Capabilities, Consistency, Entry, EntryExpiry, Error, Guarantee, Key, Result, Version};

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::{AclEntry, BARRIER, Mode, Reply, Session, Stat, caught_up};
use crate::config::LockLayout;
use crate::env::acl::{Access, Marks, with_created, with_made};
use crate::env::write_queue::WriteQueue;
use crate::names::{Layout, is_marker, may_be_marker};
use crate::session::{Client, Live};

/// Shared by a store handle, its watches and its locks.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) client: Arc<Client>,
    pub(crate) layout: Layout,
    pub(crate) access: Access,
    pub(crate) capabilities: Capabilities,
    pub(crate) timeout: Duration,
    pub(crate) lock_layout: LockLayout,
    /// Whether linearizable reads take a refused write also where the client has a sync.
    pub(crate) barrier_reads: bool,
    pub(crate) known: KnownNodes,
    /// Whose turn it is to write a key.
    pub(crate) queue: WriteQueue,
    /// The sessions that keys of this handle have lived by.
    pub(crate) own_sessions: OwnSessions,
    /// Where what outlives a call runs.
    pub(crate) runtime: tokio::runtime::Handle,
    /// How many lists are being read.
    pub(crate) lists: AtomicUsize,
    /// Whether it was said that there are names that are no keys.
    pub(crate) said_foreign: AtomicBool,
}

/// How a node goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Permanent,
    Ttl(Duration),
    Session { owner: i64 },
}

impl Kind {
    fn of(stat: &Stat, marks: Marks) -> Self {
        match (stat.ephemeral_owner, marks.ttl) {
            (0, None) => Self::Permanent,
            (0, Some(ttl)) => Self::Ttl(ttl),
            (owner, _) => Self::Session { owner },
        }
    }

    /// Whether a node made so now would be of this kind.
    pub(crate) fn is(self, mode: Mode, live: &Live) -> bool {
        match (self, mode) {
            (Self::Permanent, Mode::Persistent) => true,
            (Self::Ttl(have), Mode::Ttl(want)) => have == want,
            (Self::Session { owner }, Mode::Ephemeral) => live.own_id.get() == Some(&owner),
            _ => false,
        }
    }
}

/// How old what is read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Age {
    /// What the server has that the session is with.
    Any,
    /// As the client's sync has it: the leader answers alone, and where it is the server that is read
    /// from, perhaps before it has carried out itself what others have been told already.
    Synced,
    /// No older than the call: after a refused write, which takes a quorum.
    Now,
}

/// What an operation knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) czxid: i64,
    pub(crate) mzxid: i64,
    pub(crate) version: i32,
    pub(crate) kind: Kind,
    /// It is only a parent: no entry.
    pub(crate) marker: bool,
    /// It may be a container: what is put on it goes with its last child.
    pub(crate) container: bool,
}

impl Known {
    pub(crate) fn new(stat: &Stat, kind: Kind) -> Self {
        Self {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            version: stat.version,
            kind,
            marker: false,
            container: false,
        }
    }

    pub(crate) fn entry_version(&self) -> Option<Version> {
        (!self.marker).then(|| version(self.mzxid))
    }
}

/// A node as it was read, with all it takes to decide about it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) known: Known,
    pub(crate) stat: Stat,
    pub(crate) acl: Vec<AclEntry>,
    /// Its data; `None` where nobody asked and it cannot be a marker.
    pub(crate) data: Option<Bytes>,
}

impl Node {
    /// From what was read of it. The data must have been read where it could be a marker's.
    pub(crate) fn new(acl: Vec<AclEntry>, stat: Stat, data: Option<Bytes>) -> Self {
        let marks = Marks::read(&acl);
        let mut known = Known::new(&stat, Kind::of(&stat, marks));
        // Its state does not tell a container: but nobody has written it, and it is not ours.
        known.container =
            stat.data_length == 0 && stat.version == 0 && known.kind == Kind::Permanent && !marks.value;
        known.marker = data.as_deref().is_some_and(is_marker);
        Self { known, stat, acl, data }
    }

    /// The transaction by which the key came to be: the node's creation, unless the node was a
    /// parent before or took another one's place.
    pub(crate) fn created(&self) -> i64 {
        let marks = Marks::read(&self.acl);
        if marks.made == Some(self.stat.version) {
            return self.stat.mzxid;
        }
        marks.created.filter(|zxid| *zxid <= self.stat.mzxid).unwrap_or(self.stat.czxid)
    }

    /// The list of access the node must have before it is set again, so that whoever reads it then can
    /// tell when the key came to be; `None` where that can be told already.
    pub(crate) fn noted(&self) -> Option<Vec<AclEntry>> {
        if self.known.marker {
            return Some(with_made(self.acl.clone(), self.stat.version.wrapping_add(1)));
        }
        let made = Marks::read(&self.acl).made.filter(|made| *made == self.stat.version)?;
        Some(with_created(self.acl.clone(), self.stat.mzxid, Some(made)))
    }

    /// Whether the server did not tell who has access: it hides passwords from those who may not change
    /// them.
    pub(crate) fn hides_access(&self) -> bool {
        self.acl.iter().any(|entry| entry.scheme == "digest" && entry.id.ends_with(":x"))
    }

    /// The key's entry; `None` for a marker, or where the data was not read.
    pub(crate) fn entry(&self, key: &Key) -> Option<Entry> {
        let data = self.data.clone().filter(|_| !self.known.marker)?;
        Some(Entry::new(key.clone(), data, version(self.stat.mzxid), version(self.created())))
    }

    /// The same, telling how it expires.
    pub(crate) fn expiring_entry(&self, key: &Key) -> Option<Entry> {
        let mut entry = self.entry(key)?;
        entry.expiry = Some(match self.known.kind {
            Kind::Permanent => EntryExpiry::Never,
            Kind::Ttl(granted) => EntryExpiry::ttl(granted, None),
            Kind::Session { .. } => EntryExpiry::Session,
        });
        Some(entry)
    }
}

/// A transaction's number as a version.
pub(crate) fn version(zxid: i64) -> Version {
    Version::new(zxid.unsigned_abs())
}

impl Core {
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(timeout.unwrap_or(self.timeout))
    }

    /// Whether the nodes above a lock's record go with it. kazoo's `Lock` makes its node once and fails
    /// where it is gone; and where there is no multi, nothing ties a node to the record.
    pub(crate) fn clears_locks(&self) -> bool {
        self.client.is_full() && self.lock_layout == LockLayout::Curator
    }

    /// Whether a read must see everything that was acknowledged before it.
    pub(crate) fn must_sync(&self, consistency: Consistency) -> bool {
        consistency == Consistency::Linearizable && self.capabilities.guarantees(Guarantee::LinearizableReads)
    }

    /// Makes what this session reads next no older than now, where that is promised.
    pub(crate) async fn catch_up(&self, consistency: Consistency, deadline: Deadline) -> Result<()> {
        if !self.must_sync(consistency) {
            return Ok(());
        }
        let reply = self.client.read(deadline, |session| async move { self.renew(&*session).await }).await?;
        reply.map_err(Fault::into_error)
    }

    /// Makes what is read next as new as linearizable reads are.
    async fn renew(&self, session: &dyn Session) -> Reply<()> {
        if self.barrier_reads { session.barrier(BARRIER).await } else { caught_up(session).await }
    }

    /// A read that is no older than promised. The server answers in order, so both travel at once.
    pub(crate) async fn renewed<T>(
        &self,
        session: &dyn Session,
        consistency: Consistency,
        read: impl Future<Output = Reply<T>>,
    ) -> Reply<T> {
        if !self.must_sync(consistency) {
            return read.await;
        }
        let (renewed, read) = future::join(self.renew(session), read).await;
        renewed.and(read)
    }

    /// Data and state of a node; `None` if there is none.
    pub(crate) async fn read(
        &self,
        path: &str,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Option<(Bytes, Stat)>> {
        let reply = self.client.read(deadline, |session| async move {
            self.renewed(&*session, consistency, session.get(path)).await
        });
        let reply = reply.await?;
        optional(reply)
    }

    /// The entry of a key, from what was read of its node; `None` for a marker. May read again.
    pub(crate) async fn entry(
        &self,
        key: &Key,
        path: &str,
        read: Option<(Bytes, Stat)>,
        expiry: bool,
        deadline: Deadline,
    ) -> Result<Option<Entry>> {
        let Some((data, stat)) = read else { return Ok(None) };
        if is_marker(&data) {
            return Ok(None);
        }
        if stat.aversion == 0 && !expiry {
            let (version, created) = (version(stat.mzxid), version(stat.czxid));
            return Ok(Some(Entry::new(key.clone(), data, version, created)));
        }
        let Some(node) = self.node(path, true, deadline).await? else { return Ok(None) };
        self.known.note(path, node.known);
        Ok(if expiry { node.expiring_entry(key) } else { node.entry(key) })
    }

    /// A node with its kind, and its data where it is asked for or could be a marker's. It may be
    /// older than the call.
    pub(crate) async fn node(&self, path: &str, data: bool, deadline: Deadline) -> Result<Option<Node>> {
        self.look(path, data, Age::Any, deadline).await
    }

    /// The same, no older than asked for.
    pub(crate) async fn look(
        &self,
        path: &str,
        data: bool,
        age: Age,
        deadline: Deadline,
    ) -> Result<Option<Node>> {
        loop {
            let reply = self
                .client
                .read(deadline, |session| async move {
                    // The server answers in order, so all travel at once.
                    let synced = async {
                        match age {
                            Age::Any => Ok(()),
                            Age::Synced => caught_up(&*session).await,
                            Age::Now => session.barrier(BARRIER).await,
                        }
                    };
                    let read = async { if data { session.get(path).await.map(Some) } else { Ok(None) } };
                    let (synced, acl, read) = future::join3(synced, session.acl(path), read).await;
                    synced?;
                    Ok((acl?, read?))
                })
                .await?;
            let Some(((acl, stat), mut read)) = optional(reply)? else { return Ok(None) };
            if read.is_none() && may_be_marker(stat.data_length) {
                read = self.read(path, Consistency::Stale, deadline).await?;
                if read.is_none() {
                    return Ok(None);
                }
            }
            // The two requests must tell of one state.
            if read.as_ref().is_some_and(|(_, other)| other.mzxid != stat.mzxid) {
                continue;
            }
            return Ok(Some(Node::new(acl, stat, read.map(|(data, _)| data))));
        }
    }
}

/// An answer that may be that there is no such node.
pub(crate) fn optional<T>(reply: Reply<T>) -> Result<Option<T>> {
    match reply {
        Ok(answer) => Ok(Some(answer)),
        Err(Fault::NoNode) => Ok(None),
        Err(fault) => Err(fault.into_error()),
    }
}

pub(crate) fn unsupported(what: impl Into<String>) -> Error {
    Error::unsupported(what).with_backend(BACKEND)
}

/// Why a node that may be a container is left alone.
pub(crate) fn container(path: &str) -> String {
    format!(
        "the node {path} is empty and another program made it; it may be a container, such as Curator makes \
         for each lock, and a value put there would go with it when its last child goes: use another key, \
         or, where it is an ordinary node, set its data once with a native tool"
    )
}

/// By the server's account.
pub(crate) fn not_held() -> Error {
    Error::not_held(None).with_backend(BACKEND)
}

/// The server's numbers of the sessions that keys of a handle have lived by, the latest of them.
#[derive(Debug, Default)]
pub(crate) struct OwnSessions {
    ids: Mutex<VecDeque<i64>>,
}

impl OwnSessions {
    const MOST: usize = 64;

    pub(crate) fn note(&self, id: i64) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !ids.contains(&id) {
            ids.push_back(id);
            if ids.len() > Self::MOST {
                ids.pop_front();
            }
        }
    }

    pub(crate) fn has(&self, id: i64) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }
}

/// What this handle last saw of nodes: a bounded memory that spares round trips and is never trusted
/// without the server's check of the node's version.
#[derive(Debug, Default)]
pub(crate) struct KnownNodes {
    inner: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Known>,
    old: HashMap<String, Known>,
}

/// How many nodes a generation remembers.
const GENERATION: usize = 8192;

impl KnownNodes {
    pub(crate) fn get(&self, path: &str) -> Option<Known> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.young.get(path).or_else(|| inner.old.get(path)).copied()
    }

    pub(crate) fn note(&self, path: &str, known: Known) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.young.len() >= GENERATION {
            inner.old = std::mem::take(&mut inner.young);
        }
        inner.young.insert(path.to_owned(), known);
    }

    pub(crate) fn forget(&self, path: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.young.remove(path);
        inner.old.remove(path);
    }
}
