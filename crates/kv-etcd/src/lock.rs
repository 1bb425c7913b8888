//! Locks, in the layout of etcd's own tools: below the lock's name each candidate has a record named
//! after its lease, and the one created first holds the lock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_backend::{Deadline, HoldState};
use kv_core::{
    Error, ErrorKind, Fence, FencingToken, Key, LockGuard, LockHolder, LockLoss, LockOptions, LockWait,
    Result,
};
use tokio::time::Instant;

use crate::client::{Check, Done, Field, Name, Order, Range, Read, Record, Step, Tree};
use crate::config::TTL;
use crate::error;
use crate::handle::{Handle, closed};
use crate::hold::Held;
use crate::hub::{Signal, Spec};
use crate::lease::{Ended, Granted, margin};
use crate::record;

/// How many candidates a question about the latest or the first ones gets at a time. Entries below the
/// lock's name that look like records make further questions necessary.
const CANDIDATES: i64 = 64;
/// The pause before a candidate asks again after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// See [`kv_core::Store::lock_with`].
pub(crate) async fn lock(core: &Arc<Handle>, key: &Key, options: LockOptions) -> Result<LockGuard> {
    core.check_open()?;
    let ttl = TTL.check(options.ttl.unwrap_or(core.lock_ttl))?;
    core.capabilities.limits.check_value(key, &options.owner)?;
    // The closing waits for what a wait that it ends leaves behind.
    let _token = core.tasks.token();
    let until = match options.wait {
        LockWait::UpTo(wait) => Instant::now().checked_add(wait),
        _ => None,
    };
    let candidate = Candidate { core, key, options: &options, ttl };
    tokio::select! {
        locked = candidate.lock(until) => locked,
        () = core.closing.cancelled() => Err(closed()),
    }
}

/// See [`kv_core::Store::lock_holder`].
pub(crate) async fn holder(core: &Arc<Handle>, key: &Key) -> Result<Option<LockHolder>> {
    core.check_open()?;
    let deadline = core.deadline(None);
    loop {
        let Some(first) = candidate(core, deadline, key, Order::OldestFirst, 0).await? else {
            return Ok(None);
        };
        // Owners can be large, and what else lies below the name larger: only this one is read.
        let page = core.client.read(deadline, &Read::new(Range::one(first.name))).await?;
        let Some(record) = page.records.into_iter().next() else { continue };
        if record.created == first.created {
            let token = FencingToken::new(u64::try_from(record.created).unwrap_or(0));
            return Ok(Some(LockHolder::new(record.value, token)));
        }
    }
}

/// Where the records of a lock lie: a record's last segment begins with a digit or a letter up to f.
fn ranges(core: &Handle, key: &Key) -> [Range; 2] {
    let path = core.namespace.native(key);
    let range = |from: &str, to: &str| Range {
        start: format!("{path}/{from}").into(),
        end: Some(format!("{path}/{to}").into()),
    };
    [range("1", ":"), range("a", "g")]
}

/// Reads for the first or the latest candidates created before a revision (0: all).
fn reads(core: &Handle, key: &Key, order: Order, before: i64, limit: i64) -> Vec<Step> {
    let read = |range| {
        let mut read = Read::new(range).keys_only().limit(limit);
        read.order = Some(order);
        read.created_before = before;
        Step::Read(read)
    };
    ranges(core, key).into_iter().map(read).collect()
}

/// The nearest candidate but `own` among what [`reads`] found. `None`: it lies beyond their limit.
fn nearest(
    core: &Handle,
    key: &Key,
    order: Order,
    own: &[u8],
    done: &[Done],
) -> Result<Option<Option<Record>>> {
    let below = core.namespace.native(key).len() + 1;
    // Locks can be named below locks: only what lies directly below this name is a rival.
    let is_rival = |record: &&Record| {
        record::is_lock(record)
            && record.name != own
            && record.name.get(below..).is_some_and(|rest| !rest.contains(&b'/'))
    };
    let mut rivals = Vec::new();
    for step in done {
        let Done::Read(page) = step else { return Err(error::nonsense("another answer than a read's")) };
        match page.records.iter().find(is_rival) {
            Some(rival) => rivals.push(rival),
            None if page.more => return Ok(None),
            None => {}
        }
    }
    let nearest = match order {
        Order::OldestFirst => rivals.into_iter().min_by_key(|rival| rival.created),
        Order::NewestFirst => rivals.into_iter().max_by_key(|rival| rival.created),
    };
    Ok(Some(nearest.cloned()))
}

/// The first or the latest candidate created before a revision (0: all).
async fn candidate(
    core: &Handle,
    deadline: Deadline,
    key: &Key,
    order: Order,
    before: i64,
) -> Result<Option<Record>> {
    let ask = async |limit| {
        let reads = reads(core, key, order, before, limit);
        let done = core.client.commit(deadline, Tree::always(reads)).await?;
        nearest(core, key, order, &[], &done.steps)
    };
    match ask(CANDIDATES).await? {
        Some(found) => Ok(found),
        None => Ok(ask(0).await?.flatten()),
    }
}

/// One who wants the lock.
struct Candidate<'a> {
    core: &'a Arc<Handle>,
    key: &'a Key,
    options: &'a LockOptions,
    ttl: Duration,
}

impl Candidate<'_> {
    async fn lock(&self, until: Option<Instant>) -> Result<LockGuard> {
        loop {
            let granted = self.core.leases.grant(self.deadline(), self.ttl).await?;
            match self.queue(granted, until).await {
                Ok(Some(guard)) => return Ok(guard),
                // The place in the queue was lost with its lease or by a hand from outside.
                Ok(None) => tracing::debug!(key = %self.key, "queueing for a lock anew"),
                Err(error) if error::lease_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn deadline(&self) -> Deadline {
        self.core.deadline(self.options.timeout)
    }

    /// Queues and waits for its turn; `None` if the place was lost.
    async fn queue(&self, granted: Granted<'_>, until: Option<Instant>) -> Result<Option<LockGuard>> {
        let core = self.core;
        let record = format!("{}/{:x}", core.namespace.native(self.key), granted.id);
        let name: Name = record.clone().into();
        let mut then =
            vec![Step::Put { name: name.clone(), value: self.options.owner.clone(), lease: granted.id }];
        then.extend(reads(core, self.key, Order::NewestFirst, 0, CANDIDATES));
        let tree = Tree { when: vec![Check::absent(name.clone())], then, or_else: Vec::new() };
        let done = core.client.commit(self.deadline(), tree).await?;
        if !done.succeeded || done.steps.is_empty() {
            return Err(error::nonsense("that a record exists which only we could make"));
        }
        let token = done.revision;
        let before = match nearest(core, self.key, Order::NewestFirst, &name, &done.steps[1..])? {
            Some(found) => found,
            None => candidate(core, self.deadline(), self.key, Order::NewestFirst, token).await?,
        };
        if before.is_some() && self.options.wait == LockWait::Try {
            return self.leave(granted).await;
        }
        let acked = Mutex::new(granted.sent_at);
        let last_acked = || acked.lock().unwrap_or_else(PoisonError::into_inner);
        let first = granted.sent_at + granted.ttl / 3;
        let acks = |sent_at| *last_acked() = sent_at;
        let kept = core.leases.keep(granted.id, granted.ttl, first, acks, |_| {});
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A lock that is free is had, however short the wait.
            biased;
            turn = self.turn(&name, token, before) => if !turn? { return Ok(None) },
            ended = kept => return match ended {
                Ended::Gone => Ok(None),
                Ended::Refused(error) => Err(error),
            },
            () = over => return self.leave(granted).await,
        }
        let state = HoldState::new(self.options.max_hold);
        let (ttl, acked) = (granted.ttl, *last_acked());
        state.renewed(acked, ttl, margin(ttl));
        // This process was stopped for longer than its place lasts: another may hold the lock by now.
        if state.loss() == Some(LockLoss::Expired) {
            return Ok(None);
        }
        let token = FencingToken::new(u64::try_from(token).unwrap_or(0));
        let fence = Fence::new(self.key.clone(), token, record);
        let held = Held::start(core, fence, name, granted.keep(), ttl, acked, state);
        Ok(Some(LockGuard::new(held)))
    }

    /// Gives up, leaving no trace.
    async fn leave(&self, granted: Granted<'_>) -> Result<Option<LockGuard>> {
        // If this fails it is tried again in the background, and the lease ends by itself at last.
        if self.core.client.revoke(self.deadline(), granted.id).await.is_ok() {
            granted.keep();
        }
        Err(Error::new(ErrorKind::Locked))
    }

    /// Waits until nobody is before us; `false` if our own record is gone.
    async fn turn(&self, name: &Name, token: i64, mut before: Option<Record>) -> Result<bool> {
        let core = self.core;
        let mut from = token.saturating_add(1);
        while let Some(rival) = before {
            gone(core, &rival.name, rival.created, from).await?;
            // The next one may be the rival of a rival that gave up.
            let found = loop {
                match self.look(name, token).await {
                    Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                    other => break other?,
                }
            };
            let Some((found, revision)) = found else { return Ok(false) };
            (before, from) = (found, revision.saturating_add(1));
        }
        Ok(true)
    }

    /// Who is before us now, and as of when; `None` if our own record is gone.
    async fn look(&self, name: &Name, token: i64) -> Result<Option<(Option<Record>, i64)>> {
        let core = self.core;
        let tree = Tree {
            when: vec![Check::new(name.clone(), kv_core::Compare::Equal, Field::Created(token))],
            then: reads(core, self.key, Order::NewestFirst, token, CANDIDATES),
            or_else: Vec::new(),
        };
        let done = core.client.commit(self.deadline(), tree).await?;
        if !done.succeeded {
            return Ok(None);
        }
        let found = match nearest(core, self.key, Order::NewestFirst, name, &done.steps)? {
            Some(found) => found,
            None => candidate(core, self.deadline(), self.key, Order::NewestFirst, token).await?,
        };
        Ok(Some((found, done.revision)))
    }
}

/// Resolves once the record that was created at this revision is gone. Outages are waited out.
pub(crate) async fn gone(core: &Handle, name: &Name, created: i64, mut from: i64) -> Result<()> {
    loop {
        let spec =
            Spec { range: Range::one(name.clone()), start: from, seen: from - 1, puts: false, deletes: true };
        match core.hub.watch(core.deadline(None), spec).await {
            Ok(mut subscription) => loop {
                match subscription.next().await {
                    Signal::Changes(changes) if changes.iter().any(|change| change.deleted) => return Ok(()),
                    Signal::Changes(_) => {}
                    Signal::Overflow(_) | Signal::Gap(_) => break,
                    Signal::Failed(error) if error.is_transient() => break,
                    Signal::Failed(error) => return Err(error),
                }
            },
            Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
        // What happened since is not known: the present state is.
        from = loop {
            let read = Read::new(Range::one(name.clone())).keys_only();
            match core.client.read(core.deadline(None), &read).await {
                Ok(page) if page.records.first().is_some_and(|record| record.created == created) => {
                    break page.revision.saturating_add(1);
                }
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        };
    }
}
