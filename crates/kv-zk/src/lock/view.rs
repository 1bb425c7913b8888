//! Seeing locks: who holds one and how that changes, which locks there are, and ending a hold.
//!
//! A holder's record is watched and nothing else: nobody can get in front of it, because each record
//! gets a greater number than all before. So a waiter that comes or goes wakes no watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt};
use futures_util::{TryStreamExt, future};
use kv_backend::Deadline;
use kv_core::{
    Consistency, Error, ErrorKind, FencingToken, Key, LockChanges, LockHolder, LockListing, LockState,
    Operation, Prefix, Result,
};
use tokio::sync::watch;

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::{AGAIN, OneShot, Reply, Session, caught_up};
use crate::env::{Core, optional};
use crate::lock::record::{holder, rivals, token};
use crate::names::{child, lock_sequence, name};
use crate::session::{Current, closed};

/// How many directories are read at once when locks are looked for.
const AT_ONCE: usize = 256;

/// How many records are read at once.
const RECORDS_AT_ONCE: usize = 32;

/// Follows who holds the lock `key`: the present holder first.
pub(crate) async fn watch_lock(
    core: &Arc<Core>,
    key: &Key,
    timeout: Option<Duration>,
) -> Result<LockChanges> {
    core.layout.check_writable(key)?;
    core.client.check_open()?;
    let mut follower = Follower {
        current: core.client.current(),
        core: Arc::clone(core),
        key: key.clone(),
        dir: core.layout.path(key),
        timeout,
        armed: None,
        caught_up: false,
        told: None,
        greatest: FencingToken::new(0),
    };
    let present = follower.next().await?;
    let changes = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        Some(match follower.next().await {
            Ok(holder) => (Ok(holder), Some(follower)),
            Err(error) => (Err(follower.about(error)), None),
        })
    });
    Ok(LockChanges::new(stream::iter([Ok(present)]).chain(changes)))
}

/// One watch of a lock.
struct Follower {
    core: Arc<Core>,
    current: watch::Receiver<Current>,
    key: Key,
    dir: String,
    timeout: Option<Duration>,
    /// Fires when there may be another holder.
    armed: Option<OneShot>,
    /// Whether the server that is read from has what was seen before.
    caught_up: bool,
    told: Option<Option<LockHolder>>,
    greatest: FencingToken,
}

impl Follower {
    /// The next holder that differs from the one told last. Outages are waited out, but not the first
    /// time.
    async fn next(&mut self) -> Result<Option<LockHolder>> {
        loop {
            self.sign().await?;
            let asked = self.caught_up;
            let (holder, armed) = match self.read().await {
                Ok(read) => read,
                Err(error) if error.is_transient() && self.told.is_some() => {
                    self.core.client.check_open()?;
                    self.caught_up = false;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let token = holder.as_ref().map_or(self.greatest, |holder| holder.token);
            if token < self.greatest {
                if !asked {
                    return Err(Error::new(ErrorKind::Protocol).with_detail(format!(
                        "the servers tell a holder with the token {token} after one with {}: their data may \
                         have been restored to an earlier state",
                        self.greatest
                    )));
                }
                self.caught_up = false;
                continue;
            }
            (self.greatest, self.caught_up, self.armed) = (token, true, Some(armed));
            if self.told.as_ref() != Some(&holder) {
                self.told = Some(holder.clone());
                return Ok(holder);
            }
        }
    }

    /// Waits until there may be another holder.
    async fn sign(&mut self) -> Result<()> {
        let Some(armed) = &mut self.armed else { return Ok(()) };
        tokio::select! {
            fired = armed => self.caught_up = matches!(fired, crate::client::wire::Fired::Changed { .. }),
            // Another session, or the end.
            _ = self.current.changed() => self.caught_up = false,
        }
        self.armed = None;
        self.core.client.check_open()
    }

    /// Reads who holds the lock now, and arms a watch.
    async fn read(&mut self) -> Result<(Option<LockHolder>, OneShot)> {
        let (dir, deadline) = (self.dir.as_str(), self.core.deadline(self.timeout));
        let is_caught_up = AtomicBool::new(self.caught_up);
        let (dir, is_caught_up) = (&dir, &is_caught_up);
        let reading = self.core.client.read(deadline, |session| async move {
            let mut link = session.link();
            link.borrow_and_update();
            // What is read again may be read from another server.
            let read = look(&*session, dir, is_caught_up.swap(false, Ordering::Relaxed)).await?;
            if link.has_changed().unwrap_or(true) { Err(Fault::ConnectionLost) } else { Ok(read) }
        });
        tokio::select! {
            read = reading => read?.map_err(Fault::into_error),
            () = self.core.client.closed() => Err(closed()),
        }
    }

    fn about(&self, error: Error) -> Error {
        error.with_operation(Operation::WatchLock).with_backend(BACKEND).with_key(self.key.as_str())
    }
}

/// The holder, and a watch that fires when there may be another.
async fn look(session: &dyn Session, dir: &str, is_caught_up: bool) -> Reply<(Option<LockHolder>, OneShot)> {
    let mut must_catch_up = !is_caught_up;
    loop {
        // The server answers in order, so both travel at once.
        let asking = async { if must_catch_up { caught_up(session).await } else { Ok(()) } };
        let (asked, names) = future::join(asking, session.children(dir)).await;
        asked?;
        must_catch_up = false;
        let first = match names {
            Ok(names) => rivals(names).into_iter().next(),
            Err(Fault::NoNode) => {
                let (stat, armed) = session.stat_watched(dir).await?;
                if stat.is_none() {
                    return Ok((None, armed));
                }
                continue;
            }
            Err(fault) => return Err(fault),
        };
        if let Some(first) = first {
            match session.get_watched(&child(dir, &first)).await {
                Ok((owner, stat, armed)) => return Ok((Some(holder(&first, owner, &stat)), armed)),
                Err(Fault::NoNode) => continue,
                Err(fault) => return Err(fault),
            }
        }
        match session.children_watched(dir).await {
            Ok((names, armed)) if rivals(names.clone()).is_empty() => return Ok((None, armed)),
            Ok(_) | Err(Fault::NoNode) => {}
            Err(fault) => return Err(fault),
        }
    }
}

/// The locks below a prefix that are held or waited for.
pub(crate) async fn locks(
    core: &Arc<Core>,
    prefix: &Prefix,
    timeout: Option<Duration>,
) -> Result<LockListing> {
    core.client.check_open()?;
    if core.layout.is_reserved_prefix(prefix) {
        return Ok(LockListing::new(stream::empty()));
    }
    core.catch_up(Consistency::Linearizable, core.deadline(timeout)).await?;
    let found = find(core, core.layout.prefix_path(prefix), timeout).await?;
    let core = Arc::clone(core);
    let states = stream::iter(found).then(move |(key, records)| {
        let core = Arc::clone(&core);
        async move {
            let state = state(&core, &key, records, timeout).await;
            let about = |error: Error| error.with_operation(Operation::Locks).with_backend(BACKEND);
            state.map_err(|error| about(error).with_key(key.as_str()))
        }
    });
    let states = states.filter_map(|state| future::ready(state.transpose()));
    // The stream ends after an error.
    let states = states.scan(false, |failed, state| {
        let over = std::mem::replace(failed, state.is_err());
        future::ready((!over).then_some(state))
    });
    Ok(LockListing::new(states))
}

/// The names of locks strictly below a node, in their order, each with the names of its records in
/// their turn.
async fn find(core: &Core, root: String, timeout: Option<Duration>) -> Result<Vec<(Key, Vec<String>)>> {
    let children = async |path: String| {
        let (deadline, dir) = (core.deadline(timeout), path.as_str());
        let reply = core.client.read(deadline, |session| async move { session.children(dir).await });
        let names = match reply.await {
            Ok(reply) => optional(reply),
            Err(error) => Err(error),
        };
        let names = names.map_err(|error| error.with_key(core.layout.shown(&path)))?;
        Ok::<_, Error>((path, names.unwrap_or_default()))
    };
    let mut found = Vec::new();
    let (mut waiting, mut reading) = (vec![root.clone()], FuturesUnordered::new());
    loop {
        while reading.len() < AT_ONCE
            && let Some(path) = waiting.pop()
        {
            reading.push(children(path));
        }
        let Some(read) = reading.next().await else { break };
        let (path, names) = read?;
        for name in &names {
            let below = child(&path, name);
            // What is no key has no locks below it: records, other programs' names, the server's own tree.
            match core.layout.key(&below) {
                Some(_) => waiting.push(below),
                None => core.foreign(&below),
            }
        }
        if let Some(key) = core.layout.key(&path).filter(|_| path != root)
            && names.iter().any(|name| lock_sequence(name).is_some())
        {
            found.push((key, rivals(names)));
        }
    }
    found.sort();
    Ok(found)
}

/// A lock as it stands, by its records; `None` where none of them is there any more.
async fn state(
    core: &Core,
    key: &Key,
    records: Vec<String>,
    timeout: Option<Duration>,
) -> Result<Option<LockState>> {
    let dir = core.layout.path(key);
    let paths = records.iter().map(|record| child(&dir, record)).collect::<Vec<_>>();
    let reading = stream::iter(paths).map(|path| async move {
        let read = core.read(&path, Consistency::Stale, core.deadline(timeout)).await?;
        Ok::<_, Error>(read.map(|(owner, stat)| holder(name(&path), owner, &stat)))
    });
    let read: Vec<Option<LockHolder>> = reading.buffered(RECORDS_AT_ONCE).try_collect().await?;
    let mut holders = read.into_iter().flatten();
    let first = holders.next();
    Ok(first.map(|first| LockState::new(key.clone(), Some(first)).with_waiters(holders.collect())))
}

/// Ends the hold with this token. Says whether it was there.
pub(crate) async fn break_lock(
    core: &Core,
    key: &Key,
    wanted: FencingToken,
    timeout: Option<Duration>,
) -> Result<bool> {
    core.layout.check_writable(key)?;
    core.client.check_open()?;
    let deadline = core.deadline(timeout);
    let dir = core.layout.path(key);
    loop {
        let Some((record, version)) = held(core, &dir, wanted, deadline).await.map_err(Error::not_applied)?
        else {
            return Ok(false);
        };
        // The name has a number of its own in it, and is never given to another record.
        let record = record.as_str();
        let deleting =
            core.client.write(deadline, |session| async move { session.delete(record, version).await });
        match deleting.await?.0 {
            Ok(()) => return Ok(true),
            Err(Fault::NoNode) => return Ok(false),
            // Somebody wrote into the record: it is held all the same.
            Err(Fault::BadVersion) => {}
            Err(fault) => return Err(fault.into_error()),
        }
    }
}

/// The record of the present hold, and its version, if the hold has this token. No older than the call.
async fn held(
    core: &Core,
    dir: &str,
    wanted: FencingToken,
    deadline: Deadline,
) -> Result<Option<(String, i32)>> {
    loop {
        let reply = core.client.read(deadline, |session| async move {
            let (asked, names) = future::join(caught_up(&*session), session.children(dir)).await;
            asked?;
            names
        });
        let Some(names) = optional(reply.await?)? else { return Ok(None) };
        let Some(first) = rivals(names).into_iter().next() else { return Ok(None) };
        let record = child(dir, &first);
        let path = record.as_str();
        let reply = core.client.read(deadline, |session| async move { session.stat(path).await });
        if let Some(stat) = optional(reply.await?)?.flatten() {
            return Ok((token(&stat) == wanted).then_some((record, stat.version)));
        }
    }
}
