//! put of one key, and what all writes of a key share.
//!
//! A write is guarded by the node's version, which a node that is deleted and made again has once more.
//! So what this handle remembers of a node serves only a put of anything over anything, in one round
//! trip. Everything else looks at the node first, and no older than the call. A guard that fails
//! changes nothing, and the write is decided anew.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Expiry, Fence, Key, Precondition, PutOptions, PutResult, Result, Version};

use crate::client::error::{EXPIRING_PARENT, Fault};
use crate::client::wire::{AGAIN, AclEntry, Mode, MultiFault, MultiOp, Reply, Session, Stat};
use crate::env::acl::{Marks, with_created, with_empty_value};
use crate::env::write_queue::{StepBack, competes};
use crate::env::{Age, Core, Kind, Known, Node, container, not_held, optional, unsupported, version};
use crate::names::check_value;
use crate::session::{Carried, Live};

/// Why a change of expiry is refused where there is no multi.
const EXPIRY_CHANGE: &str =
    "expiry_change: changing how an existing key expires takes client=zookeeper-client";

/// What is at a path, as a write sees it.
pub(crate) enum State {
    Absent,
    There(Known, Option<Node>),
}

impl State {
    fn version(&self) -> Option<Version> {
        match self {
            Self::Absent => None,
            Self::There(known, _) => known.entry_version(),
        }
    }

    fn value(&self) -> Option<&Bytes> {
        match self {
            Self::There(known, Some(node)) if !known.marker => node.data.as_ref(),
            _ => None,
        }
    }

    /// Refuses a precondition that does not hold.
    pub(crate) fn check(&self, precondition: &Precondition) -> Result<()> {
        let current = self.version();
        let (holds, refusal) = match precondition {
            Precondition::Any => return Ok(()),
            Precondition::Absent => (current.is_none(), ErrorKind::AlreadyExists { current }),
            Precondition::Present => (current.is_some(), ErrorKind::NotFound),
            Precondition::At(at) => (current == Some(*at), ErrorKind::PreconditionFailed { current }),
            Precondition::Value(value) => {
                (self.value() == Some(value), ErrorKind::PreconditionFailed { current })
            }
            _ => return Err(unsupported("this precondition is not known to the store")),
        };
        if holds { Ok(()) } else { Err(Error::new(refusal)) }
    }

    /// Whether a refusal of the precondition stands however old this state is.
    pub(crate) fn refuses_for_good(&self, precondition: &Precondition) -> bool {
        match precondition {
            // It comes after a refused creation, which this state is no older than.
            Precondition::Absent => true,
            // What was written later is never at an earlier version again.
            Precondition::At(at) => self.version().is_some_and(|current| current > *at),
            _ => false,
        }
    }
}

/// How a key that is put is to expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewExpiry {
    /// As the entry there does; a set leaves a node's kind as it is. Permanent where there is none.
    Keep,
    /// As a node does that is made so.
    As(Mode),
}

impl NewExpiry {
    /// How the node is made where no entry is there whose expiry could be kept.
    pub(crate) fn fresh(self) -> Mode {
        match self {
            Self::Keep => Mode::Persistent,
            Self::As(mode) => mode,
        }
    }

    /// The time to live that was asked for.
    pub(crate) fn ttl(self) -> Option<Duration> {
        match self {
            Self::As(Mode::Ttl(ttl)) => Some(ttl),
            _ => None,
        }
    }

    /// Whether the key expires so after a set of the node that is there, with an entry or only as a
    /// parent.
    pub(crate) fn is_kept_by_set(self, kind: Kind, has_entry: bool, live: &Live) -> bool {
        match self {
            Self::Keep if has_entry => true,
            Self::Keep => kind == Kind::Permanent,
            Self::As(mode) => kind.is(mode, live),
        }
    }
}

/// What came of one attempt.
pub(crate) enum Attempt<T> {
    Done(T),
    /// The node was not as expected; nothing was changed.
    Conflict,
}

impl Core {
    pub(crate) async fn put(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.layout.check_writable(key)?;
        check_value(key, &value)?;
        let expiry = self.new_expiry(options.expiry)?;
        self.client.check_open()?;
        let deadline = self.deadline(options.timeout);
        let path = self.layout.path(key);
        let data = matches!(options.precondition, Precondition::Value(_));
        let mut age = self.age(&options.precondition);
        let _turn = match competes(&options.precondition) {
            true => Some(self.queue.turn(&path, deadline).await?),
            false => None,
        };
        let mut state = self.remembered(&path, &options.precondition);
        let mut back = StepBack::default();
        loop {
            let now = match state.take() {
                Some(state) => state,
                None => self.state(&path, data, age, deadline).await.map_err(Error::not_applied)?,
            };
            if let Err(refusal) = now.check(&options.precondition) {
                if age == Age::Now || now.refuses_for_good(&options.precondition) {
                    return Err(refusal);
                }
                age = Age::Now;
                continue;
            }
            let attempt = self.write(&path, &value, expiry, &now, options.fence.as_ref(), deadline).await?;
            if let Attempt::Done(stat) = attempt {
                let result = PutResult::new(version(stat.mzxid));
                return Ok(match expiry.ttl() {
                    Some(ttl) => result.with_granted_ttl(ttl),
                    None => result,
                });
            }
            self.known.forget(&path);
            back.wait(deadline).await?;
        }
    }

    /// The maximum staleness of the first read that decides a write. Where only a refused write tells what is now,
    /// a write without a condition is tried on less: what it finds there guards it.
    pub(crate) fn age(&self, precondition: &Precondition) -> Age {
        match precondition {
            Precondition::Absent => Age::Any,
            _ if self.client.is_full() => Age::Synced,
            Precondition::Any => Age::Any,
            _ => Age::Now,
        }
    }

    /// What this handle knows of a key, where that is enough to try without reading. A put that may
    /// create begins with that.
    fn remembered(&self, path: &str, precondition: &Precondition) -> Option<State> {
        let known = self.known.get(path).filter(|known| !known.marker && !known.container);
        match (precondition, known) {
            (Precondition::Absent, _) | (Precondition::Any, None) => Some(State::Absent),
            (Precondition::Any, Some(known)) => Some(State::There(known, None)),
            _ => None,
        }
    }

    pub(crate) async fn state(&self, path: &str, data: bool, age: Age, deadline: Deadline) -> Result<State> {
        let node = self.look(path, data, age, deadline).await?;
        Ok(match node {
            None => State::Absent,
            Some(node) => State::There(node.known, Some(node)),
        })
    }

    /// Makes the value be at the path, from this state and no other.
    async fn write(
        &self,
        path: &str,
        value: &Bytes,
        expiry: NewExpiry,
        state: &State,
        fence: Option<&Fence>,
        deadline: Deadline,
    ) -> Result<Attempt<Stat>> {
        let live = self.client.up(deadline).await?;
        let mode = expiry.fresh();
        match state {
            State::Absent => {
                self.make_parents(path, deadline).await?;
                let create = self.create_op(path, value, mode);
                // The server answers in order, so both travel at once.
                let (made, above) = future::join(
                    self.submit(fence, vec![create], deadline),
                    self.above(&live, path, deadline),
                )
                .await;
                let (reply, carried) = made?;
                match reply {
                    Ok(stat) => {
                        self.check_above(path, &stat, above, deadline).await?;
                        Ok(Attempt::Done(self.wrote(path, stat, mode, &carried)))
                    }
                    Err(Fault::NodeExists) => Ok(Attempt::Conflict),
                    Err(Fault::NoNode) => {
                        self.forget_parents(path);
                        Ok(Attempt::Conflict)
                    }
                    Err(fault) => Err(fault.into_error()),
                }
            }
            State::There(known, node)
                if !known.container && expiry.is_kept_by_set(known.kind, !known.marker, &live) =>
            {
                let set = MultiOp::Set { path: path.to_owned(), data: value.clone(), version: known.version };
                let (noted, submitted) = future::join(
                    self.note(path, node.as_ref(), deadline),
                    self.submit(fence, vec![set], deadline),
                )
                .await;
                let (reply, carried) = submitted?;
                let stat = match reply {
                    Ok(stat) => stat,
                    Err(Fault::BadVersion | Fault::NoNode) => return Ok(Attempt::Conflict),
                    Err(fault) => return Err(fault.into_error()),
                };
                let same = stat.czxid == known.czxid;
                if let NewExpiry::As(mode) = expiry
                    && !(same && known.kind.is(mode, &carried.live))
                {
                    return self.settle(path, value, mode, stat, fence, deadline).await.map(Attempt::Done);
                }
                let told = match noted.filter(|_| known.marker) {
                    Some((acl, aversion)) => {
                        self.note_created(path, &stat, acl, aversion, stat.mzxid, deadline).await
                    }
                    None => true,
                };
                match expiry {
                    NewExpiry::As(mode) => _ = self.wrote(path, stat, mode, &carried),
                    NewExpiry::Keep => self.known.note(path, Known::new(&stat, known.kind)),
                }
                // The next write looks at the node: it is another one than was known, or says when the
                // key came to be.
                if !same || !told {
                    self.known.forget(path);
                }
                Ok(Attempt::Done(stat))
            }
            // How old the key is must be known to be kept.
            State::There(_, None) => Ok(Attempt::Conflict),
            State::There(known, Some(_)) if !self.client.is_full() && self.is_left_over(known, &live) => {
                self.until_gone(path, known, deadline).await?;
                Ok(Attempt::Conflict)
            }
            State::There(_, Some(node)) => self.replace(path, value, mode, node, fence, deadline).await,
        }
    }

    /// Whether a key lives by a session that this handle has lost: it is about to go.
    fn is_left_over(&self, known: &Known, live: &Live) -> bool {
        matches!(known.kind, Kind::Session { owner }
            if self.own_sessions.has(owner) && live.own_id.get() != Some(&owner))
    }

    /// Waits until the servers have dropped a key of a lost session.
    async fn until_gone(&self, path: &str, known: &Known, deadline: Deadline) -> Result<()> {
        loop {
            let reply = self.client.read(deadline, |session| async move { session.stat(path).await });
            let there = match reply.await {
                Ok(reply) => optional(reply)?.flatten().is_some_and(|stat| stat.czxid == known.czxid),
                Err(error) if *error.kind() == ErrorKind::Timeout => true,
                Err(error) => return Err(error.not_applied()),
            };
            if !there {
                return Ok(());
            }
            if deadline.remaining().is_err() {
                return Err(Error::new(ErrorKind::Unavailable).not_applied().with_detail(
                    "the key still lives by a session this handle has lost; the servers drop it within the \
                     session timeout",
                ));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Exchanges the node for one that expires differently, or that certainly is no container, in one
    /// step.
    async fn replace(
        &self,
        path: &str,
        value: &Bytes,
        mode: Mode,
        node: &Node,
        fence: Option<&Fence>,
        deadline: Deadline,
    ) -> Result<Attempt<Stat>> {
        let known = &node.known;
        if known.container && (node.stat.num_children > 0 || !self.client.is_full() || node.hides_access()) {
            return Err(unsupported(container(path)));
        }
        if node.stat.num_children > 0 {
            return match self.is_only_pinned(path, deadline).await.map_err(Error::not_applied)? {
                true => Ok(Attempt::Conflict),
                false => Err(unsupported(EXPIRING_PARENT)),
            };
        }
        if !self.client.is_full() {
            return Err(unsupported(if known.marker {
                "expiry_change: the path has been a parent; letting it expire takes client=zookeeper-client"
            } else {
                EXPIRY_CHANGE
            }));
        }
        let acl = match mode {
            // Another program's node stays open to whom it was open.
            Mode::Persistent if known.container => with_empty_value(node.acl.clone()),
            _ => self.acl(value, mode),
        };
        let ops = vec![
            MultiOp::Delete { path: path.to_owned(), version: known.version },
            MultiOp::Create { path: path.to_owned(), data: value.clone(), mode, acl: acl.clone() },
        ];
        let (reply, carried) = self.submit(fence, ops, deadline).await?;
        match reply {
            Ok(stat) => {
                if !known.marker {
                    self.note_created(path, &stat, acl, 0, node.created(), deadline).await;
                }
                Ok(Attempt::Done(self.wrote(path, stat, mode, &carried)))
            }
            // What is below it is looked at anew.
            Err(Fault::BadVersion | Fault::NoNode | Fault::NodeExists | Fault::NotEmpty) => {
                Ok(Attempt::Conflict)
            }
            Err(fault) => Err(fault.into_error()),
        }
    }

    /// A guarded write has landed on a node that was deleted and made again, by chance at the same
    /// node version, or on one that lives by an earlier session. The value stands; how it expires is
    /// looked at.
    async fn settle(
        &self,
        path: &str,
        value: &Bytes,
        mode: Mode,
        stat: Stat,
        fence: Option<&Fence>,
        deadline: Deadline,
    ) -> Result<Stat> {
        let unsure = |error: Error| error.maybe_applied();
        loop {
            let sent_at = tokio::time::Instant::now();
            let live = self.client.up(deadline).await.map_err(unsure)?;
            let node = self.node(path, false, deadline).await.map_err(unsure)?;
            // Somebody has written since: ours was before that.
            let Some(node) = node.filter(|node| node.stat.mzxid == stat.mzxid) else { return Ok(stat) };
            if node.known.kind.is(mode, &live) {
                return Ok(self.wrote(path, stat, mode, &Carried { live, sent_at }));
            }
            let replaced = self.replace(path, value, mode, &node, fence, deadline).await;
            match replaced.map_err(unsure)? {
                Attempt::Done(stat) => return Ok(stat),
                Attempt::Conflict => deadline.remaining().map_err(unsure)?,
            };
        }
    }

    /// Carries out these operations, all or none, under the fence if there is one. Answers the state
    /// of the node the last one wrote, and what carried them.
    pub(crate) async fn submit(
        &self,
        fence: Option<&Fence>,
        mut ops: Vec<MultiOp>,
        deadline: Deadline,
    ) -> Result<(Reply<Stat>, Carried)> {
        if fence.is_none()
            && let [op] = ops.as_slice()
        {
            return self.client.write(deadline, |session| async move { single(&*session, op).await }).await;
        }
        if let Some(fence) = fence {
            // The name of a lock's record is never given twice: that it exists is all.
            ops.insert(0, MultiOp::Check { path: fence.record().to_owned(), version: -1 });
        }
        let (reply, carried) = self.multi(&ops, deadline).await?;
        let reply = match reply {
            Ok(stats) => Ok(stats.into_iter().rev().flatten().next().unwrap_or_default()),
            Err(MultiFault::Refused { index: 0, fault: Fault::NoNode }) if fence.is_some() => {
                return Err(not_held());
            }
            Err(MultiFault::Refused { fault, .. } | MultiFault::Failed(fault)) => Err(fault),
        };
        Ok((reply, carried))
    }

    pub(crate) async fn multi(
        &self,
        ops: &[MultiOp],
        deadline: Deadline,
    ) -> Result<(Result<Vec<Option<Stat>>, MultiFault>, Carried)> {
        let (reply, carried) = self
            .client
            .write(deadline, |session| async move {
                match session.multi(ops).await {
                    // Only this one may be sent again, by whom it is handed to.
                    Err(MultiFault::Failed(Fault::Unsent)) => Err(Fault::Unsent),
                    reply => Ok(reply),
                }
            })
            .await?;
        Ok((reply.unwrap_or_else(|fault| Err(MultiFault::Failed(fault))), carried))
    }

    pub(crate) fn create_op(&self, path: &str, value: &Bytes, mode: Mode) -> MultiOp {
        MultiOp::Create { path: path.to_owned(), data: value.clone(), mode, acl: self.acl(value, mode) }
    }

    /// The access control list of a node that is created with this value and expires so.
    pub(crate) fn acl(&self, value: &Bytes, mode: Mode) -> Vec<AclEntry> {
        match mode {
            Mode::Ttl(ttl) => self.access.acl_with_ttl(ttl),
            Mode::Persistent if value.is_empty() => with_empty_value(self.access.acl()),
            _ => self.access.acl(),
        }
    }

    /// Remembers what a write made.
    fn wrote(&self, path: &str, stat: Stat, mode: Mode, carried: &Carried) -> Stat {
        let kind = match mode {
            Mode::Persistent => Kind::Permanent,
            Mode::Ttl(ttl) => Kind::Ttl(ttl),
            Mode::Ephemeral | Mode::EphemeralSequential => {
                let _ = carried.live.own_id.set(stat.ephemeral_owner);
                self.own_sessions.note(stat.ephemeral_owner);
                self.client.keeps_key(carried);
                Kind::Session { owner: stat.ephemeral_owner }
            }
        };
        self.known.note(path, Known::new(&stat, kind));
        stat
    }

    /// How a key is to expire, where this store can.
    pub(crate) fn new_expiry(&self, expiry: Expiry) -> Result<NewExpiry> {
        Ok(match expiry {
            Expiry::Never => NewExpiry::As(Mode::Persistent),
            Expiry::Keep => NewExpiry::Keep,
            Expiry::Session => NewExpiry::As(Mode::Ephemeral),
            Expiry::Ttl(ttl) => NewExpiry::As(Mode::Ttl(self.capabilities.limits.ttl.check(ttl)?)),
            _ => return Err(unsupported("this expiry is not known to the store")),
        })
    }

    /// Notes on a node that is to be set what would be lost by that: that the set makes a key, or when
    /// the last one did. Answers the list and its version. The set need not wait for it: the server
    /// carries both out in order.
    pub(crate) async fn note(
        &self,
        path: &str,
        node: Option<&Node>,
        deadline: Deadline,
    ) -> Option<(Vec<AclEntry>, i32)> {
        let node = node?;
        let acl = node.noted()?;
        let (list, aversion) = (&acl, node.stat.aversion);
        let reply =
            self.client.read(deadline, |session| async move { session.set_acl(path, list, aversion).await });
        let noted = matches!(reply.await, Ok(Ok(())));
        // Where another writer was faster, it noted the same.
        Some((acl, if noted { aversion.wrapping_add(1) } else { aversion }))
    }

    /// Notes on a node when its key came to be, where that is not when the node did. The write stands
    /// whether or not this works; where it does not, the next write of the key does it. `acl` is the
    /// node's list at this version.
    pub(crate) async fn note_created(
        &self,
        path: &str,
        stat: &Stat,
        acl: Vec<AclEntry>,
        aversion: i32,
        created: i64,
        deadline: Deadline,
    ) -> bool {
        let (mut acl, mut aversion) = (acl, aversion);
        // Of two writers the later one is right.
        while Marks::read(&acl).created.is_none_or(|noted| noted < created) {
            let marked = with_created(acl, created, Some(stat.version));
            let marked = &marked;
            let reply = self
                .client
                .read(deadline, |session| async move { session.set_acl(path, marked, aversion).await })
                .await;
            match reply {
                Ok(Err(Fault::BadVersion)) => {}
                Ok(Ok(()) | Err(Fault::NoNode)) => return true,
                Ok(Err(fault)) => {
                    tracing::debug!(path, %fault, "cannot note when a key was created");
                    return false;
                }
                Err(error) => {
                    tracing::debug!(path, %error, "cannot note when a key was created");
                    return false;
                }
            }
            match self.node(path, false, deadline).await {
                Ok(Some(node)) if node.stat.czxid == stat.czxid => {
                    (acl, aversion) = (node.acl, node.stat.aversion);
                }
                found => return found.is_ok(),
            }
        }
        true
    }
}

async fn single(session: &dyn Session, op: &MultiOp) -> Reply<Stat> {
    match op {
        MultiOp::Create { path, data, mode, acl } => {
            session.create(path, data, *mode, acl).await.map(|(_, stat)| stat)
        }
        MultiOp::Set { path, data, version } => session.set(path, data, *version).await,
        MultiOp::Delete { path, version } => session.delete(path, *version).await.map(|()| Stat::default()),
        MultiOp::Check { .. } => Err(Fault::BadRequest("a check alone".to_owned())),
    }
}
