//! The records of one lock on the server: who is first among them, and who is next.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{BreakLockOptions, Bytes, Error, FencingToken, Key, LockHolder, Result};

use super::fate::Place;
use super::locks::Locks;
use crate::client::error;
use crate::client::{Done, Order, Range, Read, Record, Step, Tree};
use crate::record;

/// How many candidates a question about the latest or the first ones gets at a time. Entries below the
/// lock's name that look like records make further questions necessary.
pub(super) const CANDIDATES: i64 = 64;

/// See [`kv_core::Store::lock_holder_opts`].
pub(crate) async fn holder(
    locks: &Arc<Locks>,
    key: &Key,
    timeout: Option<Duration>,
) -> Result<Option<LockHolder>> {
    locks.env.check_open()?;
    let deadline = locks.env.deadline(timeout);
    loop {
        let Some(first) = candidate(locks, deadline, key, Order::OldestFirst, 0).await? else {
            return Ok(None);
        };
        // Owners can be large, and what else lies below the name larger: only this one is read.
        let page = locks.env.client.read(deadline, &Read::new(Range::one(first.name))).await?;
        let Some(record) = page.records.into_iter().next() else { continue };
        if record.created == first.created && record::is_lock(&record) {
            return Ok(Some(holder_of(&record.name, record.created, record.value)));
        }
    }
}

/// See [`kv_core::implement::LockView::break_lock_with`].
pub(crate) async fn break_lock(
    locks: &Arc<Locks>,
    key: &Key,
    token: FencingToken,
    options: BreakLockOptions,
) -> Result<bool> {
    locks.env.check_open()?;
    let deadline = locks.env.deadline(options.timeout);
    let holder = candidate(locks, deadline, key, Order::OldestFirst, 0).await.map_err(Error::not_applied)?;
    let Some(holder) = holder.filter(|holder| token_of(holder.created) == token) else { return Ok(false) };
    // Those before it are gone for good, so it holds the lock for as long as its record stands.
    let tree = Tree {
        when: Place::of(&holder).stands(),
        then: vec![Step::Delete { range: Range::one(holder.name), previous: false }],
        or_else: Vec::new(),
    };
    Ok(locks.env.client.commit(deadline, tree).await?.succeeded)
}

/// The fencing token of a record's create revision.
pub(super) fn token_of(created: i64) -> FencingToken {
    FencingToken::new(u64::try_from(created).unwrap_or(0))
}

/// What is told of who made a record.
pub(super) fn holder_of(name: &[u8], created: i64, owner: Bytes) -> LockHolder {
    let holder = LockHolder::new(owner, token_of(created));
    match record::spelt_lease(name) {
        Some(lease) => holder.with_native(format!("lease {lease:016x}")),
        None => holder,
    }
}

/// Between which names the records of a lock lie, with others.
pub(super) fn records(locks: &Locks, key: &Key) -> Range {
    let [first, last] = ranges(locks, key);
    Range { start: first.start, end: last.end }
}

/// Where the records of a lock lie: a record's last segment begins with a digit or a letter up to f.
fn ranges(locks: &Locks, key: &Key) -> [Range; 2] {
    let path = locks.env.namespace.native(key);
    let range = |from: &str, to: &str| Range {
        start: format!("{path}/{from}").into(),
        end: Some(format!("{path}/{to}").into()),
    };
    [range("1", ":"), range("a", "g")]
}

/// Reads for the first or the latest candidates created before a revision (0: all).
pub(super) fn reads(locks: &Locks, key: &Key, order: Order, before: i64, limit: i64) -> Vec<Step> {
    let read = |range| {
        let mut read = Read::new(range).keys_only().limit(limit);
        read.order = Some(order);
        read.created_before = before;
        Step::Read(read)
    };
    ranges(locks, key).into_iter().map(read).collect()
}

/// Locks can be named below locks: only what lies directly below this name has to do with this one.
pub(super) fn is_directly_below(locks: &Locks, key: &Key, record: &Record) -> bool {
    let below = locks.env.namespace.native(key).len() + 1;
    record.name.get(below..).is_some_and(|rest| !rest.contains(&b'/'))
}

/// What may be left of records of this lock that another program wrote over.
pub(super) fn suspects(locks: &Locks, key: &Key, done: &[Done]) -> Vec<Place> {
    let pages = done.iter().filter_map(|step| match step {
        Done::Read(page) => Some(&page.records),
        _ => None,
    });
    let suspects = pages
        .flatten()
        .filter(|record| record::may_have_been_lock(record) && is_directly_below(locks, key, record));
    suspects.map(Place::of).collect()
}

/// The nearest candidate but `own` among what [`reads`] found. `None`: it lies beyond their limit.
pub(super) fn nearest(
    locks: &Locks,
    key: &Key,
    order: Order,
    own: &[u8],
    done: &[Done],
) -> Result<Option<Option<Record>>> {
    let is_rival = |record: &&Record| {
        record::is_lock(record) && record.name != own && is_directly_below(locks, key, record)
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
pub(super) async fn candidate(
    locks: &Locks,
    deadline: Deadline,
    key: &Key,
    order: Order,
    before: i64,
) -> Result<Option<Record>> {
    let ask = async |limit| {
        let reads = reads(locks, key, order, before, limit);
        let done = locks.env.client.commit(deadline, Tree::always(reads)).await?;
        nearest(locks, key, order, &[], &done.steps)
    };
    match ask(CANDIDATES).await? {
        Some(found) => Ok(found),
        None => Ok(ask(0).await?.flatten()),
    }
}
