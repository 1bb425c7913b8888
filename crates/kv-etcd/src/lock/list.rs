//! The locks below a prefix: who holds them and who waits.
//!
//! The names of records do not come in the order of the locks' names, so they are all collected first,
//! without their values; the owners are read as the list is. It is all one state, that of the first page.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{Key, LockHolder, LockListing, LockState, LocksOptions, Operation, Prefix, Result};

use super::locks::Locks;
use super::records::holder_of;
use crate::client::error::{self, BACKEND};
use crate::client::{Done, Name, Range, Read, Step, Tree};
use crate::env::Env;
use crate::pager::Pager;
use crate::record;

/// How many owners are asked for in one request, where they are small.
const MOST_OWNERS: usize = 64;

/// The records of one lock, the one created first before the others.
type Records = BTreeMap<i64, Name>;

/// See [`kv_core::implement::LockView::locks_with`].
pub(crate) async fn list(locks: &Arc<Locks>, prefix: &Prefix, options: LocksOptions) -> Result<LockListing> {
    locks.env.check_open()?;
    let below = locks.env.namespace.native_prefix(prefix);
    let timeout = options.timeout.unwrap_or(locks.env.timeout);
    let read = Read::new(Range::below(&below)).keys_only();
    let mut pager = Pager::new(Arc::clone(&locks.env.client), read, timeout);
    let mut found: BTreeMap<Key, Records> = BTreeMap::new();
    loop {
        let page = pager.next(usize::MAX).await?;
        for record in page.records.iter().filter(|record| record::is_lock(record)) {
            let Some(key) = lock_of(&locks.env, &record.name, below.len()) else { continue };
            found.entry(key).or_default().insert(record.created, record.name.clone());
        }
        if !page.more {
            break;
        }
    }
    let reader = Reader {
        env: Arc::clone(&locks.env),
        revision: pager.revision(),
        timeout,
        left: found.into_iter().collect(),
        at_once: MOST_OWNERS,
        ready: VecDeque::new(),
    };
    let about = prefix.clone();
    Ok(LockListing::new(stream::unfold(Some(reader), move |reader| {
        let about = about.clone();
        async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(lock)) => Some((Ok(lock), Some(reader))),
                Ok(None) => None,
                Err(error) => {
                    let error = error.with_operation(Operation::Locks).with_backend(BACKEND);
                    Some((Err(error.with_key(about.as_str())), None))
                }
            }
        }
    })))
}

/// The lock that a record belongs to, if its name lies strictly below the prefix of this length.
fn lock_of(env: &Env, name: &[u8], prefix: usize) -> Option<Key> {
    let end = name.iter().rposition(|byte| *byte == b'/').filter(|end| *end > prefix)?;
    record::key(&env.namespace, &name[..end])
}

struct Reader {
    env: Arc<Env>,
    revision: i64,
    timeout: Duration,
    /// Those whose owners are not read yet.
    left: VecDeque<(Key, Records)>,
    /// How many owners are asked for in one request.
    at_once: usize,
    ready: VecDeque<LockState>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<LockState>> {
        if self.ready.is_empty() {
            self.fetch().await?;
        }
        Ok(self.ready.pop_front())
    }

    /// Reads the owners of the next locks; of one at least, however many wait for it.
    async fn fetch(&mut self) -> Result<()> {
        let (mut locks, mut names) = (Vec::new(), Vec::new());
        while let Some((key, records)) = self.left.pop_front() {
            if !names.is_empty() && names.len() + records.len() > MOST_OWNERS {
                self.left.push_front((key, records));
                break;
            }
            names.extend(records.iter().map(|(created, name)| (*created, name.clone())));
            locks.push((key, records.len()));
        }
        let mut holders = self.holders(&names).await?.into_iter();
        for (key, count) in locks {
            let mut holders = holders.by_ref().take(count);
            let lock = LockState::new(key, holders.next());
            self.ready.push_back(lock.with_waiters(holders.collect()));
        }
        Ok(())
    }

    async fn holders(&mut self, mut names: &[(i64, Name)]) -> Result<Vec<LockHolder>> {
        let mut holders = Vec::new();
        while !names.is_empty() {
            self.env.check_open()?;
            let (some, rest) = names.split_at(self.at_once.min(names.len()));
            let reads = some.iter().map(|(_, name)| {
                let mut read = Read::new(Range::one(name.clone()));
                read.revision = self.revision;
                Step::Read(read)
            });
            let tree = Tree::always(reads.collect());
            match self.env.client.commit(Deadline::after(self.timeout), tree).await {
                Err(error) if error::answer_too_large(&error) && self.at_once > 1 => self.at_once /= 2,
                Err(error) => return Err(error),
                Ok(done) => {
                    for ((created, name), done) in some.iter().zip(done.steps) {
                        holders.push(holder(*created, name, done)?);
                    }
                    names = rest;
                }
            }
        }
        Ok(holders)
    }
}

fn holder(created: i64, name: &Name, done: Done) -> Result<LockHolder> {
    let Done::Read(page) = done else { return Err(error::nonsense("another answer than a read's")) };
    match page.records.into_iter().next() {
        Some(record) if record.created == created => Ok(holder_of(name, created, record.value)),
        _ => Err(error::nonsense("two states of one revision")),
    }
}
