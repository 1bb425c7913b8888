//! Seeing locks: who holds one and how that changes, all that are held below a prefix, and the end of a hold
//! from outside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kv_backend::{Deadline, within};
use kv_core::{
    BreakLockOptions, Bytes, Consistency, Error, ErrorKind, FencingToken, Key, LockChanges, LockHolder,
    LockListing, LockState, LockWatchOptions, LocksOptions, Operation, Prefix, Result,
};

use crate::client::api::{Lane, Txn};
use crate::client::error::{BACKEND, protocol};
use crate::client::key_read::Query;
use crate::client::scope::Scope;
use crate::client::wire::{Content, Kv, Op, SessionInfo};
use crate::env::backoff::Backoff;
use crate::lock::holder::{Held, Holds, holds, present};
use crate::lock::locks::Locks;
use crate::watch::event_queue::Item;
use crate::watch::hub::Subscription;
use crate::watch::members::Wants;

/// Follows who holds a lock.
pub(crate) async fn watch_lock(
    locks: &Arc<Locks>,
    key: &Key,
    options: LockWatchOptions,
) -> Result<LockChanges> {
    let record = locks.env.names.lock_record(key);
    let timeout = options.timeout.unwrap_or(locks.env.times.timeout);
    let mut subscription = Subscription::new(&locks.hub, Scope::Key(record.clone()), Wants::Hints);
    within(timeout, subscription.begin()).await?;
    let mut holders = Holders {
        locks: Arc::clone(locks),
        key: key.clone(),
        record,
        timeout,
        subscription: Some(subscription),
        told: None,
        first: None,
    };
    holders.first = Some(holders.look().await?);
    Ok(LockChanges::new(stream::unfold(holders, |mut holders| async move {
        holders.subscription.as_ref()?;
        let change = holders.next().await;
        if change.is_err() {
            holders.subscription = None;
        }
        let change = change.map_err(|error| {
            error.with_operation(Operation::WatchLock).with_backend(BACKEND).with_key(holders.key.as_str())
        });
        Some((change, holders))
    })))
}

/// Who holds a lock, from one change to the next.
struct Holders {
    locks: Arc<Locks>,
    key: Key,
    record: String,
    timeout: Duration,
    /// `None` after an error.
    subscription: Option<Subscription>,
    /// What was told last.
    told: Option<Option<(FencingToken, Bytes)>>,
    /// What was found when the watch began.
    first: Option<Option<Held>>,
}

impl Holders {
    async fn look(&self) -> Result<Option<Held>> {
        present(&self.locks, &self.record, &Deadline::after(self.timeout)).await
    }

    /// The next holder that is another than was told, or the vacancy.
    async fn next(&mut self) -> Result<Option<LockHolder>> {
        loop {
            let held = match self.first.take() {
                Some(held) => held,
                None => self.changed().await?,
            };
            let now = match &held {
                Some(held) => Some((held.token, held.record.bytes()?)),
                None => None,
            };
            if self.told.as_ref() == Some(&now) {
                continue;
            }
            let last = self.told.as_ref().and_then(Option::as_ref).map(|(token, _)| *token);
            if let (Some(last), Some((token, _))) = (last, &now)
                && *token < last
            {
                return Err(protocol("the lock's token fell: Consul has lost its state"));
            }
            let holder = match &held {
                Some(held) => Some(held.holder(self.session_of(held).await.as_ref())?),
                None => None,
            };
            self.told = Some(now);
            return Ok(holder);
        }
    }

    /// Waits until the record may have changed, and looks, through every outage.
    async fn changed(&self) -> Result<Option<Held>> {
        let closed = || Error::new(ErrorKind::Closed);
        let subscription = self.subscription.as_ref().ok_or_else(closed)?;
        if let Item::End(error) = subscription.next().await {
            return Err(error);
        }
        let mut pauses = Backoff::reconnect();
        loop {
            let error = match self.look().await {
                Err(error) if error.is_transient() => error,
                found => return found,
            };
            tracing::debug!(%error, "the record of a lock that is watched cannot be read");
            let pause = tokio::time::sleep(self.locks.env.jitter(pauses.pause()));
            self.locks.env.closing.run_until_cancelled(pause).await.ok_or_else(closed)?;
        }
    }

    /// What Consul tells of the holder's session. What it does not tell, or not now, is left out.
    async fn session_of(&self, held: &Held) -> Option<SessionInfo> {
        let deadline = Deadline::after(self.timeout);
        match self.locks.env.api.session_info(&held.session, &deadline).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "the session of a lock's holder cannot be told");
                None
            }
        }
    }
}

/// The locks below a prefix that are held. Their names have another order than their records, so all of them
/// are gathered first.
pub(crate) async fn list(locks: &Arc<Locks>, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
    let timeout = options.timeout.unwrap_or(locks.env.times.timeout);
    let scope = Scope::Tree(locks.env.names.native_prefix(prefix));
    let mut items =
        locks.env.api.read(Query::new(scope, Consistency::Linearizable), Lane::Stream, timeout).await?;
    let mut found: Vec<(Key, Kv)> = Vec::new();
    while let Some(kv) = items.next().await? {
        locks.env.check_open()?;
        // The record of the lock named as the prefix lies below it too.
        let lock = locks.env.names.lock(&kv.key).filter(|key| prefix.covers(key));
        if let Some(key) = lock.filter(|_| kv.session().is_some()) {
            found.push((key, kv));
        }
    }
    let deadline = Deadline::after(timeout);
    if items.may_be_hidden() {
        locks.env.api.check_readable(Lane::Call, items.scope().text(), &deadline).await?;
    }
    drop(items);
    let mut sessions: HashMap<String, Option<SessionInfo>> =
        found.iter().filter_map(|(_, kv)| Some((kv.session()?.to_owned(), None))).collect();
    if !sessions.is_empty() {
        let each = |info: SessionInfo| {
            if let Some(slot) = sessions.get_mut(&info.id) {
                *slot = Some(info);
            }
        };
        locks.env.api.each_session(&deadline, each).await?;
    }
    let mut states = Vec::with_capacity(found.len());
    for (key, kv) in found {
        let info = kv.session().and_then(|session| sessions.get(session)).and_then(Option::as_ref);
        // A hold that ended since the records were read is left out.
        if let Holds::Lock(held) = holds(locks, kv, info, &deadline).await? {
            states.push(LockState::new(key, Some(held.holder(info)?)));
        }
    }
    states.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(LockListing::new(stream::iter(states.into_iter().map(Ok))))
}

/// Ends the hold with this token; false if it does not hold the lock any more.
pub(crate) async fn break_lock(
    locks: &Arc<Locks>,
    key: &Key,
    token: FencingToken,
    options: BreakLockOptions,
) -> Result<bool> {
    let record = locks.env.names.lock_record(key);
    let deadline = locks.env.deadline(options.timeout);
    loop {
        let held = present(locks, &record, &deadline).await.map_err(Error::not_applied)?;
        let Some(held) = held.filter(|held| held.is(token)) else { return Ok(false) };
        let as_read = Op::check_index(&record, held.record.modify_index);
        // Where the record is the key itself, what it says stays.
        let free = match locks.env.names.locks_keys() {
            true => Op::unlock(&record, &Content::of(&held.record), &held.session),
            false => Op::delete(&record),
        };
        match locks.env.api.txn(&[as_read, free], None, &deadline).await? {
            Txn::Done(_) => return Ok(true),
            // Written on, or let go: the next look tells.
            Txn::Refused(_) => {}
        }
    }
}
