//! Transactions: read, decide, then one multi that is carried out only if nothing read has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use kv_backend::Deadline;
use kv_core::{
    DeleteResult, Entry, Error, Expiry, Key, Measured, PutResult, Result, Txn, TxnOp, TxnOutcome, TxnResult,
    Version,
};

use crate::client::error::{EXPIRING_PARENT, Fault};
use crate::client::wire::{AclEntry, Mode, MultiFault, MultiOp, Stat};
use crate::env::acl::with_empty_value;
use crate::env::{Age, Core, Kind, Known, Node, container, not_held, unsupported, version};
use crate::names::{MARKER, check_value, is_marker, parent};
use crate::session::Carried;

/// The most a multi may take: the server drops connections whose requests are larger.
const MAX_REQUEST: usize = 1_000_000;

/// How many nodes are read at once.
const AT_ONCE: usize = 64;

impl Core {
    pub(crate) async fn transact(&self, txn: Txn) -> Result<TxnResult> {
        for op in txn.then.iter().chain(&txn.or_else).filter(|op| op.is_write()) {
            self.layout.check_writable(op.key())?;
            if let TxnOp::Put { key, value, expiry, .. } = op {
                check_value(key, value)?;
                self.new_expiry(*expiry)?;
            }
        }
        self.client.check_open()?;
        let deadline = self.deadline(txn.timeout);
        let mut attempts = 0_u32;
        loop {
            deadline.remaining()?;
            let nodes = self.read_all(&txn, deadline).await?;
            let entry =
                |key: &Key| nodes.get(&self.layout.path(key)).and_then(|node| node.as_ref()?.entry(key));
            let succeeded = txn.conditions.iter().all(|condition| {
                condition.holds(
                    self.layout.is_readable(&condition.key).then(|| entry(&condition.key)).flatten().as_ref(),
                )
            });
            let branch = if succeeded { &txn.then } else { &txn.or_else };
            let mut plan = Plan {
                core: self,
                nodes: &nodes,
                now: BTreeMap::new(),
                guards: Vec::new(),
                writes: Vec::new(),
                notes: Vec::new(),
                deadline,
            };
            let mut outcomes = Vec::with_capacity(branch.len());
            for op in branch {
                outcomes.push(plan.add(op).await?);
            }
            for condition in &txn.conditions {
                plan.guard(&condition.key).await?;
            }
            for op in branch {
                plan.guard(op.key()).await?;
            }
            let mut notes = std::mem::take(&mut plan.notes);
            let mut ops = std::mem::take(&mut plan.guards);
            let guards = ops.len();
            ops.append(&mut plan.writes);
            if let Some(fence) = &txn.fence {
                ops.insert(0, MultiOp::Check { path: fence.record().to_owned(), version: -1 });
            }
            if ops.is_empty() {
                return Ok(TxnResult::new(succeeded, outcomes.into_iter().map(|made| made.at(0)).collect()));
            }
            let size: usize = ops.iter().map(MultiOp::size).sum();
            if size > MAX_REQUEST {
                return Err(Error::too_large(Measured::Request, size, MAX_REQUEST)
                    .with_detail("counted with checks and parents"));
            }
            let (noted, made) =
                future::join(self.note_all(&nodes, &ops, deadline), self.multi(&ops, deadline)).await;
            let (reply, carried) = made?;
            for note in &mut notes {
                if let Some((acl, aversion)) = noted.get(&note.path) {
                    (note.acl, note.aversion) = (acl.clone(), *aversion);
                }
            }
            match reply {
                Ok(stats) => {
                    let first_write = guards + usize::from(txn.fence.is_some());
                    return Ok(self
                        .finish(succeeded, &ops, first_write, &stats, outcomes, notes, &carried, deadline)
                        .await);
                }
                Err(MultiFault::Refused { index: 0, fault: Fault::NoNode }) if txn.fence.is_some() => {
                    return Err(not_held());
                }
                Err(MultiFault::Refused {
                    fault: Fault::BadVersion | Fault::NoNode | Fault::NodeExists | Fault::NotEmpty,
                    ..
                }) => {
                    // What was read has changed.
                    for path in nodes.keys() {
                        self.known.forget(path);
                        self.forget_parents(path);
                    }
                    attempts = (attempts + 1).min(6);
                    let most = 1_u64 << attempts;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..most))).await;
                }
                Err(MultiFault::Refused { fault, .. } | MultiFault::Failed(fault)) => {
                    return Err(fault.into_error());
                }
            }
        }
    }

    /// The nodes of all keys a transaction names, no older than the call.
    async fn read_all(&self, txn: &Txn, deadline: Deadline) -> Result<BTreeMap<String, Option<Node>>> {
        let ops = txn.then.iter().chain(&txn.or_else).map(TxnOp::key);
        let keys: BTreeSet<&Key> = txn.conditions.iter().map(|condition| &condition.key).chain(ops).collect();
        let paths =
            keys.into_iter().filter(|key| self.layout.is_readable(key)).map(|key| self.layout.path(key));
        stream::iter(paths.collect::<Vec<_>>())
            .map(|path| async move {
                let node = self.look(&path, true, Age::Synced, deadline).await?;
                Ok::<_, Error>((path, node))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Notes on the nodes that are to be set when their keys came to be: [`Core::note`].
    async fn note_all(
        &self,
        nodes: &BTreeMap<String, Option<Node>>,
        ops: &[MultiOp],
        deadline: Deadline,
    ) -> BTreeMap<String, (Vec<AclEntry>, i32)> {
        let noting = ops.iter().filter_map(|op| match op {
            MultiOp::Set { path, data, .. } if !is_marker(data) => {
                let node = nodes.get(path)?.as_ref();
                Some(async move { Some((path.clone(), self.note(path, node, deadline).await?)) })
            }
            _ => None,
        });
        future::join_all(noting).await.into_iter().flatten().collect()
    }

    #[allow(clippy::too_many_arguments, reason = "all there is about one transaction that was made")]
    async fn finish(
        &self,
        succeeded: bool,
        ops: &[MultiOp],
        first_write: usize,
        stats: &[Option<Stat>],
        outcomes: Vec<Made>,
        notes: Vec<Note>,
        carried: &Carried,
        deadline: Deadline,
    ) -> TxnResult {
        let mut written = BTreeMap::new();
        for (op, stat) in ops.iter().zip(stats).skip(first_write) {
            match (op, stat) {
                (MultiOp::Create { path, .. } | MultiOp::Set { path, .. }, Some(stat)) => {
                    written.insert(path.as_str(), *stat);
                }
                (MultiOp::Delete { path, .. }, _) => self.known.forget(path),
                _ => {}
            }
        }
        let zxid = written.values().map(|stat| stat.mzxid).max().unwrap_or_default();
        for path in written.keys() {
            self.known.forget(path);
        }
        for note in notes {
            if let Some(stat) = written.get(note.path.as_str()) {
                let created = note.created.unwrap_or(stat.mzxid);
                self.note_created(&note.path, stat, note.acl, note.aversion, created, deadline).await;
            }
        }
        if ops.iter().any(|op| matches!(op, MultiOp::Create { mode: Mode::Ephemeral, .. })) {
            self.client.keeps_key(carried);
        }
        TxnResult::new(succeeded, outcomes.into_iter().map(|made| made.at(zxid)).collect())
    }
}

/// An outcome, complete but for the number of the transaction.
enum Made {
    Put(Option<Duration>),
    Delete(bool),
    Get(Option<Read>),
}

/// An entry as the transaction sees it; without a version where the transaction gives it one.
#[derive(Clone, Debug)]
struct Read {
    key: Key,
    value: Bytes,
    version: Option<Version>,
    created: Option<Version>,
}

impl Made {
    fn at(self, zxid: i64) -> TxnOutcome {
        match self {
            Self::Put(granted) => {
                let result = PutResult::new(version(zxid));
                TxnOutcome::Put(match granted {
                    Some(granted) => result.with_granted_ttl(granted),
                    None => result,
                })
            }
            Self::Delete(true) => TxnOutcome::Delete(DeleteResult::deleted(None)),
            Self::Delete(false) => TxnOutcome::Delete(DeleteResult::absent()),
            Self::Get(read) => TxnOutcome::Get(read.map(|read| {
                let given = version(zxid);
                Entry::new(read.key, read.value, read.version.unwrap_or(given), read.created.unwrap_or(given))
            })),
        }
    }
}

/// What is written down about a node afterwards: when its key came to be.
struct Note {
    path: String,
    acl: Vec<AclEntry>,
    /// The list's version.
    aversion: i32,
    /// `None`: with this transaction.
    created: Option<i64>,
}

/// A node as the operations so far leave it.
#[derive(Clone, Debug)]
struct Sim {
    exists: bool,
    version: i32,
    children: i64,
    kind: Kind,
    entry: Option<Read>,
    /// It may be a container: [`Known::container`].
    container: bool,
    /// Whether an operation of the transaction already fails if the node is not as it was read.
    guarded: bool,
}

/// The operations of a multi, as they come to be.
struct Plan<'a> {
    core: &'a Core,
    nodes: &'a BTreeMap<String, Option<Node>>,
    now: BTreeMap<String, Sim>,
    guards: Vec<MultiOp>,
    writes: Vec<MultiOp>,
    notes: Vec<Note>,
    deadline: Deadline,
}

impl Plan<'_> {
    async fn add(&mut self, op: &TxnOp) -> Result<Made> {
        let key = op.key();
        let path = self.core.layout.path(key);
        if !self.core.layout.is_readable(key) {
            return Ok(Made::Get(None));
        }
        self.load(&path, Some(key)).await?;
        match op {
            TxnOp::Put { value, expiry, .. } => self.put(key, &path, value, *expiry).await,
            TxnOp::Delete { .. } => Ok(Made::Delete(self.delete(&path)?)),
            _ => Ok(Made::Get(self.now.get(&path).and_then(|sim| sim.entry.clone()))),
        }
    }

    /// Makes a node known to the plan.
    async fn load(&mut self, path: &str, key: Option<&Key>) -> Result<()> {
        if self.now.contains_key(path) {
            return Ok(());
        }
        let node = match self.nodes.get(path) {
            Some(node) => node.clone(),
            None => self.core.node(path, false, self.deadline).await?,
        };
        let sim = match node {
            None => Sim {
                exists: false,
                version: 0,
                children: 0,
                kind: Kind::Permanent,
                entry: None,
                container: false,
                guarded: false,
            },
            Some(node) => Sim {
                exists: true,
                version: node.known.version,
                children: i64::from(node.stat.num_children),
                kind: node.known.kind,
                entry: key.and_then(|key| node.entry(key)).map(|entry| Read {
                    key: entry.key,
                    value: entry.value,
                    version: Some(entry.version),
                    created: Some(entry.created),
                }),
                container: node.known.container,
                guarded: false,
            },
        };
        self.now.insert(path.to_owned(), sim);
        Ok(())
    }

    async fn put(&mut self, key: &Key, path: &str, value: &Bytes, expiry: Expiry) -> Result<Made> {
        let expiry = self.core.new_expiry(expiry)?;
        let (mode, granted) = (expiry.fresh(), expiry.ttl());
        let live = self.core.client.up(self.deadline).await?;
        let Some(before) = self.now.get(path).cloned() else { return Ok(Made::Put(granted)) };
        let created = before.entry.as_ref().map(|entry| entry.created);
        let mut after = before.clone();
        after.guarded = true;
        after.container = false;
        after.entry =
            Some(Read { key: key.clone(), value: value.clone(), version: None, created: created.flatten() });
        if !before.exists {
            self.make_parents(path).await?;
            self.writes.push(self.core.create_op(path, value, mode));
            after = Sim { exists: true, version: 0, children: 0, kind: kind_of(mode), ..after };
            self.count_child(path, 1);
        } else if !before.container && expiry.is_kept_by_set(before.kind, before.entry.is_some(), &live) {
            self.writes.push(MultiOp::Set {
                path: path.to_owned(),
                data: value.clone(),
                version: before.version,
            });
            after.version = before.version.wrapping_add(1);
            if before.entry.is_none()
                && let Some(Some(node)) = self.nodes.get(path)
            {
                let aversion = node.stat.aversion;
                let note = Note { path: path.to_owned(), acl: node.acl.clone(), aversion, created: None };
                self.notes.push(note);
            }
        } else {
            // Another program's node stays open to whom it was open.
            let theirs = self.nodes.get(path).and_then(Option::as_ref).filter(|_| before.container);
            if theirs.is_some_and(|node| before.children > 0 || node.hides_access()) {
                return Err(unsupported(container(path)));
            }
            // A pin is gone when the multi is made anew.
            if before.children > 0 && !self.core.is_only_pinned(path, self.deadline).await? {
                return Err(unsupported(EXPIRING_PARENT));
            }
            let acl = match theirs {
                Some(node) if mode == Mode::Persistent => with_empty_value(node.acl.clone()),
                _ => self.core.acl(value, mode),
            };
            let (data, created_acl) = (value.clone(), acl.clone());
            self.writes.push(MultiOp::Delete { path: path.to_owned(), version: before.version });
            self.writes.push(MultiOp::Create { path: path.to_owned(), data, mode, acl });
            after.version = 0;
            after.kind = kind_of(mode);
            if let Some(created) = created.flatten() {
                let created = i64::try_from(created.get()).ok();
                self.notes.push(Note { path: path.to_owned(), acl: created_acl, aversion: 0, created });
            }
        }
        self.now.insert(path.to_owned(), after);
        Ok(Made::Put(granted))
    }

    fn delete(&mut self, path: &str) -> Result<bool> {
        let Some(sim) = self.now.get_mut(path).filter(|sim| sim.entry.is_some()) else { return Ok(false) };
        if sim.container && sim.children > 0 {
            return Err(unsupported(container(path)));
        }
        let (path_owned, version) = (path.to_owned(), sim.version);
        sim.entry = None;
        sim.guarded = true;
        if sim.children > 0 {
            sim.version = version.wrapping_add(1);
            self.writes.push(MultiOp::Set { path: path_owned, data: Bytes::from_static(MARKER), version });
        } else {
            sim.exists = false;
            self.writes.push(MultiOp::Delete { path: path_owned, version });
            self.count_child(path, -1);
        }
        Ok(true)
    }

    /// Makes the missing nodes above `path`, from the top.
    async fn make_parents(&mut self, path: &str) -> Result<()> {
        let mut missing = Vec::new();
        let mut above = parent(path);
        while let Some(path) = above.filter(|path| *path != "/") {
            self.load(path, None).await?;
            match self.now.get(path) {
                Some(sim) if sim.exists && sim.kind == Kind::Permanent => break,
                Some(sim) if sim.exists => return Err(unsupported(EXPIRING_PARENT)),
                _ => missing.push(path.to_owned()),
            }
            above = parent(path);
        }
        for path in missing.into_iter().rev() {
            self.writes.push(self.core.create_op(&path, &Bytes::from_static(MARKER), Mode::Persistent));
            let made = Sim {
                exists: true,
                version: 0,
                children: 0,
                kind: Kind::Permanent,
                entry: None,
                container: false,
                guarded: true,
            };
            self.now.insert(path.clone(), made);
            self.count_child(&path, 1);
        }
        Ok(())
    }

    fn count_child(&mut self, path: &str, by: i64) {
        if let Some(above) = parent(path).and_then(|above| self.now.get_mut(above)) {
            above.children += by;
        }
    }

    /// Makes the multi fail if the key is not as it was read.
    async fn guard(&mut self, key: &Key) -> Result<()> {
        let path = self.core.layout.path(key);
        if !self.core.layout.is_readable(key) || self.now.get(&path).is_some_and(|sim| sim.guarded) {
            return Ok(());
        }
        if let Some(Some(node)) = self.nodes.get(&path) {
            self.guards.push(MultiOp::Check { path: path.clone(), version: node.known.version });
        } else {
            // There is no check for absence: the node is made and taken away again, and where it
            // has nothing to be below, the topmost one that is missing.
            let mut top = path.as_str();
            while let Some(above) = parent(top).filter(|above| *above != "/") {
                let node = match self.nodes.get(above) {
                    Some(node) => node.clone(),
                    None => self.core.node(above, false, self.deadline).await?,
                };
                match node.map(|node| node.known) {
                    // Nothing can be below a session's key for as long as it is there.
                    Some(Known { kind: Kind::Session { .. }, version, .. }) => {
                        if !self.now.get(above).is_some_and(|sim| sim.guarded) {
                            self.guards.push(MultiOp::Check { path: above.to_owned(), version });
                        }
                        return Ok(());
                    }
                    Some(_) => break,
                    None => top = above,
                }
            }
            let made = self.guards.iter().any(|op| matches!(op, MultiOp::Create { path, .. } if path == top));
            let creates = self.now.get(top).is_some_and(|sim| sim.guarded);
            if !made && !creates {
                self.guards.push(self.core.create_op(top, &Bytes::from_static(MARKER), Mode::Persistent));
                self.guards.push(MultiOp::Delete { path: top.to_owned(), version: 0 });
            }
        }
        if let Some(sim) = self.now.get_mut(&path) {
            sim.guarded = true;
        }
        Ok(())
    }
}

fn kind_of(mode: Mode) -> Kind {
    match mode {
        Mode::Persistent => Kind::Permanent,
        Mode::Ttl(ttl) => Kind::Ttl(ttl),
        // Its owner is this session, and no later operation of the transaction asks which that is.
        Mode::Ephemeral | Mode::EphemeralSequential => Kind::Session { owner: -1 },
    }
}
